"""Flat bars over eyes: where they lie.

Black, grey and white bars (any flat colour), straight or turned up to TURN. Pixelated and blurred bars are not found:
such a photo needs its hole painted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import atan2, ceil, cos, degrees, radians, sin

import numpy as np

from stages.images.faces import Face
from stages.images.landmarks import resized
from stages.images.opencv import cv2

CONFIDENCE = 0.7  # below, nothing is said to be a bar

SIDE = 176  # px of the face's box, to which a larger one is reduced while its bar is looked for
AROUND = 0.6  # of the box's side, seen on each side of it
TOLERANCES = (8, 16)  # levels by which a bar's pixels may differ from its colour: JPEG, dark hair beside it
# Where a bar's colour is sought, in distances between the eyes from their middle; YuNet's guess of these is often off.
SEEDS = [(x, y) for y in (0.0, 0.25, -0.25, 0.5, -0.5) for x in (0.0, -0.4, 0.4)]
FLAT = 12  # levels by which pixels of a bar may differ around a seed
# Levels by which nine tenths of a bar's pixels differ from its colour at most: 6 in JPEGs of quality 90, more in poorer
# ones; 8 and more in skin, of which nothing has been found with a confidence of SURE.
EVEN = 7
SURE = 0.85
TURN = 30  # degrees, from the horizontal; of a head that leans more, from the line of its eyes
LEAST = 8  # px, of a bar's length in the reduced picture
STRAIGHT = 1.5  # px by which a straight edge may waver


@dataclass(frozen=True, slots=True)
class Bar:
    """A flat bar found over a face's eyes."""

    corners: np.ndarray  # float64 4 x 2, in the picture: upper left, upper right, lower right, lower left
    colour: tuple[int, int, int]  # RGB, 0..255
    confidence: float  # 0..1: how much of the area is flat and how much of the outline is a straight edge

    def mask(self, shape: tuple[int, ...], grow: float = 0) -> np.ndarray:
        """Its pixels, bool H x W (the first two of `shape`), and those less than `grow` px beside it.

        A pixel belongs to it where its centre lies no more than half a pixel outside the corners. A JPEG has a halo
        round a bar: there grow it by 4 to 6 px.
        """
        hole = np.zeros(shape[:2], bool)
        along, down = (self.corners[1] - self.corners[0]) / 2, (self.corners[3] - self.corners[0]) / 2
        reach = grow + 0.5
        start = np.maximum(np.floor(self.corners.min(0) - 1.5 * reach), 0).astype(int)
        end = np.maximum(np.ceil(self.corners.max(0) + 1.5 * reach) + 1, 0).astype(int)
        part = hole[start[1] : end[1], start[0] : end[0]]
        middle = self.corners.mean(0) - start
        rows, columns = np.ogrid[: part.shape[0], : part.shape[1]]
        length, height = np.hypot(*along), np.hypot(*down)
        turn = along / length
        x, y = columns - middle[0], rows - middle[1]
        part[:] = (abs(x * turn[0] + y * turn[1]) <= length + reach) & (
            abs(y * turn[0] - x * turn[1]) <= height + reach
        )
        return hole


def find_bar(picture: np.ndarray, face: Face, confidence: float = CONFIDENCE) -> Bar | None:
    """The flat bar over the eyes of a face of a uint8 H x W x 3 RGB picture; None where none is found.

    Only a bar found with at least `confidence` (0..1) counts.
    """
    x, y, width, height = face.box
    side = max(width, height)
    start = np.maximum([x - AROUND * side, y - AROUND * side], 0).astype(int)
    end = np.ceil([x + width + AROUND * side, y + height + AROUND * side]).astype(int)
    part = picture[start[1] : max(end[1], 0), start[0] : max(end[0], 0)]
    if not part.size:
        return None
    scaled, factors = resized(part, min(1.0, SIDE / side))
    small = ((np.asarray(face.landmarks) - start + 0.5) * factors) - 0.5
    size = side * float(factors.mean())
    fit = (found for found in _candidates(scaled, small, ceil(1.2 * size)) if _over_eyes(found, small, size))
    best = max(fit, key=lambda found: found.confidence, default=None)
    if best is None:
        return None
    if scaled is not part:
        best = replace(_refined(part, best, factors), confidence=best.confidence)  # edges waver more there
    bar = Bar(best.corners(), (0, 0, 0), round(best.confidence, 3))
    inside = part[bar.mask(part.shape, -0.4 * best.half[1])].astype(np.float64)
    if best.confidence < confidence or not len(inside):
        return None
    colour = np.median(inside, axis=0)
    uneven = np.quantile(np.abs(inside - colour).max(axis=1), 0.9) > EVEN
    if uneven and best.confidence < SURE:  # a forehead, or a shadow
        return None
    red, green, blue = (round(value) for value in colour.tolist())
    return replace(bar, corners=bar.corners + start, colour=(red, green, blue))


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


def _candidates(picture: np.ndarray, landmarks: np.ndarray, reach: int) -> Iterator[_Found]:
    """The best rectangle for each colour that lies flat where the eyes may be; at most 2 * `reach` px long."""
    left, right = landmarks[:2]
    across = right - left
    down = np.array([-across[1], across[0]])
    roll = degrees(atan2(across[1], across[0]))
    angles = np.arange(-TURN, TURN + 1, 3.0) + (roll if abs(roll) > TURN else 0)
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
            alike = _alike(picture, colour, tolerance)
            coarse = _best(_turned(alike, seed, reach, angles), colour, tolerance)
            if coarse is not None:
                finer = coarse.angle + np.arange(-2, 2.1, 0.5)
                yield _best(_turned(alike, coarse.centre, reach, finer), colour, tolerance) or coarse


