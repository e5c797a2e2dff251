"""One photo that is being restored by hand: its edits, and what they make of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from flows.restoration.detection import Detector
from flows.restoration.encode import encode
from flows.restoration.photo import Photo
from flows.restoration.restorer import record_of, record_of_faces
from flows.restoration.system import System
from stages.images.faces import Face
from stages.runs.errors import InputError

KEPT_BYTES = 1 << 30  # what the edits of one photo may hold in memory


@dataclass(frozen=True, eq=False, slots=True)
class Answer:
    """What a system drew into a hole."""

    colours: np.ndarray  # uint8 N x 3, sRGB: the hole's pixels, row by row
    record: dict[str, Any]  # as `Filled.record`


@dataclass(eq=False, slots=True)
class Edit:
    """A hole that was filled once. Nothing outside of the hole is kept."""

    number: int  # never given twice in a session
    system: System
    box: tuple[slice, slice]  # rows and columns of the photo: the hole and a pixel round it
    hole: np.ndarray  # bool, of the box
    answers: list[Answer]
    faces: Sequence[Face] = ()  # those that were seen around the hole: frames in records count them from 0
    chosen: int = 0

    @property
    def bytes(self) -> int:
        return self.hole.nbytes + sum(answer.colours.nbytes for answer in self.answers)

    @property
    def pixels(self) -> int:
        """How many the hole has."""
        return len(self.answers[0].colours)

    def record(self) -> dict[str, Any]:
        rows, columns = self.box
        return {
            **self.answers[self.chosen].record,
            "system": self.system.facts,
            "answer": self.chosen + 1,
            "of": len(self.answers),
            "faces": record_of_faces(self.faces),
            "hole": {"pixels": self.pixels, "rows": [rows.start, rows.stop],
                     "columns": [columns.start, columns.stop]},
        }  # fmt: skip


@dataclass(eq=False)
class Session:
    """A photo and its edits, of which the first `applied` count; the others were stepped back from.

    Raises InputError where a step is not possible.
    """

    photo: Photo
    edits: list[Edit] = field(default_factory=list)
    applied: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock)
    _numbers: int = 0
    _faces: tuple[bytes, list[Face]] | None = None  # and the digest of what covered them
    _barred: Sequence[Face] = ()  # those whose eyes a bar covers: their landmarks are known best
    _file: tuple[list[tuple[int, int]], bytes] | None = None  # the picture's, and the edits that it has

    def faces(self, detect: Detector, hole: np.ndarray | None = None) -> list[Face]:
        """The photo's faces, by what neither the edits nor `hole` (bool H x W) cover; looked for once for each hole."""
        with self.lock:
            covered = self.hole if hole is None else self.hole | hole
            digest = sha256(covered.tobytes()).digest()
            if self._faces is None or self._faces[0] != digest:
                self._faces = digest, detect.faces(self.photo.view, covered if covered.any() else None)
            others = [one for one in self._faces[1] if not any(_same(one, face) for face in self._barred)]
            return [*self._barred, *others]

    def barred(self, faces: Sequence[Face]) -> None:
        """Remember the faces on which a bar has been found."""
        with self.lock:
            self._barred = faces

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.photo.view.shape[0], self.photo.view.shape[1]

    @property
    def pixels(self) -> np.ndarray:
        """The photo with its edits: uint8 H x W x 3, sRGB."""
        pixels = self.photo.view.copy()
        for edit in self.edits[: self.applied]:
            pixels[edit.box][edit.hole] = edit.answers[edit.chosen].colours
        return pixels

    @property
    def hole(self) -> np.ndarray:
        """All that was filled: bool H x W."""
        hole = np.zeros(self.size, bool)
        for edit in self.edits[: self.applied]:
            hole[edit.box] |= edit.hole
        return hole

    def add(self, hole: np.ndarray, system: System, answers: Sequence[Answer], faces: Sequence[Face] = ()) -> Edit:
        """Keep a filled hole (bool H x W) as the newest edit. Edits that were stepped back from are dropped."""
        rows, columns = (np.flatnonzero(hole.any(axis)) for axis in (1, 0))
        box = _round(rows, self.size[0]), _round(columns, self.size[1])
        with self.lock:
            edit = Edit(self._numbers, system, box, hole[box].copy(), list(answers), faces)
            before = self.edits[: self.applied]
            if sum(one.bytes for one in [*before, edit]) > KEPT_BYTES:
                raise InputError("this photo has too many edits to keep; save the picture, and open it to go on")
            self._numbers += 1
            self.edits = [*before, edit]
            self.applied += 1
            return edit

    def step(self, applied: int) -> None:
        """Go back or forward, until so many edits count."""
        with self.lock:
            if not 0 <= applied <= len(self.edits):
                raise InputError(f"there are {len(self.edits)} edits, not {applied}")
            self.applied = applied

    def choose(self, answer: int) -> None:
        """Take another answer for the last edit that counts. Edits that were stepped back from are dropped."""
        with self.lock:
            if not self.applied or not 0 <= answer < len(self.edits[self.applied - 1].answers):
                raise InputError(f"there is no answer {answer + 1} to choose")
            del self.edits[self.applied :]
            self.edits[-1].chosen = answer

    def edit(self, number: int) -> Edit:
        for edit in self.edits:
            if edit.number == number:
                return edit
        raise InputError("this edit is gone")

    @property
    def stem(self) -> str:
        """The photo's name without ending and folders: results are called by it."""
        return PurePosixPath(self.photo.name).stem

    def record(self, detector: str) -> bytes:
        """The JSON of what was done to the photo: as of `palimpsest restore`, whose `answers` are the edits here."""
        with self.lock:
            hole, answers = self.hole, [edit.record() for edit in self.edits[: self.applied]]
            contents = {f"{self.stem}.png": self.png(), f"{self.stem}.hole.png": mask(hole)}
            faces = self.edits[self.applied - 1].faces if self.applied else []
            about = {"painted": True, "pixels": int(hole.sum()), "share": round(float(hole.mean()), 6)}
            record = record_of(self.photo, faces, detector, about, answers, exact=True)
        record["files"] = {name: sha256(content).hexdigest() for name, content in contents.items()}
        return (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode()

    def png(self) -> bytes:
        """The picture as a file; every pixel outside of `hole` is the photo's own."""
        with self.lock:
            made = [(edit.number, edit.chosen) for edit in self.edits[: self.applied]]
            if self._file is None or self._file[0] != made:  # at 24 megapixels it takes seconds
                self._file = made, encode(self.photo, self.pixels, self.hole)
            return self._file[1]


def mask(hole: np.ndarray) -> bytes:
    """A hole as a PNG: white where something is missing, black elsewhere."""
    from stages.images import png

    return png.encode(hole.astype(np.uint8) * 255)


def _round(places: np.ndarray, length: int) -> slice:
    """From the first of some rows or columns to the last, and one more on each side."""
    return slice(max(int(places[0]) - 1, 0), min(int(places[-1]) + 2, length))


def patch(edit: Edit, answer: int) -> bytes:
    """A PNG of the edit's box: an answer's colours inside of the hole, transparent elsewhere."""
    from stages.images.opencv import cv2

    if not 0 <= answer < len(edit.answers):
        raise InputError(f"there is no answer {answer + 1}")
    pixels = np.zeros((*edit.hole.shape, 4), np.uint8)
    pixels[edit.hole, :3] = edit.answers[answer].colours[:, ::-1]  # OpenCV's order: blue first
    pixels[edit.hole, 3] = 255
    return cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def _same(one: Face, other: Face) -> bool:
    """Whether the middle of one face's box lies in the other's."""
    x, y = one.box[0] + one.box[2] / 2, one.box[1] + one.box[3] / 2
    left, top, width, height = other.box
    return left <= x <= left + width and top <= y <= top + height
