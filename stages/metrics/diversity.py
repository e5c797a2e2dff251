"""How varied a system's completions are from picture to picture, as against how varied the truth is there.

A system may be near to the truth and yet put the same eyes into every face (report 3, at eta 0). No number of a single
picture shows that. So the completions are compared with each other: the mean distance of all pairs of pictures, by
LPIPS as Zhu et al. 2017 (Toward Multimodal Image-to-Image Translation, section 5.2), or by structural similarity as
Odena et al. 2017 (Conditional Image Synthesis with Auxiliary Classifier GANs, section 4.3). `by_picture` sets that
against the mean distance of the same pairs of true pictures in the same pixels: 1 is as varied as the truth, 0 is the
same content everywhere.

Structural similarity needs no weights, and is at one scale: Odena's five need pictures of 176 pixels. Pictures are
compared pixel for pixel where they lie, which is where a face's eyes are in every aligned face. A pair is compared in
the pixels that both lack, if these are at least half of those that one of them lacks: so bars that turn a little with
their faces are compared, and boxes in two corners are not. No other pixel has any influence.

Limits: noise is varied too, so read this beside `texture`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from stages.images.opencv import cv2
from stages.metrics.fidelity import C1, C2, COARSE, EXACT, SIMILARITY, TAPS, rounded

PICTURES = 32  # compared with each other, at most: the work grows with their square
GREY = 128  # level of what LPIPS must not see
PAIRS = 64  # given to LPIPS at once: bounds memory


def by_ssim(pictures: np.ndarray, holes: np.ndarray) -> np.ndarray:
    """1 - SSIM of every pair: float64 N x N, symmetrical, NaN where a pair is not compared and on the diagonal.

    `pictures` are uint8 N x H x W x 3, `holes` bool N x H x W (True = missing). SSIM is Wang et al. 2004, eq. 13, with
    the window of `fidelity.ssim_map` cut down to the pixels that both pictures lack; its mean is over them. 0 is
    alike, 1 is unrelated, and up to 2 is opposed. The same bytes on every CPU, as `fidelity` explains.
    """
    rows, columns = (np.flatnonzero(holes.any((0, axis))) for axis in (2, 1))
    if not len(rows):
        return np.full((len(holes), len(holes)), np.nan)
    box = (slice(None), slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    levels, missing = pictures[box].astype(np.float64), holes[box]
    found = np.full((len(holes), len(holes)), np.nan)
    for i, j in _pairs(missing):
        found[i, j] = found[j, i] = 1 - _similarity(levels[i], levels[j], missing[i] & missing[j])
    return rounded(found, EXACT)


def by_lpips(
    pictures: np.ndarray, holes: np.ndarray, lpips: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    """LPIPS of every pair, as `by_ssim`; in both pictures, all but what both lack is grey. `lpips` is an `Lpips`."""
    found = np.full((len(holes), len(holes)), np.nan)
    pairs = np.array(list(_pairs(holes)), np.int64).reshape(-1, 2)
    for start in range(0, len(pairs), PAIRS):
        i, j = pairs[start : start + PAIRS].T
        shared = (holes[i] & holes[j])[..., None]
        one, other = (np.where(shared, pictures[k], np.uint8(GREY)) for k in (i, j))
        found[i, j] = found[j, i] = lpips(one, other)
    return rounded(found, COARSE)


def by_picture(made: np.ndarray, true: np.ndarray) -> np.ndarray:
    """A number for each picture, float64 N, whose mean is the diversity: the mean distance made over the true one.

    `made` and `true` are N x N, as `by_ssim` gives them, of completions and of true pictures with the same holes. A
    picture's number is the diversity and, above or below it, what the picture adds to it: the infinitesimal jackknife's
    pseudo-value (Efron 1982, The Jackknife, the Bootstrap and Other Resampling Plans, chapter 6). So the scatter of the
    numbers is right for an interval by resampling pictures, and for one of the difference between two systems. The mean
    distances of each picture to all others would not be: they scatter half as much as they should, since every pair
    counts for two pictures (Arvesen 1969, Jackknifing U-statistics). Of two dozen pictures, a 95 % interval holds the
    true value nine times in ten, as bootstrap intervals of so few do; theirs would half of the times.

    NaN for a picture that is compared with none, and for all where fewer than three are, or the truth is all alike.
    """
    compared = ~np.isnan(true).all(axis=1)
    count, total = np.count_nonzero(compared), np.nansum(true)
    if count < 3 or not total:
        return np.full(len(true), np.nan)
    diversity = np.nansum(made) / total
    added = np.nansum(made, axis=1) - diversity * np.nansum(true, axis=1)
    return rounded(np.where(compared, diversity + 2 * count / total * added, np.nan), COARSE)


def _pairs(holes: np.ndarray) -> Iterator[tuple[int, int]]:
    """The pairs that are compared: of what either lacks, both lack at least half."""
    flat = holes.reshape(len(holes), -1)
    for i in range(len(flat)):
        for j in range(i + 1, len(flat)):
            shared = np.count_nonzero(flat[i] & flat[j])
            if shared and 2 * shared >= np.count_nonzero(flat[i] | flat[j]):
                yield i, j


def _similarity(x: np.ndarray, y: np.ndarray, inside: np.ndarray) -> float:
    """Mean SSIM of two float64 H x W x 3 over the pixels `inside`, from these alone.

    Windows are sums over whole levels and `TAPS`, so exact, and each is divided by what of the window lies inside.
    """
    weight = inside[..., None].astype(np.float64)
    sums = np.concatenate([weight, x * weight, y * weight, x * y * weight, (x * x + y * y) * weight], axis=2)
    sums = cv2.sepFilter2D(sums, -1, TAPS, TAPS, borderType=cv2.BORDER_CONSTANT)[inside]
    means = sums[:, 1:] / sums[:, :1]
    mean_x, mean_y, product, squares = (means[:, k : k + 3] for k in (0, 3, 6, 9))
    across, within = mean_x * mean_y, mean_x * mean_x + mean_y * mean_y
    similar = (2 * across + C1) * (2 * (product - across) + C2) / ((within + C1) * (squares - within + C2))
    return float(rounded(similar, SIMILARITY).sum() / similar.size)
