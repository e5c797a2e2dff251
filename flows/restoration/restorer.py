"""One photo restored: its files and the record of what was done."""

from __future__ import annotations

import errno
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from flows.lineage import bundle
from flows.restoration import detection, holes, marking
from flows.restoration.credentials import Credentials
from flows.restoration.encode import encode
from flows.restoration.fill import Filled, fill
from flows.restoration.photo import Photo, load
from flows.restoration.photos import Job
from flows.restoration.system import System
from stages.images.decode.jpeg import SIGNATURE as JPEG
from stages.images.faces import Face
from stages.runs.errors import InputError
from stages.runs.record import canonical

FORMAT = 1  # of records
PACKAGES = ("palimpsest", "numpy", "opencv-python", "pillow", "torch")


@dataclass(frozen=True)
class Settings:
    """What is asked for, of every photo of a call."""

    hole: str = "eye_bar"  # a kind with its options, or a mask's file
    face: str | None = None  # a number or `X,Y`; None: all
    samples: int = 1
    kind: str = "png"  # of the results: png or jpg
    seed: int = 0
    grain: bool = True
    force: bool = False


@dataclass(frozen=True, eq=False)
class Restorer:
    """Opened systems and a detector: restores photo after photo."""

    systems: Sequence[System]
    detect: detection.Detector
    settings: Settings
    signer: Any = None  # securesystemslib's, by which records are signed; None: they are not
    credentials: Credentials | None = None  # that go into the pictures

    def asked(self, photo_sha256: str) -> str:
        """The digest of all that decides a photo's result: of what is there already, it tells whether it is this."""
        hole = Path(self.settings.hole)
        mask = sha256(hole.read_bytes()).hexdigest() if hole.is_file() and not holes.parse(self.settings.hole) else None
        own = {key: value for key, value in vars(self.settings).items() if key != "force"}
        checkpoints = [
            system.facts.get("checkpoint") and system.facts["checkpoint"]["sha256"] for system in self.systems
        ]
        said = {"photo": photo_sha256, "mask": mask, "systems": [system.name for system in self.systems],
                "checkpoints": checkpoints, "detector": self.detect.name,
                "credentials": self.credentials and self.credentials.digest, **own}  # fmt: skip
        return sha256(canonical(said).encode()).hexdigest()

    def done(self, job: Job) -> dict[str, Any] | None:
        """The record of a result that is there already and is what would be made now.

        None where there is none, or where a killed call has left a part of it. Raises InputError where other
        files have its names.
        """
        files = job.files(self.settings.kind, self._count())
        there = [file for file in files if os.path.lexists(file)]
        if not there or self.settings.force:
            return None
        try:
            record: dict[str, Any] = json.loads(job.file("json").read_text())
            made = _made(job.file("json"))
            kept = {file for file in made if os.path.lexists(file)}
            if record["asked"] == self.asked(sha256(job.photo.read_bytes()).hexdigest()) and all(
                sha256(file.read_bytes()).hexdigest() == made[file] for file in kept
            ):
                return record if len(kept) == len(made) else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass
        raise InputError(f"{there[0]}: exists, and is another result; add --force to replace it")

    def _count(self) -> int:
        return self.settings.samples * len(self.systems)

    def restore(self, job: Job, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
        """Restore a photo and write its files, whole or not at all. Returns its record.

        Raises InputError for a photo that cannot be read, a hole that cannot be placed or completed, and files that
        cannot be written.
        """
        if (record := self.done(job)) is not None:
            return record
        photo = load(job.photo)
        faces, hole, about = self.place(photo)
        results = []
        for system in self.systems:
            for sample in range(self.settings.samples):
                seed = None if self.settings.samples == 1 else self.settings.seed + sample
                results.append((system, self.fill(photo, hole, faces, system, seed, progress)))
        return self.write(job, photo, faces, hole, about, results)

    def place(self, photo: Photo) -> tuple[list[Face], np.ndarray, dict[str, Any]]:
        """The faces of a photo, its hole, and what the record says of that."""
        given = holes.parse(self.settings.hole)
        if given is None:
            file = Path(self.settings.hole)
            hole = holes.from_file(file, photo.view.shape[:2])
            about: dict[str, Any] = {"mask": file.name, "sha256": sha256(file.read_bytes()).hexdigest()}
            faces = detection.chosen(self.detect.faces(photo.view, hole), self.settings.face)
        else:
            faces, hole, about = holes.place(
                *given, photo.view, self.detect, face=self.settings.face, seed=self.settings.seed,
                jpeg=photo.data.startswith(JPEG),
            )  # fmt: skip
        return faces, hole, {**about, "pixels": int(hole.sum()), "share": round(float(hole.mean()), 6)}

    def fill(
        self, photo: Photo, hole: np.ndarray, faces: Sequence[Face], system: System, seed: int | None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Filled:  # fmt: skip
        """One answer of one system."""
        return fill(photo.view, hole, system, faces=faces, seed=seed, grain=self.settings.grain, name=photo.name,
                    progress=progress)  # fmt: skip

    def write(
        self,
        job: Job,
        photo: Photo,
        faces: Sequence[Face],
        hole: np.ndarray,
        about: Mapping[str, Any],
        results: Sequence[tuple[System, Filled]],
    ) -> dict[str, Any]:
        """Write the files of a photo's results.

        The record takes its place first: a call that is killed after that is gone on with.
        """
        from stages.images import png

        *pictures, hole_file, record_file, signature = job.files(self.settings.kind, len(results))
        contents = {
            file: self._encoded(photo, one, hole, system)
            for file, (system, one) in zip(pictures, results, strict=False)
        }
        if len(results) > 1:
            from flows.restoration import sheet

            contents[pictures[-1]] = sheet.draw(
                photo.view, hole, [(_title(*result), result[1].pixels) for result in results]
            )
        contents[hole_file] = png.encode(hole.astype(np.uint8) * 255)
        digests = {file.name: sha256(content).hexdigest() for file, content in contents.items()}
        record = record_of(
            photo, faces, self.detect.name, about, [{**one.record, "system": system.facts} for system, one in results],
            exact=self.settings.kind == "png",
        )  # fmt: skip
        record = {**record, "files": digests, "asked": self.asked(record["photo"]["sha256"])}
        said = (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode()
        told = {record_file: said}
        if self.signer:
            told[signature] = bundle.sign(record_file.name, sha256(said).hexdigest(), self.signer).encode()
        before = _made(record_file) if self.settings.force else {}
        write_all({**told, **contents}, job.stem.parent)
        for file, digest in before.items():  # answers of which no record would tell any more
            if file not in contents and file.is_file() and sha256(file.read_bytes()).hexdigest() == digest:
                file.unlink()
        if not self.signer:
            signature.unlink(missing_ok=True)  # of a result that was replaced
        return record

    def _encoded(self, photo: Photo, filled: Filled, hole: np.ndarray, system: System) -> bytes:
        content = encode(photo, filled.pixels, hole, self.settings.kind)
        return self.credentials.sign(content, self.settings.kind, photo, [system.name]) if self.credentials else content


def _made(record_file: Path) -> dict[Path, str]:
    """The files that a record says were made, beside it, with their digests; none where it cannot be read."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        files = json.loads(record_file.read_text())["files"]
        return {record_file.with_name(Path(name).name): digest for name, digest in files.items()}
    return {}


def _title(system: System, filled: Filled) -> str:
    seed = filled.record["seed"]
    return system.name if seed is None else f"{system.name}, seed {seed}"


def record_of(
    photo: Photo,
    faces: Sequence[Face],
    detector: str,
    hole: Mapping[str, Any],
    answers: Sequence[Mapping[str, Any]],
    exact: bool,
) -> dict[str, Any]:
    """What was done to a photo, as JSON: the photo, its faces, the hole, and each answer with the system behind it."""
    return {
        "format": FORMAT,
        "photo": {"name": photo.name, "sha256": sha256(photo.data).hexdigest(), "width": photo.view.shape[1],
                  "height": photo.view.shape[0], "mode": photo.mode, "bits": photo.bits,
                  "profile": photo.profile and sha256(photo.profile).hexdigest(), "remarks": list(photo.remarks)},
        "faces": record_of_faces(faces),
        "detector": detector,
        "hole": dict(hole),
        "answers": [dict(answer) for answer in answers],
        "outside_the_hole": "the photo's own samples, bit for bit" if exact else "compressed anew: may differ a little",
        "inside_the_hole": "made up by the system: not what was there",
        "marked": marking.VALUE,
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
    }  # fmt: skip


def record_of_faces(faces: Sequence[Face]) -> list[dict[str, Any]]:
    return [{"box": [round(float(v), 2) for v in face.box], "score": round(float(face.score), 3),
             "landmarks": np.round(face.landmarks, 3).tolist()} for face in faces]  # fmt: skip


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def write_all(contents: Mapping[Path, bytes], folder: Path) -> None:
    """Write files into a folder, which is made: all of them, or none. Raises InputError where that fails.

    They take their places in their order. A draft that a killed call has left is the next one's.
    """
    drafts = {file: file.with_name(f".{file.name}.new") for file in contents}
    file = folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, draft in drafts.items():
            draft.write_bytes(contents[file])
        for file, draft in drafts.items():
            draft.replace(file)
    except OSError as error:
        remedy = "rename the photo" if error.errno == errno.ENAMETOOLONG else "give another folder with -o"
        raise InputError(f"{file}: {error.strerror}; {remedy}") from None
    finally:
        for draft in drafts.values():
            with suppress(OSError):
                draft.unlink()  # it is there only where something went wrong