def _refined(picture: np.ndarray, found: _Found, factors: np.ndarray) -> _Found:
    """A rectangle of the scaled picture in the unscaled one, to a tenth of a degree."""
    alike = _alike(picture, found.colour, found.tolerance)
    reach = ceil(1.3 * found.half[0] / float(factors.min()))
    centre = (found.centre + 0.5) / factors - 0.5
    for step in (0.5, 0.1):
        turned = _turned(alike, centre, reach, found.angle + step * np.arange(-4, 5))
        found = _best(turned, found.colour, found.tolerance) or found
        centre = found.centre
    return found


def _alike(picture: np.ndarray, colour: np.ndarray, tolerance: int) -> np.ndarray:
    """Which pixels of a picture are of a colour; uint8 H x W, 0 or 1."""
    low, high = (tuple(float(v) for v in colour + sign * tolerance) for sign in (-1, 1))
    return (cv2.inRange(picture, low, high) > 0).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class _Turned:
    """What lies around a point, turned by an angle so that a bar at that angle lies level, its length sideways."""

    alike: np.ndarray  # bool, the point in the middle
    angle: float  # degrees
    back: np.ndarray  # 2 x 3, to the picture


def _turned(alike: np.ndarray, point: np.ndarray, reach: int, angles: np.ndarray) -> Iterator[_Turned]:
    side = 2 * reach + 1
    for angle in angles.tolist():
        turn = radians(angle)
        back = np.array([[cos(turn), -sin(turn), 0], [sin(turn), cos(turn), 0]])
        back[:, 2] = point - (back[:, :2] * reach).sum(axis=1)
        flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
        yield _Turned(cv2.warpAffine(alike, back, (side, side), flags=flags) > 0, angle, back)


def _best(ways: Iterable[_Turned], colour: np.ndarray, tolerance: int) -> _Found | None:
    found = (_rectangle(way, colour, tolerance) for way in ways)
    return max((one for one in found if one), key=lambda one: one.confidence, default=None)


def _rectangle(way: _Turned, colour: np.ndarray, tolerance: int) -> _Found | None:
    """The level rectangle of alike pixels around the middle; None where there is none of `LEAST` px or more.

    Its upper edge is where most columns end, its left one where most rows do, and so on: what is of the same colour
    beside it (dark hair at a black bar) makes other columns or rows longer, and moves no edge.
    """
    alike, middle = way.alike, len(way.alike) // 2
    if not alike[middle, middle]:
        return None
    run = slice(
        middle - int(_runs(alike[middle, middle::-1, None])[0]) + 1,
        middle + int(_runs(alike[middle, middle:, None])[0]),
    )
    ups, downs = _runs(alike[middle::-1]), _runs(alike[middle:])
    up, down = _usual(ups[run]), _usual(downs[run])
    upper, lower = np.abs(ups - up) <= STRAIGHT, np.abs(downs - down) <= STRAIGHT
    columns = np.flatnonzero((upper | lower)[run]) + run.start
    if len(columns) < LEAST or up + down < LEAST / 2:
        return None
    inner = slice(middle - int(0.6 * up), middle + int(0.6 * down) + 1)
    start = int(np.median(columns))
    lefts, rights = _runs(alike[inner, start::-1].T), _runs(alike[inner, start:].T)
    first, last = max(start - _usual(lefts) + 1, columns[0]), min(start + _usual(rights) - 1, columns[-1])
    if last - first < LEAST:
        return None
    inside = slice(round(first), round(last) + 1)
    filled = alike[round(middle - up) + 1 : round(middle + down), inside].mean()
    left, right = (np.mean(np.abs(ends) <= STRAIGHT) for ends in (start - lefts + 1 - first, start + rights - 1 - last))
    edges = (2 * upper[inside].mean() + 2 * lower[inside].mean() + left + right) / 6
    centre = (way.back[:, :2] * [(first + last) / 2, middle + (down - up) / 2]).sum(axis=1) + way.back[:, 2]
    half = (last - first) / 2, (up + down) / 2 - 1
    return _Found(centre, half, way.angle, colour, tolerance, float(filled * edges))


def _runs(lines: np.ndarray) -> np.ndarray:
    """How many True values each column of `lines` (bool N x M) begins with."""
    return np.where(lines.all(axis=0), len(lines), np.argmin(lines, axis=0))


def _usual(lengths: np.ndarray) -> float:
    """The commonest of some lengths: the mean of those within 1 of it."""
    counts = np.convolve(np.bincount(lengths), [1, 1, 1])[1:-1]
    return float(lengths[np.abs(lengths - np.argmax(counts)) <= 1].mean())


def _over_eyes(found: _Found, landmarks: np.ndarray, side: float) -> bool:
    """Whether a rectangle's size and place are those of a bar over these eyes."""
    length, height = 2 * found.half[0], 2 * found.half[1]
    away = np.hypot(*(found.centre - landmarks[:2].mean(0)))
    return bool(0.33 * side <= length <= 1.6 * side and 1.7 <= length / max(height, 1) <= 8 and away <= 0.4 * side)
