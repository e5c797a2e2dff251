"""What learned systems must beat: diffusion from the border, the mean face, the most alike training face.

Each completes a batch: `known` uint8 N x H x W x 3 with zeros under the hole, `hole` bool N x H x W,
True = missing; it returns its own whole pictures, uint8 N x H x W x 3. A picture's result does not
depend on the others of its batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from stages.images.table import Table
from stages.runs.errors import InputError

BYTES = 32 << 20  # of float64 pictures held at once


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
    """The mean of all pictures of a table, uint8 H x W x 3, summed exactly and rounded to the nearest.

    Raises InputError for a table without pictures, which has no mean.
    """
    if not len(train):
        raise InputError(f"{train.path}: holds no pictures to take the mean of")
    total = np.zeros((*train.size, 3), np.int64)
    for _, pictures in _blocks(train):
        total += pictures.sum(axis=0, dtype=np.int64)
    return np.rint(total / len(train)).astype(np.uint8)


def nearest(known: np.ndarray, hole: np.ndarray, train: Table, own: Sequence[int] | None = None) -> np.ndarray:
    """The training picture with the least squared distance over the known pixels; of equals the first.

    `own` is the row of `train` that each picture is itself, -1 for none: a picture is no neighbour of its own.
    Raises InputError where no other is left.

    With k = 1 on known pixels, sum k (x - t)^2 = sum k x^2 - 2 sum k x t + sum k t^2: two matrix
    products a block of training pictures. All are whole numbers below 2^53, exact in float64 in
    whatever order they are added: neither threads, the batch nor the type of CPU show in the result.
    """
    count = len(known)
    weight = (~hole).reshape(count, -1).astype(np.float64)
    target = -2.0 * known.reshape(count, -1)  # zero under the hole
    rows = np.full(count, -1) if own is None else np.asarray(own, np.int64)
    least, chosen = np.full(count, np.inf), np.zeros(count, np.int64)
    for start, pictures in _blocks(train):
        squares = np.square(pictures, dtype=np.int64).sum(axis=3).reshape(len(pictures), -1)
        distances = weight @ squares.T.astype(np.float64) + target @ pictures.reshape(len(pictures), -1).T
        itself = np.flatnonzero((start <= rows) & (rows < start + len(pictures)))
        distances[itself, rows[itself] - start] = np.inf
        best = distances.argmin(axis=1)
        found = distances[np.arange(count), best]
        chosen[found < least] = start + best[found < least]
        least = np.minimum(least, found)
    if np.isinf(least).any():
        raise InputError(f"{train.path}: method 'nearest' needs another picture than the one that it completes")
    return train.pictures(chosen)


def batch_rows(size: tuple[int, int]) -> int:
    """Pictures of (height, width) to a batch, so that as float64 they take at most BYTES."""
    return max(1, BYTES // (size[0] * size[1] * 3 * 8))


def _blocks(table: Table) -> Iterator[tuple[int, np.ndarray]]:
    rows = batch_rows(table.size)
    for start in range(0, len(table), rows):
        yield start, table.pictures(range(start, min(start + rows, len(table))))
