"""The faces of a photo: by YuNet where its file is at hand, else by OpenCV's Haar cascades."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from flows.restoration.frames import Face
from stages.images import landmarks
from stages.runs.errors import InputError

Find = Callable[[np.ndarray], list[Face]]  # uint8 H x W x 3 -> faces, the largest first


def finder(root: Path, model: Path | None) -> tuple[Find, str]:
    """What finds faces, and its name: YuNet with the file `model`, or with that of a dataset in params.yaml.

    Where there is none, Haar cascades, which find one face and its eyes alone. Raises InputError for a file that is no
    YuNet.
    """
    landmarks.single_thread()
    file = model or _of_datasets(root)
    if file is None:
        return _haar, "haar"
    yunet = landmarks.YuNet(file, key="--detector")

    def find(picture: np.ndarray) -> list[Face]:
        try:
            points = yunet(picture)
        except landmarks.NoFace:
            return []
        return [_boxed(points, 0.9)]

    return find, f"yunet ({file.name})"


def _of_datasets(root: Path) -> Path | None:
    from stages.runs import params

    with suppress(InputError, AttributeError, TypeError, KeyError):
        for dataset in params.load(root / "params.yaml")["datasets"].values():
            file = root / str(dataset["align"]["detector_model"])
            if file.suffix == ".onnx" and file.is_file():
                return file
    return None


def _haar(picture: np.ndarray) -> list[Face]:
    try:
        return [_boxed(landmarks.Haar()(picture), 0.5)]
    except landmarks.NoFace:
        return []


def _boxed(points: np.ndarray, score: float) -> Face:
    """A face by its five points alone: of YuNet's boxes the sides are about 2.4 and 3 distances between the eyes."""
    distance = float(np.hypot(*(points[1] - points[0])))
    x, y = points.mean(axis=0)
    return Face((x - 1.2 * distance, y - 1.6 * distance, 2.4 * distance, 3 * distance), points, score)


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
