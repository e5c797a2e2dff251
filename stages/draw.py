"""The embedded default dataset: drawn portraits with known landmarks.

Nobody's picture: each face is a `Person` drawn from a generator keyed by (seed, index), so a larger
count leaves the first pictures as they are. Written are `0000.png`, ... and `landmarks.csv`, in the
columns of CelebA's landmark file: the same bytes on every CPU.
"""

from __future__ import annotations

import csv
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from stages.images.pool import processes
from stages.portraits.person import Beard, Eyes, Glasses, Hair, Light, Mouth, Nose, Person, Pose, Skull
from stages.runs import command
from stages.runs.params import STRICT

CHUNK = 16  # pictures a task: enough to hide what passing them between processes costs
FEW = 64  # pictures; below, starting processes costs more than they save

POINTS = ("lefteye", "righteye", "nose", "leftmouth", "rightmouth")

# sRGB, 0..255
SKINS = ((246, 218, 200), (234, 192, 164), (214, 162, 126), (176, 122, 86), (128, 82, 56), (92, 58, 42))
HAIRS = {
    (26, 21, 20): 0.26,  # black
    (58, 40, 29): 0.24,
    (94, 63, 42): 0.18,  # brown
    (140, 102, 64): 0.08,
    (206, 168, 112): 0.11,  # blond
    (146, 70, 38): 0.05,  # red
    (150, 147, 143): 0.05,
    (214, 210, 204): 0.03,  # white
}
# styles of hair and how often they occur
MEN = {"short": 5, "buzz": 1.5, "receding": 1.5, "bald": 1, "curly": 1}
WOMEN = {"long": 5, "fringe": 2.5, "bob": 2, "curly": 1.5, "short": 0.8, "tied": 1.2}

IRISES = ((74, 46, 28), (58, 36, 24), (110, 78, 44), (96, 112, 76), (92, 126, 156), (120, 136, 146))


@dataclass(frozen=True, config=STRICT)
class Params:
    count: Annotated[int, Field(ge=1, le=100_000)]  # pictures
    side: Annotated[int, Field(ge=32, le=1024)]  # side of the square picture, pixels
    seed: Annotated[int, Field(ge=0)]  # of the people: another number draws others
    workers: Annotated[int, Field(ge=1)] = 2  # processes; the output does not depend on it


def _linear(srgb: object) -> np.ndarray:
    return (np.asarray(srgb) / 255) ** 2


def person(seed: int, index: int) -> Person:
    """The person number `index` of the world `seed`; the two numbers decide everything."""
    rng = np.random.default_rng((seed, index))
    uniform, normal = rng.uniform, rng.normal
    tone = uniform(0, len(SKINS) - 1.001)
    skin = _between(SKINS, tone) * uniform(0.95, 1.05, 3)
    masculine = rng.random() < 0.5
    age = uniform(0, 1) ** 1.5
    hair = _hair(rng, masculine, age, tone)
    beard = _beard(rng, masculine)
    smile = uniform(-0.03, 0.16) if rng.random() < 0.7 else uniform(-0.04, 0.04)
    opened = (
        uniform(0.03, 0.085) if smile > 0.05 and rng.random() < 0.65 else uniform(0.02, 0.05) * (rng.random() < 0.2)
    )
    lipstick = not masculine and rng.random() < 0.55
    lips = _linear((186, 62, 70)) * uniform(0.7, 1.2) if lipstick else skin * np.array([0.82, 0.46, 0.46])
    full = uniform(0, 1)
    return Person(
        pose=_pose(rng),
        light=_light(rng),
        skull=Skull(
            width=uniform(0.93, 1.05),
            crown=uniform(1.42, 1.56),
            chin=uniform(1.46, 1.60) + (0.1 if beard.strength > 0.8 else 0) + 0.25 * opened,
            jaw=uniform(0.46, 0.58) if masculine else uniform(0.54, 0.66),
            cheeks=uniform(0.02, 0.07),
        ),
        skin=skin,
        blush=uniform(0.2, 1.1),
        freckles=int(uniform(15, 40)) if tone < 1.5 and rng.random() < 0.15 else 0,
        age=age,
        eyes=_eyes(rng, masculine, tone),
        nose=Nose(tip=uniform(0.50, 0.60), width=uniform(0.85, 1.25), height=uniform(0.21, 0.30)),
        mouth=Mouth(
            v=uniform(0.90, 1.00),
            width=uniform(0.36, 0.44) + 0.5 * max(smile, 0),
            upper=0.045 + 0.05 * full,
            lower=0.065 + 0.055 * full,
            smile=smile,
            open=opened,
            colour=lips,
            teeth=smile > 0.02 or rng.random() < 0.4,
        ),
        hair=hair,
        beard=beard,
        glasses=_glasses(rng) if rng.random() < 0.17 else None,
        clothes=_linear(uniform(15, 235, 3)) if rng.random() < 0.7 else _linear(np.full(3, uniform(15, 240))),
        collar=uniform(0.1, 0.55),
        backdrop=_backdrop(rng),
        blobs=int(uniform(0, 6)),
        stripes=uniform(8, 30) if rng.random() < 0.15 else 0.0,
        blur=min(abs(normal(0, 0.002)), 0.005),
        grain=uniform(0.3, 2.5),
        seed=int(rng.integers(2**31)),
    )


