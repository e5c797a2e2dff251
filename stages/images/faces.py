"""The faces of a picture, by YuNet.

YuNet (Wu et al. 2023, "YuNet: a tiny millisecond-level face detector") runs through `cv2.FaceDetectorYN`. It sees
faces of about 10 to 300 px, so a picture is looked at in several sizes, and what they show is merged. Boxes and
landmarks are in the picture's pixels, as in `stages/images/landmarks.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from stages.images.landmarks import NoFace, ordered, prominence, resized
from stages.images.opencv import cv2
from stages.runs import record
from stages.runs.errors import InputError

SCORE = 0.8  # from which on a find is a face: no false one in 96 megapixels
COVERED_SCORE = 0.7  # where something is known to lie on the face: it then scores lower
COVERED_SHARE = 0.02  # of a face's box: where this much is known to be covered, COVERED_SCORE counts


@dataclass(frozen=True, slots=True)
class Face:
    """One face of a picture."""

    box: tuple[float, float, float, float]  # x and y of the upper left corner, width, height; in pixels
    landmarks: np.ndarray  # float64 5 x 2, as in stages/images/landmarks.py
    score: float  # the detector's confidence, 0..1


def find_faces(picture: np.ndarray, yunet: YuNet, score: float = SCORE, hole: np.ndarray | None = None) -> list[Face]:
    """All faces of a uint8 H x W x 3 RGB picture, the largest box first; an empty list where there are none.

    A find is a face from `score` (0..1) on. `hole` (bool H x W, True = missing) says where the picture is known to be
    covered: a face that it lies on needs only COVERED_SCORE. Of 24 megapixels, 95 % of the faces of 60 px are found,
    and all from 90 px on.
    """
    least = score if hole is None else min(score, COVERED_SCORE)
    found = np.empty((0, 15))
    for _, seen in yunet.looks(picture, least):
        found = merged(found, seen)
    kept = [face for face in found if face[14] >= score or (hole is not None and _covered(face, hole))]
    kept.sort(key=lambda face: (-face[2] * face[3], *face[:2]))
    return [Face(tuple(face[:4].tolist()), yunet.closer(picture, face, least), float(face[14])) for face in kept]


def merged(first: np.ndarray, second: np.ndarray, most_iou: float = 0.3, most_inside: float = 0.6) -> np.ndarray:
    """Two sets of finds (N x 15) as one, best score first, without those that show a better one's face once more.

    Two finds are of one face where the intersection is more than `most_iou` of the union, or more than `most_inside`
    of the smaller box.
    """
    both = np.concatenate([first, second])
    both = both[np.lexsort((-both[:, 2] * both[:, 3], -both[:, 14]))]
    start, end, area = both[:, :2], both[:, :2] + both[:, 2:4], both[:, 2] * both[:, 3]
    kept: list[int] = []
    for n in range(len(both)):
        sides = np.minimum(end[n], end[kept]) - np.maximum(start[n], start[kept])
        shared = np.prod(np.clip(sides, 0, None), axis=1)
        union, smaller = area[n] + area[kept] - shared, np.minimum(area[n], area[kept])
        if not ((shared > most_iou * union) | (shared > most_inside * smaller)).any():
            kept.append(n)
    return both[kept]


def _covered(face: np.ndarray, hole: np.ndarray) -> bool:
    start, end = np.maximum(face[:2], 0).astype(int), np.ceil(face[:2] + face[2:4]).astype(int)
    inside = np.count_nonzero(hole[start[1] : max(end[1], 0), start[0] : max(end[0], 0)])
    return bool(inside >= COVERED_SHARE * face[2] * face[3])


class YuNet:
    """Finds faces; called, it gives the five landmarks of a picture's foremost face (a `landmarks.Detector`).

    Its outputs differ by some 1e-5 px from one type of CPU to another, so they are rounded to `STEP`; about
    one landmark in several thousand lies so near a rounding's edge that another CPU may still decide otherwise.

    `model` is the .onnx file's path. The foremost face scores at least `score_threshold` (0..1).
    Raises InputError, with `key` as the parameter to mend, where the file is no YuNet model.
    """

    # A picture is looked at with its longer side at each of these px, though never enlarged. One of at most SMALL px
    # is looked at as it is, but for tiny ones, which are enlarged to the first of SIDES.
    SIDES = (160, 640, 2560)
    SMALL = 320
    SEEN = 40  # px; a face of this size in a look has been found in it
    LEAST = 64  # px, to which sides are padded: on strips of 32 px OpenCV 4.14 reads faces from foreign memory
    # A face found is looked at once more, alone, at this size (px): its landmarks then err by about half as much.
    CLOSE = 288
    AROUND = 0.3  # of the face's size, seen beside it
    STEP = 1 / 16  # px of the scaled picture
    SCORE_STEP = 1 / 1024

    def __init__(self, model: Path, score_threshold: float = 0.9, key: str = "detector_model"):
        try:
            content = model.read_bytes()
        except OSError as error:
            raise InputError(f"{key}: {model}: {error.strerror}; give the path of YuNet's .onnx file") from None
        self._threshold = score_threshold
        network = np.frombuffer(content, np.uint8)
        level = cv2.utils.logging.getLogLevel()
        # OpenCV would print its own lines beside the one that is raised.
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        try:
            self._net = cv2.FaceDetectorYN.create("onnx", network, np.empty(0, np.uint8), (64, 64), score_threshold)
            self._net.detect(np.zeros((64, 64, 3), np.uint8))
        except cv2.error:
            raise InputError(
                f"{key}: {model}: not a YuNet model; give the path of face_detection_yunet_2023mar.onnx, "
                "or another detector (annotations, haar)"
            ) from None
        finally:
            cv2.utils.logging.setLogLevel(level)
        record.note_weights(model.name, sha256(content).hexdigest())

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """The landmarks, 5 x 2, of the foremost face of a uint8 H x W x 3 RGB picture; raises NoFace."""
        height, width = picture.shape[:2]
        found = np.empty((0, 15))
        for scale, seen in self.looks(picture, self._threshold):
            found = merged(found, seen)
            if not len(found):
                continue
            ranks = prominence(found[:, :4], height, width)
            if ranks.max() >= (self.SEEN / scale) ** 2:  # what a finer look may add is smaller
                break
        if not len(found):
            raise NoFace("no face found")
        return self.closer(picture, found[np.argmax(ranks)], self._threshold)

    def looks(self, picture: np.ndarray, score: float) -> Iterator[tuple[float, np.ndarray]]:
        """The finds, N x 15, at each scale, coarse to fine; a small picture without any is enlarged in the end."""
        longer = max(picture.shape[:2])
        sides = [max(longer, self.SIDES[0])] if longer <= self.SMALL else [min(s, longer) for s in self.SIDES]
        none = True
        for side in dict.fromkeys(sides):
            seen = self.seen(picture, side / longer, score)
            none &= not len(seen)
            yield side / longer, seen
        if none and side < self.SIDES[1]:
            scale = min(2 * side, self.SIDES[1]) / longer
            yield scale, self.seen(picture, scale, score)

    def seen(self, picture: np.ndarray, scale: float, score: float) -> np.ndarray:
        """All finds at one scale, N x 15, in the picture's coordinates: box (x, y, w, h), five points, score."""
        scaled, factors = resized(picture, scale)
        below, beside = (max(0, self.LEAST - side) for side in scaled.shape[:2])
        scaled = cv2.copyMakeBorder(scaled, 0, below, 0, beside, cv2.BORDER_CONSTANT)
        self._net.setInputSize(scaled.shape[1::-1])
        self._net.setScoreThreshold(score)
        found = self._net.detect(cv2.cvtColor(scaled, cv2.COLOR_RGB2BGR))[1]
        if found is None:
            return np.empty((0, 15))
        steps = np.append(np.full(14, self.STEP), self.SCORE_STEP)
        faces = np.round(found.astype(np.float64) / steps) * steps
        faces[:, :14] /= np.tile(factors, 7)
        faces[:, 4:14] += np.tile(0.5 / factors - 0.5, 5)
        return faces

    def closer(self, picture: np.ndarray, face: np.ndarray, score: float) -> np.ndarray:
        """The landmarks, 5 x 2, of a find from a closer look, or its own where that shows no face."""
        box, side = face[:4], face[2:4].max()
        middle, reach = box[:2] + box[2:4] / 2, side * (0.5 + self.AROUND)
        start = np.maximum(middle - reach, 0).astype(int)
        end = np.ceil(middle + reach).astype(int)
        faces = self.seen(picture[start[1] : end[1], start[0] : end[0]], self.CLOSE / side, score)
        away = np.hypot(*(faces[:, :2] + faces[:, 2:4] / 2 + start - middle).T)
        if not len(faces) or away.min() > side / 2:
            return ordered(face[4:14])
        return ordered(faces[np.argmin(away), 4:14].reshape(5, 2) + start)
