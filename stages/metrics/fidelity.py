"""How close a completed picture is to the truth: L1, MSE, PSNR, SSIM, patch_sse, sharpness and texture.

Every function takes batches: pictures uint8 N x H x W x 3 and holes bool N x H x W (True = missing), and returns
float64 N, one number a picture. Without a hole a number is over the whole picture; with one, over the hole's pixels
alone: what lies outside cannot change it. A picture whose hole is empty has no number there: NaN.

Values are in [0, 1]: an 8-bit level is divided by 255, so that L1 0.1 means 25.5 levels.

The numbers are the same on every CPU, whatever its vector unit, and with any number of threads. Pictures are whole
levels, so sums of levels and of their squares are whole numbers: exact in int64 and, below 2^53, in float64, in
whatever order they are added. One float64 division ends each. SSIM's window has taps of few bits, so that its sums are
exact as well. The logarithms alone may differ in their last bit, and are rounded far above it.
"""

from __future__ import annotations

import math

import numpy as np

from stages.images.opencv import cv2

PEAK = 255  # levels from black to white
PSNR_CAP = 120.0  # dB, for identical pictures; one level off in one value gives less, up to 2,264 x 2,264 pixels
C1, C2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2  # SSIM's constants, (K L)^2 with K1 = .01, K2 = .03 and L = 255
SSIM_BORDER = 5  # (11 taps - 1) / 2: pixels whose window leaves the picture
# SSIM's window, a Gaussian of sigma 1.5 in multiples of 2^-18, none off by one of them; they sum to 1, and their
# variance is the Gaussian's to 1e-5. A sum of two squares has 17 bits, and with twice 18 more float64's 53 are enough.
TAPS = np.array([270, 1991, 9438, 28668, 55838, 69734, 55838, 28668, 9438, 1991, 270]) / 2.0**18

# Scores are multiples of these. Sums of scores are exact, in any order, as long as they stay below 2^53 of them.
EXACT = 2.0**-30  # of what is a quotient of whole numbers: the same everywhere before it is rounded
FINE = 2.0**-36  # of mean squared errors: one level off in one value of 256 x 256 pixels is five of these, and not 0
# Of what is large, as patch_sse, or no such quotient, as logarithms and LPIPS: 1.5e-5 dB is a billion times the last
# bit of 120 dB.
COARSE = 2.0**-16
SIMILARITY = 2.0**-24  # of the values of an `ssim_map`: up to 1, float32 has all of them


def score(output: np.ndarray, target: np.ndarray, hole: np.ndarray) -> dict[str, np.ndarray]:
    """All the numbers of this file by name: over the composite, and `_hole` inside the hole."""
    similarity = ssim_map(output, target)
    return {
        "l1": l1(output, target),
        "mse": mse(output, target),
        "psnr": psnr(output, target),
        "ssim": ssim(similarity),
        "l1_hole": l1(output, target, hole),
        "mse_hole": mse(output, target, hole),
        "psnr_hole": psnr(output, target, hole),
        "ssim_hole": ssim(similarity, hole),
        "patch_sse": patch_sse(output, target, hole),
        "sharpness": sharpness(output, target, hole),
        "texture": texture(output, target, hole),
    }


def rounded(values: np.ndarray, unit: float = EXACT) -> np.ndarray:
    """The nearest multiples of `unit`, a power of two. NaN stays NaN."""
    return np.rint(values / unit) * unit


def l1(output: np.ndarray, target: np.ndarray, hole: np.ndarray | None = None) -> np.ndarray:
    """Mean absolute difference, in [0, 1]."""
    total, count = _sum(np.abs(_difference(output, target)), hole)
    return rounded(_ratio(total, PEAK * count))


def mse(output: np.ndarray, target: np.ndarray, hole: np.ndarray | None = None) -> np.ndarray:
    """Mean squared difference, in [0, 1]."""
    return rounded(_mse(output, target, hole), FINE)


def psnr(output: np.ndarray, target: np.ndarray, hole: np.ndarray | None = None) -> np.ndarray:
    """Peak signal-to-noise ratio of each picture, 10 log10(1 / MSE) dB, at most `PSNR_CAP`."""
    return rounded(-10 * np.log10(np.maximum(_mse(output, target, hole), 10 ** (-PSNR_CAP / 10))), COARSE)


