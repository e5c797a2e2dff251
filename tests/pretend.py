"""A finished pipeline in small: tables as the stages before `evaluate` write them, without running those."""

import hashlib
import shutil
from pathlib import Path

import cv2
import numpy as np

from stages.images import table


def picture(number: int, size: int) -> np.ndarray:
    """A face-like thing: a disc on a ground, both coloured by `number`; uint8 size x size x 3."""
    rng = np.random.default_rng(number)
    ground, skin = rng.integers(40, 216, (2, 3)).tolist()
    canvas = np.full((size, size, 3), ground, np.uint8)
    centre = (int(size * rng.uniform(0.4, 0.6)), int(size * rng.uniform(0.4, 0.6)))
    cv2.circle(canvas, centre, size // 3, skin, -1, cv2.LINE_AA)
    for side in (-1, 1):
        cv2.circle(canvas, (centre[0] + side * size // 8, centre[1] - size // 10), size // 20, (20, 20, 30), -1)
    grain = rng.normal(0, 4, canvas.shape)
    return np.clip(canvas + grain, 0, 255).astype(np.uint8)


def key(number: int) -> tuple[str, str]:
    return hashlib.sha256(str(number).encode()).hexdigest(), f"{number:04}.png"


def draw(kind: str, number: int, size: int) -> np.ndarray:
    hole = np.zeros((size, size), bool)
    if kind == "centre":
        hole[size // 4 : -size // 4, size // 4 : -size // 4] = True
    else:
        hole |= np.random.default_rng(number).random((size, size)) < 0.1 * (1 + number % 5)
    return hole


def dataset(data: Path, name: str = "faces", count: int = 6, size: int = 32, kinds=("centre", "pixels")) -> None:
    """data/aligned/<name> and data/masks/<name> with `count` test pictures."""
    for folder in ("aligned", "masks"):
        (data / folder / name).mkdir(parents=True)
    still = [1.0, 0, 0, 0, 1, 0]
    for split in ("train", "val", "test"):
        with table.writing_pictures(data / "aligned" / name / f"{split}.arrow", (size, size), table.ALIGNED) as writer:
            for number in range(count if split == "test" else 0):
                writer.append(picture(number, size), *key(number), still, None)
        with table.writing_holes(data / "masks" / name / f"{split}.arrow", (size, size)) as writer:
            for number in range(count if split == "test" else 0):
                for kind in kinds:
                    hole = draw(kind, number, size)
                    writer.append(table.pack(hole), *key(number), kind, float(hole.mean()))


def system(data: Path, name: str, noise: float, count: int = 6, size: int = 32, kinds=("centre", "pixels")) -> None:
    """data/inpainted/<name> with `noise` levels of error in the hole, and data/blended/<name> with half of it."""
    for folder, file, part in (("inpainted", "completed", 1.0), ("blended", "blended", 0.5)):
        (data / folder / name).mkdir(parents=True)
        path = data / folder / name / f"{file}.arrow"
        with table.writing_pictures(path, (size, size), table.COMPLETED) as writer:
            for number in range(count):
                for kind in kinds:
                    truth, hole = picture(number, size), draw(kind, number, size)
                    error = np.random.default_rng(number + 1000).normal(0, noise * part, truth.shape)
                    filled = np.clip(truth + error, 0, 255).astype(np.uint8)
                    writer.append(np.where(hole[..., None], filled, truth), *key(number), kind)
    shutil.copy(data / "inpainted" / name / "completed.arrow", data / "inpainted" / name / "guide.arrow")
