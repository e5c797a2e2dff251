"""Batched SSIM against scikit-image: `python tests/bench/bench_metrics.py`. Exits 1 where a goal is missed."""

import statistics
import sys
import time
from collections.abc import Callable

import cv2
import numpy as np
from skimage.metrics import structural_similarity

from stages.metrics import fidelity

ROUNDS = 15
BATCH = 16


def interleaved(ours: Callable[[], object], theirs: Callable[[], object]) -> tuple[float, float]:
    """Median milliseconds a picture of each, taken in turns, so that a busy machine slows both."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for function, kept in zip((ours, theirs), times, strict=True):
            start = time.perf_counter()
            function()
            kept.append((time.perf_counter() - start) / BATCH * 1e3)
    return statistics.median(times[0]), statistics.median(times[1])


def pictures(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Two batches of uint8 pictures: soft blobs, and the same with noise."""
    rng = np.random.default_rng(0)
    soft = np.stack([cv2.GaussianBlur(rng.random((size, size, 3)), (0, 0), 3) for _ in range(BATCH)])
    x = np.clip((soft - 0.5) * 1000 + 128, 0, 255)
    y = np.clip(x + rng.normal(0, 8, x.shape), 0, 255)
    return x.astype(np.uint8), y.astype(np.uint8)


def main() -> int:
    missed = 0
    print("size   ours ms   scikit-image ms   ratio   goal   difference")
    for size, goal in ((64, 4), (256, 3)):
        x, y = pictures(size)

        def ours(x: np.ndarray = x, y: np.ndarray = y) -> np.ndarray:
            return fidelity.ssim(fidelity.ssim_map(x, y))

        def theirs(x: np.ndarray = x, y: np.ndarray = y) -> np.ndarray:
            options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
            pairs = zip(x.astype(np.float32) / 255, y.astype(np.float32) / 255, strict=True)  # its faster way
            return np.array([structural_similarity(a, b, channel_axis=-1, data_range=1, **options) for a, b in pairs])

        fast, slow = interleaved(ours, theirs)
        difference = np.abs(ours() - theirs()).max()
        missed += slow / fast < goal or difference > 1e-5
        print(f"{size:4}   {fast:7.3f}   {slow:15.3f}   {slow / fast:5.1f}   {goal:4}   {difference:.1e}")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
