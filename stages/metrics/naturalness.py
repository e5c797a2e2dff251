"""How unnatural a completion looks, without its truth: NIQE's distance (Mittal, Soundararajan and Bovik 2013).

A full-reference metric punishes a plausible completion that is not the truth. This one asks only whether the pixels
have the statistics of true pictures: brightness, locally made free of mean and contrast, has a distribution of one
shape, and products of neighbours too. Blur, noise and seams change them.

NIQE (Making a "Completely Blind" Image Quality Analyzer, IEEE Signal Processing Letters 20(3)) compares 36 features of
a picture's patches with their distribution in natural photos. Two things differ here, so the numbers stand beside no
published NIQE. The natural pictures are the dataset's own training pictures: NIQE's published model is of sharp photos
of half a megapixel, for which every aligned face of 64 pixels is unnatural, truth included. And the patches are those
that the hole touches, known pixels and seam included, not all: elsewhere every system has the truth's.

Limits: 0 is never reached, so read it beside the truth's own value. It knows nothing of content: skin where an eye
should be is natural. Patches of 16 pixels give coarse features, which a mean over many pictures evens out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from stages.images.opencv import cv2
from stages.metrics.fidelity import COARSE, rounded

PARTS = 4  # patches along the shorter side
SMALLEST = 16  # pixels, a patch's side
# The window of the local mean and contrast: the paper's Gaussian of 7 taps, of which the outermost are three deviations
# away (K = L = 3), in multiples of 2^-14. Their sums are exact, so that what is flat is so to the last bit.
TAPS = np.array([206, 1292, 3888, 5612, 3888, 1292, 206]) / 2.0**14
SHAPES = np.arange(200, 10001) / 1000  # of the distributions: what a fit can find
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))  # rows and columns to the other factor of a product
FEATURES = 36  # at two scales each: shape and variance, and four of each product
# Added to each feature's variance, which is 1 in the natural pictures: so that what a few pictures happen to have in
# common does not count without bounds, and the last bits of a CPU do not either. The published code takes the
# pseudoinverse instead.
RIDGE = 1e-3
ENOUGH = 4 * FEATURES  # natural patches, for a model of them
BLOCK = 32  # pictures at once: bounds memory

Area = tuple[slice, slice]  # rows and columns of a picture


class Natural(NamedTuple):
    """The features of natural patches: mean and standard deviation, and the covariance of what these leave."""

    mean: np.ndarray  # float64 36
    deviation: np.ndarray  # float64 36
    covariance: np.ndarray  # float64 36 x 36, its diagonal about 1


def natural(pictures: np.ndarray) -> Natural | None:
    """The model of true pictures, uint8 N x H x W x 3; None for too few of them (about ten)."""
    side = _side(pictures[0])
    height, width = (length // side * side for length in pictures.shape[1:3])
    found = np.concatenate(_features(pictures, [np.s_[:height, :width]] * len(pictures)))
    if len(found) < ENOUGH:
        return None
    mean, deviation = found.mean(axis=0), np.maximum(found.std(axis=0), RIDGE)
    rest = (found - mean) / deviation
    return Natural(mean, deviation, rest.T @ rest / len(rest))


def unnatural(pictures: np.ndarray, holes: np.ndarray, model: Natural) -> np.ndarray:
    """NIQE's distance (eq. 10) of the patches that each hole touches: float64 N, 0 is natural.

    `pictures` are uint8 N x H x W x 3, of the size that the model was made from; `holes` bool N x H x W (True =
    missing). NaN for a hole that no patch has a part of. The distance is between two normal distributions, of these
    patches' features and of the natural ones', in standard deviations; a single patch has no covariance of its own.
    """
    distances = np.full(len(pictures), np.nan)
    rows = np.flatnonzero(holes.any(axis=(1, 2)))
    areas = [_area(holes[row]) for row in rows]
    for row, area, found in zip(rows, areas, _features(pictures[rows], areas), strict=True):
        touched = _patches(holes[row][area], _side(holes[row])).any((1, 2))
        if touched.any():  # else it lies where no whole patch does, at two edges of a picture of an odd size
            distances[row] = _distance(found[touched], model)
    return rounded(distances, COARSE)


def _distance(features: np.ndarray, model: Natural) -> float:
    rest = (features - model.mean) / model.deviation
    mean = rest.mean(axis=0)
    covariance = (rest - mean).T @ (rest - mean) / len(rest)
    both = (model.covariance + covariance) / 2 + RIDGE * np.eye(FEATURES)
    return float(np.sqrt(mean @ np.linalg.solve(both, mean)))


def _area(hole: np.ndarray) -> Area:
    """Whole patches, as few as hold the hole."""
    rows, columns = (_span(np.flatnonzero(hole.any(axis)), _side(hole), hole.shape[1 - axis]) for axis in (1, 0))
    return rows, columns


def _side(picture: np.ndarray) -> int:
    """Of a patch; even, so that half the picture's size has the same patches."""
    return max(SMALLEST, min(picture.shape[:2]) // PARTS // 2 * 2)


def _span(missing: np.ndarray, side: int, length: int) -> slice:
    """Whole patches, as few as hold the hole's rows (or columns), with the hole in their middle; inside the picture.

    It begins at an even pixel, so that the picture at half the size has it too.
    """
    count = min(-(-(missing[-1] + 1 - missing[0]) // side), length // side)
    start = (missing[0] + missing[-1] + 1 - count * side) // 2
    start = min(max(start, 0), length - count * side) // 2 * 2
    return slice(start, start + count * side)


def _patches(area: np.ndarray, side: int) -> np.ndarray:
    """H x W, of whole patches, as M x side x side."""
    rows, columns = (length // side for length in area.shape)
    return area.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(-1, side, side)


def _features(pictures: np.ndarray, areas: Sequence[Area]) -> list[np.ndarray]:
    """Of each picture, uint8 N x H x W x 3, the features of every patch in its area: float64 M x 36."""
    found: list[np.ndarray] = []
    for start in range(0, len(pictures), BLOCK):
        cut = [_cut(*pair) for pair in zip(pictures[start:][:BLOCK], areas[start:][:BLOCK], strict=True)]
        features = np.concatenate([_at_scale(np.concatenate(patches)) for patches in zip(*cut, strict=True)], axis=1)
        found += np.split(features, np.cumsum([len(whole) for whole, _ in cut])[:-1])
    return found


def _cut(picture: np.ndarray, area: Area) -> tuple[np.ndarray, np.ndarray]:
    """The patches of an area at both scales: M x side x side, and half as large."""
    side = _side(picture)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float64)
    height, width = (length // 2 * 2 for length in grey.shape)
    half = grey[:height, :width].reshape(height // 2, 2, width // 2, 2).mean((1, 3))
    rows, columns = (slice((span.start or 0) // 2, span.stop // 2) for span in area)
    return _patches(_plain(grey)[area], side), _patches(_plain(half)[rows, columns], side // 2)


def _plain(grey: np.ndarray) -> np.ndarray:
    """Brightness without its local mean, over its local contrast (eqs. 1 to 3)."""
    mean, square = (cv2.sepFilter2D(a, -1, TAPS, TAPS, borderType=cv2.BORDER_REFLECT) for a in (grey, grey * grey))
    return (grey - mean) / (np.sqrt(np.maximum(square - mean * mean, 0)) + 1)


def _at_scale(patches: np.ndarray) -> np.ndarray:
    """The 18 features of every patch at one scale (eqs. 4 to 8); `patches` are M x side x side of `_plain`."""
    side = patches.shape[1]
    shape, left, right = _fit(patches)
    found = [shape, (left + right) / 2]
    for down, across in NEIGHBOURS:
        one, other = patches[:, : side - down], patches[:, down:]
        if across > 0:
            one, other = one[:, :, :-across], other[:, :, across:]
        elif across < 0:
            one, other = one[:, :, -across:], other[:, :, :across]
        shape, left, right = _fit(one * other)
        lean = (np.sqrt(right) - np.sqrt(left)) * _leans(shape)
        found += [shape, lean, left, right]
    return np.stack(found, axis=1)


def _fit(patches: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An asymmetric generalised normal distribution of each patch's values: its shape, and variances left and right.

    By moments (Lasmar, Stitou and Berthoumieu 2009). A patch without any contrast is given the flattest shape.
    """
    values = patches.reshape(len(patches), -1)
    left, right = (_mean_square(values, side) for side in (values < 0, values > 0))
    power = (values**2).mean(axis=1)
    spread = np.divide(np.abs(values).mean(axis=1) ** 2, power, out=np.ones(len(values)), where=power > 0)
    skew = np.sqrt(np.divide(left, right, out=np.ones(len(values)), where=right > 0))
    even = spread * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    return np.interp(even, _spreads(), SHAPES), left, right


def _mean_square(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    count = where.sum(axis=1)
    return np.divide((values**2 * where).sum(axis=1), count, out=np.zeros(len(values)), where=count > 0)


@cache
def _spreads() -> np.ndarray:
    """Squared mean size over mean square of each of `SHAPES`: it rises with the shape."""
    from scipy.special import gammaln

    return np.exp(2 * gammaln(2 / SHAPES) - gammaln(1 / SHAPES) - gammaln(3 / SHAPES))


def _leans(shape: np.ndarray) -> np.ndarray:
    """The mean of an asymmetric distribution of that shape, in differences between its two deviations (eq. 7)."""
    from scipy.special import gammaln

    return np.exp(gammaln(2 / shape) - (gammaln(1 / shape) + gammaln(3 / shape)) / 2)
