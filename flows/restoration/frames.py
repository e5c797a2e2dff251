"""Where in a photo a system looks: square frames, which a similarity takes to its crops.

Points are (x, y); the centre of pixel (0, 0) is (0, 0), as in `stages/images/landmarks.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import NamedTuple

import numpy as np

from stages.images import landmarks
from stages.images.faces import Face
from stages.images.opencv import cv2

MARGIN = 128  # px of known surroundings that a frame without a face shows around its hole, as far as there are any
PARTS = 64  # pieces of a hole, apart from each other, that get frames of their own; of more, all get one


@dataclass(frozen=True, eq=False)
class Frame:
    """A square of a photo."""

    transform: np.ndarray  # 2 x 3, photo to crop
    side: int  # px of the crop
    face: int | None = None  # the number of the face that it shows upright

    @property
    def enlargement(self) -> float:
        """Pixels of the photo for one of the crop."""
        return 1 / float(np.hypot(*self.transform[:, 0]))

    def to_crop(self, points: np.ndarray) -> np.ndarray:
        """Points of the photo, N x 2, in the crop."""
        return landmarks.apply(self.transform, points)

    def distance(self, points: np.ndarray) -> np.ndarray:
        """How far points of the photo lie from the frame's middle: 1 on its border."""
        return np.abs((self.to_crop(points) + 0.5) * (2 / self.side) - 1).max(axis=1)

    def box(self, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns of the photo that the frame reaches."""
        corner = np.array([[x, y] for x in (-0.5, self.side - 0.5) for y in (-0.5, self.side - 0.5)])
        points = landmarks.apply(cv2.invertAffineTransform(self.transform), corner)
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
        rows = slice(max(0, floor(top)), max(0, min(height, ceil(bottom) + 1)))
        return rows, slice(max(0, floor(left)), max(0, min(width, ceil(right) + 1)))


def of_face(face: Face, number: int, side: int) -> Frame:
    """The frame of a face: as `align` crops it."""
    return Frame(landmarks.similarity(face.landmarks, side), side, number)


def square(x: float, y: float, length: float, side: int) -> Frame:
    """The upright frame of `length` px around the point (x, y)."""
    scale = side / length
    return Frame(np.array([[scale, 0, side / 2 - 0.5 - x * scale], [0, scale, side / 2 - 0.5 - y * scale]]), side)


class Piece(NamedTuple):
    """Some missing pixels of a photo, with the smallest box around them: whole masks of many would not fit memory."""

    top: int
    left: int
    mask: np.ndarray  # bool, of the box

    @classmethod
    def of(cls, mask: np.ndarray, top: int = 0, left: int = 0) -> Piece | None:
        """The pixels of a mask whose first one is (left, top) of the photo; None where it has none."""
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            return None
        inner = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        return cls(top + int(rows[0]), left + int(columns[0]), inner)

    @property
    def box(self) -> tuple[slice, slice]:
        """Its rows and columns in the photo."""
        height, width = self.mask.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    def near(self, frame: Frame, share: float) -> Piece | None:
        """Its pixels within a `share` of a frame, from the middle to the border."""
        rows, columns = np.nonzero(self.mask)
        points = np.column_stack([columns + self.left, rows + self.top]).astype(np.float64)
        mask = np.zeros_like(self.mask)
        mask[rows, columns] = frame.distance(points) < share
        return Piece.of(mask, self.top, self.left)


def around(piece: Piece, side: int) -> Iterator[Frame]:
    """Frames around missing pixels, from the one with `MARGIN` on to wider ones."""
    height, width = piece.mask.shape
    x, y = piece.left + (width - 1) / 2, piece.top + (height - 1) / 2
    longer = max(height, width)
    length = max(longer + 2 * min(MARGIN, longer), 32)
    for wider in (1.0, 1.5, 2.25):
        yield square(x, y, length * wider, side)


def parts(hole: np.ndarray) -> list[Piece]:
    """The pieces of a hole (bool H x W) that do not touch, the largest first; one for all where they are many."""
    if not hole.any():
        return []
    count, labels, stats, _ = cv2.connectedComponentsWithStats(hole.view(np.uint8), connectivity=8)
    if count - 1 > PARTS:
        return [piece for piece in [Piece.of(hole)] if piece]
    order = np.argsort(-stats[1:, cv2.CC_STAT_AREA], kind="stable") + 1
    found = []
    for number in order:
        left, top, width, height = (int(value) for value in stats[number, : cv2.CC_STAT_AREA])
        found.append(Piece(top, left, labels[top : top + height, left : left + width] == number))
    return found


def shares(hole: np.ndarray, frames: Sequence[Frame]) -> list[Piece | None]:
    """What of a hole (bool H x W) each frame completes: a pixel is the frame's in whose middle it lies most.

    Pixels beyond all frames are nobody's.
    """
    nearest = np.ones(hole.shape, np.float32)
    owner = np.full(hole.shape, -1, np.int16)
    for number, frame in enumerate(frames):
        rows, columns = frame.box(*hole.shape)
        y, x = np.nonzero(hole[rows, columns])
        y, x = y + rows.start, x + columns.start
        distance = frame.distance(np.column_stack([x, y]).astype(np.float64)).astype(np.float32)
        closer = distance < nearest[y, x]
        y, x = y[closer], x[closer]
        nearest[y, x], owner[y, x] = distance[closer], number
    found = []
    for number, frame in enumerate(frames):
        rows, columns = frame.box(*hole.shape)
        found.append(Piece.of(owner[rows, columns] == number, rows.start, columns.start))
    return found
