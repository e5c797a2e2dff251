"""Faces whose eyes are covered: where their landmarks lie.

YuNet's guess of covered eyes is off by an eighth of their distance, often by a quarter. What is left of the face says
more, and so does the cover itself. So the face is looked at six times, and a linear fit (`covered_fit.py`) reads the
landmarks from the looks' median and from the cover's place and size.
"""

from __future__ import annotations

import numpy as np

from stages.images.bars import Bar, find_bar
from stages.images.covered_fit import COEFFICIENTS
from stages.images.faces import COVERED_SCORE, SCORE, Face, YuNet, find_faces
from stages.images.landmarks import TEMPLATE, apply, crop, nearest_similarity
from stages.images.opencv import cv2

CROP = 256  # px, the side of the upright crop that is looked at
ZOOM = 1.8  # times the side of an aligned crop, that much of the picture is in it
SCALES = (0.65, 0.9, 1.25)  # of the looks, each also mirrored
LOOK_SCORE = 0.4  # from which on a look counts
LEAST_LOOKS = 4  # of six; with fewer nothing is said


def find_covered(picture: np.ndarray, yunet: YuNet) -> list[tuple[Face, Bar | None]]:
    """All faces of a uint8 H x W x 3 RGB picture, largest first, and the bar over the eyes of each, or None.

    A face below `faces.SCORE` counts only where a bar lies on it.
    """
    found = [(face, find_bar(picture, face)) for face in find_faces(picture, yunet, COVERED_SCORE)]
    return [(face, bar) for face, bar in found if bar is not None or face.score >= SCORE]


def covered_landmarks(picture: np.ndarray, face: Face, hole: np.ndarray, yunet: YuNet) -> np.ndarray | None:
    """The landmarks, float64 5 x 2, of a face of a uint8 H x W x 3 RGB picture whose eyes `hole` covers.

    `hole` is bool H x W, True = missing: a found bar's mask, or what somebody has painted over both eyes. What lies
    under it may be anything. None where too little is seen of the face, or where the hole does not cover its eyes.
    """
    transform = upright(face)
    seen = looks(crop(picture, transform, CROP), yunet)
    if len(seen) < LEAST_LOOKS:
        return None
    row = features(np.median(seen, axis=0), cover(hole, transform))
    points = ((row @ COEFFICIENTS).reshape(5, 2) + 0.5) * CROP
    return apply(cv2.invertAffineTransform(transform), points)


def upright(face: Face) -> np.ndarray:
    """The 2 x 3 transform that takes a picture to the crop in which its face is looked at."""
    return nearest_similarity(face.landmarks, ((TEMPLATE - 0.5) / ZOOM + 0.5) * CROP - 0.5)


def looks(part: np.ndarray, yunet: YuNet) -> np.ndarray:
    """What each look shows of the face in the middle of an upright crop: N x 14, its box and landmarks; N <= 6."""
    found = []
    for scale in SCALES:
        for mirrored in (False, True):
            faces = yunet.seen(np.ascontiguousarray(part[:, ::-1]) if mirrored else part, scale, LOOK_SCORE)
            away = np.hypot(*(faces[:, :2] + faces[:, 2:4] / 2 - CROP / 2).T)
            faces = faces[away < CROP / 4]
            if len(faces):
                best = faces[np.argmax(faces[:, 14]), :14]
                found.append(_mirrored(best) if mirrored else best)
    return np.array(found).reshape(-1, 14)


def _mirrored(find: np.ndarray) -> np.ndarray:
    """A find (box and landmarks, 14) of a mirrored crop, as it is in the crop."""
    box, points = find[:4].copy(), find[4:].reshape(5, 2)[[1, 0, 2, 4, 3]]
    box[0] = CROP - 1 - box[0] - box[2]
    return np.concatenate([box, np.column_stack([CROP - 1 - points[:, 0], points[:, 1]]).ravel()])


def cover(hole: np.ndarray, transform: np.ndarray) -> np.ndarray:
    """A hole (bool H x W) as a bar in the crop: its middle, half its length as a vector to the right, half its height.

    The bar is the one with the hole's first and second moments; (5,).
    """
    y, x = np.nonzero(hole)
    points = apply(transform, np.column_stack([x, y]).astype(np.float64))
    middle = points.mean(0)
    (xx, xy), (_, yy) = (points - middle).T @ (points - middle) / len(points)
    turn = 0.5 * np.arctan2(2 * xy, xx - yy)  # of the longer axis, -pi/2..pi/2: to the right
    spread = np.hypot((xx - yy) / 2, xy)
    long, short = np.sqrt(3 * np.maximum((xx + yy) / 2 + [spread, -spread], 0))  # a bar's variance is half**2 / 3
    return np.array([*middle, long * np.cos(turn), long * np.sin(turn), short])


def features(find: np.ndarray, bar: np.ndarray) -> np.ndarray:
    """What the fit reads, (20,): landmarks, box (middle and size), cover, as shares of the crop; and one."""
    box = np.concatenate([find[:2] + find[2:4] / 2, find[2:4]])
    return np.append(np.concatenate([find[4:], box, bar]) / CROP - 0.5, 1.0)
