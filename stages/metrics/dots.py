"""The dotted texture that report 2 saw after its Poisson blending, as a number.

Report 2 blends by a descent on Sobel gradients. The Sobel operator takes differences of pixels two apart and smooths
across, so it does not see a pattern that alternates from pixel to pixel along a row, (-1)^column f(row), or along a
column, (-1)^row f(column): these are its null space, and a descent leaves in them whatever it began with. The report
explains its dots by channels that are optimised independently. This number tells the two explanations apart: coupled
channels keep dots of the null space, and the exact solver, whose channels are independent, has none.
"""

from __future__ import annotations

import numpy as np

from stages.metrics.fidelity import COARSE, FINE, PEAK, rounded


def dots(output: np.ndarray, target: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Root mean square amplitude, in 8-bit levels, of what alternates from pixel to pixel in `output` - `target`.

    Pictures are uint8 N x H x W x 3, holes bool N x H x W (True = missing); float64 N. Of each row and channel, and of
    each column and channel, the amplitude is the mean over the hole of (-1)^x (2 d(x) - d(x - 1) - d(x + 1)) / 4, d the
    difference: it is a for d = a (-1)^x, and 0 for whatever d is straight. Each counts as often as the hole has three
    pixels in a line there. 0 is right; what does not repeat, as noise, goes down with the length of the lines. NaN
    where no three pixels of the hole lie in a line.
    """
    difference = np.subtract(output, target, dtype=np.int64)
    energy, weight = _along_rows(difference, hole)
    other, more = _along_rows(difference.swapaxes(1, 2), hole.swapaxes(1, 2))
    count = weight + more
    return rounded(np.sqrt(np.divide(energy + other, count, out=np.full(len(hole), np.nan), where=count > 0)), COARSE)


def _along_rows(difference: np.ndarray, hole: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared amplitudes of the rows, summed with their weights over rows and channels; and the weights: float64 N."""
    bend = 2 * difference[:, :, 1:-1] - difference[:, :, :-2] - difference[:, :, 2:]
    inside = hole[:, :, 1:-1] & hole[:, :, :-2] & hole[:, :, 2:]
    sign = 1 - 2 * (np.arange(bend.shape[2]) % 2)
    total = np.einsum("nhwc,nhw,w->nhc", bend, inside, sign)  # whole numbers: exact in any order
    length = inside.sum(axis=2)[..., None]
    amplitude = np.divide(total, 4 * length, out=np.zeros(total.shape), where=length > 0)
    energy = rounded(np.square(amplitude / PEAK), FINE) * PEAK**2  # multiples of a power of two: exact sums
    return (energy * length).sum(axis=(1, 2)), 3.0 * inside.sum(axis=(1, 2))