def _between(colours: tuple[tuple[int, ...], ...], where: float) -> np.ndarray:
    low = int(where)
    part = where - low
    return _linear(colours[low]) * (1 - part) + _linear(colours[low + 1]) * part


def _pose(rng: np.random.Generator) -> Pose:
    yaw, pitch, roll = (np.clip(rng.normal(0, 1, 3), -2, 2) * np.radians([10, 4.5, 5])).tolist()
    return Pose(yaw, pitch, roll, scale=rng.uniform(0.92, 1.06), x=rng.normal(0, 0.012), y=rng.normal(0, 0.012))


def _light(rng: np.random.Generator) -> Light:
    azimuth, height = np.radians(np.clip(rng.normal(0, 32), -65, 65)), np.radians(rng.uniform(8, 50))
    direction = np.array([np.sin(azimuth) * np.cos(height), -np.sin(height), np.cos(azimuth) * np.cos(height)])
    warm = rng.normal(0, 0.05)
    tint = np.array([1 + warm, 1, 1 - warm])
    fill = rng.uniform(0.16, 0.42)
    key = tint * rng.uniform(0.75, 1.05) * (1.15 - 0.6 * fill)
    sky = fill * (2 - tint) * rng.uniform(0.9, 1.2)
    ground = fill * rng.uniform(0.5, 0.9) * np.array([1.05, 1, 0.95])
    return Light(direction, key, sky, ground)


def _eyes(rng: np.random.Generator, masculine: bool, tone: float) -> Eyes:
    uniform = rng.uniform
    light = tone < 2.2 and rng.random() < 0.6
    iris = _linear(IRISES[rng.integers(2, 6) if light else rng.integers(0, 3)]) * uniform(0.8, 1.3)
    thick = uniform(0.055, 0.085) if masculine else uniform(0.035, 0.06)
    return Eyes(
        apart=uniform(0.46, 0.51),
        width=uniform(0.22, 0.26),
        upper=uniform(0.075, 0.12),
        lower=uniform(0.045, 0.075),
        slant=uniform(-0.015, 0.04),
        iris=iris,
        gaze=(float(np.clip(rng.normal(0, 0.025), -0.06, 0.06)), rng.uniform(-0.015, 0.01)),
        lash=uniform(0, 0.4) if masculine else uniform(0.4, 1),
        brow=uniform(0.28, 0.36),
        brow_thick=thick,
        brow_arch=uniform(0.0, 0.07),
        brow_tilt=uniform(-0.05, 0.05),
        brow_strength=uniform(0.6, 0.95),
    )


def _hair(rng: np.random.Generator, masculine: bool, age: float, tone: float) -> Hair:
    chances = np.array(list(HAIRS.values()))
    if tone > 3:  # dark skin: dark or grey hair
        chances = chances * np.array([1, 0.6, 0.1, 0, 0, 0, 0.6, 0.4])
    if age < 0.6:
        chances[-2:] = 0
    shade = list(HAIRS)[rng.choice(len(HAIRS), p=chances / chances.sum())]
    styles = MEN if masculine else WOMEN
    weights = np.array(list(styles.values()))
    style = list(styles)[rng.choice(len(styles), p=weights / weights.sum())]
    return _styled(rng, style, _linear(shade) * rng.uniform(0.85, 1.15), masculine)


