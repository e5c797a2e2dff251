"""Flat bars over eyes: where they lie.

Black, grey and white bars (any flat colour), straight or turned up to TURN. Pixelated and blurred bars are not found:
such a photo needs its hole painted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, cos, radians, sin

import numpy as np

from stages.images.faces import Face
from stages.images.landmarks import resized
from stages.images.opencv import cv2

CONFIDENCE = 0.6  # below, nothing is said to be a bar

SIDE = 176  # px of the face's box, to which a larger one is reduced while its bar is looked for
AROUND = 0.6  # of the box's side, seen on each side of it
TOLERANCES = (8, 16)  # levels by which a bar's pixels may differ from its colour: JPEG, dark hair beside it
# Where a bar is looked for, in distances between the eyes from their middle: YuNet's guess of covered eyes is often off.
SEEDS = [(x, y) for y in (0.0, 0.25, -0.25, 0.5, -0.5) for x in (0.0, -0.4, 0.4)]
FLAT = 12  # levels that pixels of a bar may differ around a seed
TURN = 30  # degrees, from the horizontal


@dataclass(frozen=True, slots=True)
class Bar:
    """A flat bar found over a face's eyes."""

    corners: np.ndarray  # float64 4 x 2, in the picture: upper left, upper right, lower right, lower left
    colour: tuple[int, int, int]  # RGB, 0..255
    confidence: float  # 0..1: how much of the area is flat and how much of the outline is a straight edge

    def mask(self, shape: tuple[int, ...], grow: float = 0) -> np.ndarray:
        """Its pixels, bool H x W (the first two of `shape`), and those less than `grow` px beside it.

        A pixel belongs to it where its centre lies in the bar, to half a pixel. A JPEG has a halo round a bar: there
        grow it by 4 to 6 px.
        """
        along, down = self.corners[1] - self.corners[0], self.corners[3] - self.corners[0]
        along, down = along / np.hypot(*along), down / np.hypot(*down)
        reach = grow + 0.5
        offsets = np.array([-along - down, along - down, along + down, down - along]) * reach
        corners = self.corners + offsets
        hole = np.zeros(shape[:2], np.uint8)
        cv2.fillConvexPoly(hole, np.round(corners * 16).astype(np.int32), 1, cv2.LINE_8, 4)
        return hole.astype(bool)


def find_bar(picture: np.ndarray, face: Face, confidence: float = CONFIDENCE) -> Bar | None:
    """The flat bar over the eyes of a face of a uint8 H x W x 3 RGB picture; None where none is found.

    Only a bar found with at least `confidence` (0..1) counts.
    """
    x, y, width, height = face.box
    side = max(width, height)
    start = np.maximum([x - AROUND * side, y - AROUND * side], 0).astype(int)
    end = np.ceil([x + width + AROUND * side, y + height + AROUND * side]).astype(int)
    part = picture[start[1] : max(end[1], 0), start[0] : max(end[0], 0)]
    scaled, factors = resized(part, min(1.0, SIDE / side))
    small = ((np.asarray(face.landmarks) - start + 0.5) * factors) - 0.5
    size = side * float(factors.mean())
    fit = (found for found in _candidates(scaled, small, 1.2 * size) if _over_eyes(found, small, size))
    best = max(fit, key=lambda found: found.confidence, default=None)
    if best is None:
        return None
    if scaled is not part:
        best = _refined(part, best, factors)
    if best.confidence < confidence:
        return None
    corners = best.corners() + start
    return Bar(corners, tuple(int(v) for v in best.colour), round(best.confidence, 3))


@dataclass(frozen=True, slots=True)
class _Found:
    """A rectangle of one colour."""

    centre: np.ndarray  # (2,), px
    half: tuple[float, float]  # half its length and half its height, px
    angle: float  # degrees, > 0 is clockwise on the screen
    colour: np.ndarray  # (3,)
    tolerance: int
    confidence: float

    def corners(self) -> np.ndarray:
        turn = radians(self.angle)
        along, down = np.array([cos(turn), sin(turn)]) * self.half[0], np.array([-sin(turn), cos(turn)]) * self.half[1]
        return self.centre + np.array([-along - down, along - down, along + down, down - along])


def _candidates(picture: np.ndarray, landmarks: np.ndarray, reach: float) -> Iterator[_Found]:
    """The best rectangle for each colour that lies flat where the eyes may be."""
    left, right = landmarks[:2]
    across = right - left
    down = np.array([-across[1], across[0]])
    tried: list[np.ndarray] = []
    for sideways, below in SEEDS:
        seed = np.round((left + right) / 2 + across * sideways + down * below).astype(int)
        if (seed < 3).any() or (seed >= np.array(picture.shape[1::-1]) - 3).any():
            continue
        around = picture[seed[1] - 2 : seed[1] + 3, seed[0] - 2 : seed[0] + 3].reshape(-1, 3)
        colour = np.median(around, axis=0)
        if np.abs(around - colour).max() > FLAT or any(np.abs(colour - other).max() <= 4 for other in tried):
            continue
        tried.append(colour)
        for tolerance in TOLERANCES:
            found = _best(picture, seed, colour, tolerance, np.arange(-TURN, TURN + 1, 3.0), reach)
            if found is not None:
                yield (
                    _best(picture, found.centre, colour, tolerance, found.angle + np.arange(-2, 2.1, 0.5), reach)
                    or found
                )


