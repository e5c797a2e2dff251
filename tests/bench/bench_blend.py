"""Poisson blending against cv2.seamlessClone and scipy's spsolve: `python tests/bench/bench_blend.py`.

Ratios of medians, the three interleaved in one run on one thread each, so that a busy machine slows all alike.
cv2's clone needs care to be a fair yardstick: it changes a one-channel mask in place (so each call gets a
copy), erodes it by three pixels (so it gets a dilated one), and writes on known pixels (they are pasted
back). It cannot reach the picture's border, so these holes do not. spsolve is the plain way: assemble, then
one solve an image and channel, in float64; it is also what the error is measured against.
"""

# ruff: noqa: E402 - the thread counts are read when numpy loads
import os

for _library in ("OMP", "OPENBLAS", "MKL"):
    os.environ[f"{_library}_NUM_THREADS"] = "1"

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.sparse import csc_array
from scipy.sparse.linalg import spsolve

from stages.blend import poisson_blend

MARGIN = 4  # pixels to the border that the dilated mask must keep


@dataclass
class Case:
    name: str
    hole: np.ndarray  # bool N x H x W
    over_cv2: float | None  # goals: how many times faster
    over_spsolve: float | None


def rectangle(size: int, height: int, width: int) -> np.ndarray:
    hole = np.zeros((size, size), bool)
    top, left = (size - height) // 2, (size - width) // 2
    hole[top : top + height, left : left + width] = True
    return hole


