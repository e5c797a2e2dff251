"""How close a completed picture is to the truth: L1, MSE, PSNR, SSIM, patch_sse, sharpness and texture.

Every function takes batches: pictures N x H x W x 3, uint8 or floats in [0, 1], and holes bool
N x H x W (True = missing), and returns float64 N, one number a picture. Without a hole a number is
over the whole picture; with one, over the hole's pixels alone: what lies outside cannot change it.
A picture whose hole is empty has no number there: NaN.

Values are in [0, 1]: an 8-bit picture is divided by 255, so that L1 0.1 means 25.5 levels.
"""

from __future__ import annotations

import numpy as np

from stages.images.opencv import cv2

PSNR_CAP = 100.0  # dB, for identical pictures; above what one level off in one value gives at 128 x 128
C1, C2 = 0.01**2, 0.03**2  # SSIM's constants, (K L)^2 with K1 = .01, K2 = .03 and L = 1
SSIM_BORDER = 5  # (11 taps - 1) / 2: pixels whose window leaves the picture

# What rounding both ends of a difference to 8 bits adds to its square: 2 x (1/255)^2 / 12.
ROUNDING = (1 / 255) ** 2 / 6


def score(output: np.ndarray, target: np.ndarray, hole: np.ndarray) -> dict[str, np.ndarray]:
    """All the numbers of this file by name: over the composite, and `_hole` inside the hole."""
    output, target = unit(output), unit(target)
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


def unit(pictures: np.ndarray) -> np.ndarray:
    """float32 in [0, 1] of uint8 or float pictures."""
    scale = np.float32(1 / 255) if pictures.dtype == np.uint8 else np.float32(1)
    return pictures.astype(np.float32) * scale


def l1(output: np.ndarray, target: np.ndarray, hole: np.ndarray | None = None) -> np.ndarray:
    """Mean absolute difference, in [0, 1]."""
    return _mean(np.abs(unit(output) - unit(target)), hole)


def mse(output: np.ndarray, target: np.ndarray, hole: np.ndarray | None = None) -> np.ndarray:
    """Mean squared difference, in [0, 1]."""
    return _mean(np.square(unit(output) - unit(target)), hole)


def psnr(output: np.ndarray, target: np.ndarray, hole: np.ndarray | None = None) -> np.ndarray:
    """Peak signal-to-noise ratio of each picture, 10 log10(1 / MSE) dB, at most `PSNR_CAP`."""
    return -10 * np.log10(np.maximum(mse(output, target, hole), 10 ** (-PSNR_CAP / 10)))


