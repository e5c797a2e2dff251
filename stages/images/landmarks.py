"""Where a face is, and the similarity that brings it to the template.

Landmarks are five points (x, y), float64, 5 x 2: the eye at image left, the eye at image right, the
nose, the mouth's corner at image left, the one at image right. The CENTRE of pixel (0, 0) is the
coordinate (0, 0). A transform is 2 x 3: it takes original coordinates to those of the crop.

The arithmetic is written element by element: BLAS and LAPACK sum in another order on each type of CPU.

`stages/images/faces.py` finds faces by YuNet, `stages/images/haar.py` one face by Haar cascades.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

import numpy as np

from stages.images.opencv import cv2

# As fractions of the crop's side. Eyes and nose lie around the middle; brow, chin and some hair are inside.
# Nose and mouth stand where CelebA's landmarks stand on average, given its eyes.
TEMPLATE = np.array([[0.335, 0.41], [0.665, 0.41], [0.5, 0.615], [0.35, 0.757], [0.65, 0.757]])

Detector = Callable[[np.ndarray], np.ndarray]  # uint8 H x W x 3 RGB -> 5 x 2; raises NoFace


class NoFace(Exception):
    """No usable face: the message is the reason, in a few words."""


def single_thread() -> None:
    """Keep OpenCV to one thread in this process: detectors then give the same bytes in any process."""
    cv2.setNumThreads(1)


# ---- transforms -------------------------------------------------------------------------------------------------


def template(size: int) -> np.ndarray:
    """The template's five points in the coordinates of a crop of `size` pixels, 5 x 2."""
    return TEMPLATE * size - 0.5


def similarity(landmarks: np.ndarray, size: int) -> np.ndarray:
    """The 2 x 3 similarity (turn, scale, shift) that puts both eyes on the template, to nine decimals."""
    from_left, from_right, to_left, to_right = (
        complex(*point) for point in (*landmarks[:2], *template(size)[:2])
    )  # in the complex plane a similarity is z -> turn * z + shift
    turn = (to_right - to_left) / (from_right - from_left)
    shift = to_left - turn * from_left
    return np.round([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]], 9)


def nearest_similarity(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The 2 x 3 similarity that takes `points` nearest to `target`, both N x 2: least squares (Umeyama 1991)."""
    (x, y), (u, v) = (points - points.mean(0)).T, (target - target.mean(0)).T
    spread = (x * x + y * y).sum()
    scaled_cos, scaled_sin = (x * u + y * v).sum() / spread, (x * v - y * u).sum() / spread
    turn = np.array([[scaled_cos, -scaled_sin], [scaled_sin, scaled_cos]])
    shift = target.mean(0) - (turn * points.mean(0)).sum(axis=1)
    return np.column_stack([turn, shift])


def centre(height: int, width: int, size: int) -> np.ndarray:
    """The 2 x 3 transform that takes the largest centred square of a picture to a crop of `size` pixels."""
    side = min(height, width)
    scale = size / side
    left, top = (width - side) // 2, (height - side) // 2
    return np.array([[scale, 0, (0.5 - left) * scale - 0.5], [0, scale, (0.5 - top) * scale - 0.5]])


def apply(transform: np.ndarray, points: np.ndarray) -> np.ndarray:
    """`points`, N x 2, moved by a 2 x 3 transform."""
    return points[..., :1] * transform[:, 0] + points[..., 1:] * transform[:, 1] + transform[:, 2]


def outside(transform: np.ndarray, size: int, height: int, width: int, grid: int = 32) -> float:
    """The share of a crop that lies outside its original, 0..1, counted on a grid x grid of points."""
    steps = (np.arange(grid) + 0.5) / grid * size - 0.5
    points = (
        apply(cv2.invertAffineTransform(transform), np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)) + 0.5
    )
    return 1.0 - float(np.mean(((points >= 0) & (points <= [width, height])).all(axis=1)))


def crop(picture: np.ndarray, transform: np.ndarray, size: int) -> np.ndarray:
    """The size x size crop of a uint8 H x W x 3 picture under a similarity; outside it, the picture is mirrored.

    Antialiased: where the picture shrinks, it is sampled at a whole multiple of `size` that is no
    coarser than the original, then averaged down.
    """
    shrink = 1 / np.hypot(*transform[:, 0])
    times = max(1, ceil(shrink - 1e-6))
    fine = transform * times
    fine[:, 2] += (times - 1) / 2
    method = cv2.INTER_LINEAR if times > 1 else cv2.INTER_CUBIC
    shape = (size * times, size * times)
    warped = cv2.warpAffine(picture, fine, shape, flags=method, borderMode=cv2.BORDER_REFLECT_101)
    return cv2.resize(warped, (size, size), interpolation=cv2.INTER_AREA) if times > 1 else warped


def centre_crop(picture: np.ndarray, size: int) -> np.ndarray:
    """The largest centred square of a uint8 H x W x 3 picture at size x size; see `centre`."""
    height, width = picture.shape[:2]
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    square = picture[top : top + side, left : left + side]
    if side == size:
        return square
    return cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_CUBIC)


# ---- the shape of a face ----------------------------------------------------------------------------------------


def ordered(landmarks: np.ndarray) -> np.ndarray:
    """The five points with the image-left eye and mouth corner first, as seen with the mouth below the eyes.

    So landmarks that name sides by the person, and faces upside down, come out upright, not turned over.
    """
    points = np.array(landmarks, np.float64).reshape(5, 2)
    across, down = points[1] - points[0], points[3:].mean(0) - points[:2].mean(0)
    if across[0] * down[1] - across[1] * down[0] < 0:
        points[:2] = points[1::-1]
        across = -across
    if (across * (points[4] - points[3])).sum() < 0:
        points[3:] = points[:2:-1]
    return points


def frontality(landmarks: np.ndarray) -> float:
    """Distance of the eyes over that from eyes to mouth: about 1 from the front, towards 0 in profile."""
    across, down = landmarks[1] - landmarks[0], landmarks[3:].mean(0) - landmarks[:2].mean(0)
    return float(np.hypot(*across) / max(np.hypot(*down), 1e-9))


# ---- for detectors ----------------------------------------------------------------------------------------------


def prominence(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """How much each box (x, y, w, h; N x 4) is the picture's main one: its area, px, times nearness to the centre.

    Nearness is 1 at the picture's centre and 0 in its corners.
    """
    middles = boxes[:, :2] + boxes[:, 2:4] / 2 - [width / 2, height / 2]
    near = 1 - np.hypot(*middles.T) / np.hypot(width / 2, height / 2)
    ranks: np.ndarray = boxes[:, 2] * boxes[:, 3] * near
    return ranks


def foremost(boxes: np.ndarray, height: int, width: int) -> int:
    """Which box (x, y, w, h; N x 4) is the picture's face: the most prominent one."""
    return int(np.argmax(prominence(boxes, height, width)))


def resized(picture: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """A picture scaled, and the factors (x, y) that were reached in whole pixels."""
    height, width = picture.shape[:2]
    shape = max(1, round(width * scale)), max(1, round(height * scale))
    if shape == (width, height):
        return picture, np.ones(2)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(picture, shape, interpolation=method), np.array([shape[0] / width, shape[1] / height])