def _styled(rng: np.random.Generator, style: str, colour: np.ndarray, masculine: bool) -> Hair:
    uniform = rng.uniform
    short = Hair(
        colour=colour,
        top=uniform(-1.12, -0.92),
        temple=uniform(1.0, 1.15),
        end=uniform(0.1, 0.45),
        thick=uniform(0.12, 0.26),
        side=uniform(0.06, 0.18),
        flare=0.0,
        sweep=uniform(-0.35, 0.35),
        square=uniform(2.4, 3.6),
        curl=uniform(0, 0.35),
        cover=1.0,
    )
    level = replace(short, sweep=0.0)
    match style:
        case "buzz":
            return replace(level, thick=0.03, side=0.015, cover=uniform(0.6, 0.85), end=0.15)
        case "receding":
            return replace(level, top=uniform(-1.3, -1.15), temple=1.05, thick=0.08, side=0.04, square=2.2)
        case "bald":
            return replace(level, bare=True)
        case "curly":
            end = uniform(0.4, 0.9) if masculine else uniform(1.1, 1.6)
            return replace(level, curl=uniform(0.7, 1), thick=uniform(0.25, 0.42), side=uniform(0.15, 0.3), end=end)
        case "long":
            return replace(short, end=uniform(1.6, 2.4), flare=uniform(0, 0.3), temple=uniform(0.85, 1.1))
        case "fringe":
            top, sweep = uniform(-0.62, -0.48), uniform(-0.12, 0.12)
            return replace(short, end=uniform(1.2, 2.2), top=top, square=4.5, sweep=sweep)
        case "bob":
            return replace(short, end=uniform(1.05, 1.45), side=uniform(0.12, 0.22), temple=uniform(0.85, 1.0))
        case "tied":
            return replace(level, thick=0.08, side=0.03, end=0.2)
        case _:
            return short


def _beard(rng: np.random.Generator, masculine: bool) -> Beard:
    kind = rng.choice(6, p=[0.4, 0.25, 0.15, 0.08, 0.07, 0.05]) if masculine else 0
    strength, chin_only, moustache = [
        (0.0, False, 0.0), (rng.uniform(0.15, 0.35), False, 0.3), (rng.uniform(0.8, 0.95), False, 0.9),
        (0.85, True, 0.85), (rng.uniform(0.5, 0.7), False, 0.6), (0.0, False, 0.9),
    ][kind]  # fmt: skip
    return Beard(strength, chin_only, moustache)


def _glasses(rng: np.random.Generator) -> Glasses:
    colour = _linear(((18, 16, 16), (70, 42, 24), (150, 140, 120), (60, 20, 24))[rng.integers(4)])
    return Glasses(
        colour=colour,
        width=rng.uniform(0.33, 0.38),
        height=rng.uniform(0.20, 0.29),
        square=rng.uniform(2, 4.5),
        thick=rng.uniform(0.02, 0.055),
        tint=rng.uniform(0.0, 0.12),
    )


def _backdrop(rng: np.random.Generator) -> np.ndarray:
    """Four colours around a common one."""
    common = rng.uniform(30, 225) + rng.uniform(-28, 28, 3)
    return _linear(np.clip(common + rng.uniform(-50, 50, (4, 1)) + rng.uniform(-14, 14, (4, 3)), 5, 250))


def drawn(seed: int, size: int, index: int) -> tuple[bytes, list[str]]:
    """Portrait number `index` as a PNG file, and its landmarks as the table has them."""
    from stages.images import png
    from stages.portraits import portrait

    picture, landmarks = portrait.render(person(seed, index), size)
    return png.encode(picture), [f"{value:.3f}" for value in landmarks.reshape(-1)]


def in_order(params: Params) -> Generator[tuple[bytes, list[str]], None, None]:
    """Every portrait in its order, drawn by `params.workers` processes."""
    one = partial(drawn, params.seed, params.side)
    if params.workers == 1 or params.count < FEW:
        yield from map(one, range(params.count))
        return
    with processes(params.workers, _start) as pool:
        yield from pool.map(one, range(params.count), chunksize=CHUNK)


def _start() -> None:
    from stages.images.opencv import cv2

    cv2.setNumThreads(1)
    np.empty(2**24, np.uint8)  # glibc keeps what is freed up to the largest block freed so far: a sixth faster


def draw(portraits: Path, params: Params) -> None:
    """Draw `count` portraits and their landmarks into the folder `portraits`."""
    from tqdm import tqdm

    # Now: the record names the code that this process has imported, and other processes do the work.
    from stages.images import png  # noqa: F401
    from stages.portraits import portrait  # noqa: F401

    portraits.mkdir()
    with (
        (portraits / "landmarks.csv").open("w", newline="", encoding="utf-8") as stream,
        closing(in_order(params)) as drawing,  # so that Ctrl-C ends the other processes' work
    ):
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(["path", *(f"{point}_{axis}" for point in POINTS for axis in "xy")])
        pictures = tqdm(drawing, "draw", params.count, unit="picture", mininterval=1, disable=None)
        for index, (picture, landmarks) in enumerate(pictures):
            path = portraits / f"{index:04d}.png"
            path.write_bytes(picture)
            rows.writerow([path.name, *landmarks])


if __name__ == "__main__":
    command.run(draw, sections={"params": "draw"}, outputs=("portraits",))
