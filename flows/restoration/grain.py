"""The photo's own grain for what a small network has painted: noise like that around the hole.

An enlarged completion has no detail finer than a pixel of its crop. The noise that is added has the strength, the
colours and the softness of the photo's own around the hole. It is invented, as the completion is; scored paths go
without.
"""

from __future__ import annotations

import numpy as np

from stages.images.opencv import cv2

RING = 48  # px around a hole that are looked at, at most
FEW = 200  # pixels of a ring; fewer say nothing
CLIP = 3.0  # median absolute deviations beyond which a pixel is an edge, not grain


def grain(
    picture: np.ndarray, hole: np.ndarray, known: np.ndarray, enlargement: float, rng: np.random.Generator
) -> np.ndarray:
    """Noise for the hole, float32 H x W x 3 in levels, zero elsewhere.

    `picture` is float32 H x W x 3, completed in the hole; `known` (bool H x W) is what belongs to the photo;
    `enlargement` is how many of the picture's pixels one of the crop covers.
    """
    if enlargement <= 1.2:
        return np.zeros_like(picture)
    sigma = enlargement / 2
    smooth = cv2.GaussianBlur(picture, (0, 0), sigma)
    steep = _slope(smooth)
    reach = int(min(RING, max(6, 4 * enlargement)))
    wide = cv2.dilate(hole.view(np.uint8), np.ones((3, 3), np.uint8), iterations=reach).astype(bool)
    close = cv2.dilate(hole.view(np.uint8), np.ones((3, 3), np.uint8), iterations=2).astype(bool)
    ring = wide & ~close & known
    if ring.sum() < FEW:
        return np.zeros_like(picture)
    flat = ring & (steep <= np.quantile(steep[ring], 0.6))  # not hair, not an edge
    high = picture - smooth
    found = high[flat] - np.median(high[flat], axis=0)
    spread = np.median(np.abs(found), axis=0) + 1e-6
    found = np.clip(found, -CLIP * spread, CLIP * spread)
    covariance = np.cov(found.T) + 1e-6 * np.eye(3)
    near = _lag_one(high, flat)
    del high, smooth  # of a hole of half a large photo, each takes 150 MB
    values = rng.standard_normal(picture.shape, np.float32)
    values = _softened(values, near) @ np.linalg.cholesky(covariance).T.astype(np.float32)
    # On edges grain would look like lace: it fades where the picture is steeper than the flat ring is.
    limit = 3 * float(np.quantile(steep[flat], 0.9)) + 1e-6
    values /= (1 + (steep / limit) ** 2)[..., None]
    values[~hole] = 0
    return values


def _slope(picture: np.ndarray) -> np.ndarray:
    grey = picture.mean(axis=2)
    return cv2.magnitude(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))


def _lag_one(high: np.ndarray, where: np.ndarray) -> float:
    """How alike neighbours are, 0 to 0.5: the correlation of a pixel's noise with its right and lower neighbours'."""
    grey = high.mean(axis=2)
    total, both = 0.0, 0.0
    for a, b, mask in (
        (grey[:, :-1], grey[:, 1:], where[:, :-1] & where[:, 1:]),
        (grey[:-1], grey[1:], where[:-1] & where[1:]),
    ):
        both += float((a[mask] * b[mask]).sum())
        total += float((a[mask] ** 2 + b[mask] ** 2).sum()) / 2
    return float(np.clip(both / total if total else 0.0, 0, 0.6))


def _softened(values: np.ndarray, near: float) -> np.ndarray:
    """White noise made so alike between neighbours, its variance kept.

    Of the weights (a, 1, a) / sqrt(1 + 2 a^2) the lag-1 correlation is 2 a / (1 + 2 a^2).
    """
    if near < 0.01:
        return values
    a = (1 - np.sqrt(max(0.0, 1 - 2 * near * near))) / (2 * near)
    kernel = np.array([a, 1, a], np.float32) / np.float32(np.sqrt(1 + 2 * a * a))
    return cv2.sepFilter2D(values, -1, kernel, kernel)
