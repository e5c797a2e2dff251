"""What learned systems must beat: diffusion from the border, the mean face, the most alike training face.

Each completes a batch: `known` uint8 N x H x W x 3 with zeros under the hole, `hole` bool N x H x W,
True = missing; it returns its own whole pictures, uint8 N x H x W x 3. A picture's result does not
depend on the others of its batch.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stages.images.table import Table

BYTES = 32 << 20  # of float32 pictures held at once
SHORTLIST = 8  # nearest neighbours by float32 sums, decided among by exact ones


def telea(known: np.ndarray, hole: np.ndarray, radius: float) -> np.ndarray:
    """Fast marching from the hole's border (Telea 2004), weighing known pixels within `radius` px."""
    from stages.images.opencv import cv2

    return _diffuse(known, hole, radius, cv2.INPAINT_TELEA)


def navier_stokes(known: np.ndarray, hole: np.ndarray, radius: float) -> np.ndarray:
    """Isophotes continued into the hole as streamlines (Bertalmio et al. 2001), by OpenCV's fast variant."""
    from stages.images.opencv import cv2

    return _diffuse(known, hole, radius, cv2.INPAINT_NS)


def _diffuse(known: np.ndarray, hole: np.ndarray, radius: float, method: int) -> np.ndarray:
    from stages.images.opencv import cv2

    pairs = zip(known, hole.view(np.uint8), strict=True)
    return np.stack([cv2.inpaint(picture, missing, radius, method) for picture, missing in pairs])


def mean_picture(train: Table) -> np.ndarray:
    """The mean of all pictures of a table, uint8 H x W x 3, summed exactly and rounded to the nearest."""
    total = np.zeros((*train.size, 3), np.int64)
    for _, pictures in _blocks(train):
        total += pictures.sum(axis=0, dtype=np.int64)
    return np.rint(total / len(train)).astype(np.uint8)


def nearest(known: np.ndarray, hole: np.ndarray, train: Table) -> np.ndarray:
    """The training picture with the least squared distance over the known pixels; of equals the first.

    With k = 1 on known pixels, sum k (x - t)^2 = sum k x^2 - 2 sum k x t + sum k t^2: two matrix
    products a block of training pictures. Their float32 sums only pick a shortlist; the exact
    integer distance decides, so that neither threads nor the batch show in the result.
    """
    sums, rows = _shortlist(known, hole, train)
    chosen = np.empty(len(known), np.int64)
    for i, candidates in enumerate(rows):
        candidates = np.sort(candidates[np.isfinite(sums[i])])
        differences = train.pictures(candidates)[:, ~hole[i]].astype(np.int32) - known[i][~hole[i]]
        distances = np.square(differences).sum(axis=(1, 2), dtype=np.int64)
        chosen[i] = candidates[distances.argmin()]
    return train.pictures(chosen)


def _shortlist(known: np.ndarray, hole: np.ndarray, train: Table) -> tuple[np.ndarray, np.ndarray]:
    """float32 sums (but for sum k x^2, the same for all) and rows of the SHORTLIST nearest, N x SHORTLIST each."""
    count = len(known)
    weight = (~hole).reshape(count, -1).astype(np.float32)
    # About grey rather than about black: smaller sums, smaller errors.
    target = (known.astype(np.float32) - 128) * weight.reshape(*hole.shape, 1)
    target = target.reshape(count, -1)
    sums = np.full((count, SHORTLIST), np.inf, np.float32)
    rows = np.zeros((count, SHORTLIST), np.int64)
    for start, pictures in _blocks(train):
        block = pictures.astype(np.float32) - 128
        squares = np.square(block).sum(axis=3).reshape(len(block), -1)
        found = weight @ squares.T - 2 * (target @ block.reshape(len(block), -1).T)
        sums = np.concatenate([sums, found], axis=1)
        here = np.broadcast_to(np.arange(start, start + len(block)), found.shape)
        rows = np.concatenate([rows, here], axis=1)
        best = np.argpartition(sums, SHORTLIST - 1, axis=1)[:, :SHORTLIST]
        sums, rows = np.take_along_axis(sums, best, axis=1), np.take_along_axis(rows, best, axis=1)
    return sums, rows


def batch_rows(size: tuple[int, int]) -> int:
    """Pictures of (height, width) to a batch, so that as float32 they take at most BYTES."""
    return max(1, BYTES // (size[0] * size[1] * 3 * 4))


def _blocks(table: Table) -> Iterator[tuple[int, np.ndarray]]:
    rows = batch_rows(table.size)
    for start in range(0, len(table), rows):
        yield start, table.pictures(range(start, min(start + rows, len(table))))