def _refined(picture: np.ndarray, found: _Found, factors: np.ndarray) -> _Found:
    """The same rectangle in the unscaled picture, to a tenth of a degree."""
    centre = (found.centre + 0.5) / factors - 0.5
    reach = 1.3 * found.half[0] / float(factors.min())
    for step in (0.5, 0.1):
        angles = found.angle + step * np.arange(-4, 5)
        found = _best(picture, centre, found.colour, found.tolerance, angles, reach) or found
        centre = found.centre
    return found


def _best(
    picture: np.ndarray, seed: np.ndarray, colour: np.ndarray, tolerance: int, angles: np.ndarray, reach: float
) -> _Found | None:
    alike = (np.abs(picture.astype(np.int16) - colour.astype(np.int16)).max(axis=2) <= tolerance).astype(np.uint8)
    found = (_rectangle(alike, seed, float(angle), ceil(reach)) for angle in angles)
    best = max((f for f in found if f is not None), key=lambda f: f[3], default=None)
    return None if best is None else _Found(*best[:3], colour, tolerance, best[3])


def _rectangle(alike: np.ndarray, seed: np.ndarray, angle: float, reach: int):
    """The rectangle, turned by `angle`, that is made up of pixels `alike` (uint8 H x W, 0 or 1) around `seed`.

    Its centre, halves, angle and confidence; None where the seed's own pixels are none of it.
    """
    turn = radians(angle)
    side = 2 * reach + 1
    # the seed in the middle, the bar's long side horizontal
    back = np.array([[cos(turn), -sin(turn), 0], [sin(turn), cos(turn), 0]])
    back[:, 2] = seed - back[:, :2] @ [reach, reach]
    flat = cv2.warpAffine(alike, back, (side, side), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP) > 0
    flat, low = flat, reach
    if not flat[low, low]:
        return None
    left, right = _run(flat[low], low)
    inner = slice(left + (right - left) // 10, right - (right - left) // 10 + 1)
    if right - left < 8:
        return None
    tops, bottoms = _runs(flat[: low + 1][::-1]), _runs(flat[low:])
    top, bottom = np.median(tops[inner]), np.median(bottoms[inner])
    # Hair of the bar's colour beside it: only columns that end where the bar's do are of it.
    own = (np.abs(tops - top) <= 1.5) & (np.abs(bottoms - bottom) <= 1.5)
    columns = np.flatnonzero(own[left : right + 1]) + left
    if len(columns) < 8 or top + bottom < 4:
        return None
    rows = slice(int(low - top + 1 + (top + bottom) // 6), int(low + bottom - (top + bottom) // 6))
    middle = int(np.median(columns))
    lefts, rights = _runs(flat[rows, : middle + 1][:, ::-1].T), _runs(flat[rows, middle:].T)
    first = max(middle - np.median(lefts) + 1, columns[0])
    last = min(middle + np.median(rights) - 1, columns[-1])
    if last - first < 8:
        return None
    inside = slice(int(first), int(last) + 1)
    area = flat[int(low - top + 1) : int(low + bottom), inside]
    straight = [np.mean(np.abs(tops[inside] - top) <= 1.5), np.mean(np.abs(bottoms[inside] - bottom) <= 1.5)]
    ends = [np.mean(np.abs(middle - lefts + 1 - first) <= 1.5), np.mean(np.abs(middle + rights - 1 - last) <= 1.5)]
    confidence = float(area.mean() * (2 * sum(straight) + sum(ends)) / 6)
    centre_flat = np.array([(first + last) / 2, low + (bottom - top) / 2])
    centre = back[:, :2] @ centre_flat + back[:, 2]
    half = ((last - first + 1) / 2 - 0.5, (top + bottom - 1) / 2 - 0.5)
    return centre, half, angle, confidence, straight, ends, area.mean()


def _run(line: np.ndarray, start: int) -> tuple[int, int]:
    """First and last index of the True values around `start`."""
    return start - int(_runs(line[: start + 1][::-1, None])[0]) + 1, start + int(_runs(line[start:, None])[0]) - 1


def _runs(lines: np.ndarray) -> np.ndarray:
    """How many True values each column of `lines` (bool N x M) begins with."""
    ends = np.argmin(lines, axis=0)
    return np.where(lines.all(axis=0), len(lines), ends)


def _over_eyes(found: _Found, landmarks: np.ndarray, side: float) -> bool:
    """Whether a rectangle's size and place are those of a bar over these eyes."""
    length, height = 2 * found.half[0], 2 * found.half[1]
    away = np.hypot(*(found.centre - landmarks[:2].mean(0)))
    return bool(0.45 * side <= length <= 1.6 * side and 1.3 <= length / max(height, 1) <= 9 and away <= 0.4 * side)