def patch_sse(output: np.ndarray, target: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Sum of squared differences in [0, 1] over the hole's pixels and channels.

    The scale that report 4's losses appear to have (its patch is 64 x 64 x 3 values). An empty hole gives 0.
    """
    total, _ = _sum(np.square(_difference(output, target)), hole)
    return rounded(total / PEAK**2, COARSE)


def ssim_map(output: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Structural similarity around every pixel and channel, float32 N x H x W x 3 (Wang et al. 2004, eq. 13).

    Gaussian window of 11 taps and sigma 1.5, biased covariances, edges mirrored; the map of
    `skimage.metrics.structural_similarity(gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, channel_axis=-1, full=True)`, but for the taps' few bits: a mean differs by some 1e-6.
    """
    similarity = np.empty(output.shape, np.float32)
    work = np.empty((6, *output.shape[1:]))  # fresh memory would cost as much as the arithmetic
    for x, y, out in zip(output, target, similarity, strict=True):
        _ssim_map(x, y, out, work)
    return similarity


def ssim(similarity: np.ndarray, hole: np.ndarray | None = None) -> np.ndarray:
    """Mean of an `ssim_map`: without a hole over the pixels whose window fits, as published; else over the hole."""
    if hole is None:
        similarity = similarity[:, SSIM_BORDER:-SSIM_BORDER, SSIM_BORDER:-SSIM_BORDER]
    return rounded(_ratio(*_sum(similarity, hole)))


def sharpness(output: np.ndarray, target: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Gradient energy inside the hole over the truth's: 1 is right, less is blurred, more is noisy.

    Energy is the sum of squared differences between neighbours, both in the hole, so that neither
    the seam nor anything outside counts. What rounding to 8 bits adds is put on both energies: two
    flat patches score 1 and a flat truth divides nothing by zero. NaN where a hole has no two neighbours.
    """
    return rounded(_sharpness(output, target, hole, 1))


def texture(output: np.ndarray, target: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """How many doublings the gradient energy in the hole is off the truth's, at the worst size of detail: 0 is right.

    The largest |log2 `sharpness`| of the pictures and of their means over blocks of 2, 4 and 8 pixels. A blur lacks the
    fine detail; noise has it, even in the right amount, and lacks the coarse: `sharpness` alone would take it for the
    truth. Blocks count where they lie in the hole whole. NaN where no two neighbours do.
    """
    worst = np.full(len(hole), np.nan)
    for block in (1, 2, 4, 8):
        worst = np.fmax(worst, np.abs(np.log2(_sharpness(output, target, hole, block))))
    return rounded(worst, COARSE)


def _difference(output: np.ndarray, target: np.ndarray) -> np.ndarray:
    """int32 levels."""
    return np.subtract(output, target, dtype=np.int32)


def _sum(values: np.ndarray, hole: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | int]:
    """Sum of N x H x W x 3 over a picture, or over its hole's pixels, and how many values that are."""
    kind = np.float64 if values.dtype.kind == "f" else np.int64
    if hole is None:
        return values.sum(axis=(1, 2, 3), dtype=kind), math.prod(values.shape[1:])
    return np.einsum("nhwc,nhw->n", values, hole, dtype=kind), hole.sum(axis=(1, 2)) * values.shape[-1]


def _ratio(total: np.ndarray, count: np.ndarray | int) -> np.ndarray:
    """NaN where there is nothing."""
    return np.divide(total, count, out=np.full(len(total), np.nan), where=np.asarray(count) > 0)


def _mse(output: np.ndarray, target: np.ndarray, hole: np.ndarray | None) -> np.ndarray:
    total, count = _sum(np.square(_difference(output, target)), hole)
    return _ratio(total, PEAK**2 * count)


def _sharpness(output: np.ndarray, target: np.ndarray, hole: np.ndarray, block: int) -> np.ndarray:
    """Sharpness of the means over blocks of `block` x `block` pixels."""
    inside = _blocks(hole, block).min((2, 4))
    pairs = [inside[:, 1:] & inside[:, :-1], inside[:, :, 1:] & inside[:, :, :-1]]
    # Rounding both ends of a difference to whole levels adds 2 x 1/12 to its square: 1/2 over three channels. Sums
    # over blocks stand for means, so all is times block^4, and doubled: whole numbers.
    rounding = block**4 * sum(both.sum(axis=(1, 2), dtype=np.int64) for both in pairs)
    made, true = (
        rounding + 2 * sum(_sum(np.square(np.diff(sums, axis=axis)), both)[0] for axis, both in enumerate(pairs, 1))
        for sums in (_blocks(pictures, block).sum((2, 4), dtype=np.int32) for pictures in (output, target))
    )
    return _ratio(made, true)


def _blocks(pictures: np.ndarray, block: int) -> np.ndarray:
    """N x H x W (x 3) as N x H/block x block x W/block x block (x 3); what is over at the far edges is left out."""
    rows, columns = (side // block for side in pictures.shape[1:3])
    whole = pictures[:, : rows * block, : columns * block]
    return whole.reshape(len(pictures), rows, block, columns, block, *pictures.shape[3:])


def _ssim_map(x: np.ndarray, y: np.ndarray, out: np.ndarray, work: np.ndarray) -> None:
    """The map of one pair, uint8 H x W x 3, into `out`; `work` is room for six such arrays of float64.

    The four filtered pictures are exact: see `TAPS`. What follows is elementwise, each operation rounded as IEEE 754
    says. Both fractions of SSIM are taken by halves, which saves two passes: C1 / 2 goes to half a numerator.
    """
    a, b, mean_x, mean_y, covariance, variances = work
    np.copyto(a, x)
    np.copyto(b, y)
    _blur(a, mean_x)
    _blur(b, mean_y)
    _blur(np.multiply(a, b, out=variances), covariance)
    _blur(_squares(a, b), variances)

    product = np.multiply(mean_x, mean_y, out=a)
    squares = _squares(mean_x, mean_y)
    covariance -= product
    variances -= squares
    product += C1 / 2
    covariance += C2 / 2
    squares += C1
    variances += C2
    product *= covariance
    squares *= variances
    product /= squares
    product *= 4 / SIMILARITY
    np.rint(product, out=product)
    np.multiply(product, SIMILARITY, out=out, casting="same_kind")


def _blur(a: np.ndarray, into: np.ndarray) -> np.ndarray:
    return cv2.sepFilter2D(a, -1, TAPS, TAPS, dst=into, borderType=cv2.BORDER_REFLECT)


def _squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a^2 + b^2, in the memory of both."""
    return np.add(np.square(a, out=a), np.square(b, out=b), out=a)