def lines(size: int, seed: int) -> np.ndarray:
    """Ten lines of 1 to size / 16 pixels, clear of the border."""
    rng, canvas = np.random.default_rng(seed), np.zeros((size, size), np.uint8)
    low, high = 2 * MARGIN, size - 2 * MARGIN
    for _ in range(10):
        start, end = rng.integers(low, high, (2, 2)).tolist()
        cv2.line(canvas, start, end, 1, int(rng.integers(1, 1 + size // 16)))
    canvas[:MARGIN], canvas[-MARGIN:], canvas[:, :MARGIN], canvas[:, -MARGIN:] = 0, 0, 0, 0
    return canvas.astype(bool)


def pictures(count: int, size: int, seed: int) -> np.ndarray:
    """Smooth random pictures of `size`, float32 in [0, 1]."""
    coarse = np.random.default_rng(seed).random((count, 8, 8, 3), dtype=np.float32)
    return np.stack([cv2.resize(one, (size, size), interpolation=cv2.INTER_LINEAR) for one in coarse])


def by_spsolve(known: np.ndarray, guide: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Float64, one image H x W x 3: the Laplacian of the missing pixels, a solve a channel."""
    count = int(hole.sum())
    number = np.full((hole.shape[0] + 2, hole.shape[1] + 2), -1)
    missing = np.pad(hole, 1)
    number[missing] = np.arange(count)
    inside = np.pad(np.ones_like(hole), 1)
    rim = np.pad(np.where(hole[..., None], 0, known - guide.astype(float)), ((1, 1), (1, 1), (0, 0)))
    degree, right = np.zeros(count), np.zeros((count, 3))
    rows, columns = [np.arange(count)], [np.arange(count)]
    for shift in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        beside = np.roll(number, shift, (0, 1))[missing]
        degree += np.roll(inside, shift, (0, 1))[missing]
        right += np.roll(rim, shift, (0, 1))[missing]
        rows.append(np.flatnonzero(beside >= 0))
        columns.append(beside[beside >= 0])
    values = np.concatenate([degree, -np.ones(sum(map(len, rows[1:])))])
    matrix = csc_array((values, (np.concatenate(rows), np.concatenate(columns))), shape=(count, count))
    out = known.astype(float)
    for channel in range(3):
        out[hole, channel] = guide[hole, channel] + spsolve(matrix, right[:, channel])
    return out


def by_cv2(known: np.ndarray, guide: np.ndarray, hole: np.ndarray, mask: np.ndarray, centre: tuple) -> np.ndarray:
    """uint8, one image; `mask` is the dilated hole, `centre` its box's."""
    clone = cv2.seamlessClone(guide, known, mask.copy(), centre, cv2.NORMAL_CLONE)
    return np.where(hole[..., None], clone, known)


def timed(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(case: Case) -> tuple[float, float, float, float]:
    """Milliseconds an image of ours, cv2 and spsolve (medians), and our largest error."""
    count, size = case.hole.shape[:2]
    known, guide = pictures(count, size, 1), pictures(count, size, 2)
    bytes_known, bytes_guide = (known * 255).astype(np.uint8), (guide * 255).astype(np.uint8)
    masks = [cv2.dilate(one.astype(np.uint8) * 255, np.ones((2 * MARGIN - 1,) * 2, np.uint8)) for one in case.hole]
    boxes = [cv2.boundingRect(mask) for mask in masks]
    centres = [(x + w // 2, y + h // 2) for x, y, w, h in boxes]
    out = np.empty_like(known)
    truth = by_spsolve(known[0], guide[0], case.hole[0])
    error = float(np.abs(poisson_blend(known, guide, case.hole, out=out)[0] - truth).max())
    several = min(count, 8)  # the yardsticks do each image alone: a few tell, in a time as long as ours

    def clones() -> None:
        for k in range(several):
            by_cv2(bytes_known[k], bytes_guide[k], case.hole[k], masks[k], centres[k])

    ours, cloned, solved = [], [], []
    for _ in range(25 if size <= 256 else 5):
        ours.append(timed(lambda: poisson_blend(known, guide, case.hole, out=out)) / count)
        cloned.append(timed(clones) / several)
        if sum(solved) < 3:  # seconds: the large ones take many each
            solved.append(timed(lambda: by_spsolve(known[0], guide[0], case.hole[0])))
    return (*(1e3 * statistics.median(times) for times in (ours, cloned, solved)), error)


def cases() -> list[Case]:
    def each(size: int, count: int) -> np.ndarray:
        return np.stack([lines(size, seed) for seed in range(count)])

    def shared(hole: np.ndarray, count: int) -> np.ndarray:
        return np.repeat(hole[None], count, 0)

    return [
        Case("64, 12 x 12, batch 64", shared(rectangle(64, 12, 12), 64), 20, 80),
        Case("64, 32 x 32, batch 64", shared(rectangle(64, 32, 32), 64), 20, 80),
        Case("64, eye bar 12 x 44, batch 64", shared(rectangle(64, 12, 44), 64), 20, 80),
        Case("64, lines shared, batch 64", shared(lines(64, 0), 64), 10, None),
        Case("64, lines each, batch 64", each(64, 64), 0.7, 2),
        Case("256, 128 x 128, batch 8", shared(rectangle(256, 128, 128), 8), 8, None),
        Case("256, lines shared, batch 16", shared(lines(256, 0), 16), 3, None),
        Case("256, lines each, batch 8", each(256, 8), None, 2),
        Case("1024, 512 x 512, batch 1", shared(rectangle(1024, 512, 512), 1), 2, None),
    ]


def main() -> int:
    cv2.setNumThreads(1)
    print(f"{'case':32} {'ours ms':>8} {'cv2 ms':>8} {'spsolve':>8} {'x cv2':>14} {'x spsolve':>15} {'max error':>10}")
    missed = 0
    for case in cases():
        ours, cloned, solved, error = measure(case)
        verdicts = []
        for ratio, goal in ((cloned / ours, case.over_cv2), (solved / ours, case.over_spsolve)):
            missed += goal is not None and ratio < goal
            verdicts.append(f"{ratio:.1f}" + (f" (>={goal} {'pass' if ratio >= goal else 'MISS'})" if goal else ""))
        missed += error > 1e-5
        exact = f"{error:.0e}" + ("" if error <= 1e-5 else " MISS")
        print(f"{case.name:32} {ours:8.4f} {cloned:8.3f} {solved:8.2f} {verdicts[0]:>14} {verdicts[1]:>15} {exact:>10}")

    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
