"""Faces whose eyes are covered: where their landmarks lie.

YuNet's guess of covered eyes is off by an eighth of their distance, often by a quarter. What is left of the face says
more, and so does the cover itself. So the face is looked at six times, and a linear fit (`covered_fit.py`) reads the
landmarks from the looks' median and from the cover's place and size.
"""

from __future__ import annotations

import numpy as np

from stages.images.bars import Bar, find_bar
from stages.images.covered_fit import BY_FACE, BY_FACE_AND_BAR
from stages.images.faces import COVERED_SCORE, SCORE, Face, YuNet, find_faces
from stages.images.landmarks import TEMPLATE, apply, crop, nearest_similarity
from stages.images.opencv import cv2

CROP = 256  # px, the side of the upright crop that is looked at
ZOOM = 1.8  # times the side of an aligned crop, that much of the picture is in it
SCALES = (0.65, 0.9, 1.25)  # of the looks, each also mirrored
LOOK_SCORE = 0.4  # from which on a look counts
LEAST_LOOKS = 4  # of six; with fewer nothing is said
MOST_DIFFER = 0.25  # of the eyes' distance, by which half of the looks may be off their median


def find_covered(picture: np.ndarray, yunet: YuNet) -> list[tuple[Face, Bar | None]]:
    """All faces of a uint8 H x W x 3 RGB picture, largest first, and the bar over the eyes of each, or None.

    A face below `faces.SCORE` counts only where a bar lies on it.
    """
    found = [(face, find_bar(picture, face)) for face in find_faces(picture, yunet, COVERED_SCORE)]
    return [(face, bar) for face, bar in found if bar is not None or face.score >= SCORE]


def covered_landmarks(picture: np.ndarray, face: Face, hole: np.ndarray, yunet: YuNet) -> np.ndarray | None:
    """The landmarks, float64 5 x 2, of a face of a uint8 H x W x 3 RGB picture whose eyes `hole` covers.

    `hole` is bool H x W, True = missing: a found bar's mask, not grown, or what somebody has painted over both eyes.
    What lies under it may be anything; what is far from this face does not count. A hole that is no bar over the eyes
    (a forehead is painted, too) says nothing of where they are: the rest of the face then decides, less exactly. None
    where too little of the face is seen (fewer than `LEAST_LOOKS` of six looks show it, or they differ), or where the
    hole does not cover both eyes.
    """
    hole = _near(hole, face)
    if not hole.any():
        return None
    transform = upright(face)
    seen = looks(crop(picture, transform, CROP), yunet)
    if len(seen) < LEAST_LOOKS:
        return None
    find, bar = np.median(seen, axis=0), cover(hole, transform)
    points = fitted(features(find), BY_FACE)
    if like_a_bar(bar, points):
        points = fitted(features(find, bar), BY_FACE_AND_BAR)
    apart = np.hypot(*(points[1] - points[0]))
    differ = np.median(np.abs(seen[:, 4:] - find[4:]), axis=0).max() / apart
    points = apply(cv2.invertAffineTransform(transform), points)
    return points if differ <= MOST_DIFFER and _covers(hole, points[:2]) else None


def like_a_bar(bar: np.ndarray, points: np.ndarray) -> bool:
    """Whether a hole, as `cover` gives it, may be a bar over the eyes, given the landmarks without it."""
    away, length = np.hypot(*(bar[:2] - points[:2].mean(0))), np.hypot(*bar[2:4])
    apart = np.hypot(*(points[1] - points[0]))
    return bool(away <= 0.5 * apart and 0.5 * apart <= length <= 2 * apart and bar[4] <= 0.5 * apart)


def fitted(row: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """The landmarks, 5 x 2 in the crop, by one of the fits."""
    return ((row[:, None] * coefficients).sum(axis=0).reshape(5, 2) + 0.5) * CROP


def _near(hole: np.ndarray, face: Face) -> np.ndarray:
    """The part of a hole that lies in a face's box or a third of the box beside it: there may be others' holes."""
    box, side = np.array(face.box), max(face.box[2:])
    start = np.maximum(box[:2] - side / 3, 0).astype(int)
    end = np.maximum(np.ceil(box[:2] + box[2:] + side / 3), 0).astype(int)
    near = np.zeros_like(hole)
    near[start[1] : end[1], start[0] : end[0]] = hole[start[1] : end[1], start[0] : end[0]]
    return near


def _covers(hole: np.ndarray, eyes: np.ndarray) -> bool:
    """Whether each eye lies in the hole, or nearer to it than a quarter of the eyes' distance."""
    reach = 0.25 * np.hypot(*(eyes[1] - eyes[0]))
    boxes = [(np.maximum(eye - reach, 0).astype(int), np.maximum(eye + reach + 1, 0).astype(int)) for eye in eyes]
    return all(hole[start[1] : end[1], start[0] : end[0]].any() for start, end in boxes)


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
    x, y = (points - middle).T
    xx, xy, yy = (x * x).mean(), (x * y).mean(), (y * y).mean()
    turn = 0.5 * np.arctan2(2 * xy, xx - yy)  # of the longer axis, -pi/2..pi/2: to the right
    spread = np.hypot((xx - yy) / 2, xy)
    long, short = np.sqrt(3 * np.maximum((xx + yy) / 2 + [spread, -spread], 0))  # a bar's variance is half**2 / 3
    return np.array([*middle, long * np.cos(turn), long * np.sin(turn), short])


def features(find: np.ndarray, bar: np.ndarray | None = None) -> np.ndarray:
    """What a fit reads: landmarks, box (middle and size) and perhaps the cover, as shares of the crop; and one.

    (15,), or (20,) with the cover.
    """
    parts = [find[4:], find[:2] + find[2:4] / 2, find[2:4], *([] if bar is None else [bar])]
    return np.append(np.concatenate(parts) / CROP - 0.5, 1.0)