def patch_sse(output: np.ndarray, target: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Sum of squared differences in [0, 1] over the hole's pixels and channels.

    The scale that report 4's losses appear to have (its patch is 64 x 64 x 3 values). An empty hole gives 0.
    """
    return np.einsum("nhwc,nhw->n", np.square(unit(output) - unit(target)), hole, dtype=np.float64)


def ssim_map(output: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Structural similarity around every pixel and channel, float32 N x H x W x 3 (Wang et al. 2004, eq. 13).

    Gaussian window of 11 taps and sigma 1.5, biased covariances, edges mirrored; the map of
    `skimage.metrics.structural_similarity(gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, data_range=1, channel_axis=-1, full=True)`.
    """
    output, target = unit(output), unit(target)
    similarity = np.empty_like(output)
    work = np.empty((6, *output.shape[1:]), np.float32)  # fresh memory would cost as much as the arithmetic
    for x, y, out in zip(output, target, similarity, strict=True):
        _ssim_map(x, y, out, work)
    return similarity


def ssim(similarity: np.ndarray, hole: np.ndarray | None = None) -> np.ndarray:
    """Mean of an `ssim_map`: without a hole over the pixels whose window fits, as published; else over the hole."""
    if hole is None:
        inner = slice(SSIM_BORDER, -SSIM_BORDER)
        return similarity[:, inner, inner].mean(axis=(1, 2, 3), dtype=np.float64)
    return _mean(similarity, hole)


def sharpness(output: np.ndarray, target: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Gradient energy inside the hole over the truth's: 1 is right, less is blurred, more is noisy.

    Energy is the sum of squared differences between neighbours, both in the hole, so that neither
    the seam nor anything outside counts. What rounding to 8 bits adds is put on both energies: two
    flat patches score 1 and a flat truth divides nothing by zero. NaN where a hole has no two neighbours.
    """
    made, true = np.zeros(len(hole)), np.zeros(len(hole))
    for axis in (1, 2):
        pairs = _along(hole, axis, 1) & _along(hole, axis, -1)
        rounding = ROUNDING * 3 * pairs.sum(axis=(1, 2))
        for energy, pictures in ((made, unit(output)), (true, unit(target))):
            steps = np.square(np.diff(pictures, axis=axis))
            energy += rounding + np.einsum("nhwc,nhw->n", steps, pairs, dtype=np.float64)
    return np.divide(made, true, out=np.full(len(hole), np.nan), where=true > 0)


def texture(output: np.ndarray, target: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """How many doublings the gradient energy in the hole is off the truth's, at the worst size of detail: 0 is right.

    The largest |log2 `sharpness`| of the pictures and of their means over blocks of 2, 4 and 8 pixels. A blur lacks the
    fine detail; noise has it, even in the right amount, and lacks the coarse: `sharpness` alone would take it for the
    truth. Blocks count where they lie in the hole whole. NaN where no two neighbours do.
    """
    output, target, worst = unit(output), unit(target), np.full(len(hole), np.nan)
    for block in (1, 2, 4, 8):
        made, true = (_blocks(pictures, block).mean((2, 4)) for pictures in (output, target))
        ratio = sharpness(made, true, _blocks(hole, block).min((2, 4)))
        worst = np.fmax(worst, np.abs(np.log2(ratio)))
    return worst


def _blocks(pictures: np.ndarray, block: int) -> np.ndarray:
    """N x H x W (x 3) as N x H/block x block x W/block x block (x 3); what is over at the far edges is left out."""
    rows, columns = (side // block for side in pictures.shape[1:3])
    whole = pictures[:, : rows * block, : columns * block]
    return whole.reshape(len(pictures), rows, block, columns, block, *pictures.shape[3:])


def _along(hole: np.ndarray, axis: int, side: int) -> np.ndarray:
    """`hole` without its first (side 1) or last (side -1) line along `axis`."""
    part = slice(1, None) if side == 1 else slice(None, -1)
    return hole[:, part] if axis == 1 else hole[:, :, part]


def _mean(values: np.ndarray, hole: np.ndarray | None) -> np.ndarray:
    """Mean of float N x H x W x 3 over a picture, or over its hole's pixels (NaN where there are none)."""
    if hole is None:
        return values.mean(axis=(1, 2, 3), dtype=np.float64)
    total = np.einsum("nhwc,nhw->n", values, hole, dtype=np.float64)
    count = hole.sum(axis=(1, 2)) * values.shape[-1]
    return np.divide(total, count, out=np.full(len(hole), np.nan), where=count > 0)


def _ssim_map(x: np.ndarray, y: np.ndarray, out: np.ndarray, work: np.ndarray) -> None:
    """The map of one pair, float32 H x W x 3, into `out`; `work` is room for six more such arrays.

    With d = x - y, 2 cov(x, y) = var x + var y - var d, so each of SSIM's two factors is 1 - (a term in d)
    / (its denominator). That needs four filters instead of five and loses no digits where pictures agree;
    taking one level off both keeps float32 exact where they are flat and bright.
    """
    taps = cv2.getGaussianKernel(2 * SSIM_BORDER + 1, 1.5, cv2.CV_32F)

    def blur(a: np.ndarray, into: np.ndarray) -> np.ndarray:
        return cv2.sepFilter2D(a, -1, taps, taps, dst=into, borderType=cv2.BORDER_REFLECT)

    d, a, b, mean_x, mean_d, mean_y = work
    level = x.mean()
    np.subtract(x, y, out=d)
    np.subtract(x, level, out=a)
    np.subtract(a, d, out=b)
    blur(a, mean_x)
    blur(d, mean_d)
    np.subtract(mean_x, mean_d, out=mean_y)

    variances = blur(_squares(a, b), out)
    np.copyto(a, mean_x)
    np.copyto(b, mean_y)
    variances -= _squares(a, b)
    np.square(mean_d, out=mean_d)
    variance_d = blur(np.square(d, out=d), a)
    variance_d -= mean_d

    mean_x += level
    mean_y += level
    structure = _unlike(variance_d, variances, C2)
    luminance = _unlike(mean_d, _squares(mean_x, mean_y), C1)
    np.multiply(luminance, structure, out=out)


def _squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a^2 + b^2, in the memory of both."""
    return np.add(np.square(a, out=a), np.square(b, out=b), out=a)


def _unlike(part: np.ndarray, whole: np.ndarray, constant: float) -> np.ndarray:
    """1 - part / (whole + constant), in the memory of both."""
    whole += np.float32(constant)
    part /= whole
    return np.subtract(1, part, out=part)
