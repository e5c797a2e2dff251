"""The faces of a photo, also those whose eyes are covered: by YuNet, else by OpenCV's Haar cascades."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from stages.images import landmarks
from stages.images.bars import Bar
from stages.images.faces import Face, YuNet, find_faces
from stages.runs.errors import InputError

APART = 0.15  # of the eyes' distance, from which on two opinions of where covered eyes lie differ


class Detector(Protocol):
    """Finds faces. Pictures are uint8 H x W x 3, sRGB; holes bool H x W, True = missing."""

    name: str  # for the record

    def faces(self, picture: np.ndarray, hole: np.ndarray | None = None) -> list[Face]:
        """All faces, the largest first. `hole` is what somebody has painted, perhaps over covered eyes."""

    def covered(self, picture: np.ndarray) -> list[tuple[Face, Bar]]:
        """The faces whose eyes a flat bar covers, with their bars; their landmarks are those beneath.

        Raises InputError where the detector cannot tell.
        """


def detector(root: Path, model: Path | None) -> Detector:
    """YuNet with the file `model`, or with that of a dataset in params.yaml; where there is none, Haar cascades.

    Raises InputError for a file that is no YuNet.
    """
    landmarks.single_thread()
    file = model or _of_datasets(root)
    return ByYuNet(file) if file else ByHaar()


def _of_datasets(root: Path) -> Path | None:
    from stages.runs import params

    with suppress(InputError, AttributeError, TypeError, KeyError):
        for dataset in params.load(root / "params.yaml")["datasets"].values():
            file = root / str(dataset["align"]["detector_model"])
            if file.suffix == ".onnx" and file.is_file():
                return file
    return None


class ByYuNet:
    """All faces from about 60 px on, in photos of 24 megapixels; a Detector."""

    def __init__(self, file: Path):
        self.name = f"yunet ({file.name})"
        self._yunet = YuNet(file, key="--detector")

    def faces(self, picture: np.ndarray, hole: np.ndarray | None = None) -> list[Face]:
        found = find_faces(picture, self._yunet, hole=hole)
        return found if hole is None else [self._beneath(picture, face, hole) for face in found]

    def covered(self, picture: np.ndarray) -> list[tuple[Face, Bar]]:
        from stages.images.covered import covered_landmarks, find_covered

        found = []
        for face, bar in find_covered(picture, self._yunet):
            if bar is not None:
                points = covered_landmarks(picture, face, bar.mask(picture.shape), self._yunet)
                if points is not None:
                    found.append((replace(face, landmarks=points), bar))
        return found

    def _beneath(self, picture: np.ndarray, face: Face, hole: np.ndarray) -> Face:
        """The face with the landmarks that the rest of it tells, where a hole covers its eyes and YuNet sees others.

        Where both agree, the eyes may be there to be seen: YuNet's own are then the better ones.
        """
        from stages.images.covered import covered_landmarks

        points = covered_landmarks(picture, face, hole, self._yunet)
        if points is None:
            return face
        distance = float(np.hypot(*(points[1] - points[0])))
        off = np.hypot(*(points[:2] - face.landmarks[:2]).T).max()
        return replace(face, landmarks=points) if off > APART * distance else face


class ByHaar:
    """One face from the front; a Detector."""

    name = "haar"

    def faces(self, picture: np.ndarray, hole: np.ndarray | None = None) -> list[Face]:
        from stages.images.haar import Haar

        try:
            points = Haar()(picture)
        except landmarks.NoFace:
            return []
        distance = float(np.hypot(*(points[1] - points[0])))
        x, y = points.mean(axis=0)  # of YuNet's boxes the sides are about 2.4 and 3 distances between the eyes
        box = (x - 1.2 * distance, y - 1.6 * distance, 2.4 * distance, 3 * distance)
        return [Face(box, points, 0.5)]

    def covered(self, picture: np.ndarray) -> list[tuple[Face, Bar]]:
        raise InputError(
            "covered eyes are found by YuNet alone: give its file (face_detection_yunet_2023mar.onnx) by --detector, "
            "or paint the hole"
        )


def chosen(faces: Sequence[Face], which: str | None) -> list[Face]:
    """All faces; the one of a number, from 1, the largest first; or that in whose box the point `X,Y` lies.

    Raises InputError where there is no such face, with those that there are.
    """
    if which is None:
        return list(faces)
    there = "; ".join(f"{n} at {_middle(face)}" for n, face in enumerate(faces, 1)) or "none was found"
    with suppress(ValueError):
        if "," in which:
            x, y = (float(part) for part in which.split(","))
            near = [face for face in faces if _inside(face, x, y)]
            if near:
                return [near[-1]]  # of faces behind each other the smallest
        elif 1 <= int(which) <= len(faces):
            return [faces[int(which) - 1]]
    raise InputError(f"--face {which}: no such face; faces: {there}")


def _inside(face: Face, x: float, y: float) -> bool:
    left, top, width, height = face.box
    return left <= x <= left + width and top <= y <= top + height


def _middle(face: Face) -> str:
    left, top, width, height = face.box
    return f"{left + width / 2:.0f},{top + height / 2:.0f} ({width:.0f} px)"
