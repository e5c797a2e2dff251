"""Where in a photo a system looks: square frames, which a similarity takes to its crops.

Points are (x, y); the centre of pixel (0, 0) is (0, 0), as in `stages/images/landmarks.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, floor

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
        rows = slice(max(0, floor(top)), min(height, ceil(bottom) + 1))
        return rows, slice(max(0, floor(left)), min(width, ceil(right) + 1))


def of_face(face: Face, number: int, side: int) -> Frame:
    """The frame of a face: as `align` crops it."""
    return Frame(landmarks.similarity(face.landmarks, side), side, number)


def square(x: float, y: float, length: float, side: int) -> Frame:
    """The upright frame of `length` px around the point (x, y)."""
    scale = side / length
    return Frame(np.array([[scale, 0, side / 2 - 0.5 - x * scale], [0, scale, side / 2 - 0.5 - y * scale]]), side)


def around(hole: np.ndarray, side: int) -> Iterator[Frame]:
    """Frames around the missing pixels of a hole (bool H x W), from the one with `MARGIN` on to wider ones."""
    rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
    x, y = (columns[0] + columns[-1]) / 2, (rows[0] + rows[-1]) / 2
    longer = max(columns[-1] - columns[0], rows[-1] - rows[0]) + 1
    length = max(longer + 2 * min(MARGIN, longer), 32)
    for wider in (1.0, 1.5, 2.25):
        yield square(x, y, length * wider, side)


def parts(hole: np.ndarray) -> list[np.ndarray]:
    """The pieces of a hole that do not touch, bool H x W each, the largest first; one for all where they are many."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(hole.view(np.uint8), connectivity=8)
    if count - 1 > PARTS:
        return [hole]
    order = np.argsort(-stats[1:, cv2.CC_STAT_AREA], kind="stable") + 1
    return [labels == number for number in order]


def shares(hole: np.ndarray, frames: Sequence[Frame]) -> list[np.ndarray]:
    """What of a hole each frame completes, bool H x W each: a pixel is the frame's in whose middle it lies most.

    Pixels beyond all frames are nobody's.
    """
    rows, columns = np.nonzero(hole)
    points = np.column_stack([columns, rows]).astype(np.float64)
    if not frames or not len(points):
        return [np.zeros_like(hole) for _ in frames]
    distance = np.stack([frame.distance(points) for frame in frames])
    owner = np.where(distance.min(axis=0) < 1, distance.argmin(axis=0), -1)
    found = []
    for number in range(len(frames)):
        one = np.zeros_like(hole)
        one[rows[owner == number], columns[owner == number]] = True
        found.append(one)
    return found
