"""A second drawn world, which has no faces: fruit and solids on a table, in one light.

Every picture is drawn from a generator keyed by (seed, index), so a larger count leaves the first pictures as they
are. Written are `0000.png`, ...: the same bytes on every CPU, as nothing but sums, products, quotients and square
roots of float64 is computed, which IEEE 754 leaves no freedom to round. Edges are soft by one pixel, so there is
nothing to sample twice.

Lengths are shares of the picture's side, y grows down, z to the viewer. Colours are linear light in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field
from pydantic.dataclasses import dataclass

from stages.portraits.person import Array
from stages.portraits.shell import edge, lay
from stages.runs import command
from stages.runs.params import STRICT

FRUIT = ("apple", "orange", "lemon", "plum", "pear", "grapes")
SOLIDS = ("ball", "box", "cylinder", "cone")
THINGS = {"fruit": FRUIT, "solids": SOLIDS, "both": FRUIT + SOLIDS}

# sRGB, 0..255; each fruit's are mixed, two neighbours at a time
COLOURS = {
    "apple": ((176, 24, 32), (206, 58, 40), (222, 186, 72), (128, 176, 60)),
    "orange": ((236, 128, 22), (246, 156, 40)),
    "lemon": ((246, 214, 58), (240, 222, 96), (140, 178, 58)),
    "plum": ((62, 34, 92), (104, 38, 88), (72, 48, 122)),
    "pear": ((186, 190, 74), (206, 176, 84), (128, 156, 66)),
    "grapes": ((92, 32, 74), (52, 36, 84), (150, 176, 82)),
}
STEM = (78, 52, 30)
TABLES = ((142, 98, 62), (196, 158, 114), (232, 224, 208))  # wood to linen


@dataclass(frozen=True, config=STRICT)
class Params:
    count: Annotated[int, Field(ge=1, le=100_000)]  # pictures
    side: Annotated[int, Field(ge=32, le=1024)]  # side of the square picture, pixels
    seed: Annotated[int, Field(ge=0)]  # of the scenes: another number draws others
    things: Literal["fruit", "solids", "both"] = "both"  # what lies on the table
    most: Annotated[int, Field(ge=1, le=9)] = 4  # things in a picture; at least one, each number as often
    grey: bool = False  # without colour, as medical pictures are: each pixel its luminance (Rec. 709)


def _linear(srgb: ArrayLike) -> Array:
    part = np.asarray(srgb, np.float64) / 255
    return part * part


def _unit(x: float, y: float, z: float) -> tuple[float, float, float]:
    length = math.sqrt(x * x + y * y + z * z)
    return x / length, y / length, z / length


def _turn(lean: float) -> tuple[float, float]:
    """Cosine and sine of the angle whose half has the tangent `lean`."""
    return (1 - lean * lean) / (1 + lean * lean), 2 * lean / (1 + lean * lean)


class Scene:
    """A wall, a table and the light, onto which things are put from the farthest to the nearest."""

    def __init__(self, rng: np.random.Generator, size: int):
        self.rng, self.pixel = rng, 1 / size
        side = (np.arange(size) + 0.5) * self.pixel
        self.x, self.y = side[None, :], side[:, None]
        self.light = _unit(rng.uniform(-0.9, 0.9), rng.uniform(-1.1, -0.5), rng.uniform(0.5, 1))
        self.half_way = _unit(self.light[0], self.light[1], self.light[2] + 1)  # where a gloss mirrors the light
        warm = rng.uniform(-0.08, 0.08)
        self.key = np.array([1 + warm, 1, 1 - warm]) * rng.uniform(0.75, 1.0)
        self.fill = np.array([1 - warm, 1, 1 + warm]) * rng.uniform(0.14, 0.28)
        self.horizon = rng.uniform(0.32, 0.55)  # where the table ends
        # Few colours, and so a world that a small network learns in minutes.
        wall = _linear(rng.uniform(110, 215) + rng.uniform(-16, 16, 3))
        table = self.mixed(TABLES) * rng.uniform(0.9, 1.05)
        glow = 1 - 0.35 * abs(self.x - 0.5 - 0.4 * self.light[0]) - 0.25 * self.y
        self.picture: Array = wall[:, None, None] * glow
        near = 0.75 + 0.4 * (self.y - self.horizon) + 0.15 * self.light[0] * (self.x - 0.5)
        lay(self.picture, edge(self.y - self.horizon, 2 * self.pixel), table[:, None, None] * near)

    def mixed(self, colours: Sequence[tuple[int, int, int]]) -> Array:
        """A colour between two neighbours of these, linear."""
        which, part = int(self.rng.integers(len(colours) - 1)), self.rng.uniform()
        return _linear(colours[which]) * (1 - part) + _linear(colours[which + 1]) * part

    def shadow(self, x: float, foot: float, width: float) -> None:
        """Cast on the table by a thing `width` wide that stands at (x, foot)."""
        along = (self.x - x + 0.7 * width * self.light[0]) / (1.15 * width)
        deep = (self.y - foot + 0.1 * width) / (0.38 * width)
        dark = edge(1 - along * along - deep * deep, 1.2) * edge(self.y - self.horizon, 2 * self.pixel)
        self.picture *= 1 - 0.6 * dark

    def put(self, cover: Array, normal: tuple[Array | float, ...], colour: Array, gloss: float) -> None:
        """Lay on a surface: its opacity H x W, its unit normal (x, y, z), its colour (3,), its gloss in [0, 1]."""
        facing, mirror = (
            np.maximum(normal[0] * x + normal[1] * y + normal[2] * z, 0) for x, y, z in (self.light, self.half_way)
        )
        for _ in range(4):
            mirror = mirror * mirror
        shine = self.fill[:, None, None] + self.key[:, None, None] * facing
        lay(self.picture, cover, colour[:, None, None] * shine + gloss * mirror)

    def egg(self, x: float, y: float, half: tuple[float, float], colour: Array, gloss: float, lean: float = 0) -> None:
        """An ellipsoid around (x, y), its axes `half` wide and high, turned by `lean` (see `_turn`)."""
        cos, sin = _turn(lean)
        across, down = self.x - x, self.y - y
        u, v = (across * cos + down * sin) / half[0], (down * cos - across * sin) / half[1]
        inside = 1 - np.sqrt(u * u + v * v)
        z = np.sqrt(np.maximum(1 - u * u - v * v, 0))
        nx, ny = u * cos / half[0] - v * sin / half[1], u * sin / half[0] + v * cos / half[1]
        nz = z / min(half)
        length = np.sqrt(nx * nx + ny * ny + nz * nz) + 1e-12
        self.put(edge(inside * min(half), self.pixel), (nx / length, ny / length, nz / length), colour, gloss)

    def stem(self, x: float, y: float, height: float, lean: float) -> None:
        """A short stick that rises from (x, y)."""
        up = y - self.y
        beside = abs(self.x - x - lean * up * up / height)
        cover = edge(0.09 * height + 0.5 * self.pixel - beside, self.pixel) * edge(up, self.pixel)
        self.put(cover * edge(height - up, self.pixel), (0.0, -0.6, 0.8), _linear(STEM), 0)

    def fruit(self, kind: str, x: float, foot: float, r: float) -> None:
        """One of FRUIT, of about radius `r`, that stands at (x, foot)."""
        uniform = self.rng.uniform
        colour = self.mixed(COLOURS[kind]) * uniform(0.85, 1.1)
        lean = uniform(-0.2, 0.2)
        match kind:
            case "apple":
                self.egg(x, foot - 0.92 * r, (r, 0.92 * r), colour, 0.5)
                self.egg(x + lean * r, foot - 1.62 * r, (0.3 * r, 0.12 * r), colour * 0.45, 0)
                self.stem(x + lean * r, foot - 1.6 * r, 0.5 * r, lean)
            case "orange":
                self.egg(x, foot - r, (r, r), colour, 0.25)
                self.egg(x + 2 * lean * r, foot - uniform(1, 1.6) * r, (0.09 * r, 0.07 * r), colour * 0.4, 0)
            case "lemon":
                far = 1.12 * r * (1 if lean < 0 else -1)
                cos, sin = _turn(lean)
                self.egg(x + far * cos, foot - 0.8 * r + far * sin, (0.22 * r, 0.16 * r), colour, 0.2, lean)
                self.egg(x, foot - 0.8 * r, (1.2 * r, 0.8 * r), colour, 0.35, lean)
            case "plum":
                self.egg(x, foot - 0.95 * r, (0.82 * r, 0.95 * r), colour, 0.3, lean)
                self.stem(x - lean * r, foot - 1.8 * r, 0.3 * r, lean)
            case "pear":
                top = x + lean * r
                self.stem(top, foot - 2.35 * r, 0.45 * r, lean)
                self.egg(top, foot - 1.65 * r, (0.55 * r, 0.8 * r), colour, 0.3)
                self.egg(x, foot - 0.9 * r, (0.95 * r, 0.9 * r), colour, 0.3)
            case _:  # grapes
                for row, berries in enumerate((4, 3, 4, 3)):
                    for berry in range(berries):
                        beside = (berry - (berries - 1) / 2) * 0.5 + uniform(-0.05, 0.05)
                        shade = colour * uniform(0.8, 1.2)
                        self.egg(x + beside * r, foot - (1.35 - 0.36 * row) * r, (0.3 * r, 0.3 * r), shade, 0.45)

    def solid(self, kind: str, x: float, foot: float, r: float) -> None:
        """One of SOLIDS, about 2 `r` wide, that stands at (x, foot), of any colour."""
        uniform = self.rng.uniform
        colour = _linear(uniform(20, 240, 3))
        across, up = (self.x - x) / r, (foot - self.y) / r  # up: in radii above the foot
        soft = self.pixel / r
        height, flat = uniform(1.2, 2.2), 0.28  # of an upright solid; of a circle seen from above
        match kind:
            case "ball":
                self.egg(x, foot - r, (r, r), colour, 0.6)
            case "box":
                corner = uniform(-0.5, 0.5)  # where the edge between the two sides stands
                rise = 0.35 * abs(across - corner)  # both sides run away from the viewer
                side = edge(np.minimum(1 - abs(across), np.minimum(up - rise, height - up + rise)), soft)
                self.put(side, (-0.8, 0.0, 0.6), colour, 0)
                self.put(side * edge(across - corner, soft), (0.8, 0.0, 0.6), colour, 0)
                # The far edges of the top run on from its left and right corner to meet behind.
                back = np.minimum(0.35 * (1 + corner) + 0.35 * (across + 1), 0.35 * (1 - corner) + 0.35 * (1 - across))
                top = edge(np.minimum(up - height - rise, height + back - up), soft)
                self.put(top * edge(1 - abs(across), soft), (0.0, -1.0, 0.0), colour, 0)
            case "cylinder":
                bend = np.sqrt(np.maximum(1 - across * across, 0))
                body = np.minimum(up - flat * (1 - bend), height + flat - up)
                self.put(edge(np.minimum(body, 1 - abs(across)), soft), (across, 0.0, bend), colour, 0.3)
                lid = (up - height - flat) / flat
                rim = 1 - np.sqrt(across * across + lid * lid)
                self.put(edge(rim * flat, soft), (0.0, -1.0, 0.0), colour, 0)
            case _:  # cone
                wide = 1 - (up - flat) / height
                place = np.clip(across / np.maximum(wide, soft), -1, 1)
                bend = np.sqrt(1 - place * place)
                below = flat - flat * np.sqrt(np.maximum(1 - across * across, 0))
                cover = edge(np.minimum(up - below, wide - abs(across)), soft)
                self.put(cover, (0.8 * place, -0.6, 0.8 * bend), colour, 0.3)


def scene(params: Params, index: int) -> Array:
    """Picture number `index`, uint8 RGB side x side x 3; it does not depend on `params.count`."""
    rng = np.random.default_rng((params.seed, index))
    drawing = Scene(rng, params.side)
    number = int(rng.integers(1, params.most + 1))
    deep = np.sort(rng.uniform(0.15, 0.9, number))  # shares of the table, the farthest first
    places = (rng.permutation(number) + rng.uniform(0.25, 0.75, number)) / number
    for depth, place in zip(deep.tolist(), places.tolist(), strict=True):
        kind = THINGS[params.things][rng.integers(len(THINGS[params.things]))]
        foot = drawing.horizon + depth * (1 - drawing.horizon)
        r = (0.11 + 0.1 * depth) * rng.uniform(0.8, 1.15) * (1.25 if number == 1 else 1)
        x = 0.1 + 0.8 * place
        drawing.shadow(x, foot, r)
        (drawing.fruit if kind in FRUIT else drawing.solid)(kind, x, foot, r)
    light = np.clip(drawing.picture, 0, 1)
    if params.grey:
        red, green, blue = light
        light = np.stack([0.2126 * red + 0.7152 * green + 0.0722 * blue] * 3)
    seen = np.sqrt(light) * 255 + 0.5
    return np.moveaxis(seen, 0, -1).astype(np.uint8)


def draw_shapes(shapes: Path, params: Params) -> None:
    """Draw `count` scenes into the folder `shapes`."""
    from tqdm import tqdm

    from stages.images import png

    shapes.mkdir()
    for index in tqdm(range(params.count), "draw_shapes", unit="picture", mininterval=1, disable=None):
        (shapes / f"{index:04d}.png").write_bytes(png.encode(scene(params, index)))


if __name__ == "__main__":
    command.run(draw_shapes, sections={"params": "draw_shapes.{name}"}, outputs=("shapes",))
