"""One face's eyes by the Haar cascades of report 3 (Viola and Jones 2001).

Nose and mouth are placed as the template of `stages/images/landmarks.py` has them.
"""

from __future__ import annotations

from hashlib import sha256
from itertools import product
from pathlib import Path

import numpy as np

from stages.images.landmarks import NoFace, apply, foremost, ordered, resized, similarity, template
from stages.images.opencv import cv2
from stages.runs import record
from stages.runs.errors import InputError


class Haar:
    """Eyes by OpenCV's Haar cascades, nose and mouth by the template; a Detector.

    Raises InputError where this OpenCV has no cascades.
    """

    LONGER = 480  # px, larger pictures are scaled down to it
    SMALLEST = 0.12  # of the shorter side: smaller boxes are mostly no faces
    EXPECTED = np.array([[0.31, 0.39], [0.69, 0.39]])  # of the face's box: where its eyes are on average

    def __init__(self) -> None:
        self._face = self._cascade("haarcascade_frontalface_default.xml")
        self._eyes = [self._cascade(f"haarcascade_{name}.xml") for name in ("eye", "eye_tree_eyeglasses")]

    @staticmethod
    def _cascade(name: str) -> cv2.CascadeClassifier:
        folder = getattr(getattr(cv2, "data", None), "haarcascades", None)
        if not folder or not hasattr(cv2, "CascadeClassifier") or not (Path(folder) / name).is_file():
            raise InputError(
                f"detector haar: OpenCV {cv2.__version__} has no {name}; "
                "install opencv-python>=4.10,<5 or set detector: yunet"
            )
        file = Path(folder) / name
        record.note_weights(name, sha256(file.read_bytes()).hexdigest())
        return cv2.CascadeClassifier(str(file))

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        scaled, factors = resized(picture, min(1.0, self.LONGER / max(picture.shape[:2])))
        grey = cv2.equalizeHist(cv2.cvtColor(scaled, cv2.COLOR_RGB2GRAY))
        height, width = grey.shape
        least = max(20, round(min(height, width) * self.SMALLEST))
        faces = self._face.detectMultiScale(grey, 1.1, 5, minSize=(least, least))
        if not len(faces):
            raise NoFace("no face found")
        boxes = np.asarray(faces, np.float64)
        box = boxes[foremost(boxes, height, width)]
        eyes = (self._pair(grey, box) + 0.5) / factors - 0.5
        points = apply(cv2.invertAffineTransform(similarity(eyes, 1)), template(1))
        return ordered(points)

    def _pair(self, grey: np.ndarray, box: np.ndarray) -> np.ndarray:
        """The two eyes, 2 x 2, of a face's box: the pair nearest to where eyes are expected."""
        x, y, w, h = (int(v) for v in box)
        enlarge = max(1.0, 160 / w)  # the eye cascades miss eyes below some 20 px
        upper, factors = resized(np.ascontiguousarray(grey[y : y + round(h * 0.65), x : x + w]), enlarge)
        least = max(8, round(0.12 * upper.shape[1]))
        found = [e for cascade in self._eyes for e in cascade.detectMultiScale(upper, 1.05, 4, minSize=(least, least))]
        # An eye's box is taller than the eye; its pupil lies a little below the middle.
        spots = np.array([[ex + ew / 2, ey + eh * 0.52] for ex, ey, ew, eh in found]).reshape(-1, 2)
        spots = spots / factors / [w, h]
        sides = [spots[np.hypot(*(spots - place).T) < 0.17] for place in self.EXPECTED]
        pairs = [np.array(pair) for pair in product(*sides)]
        if not pairs:
            raise NoFace("no pair of eyes found")
        best = min(pairs, key=lambda pair: float(np.sum((pair - self.EXPECTED) ** 2)))
        return best * [w, h] + [x, y] - 0.5
