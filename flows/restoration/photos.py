"""Which photos are restored, and the names of what is written for each."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.runs.errors import InputError

ENDINGS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".avif", ".gif", ".bmp", ".ppm", ".pgm", ".heic", ".heif")


@dataclass(frozen=True)
class Job:
    """A photo, and where its results go."""

    photo: Path
    stem: Path  # of the results: `<stem>.png`, `<stem>.hole.png`, `<stem>.json`
    asked: bool  # named by itself, not found in a folder

    def file(self, ending: str) -> Path:
        """`<stem>.<ending>`."""
        return self.stem.with_name(f"{self.stem.name}.{ending}")

    def files(self, kind: str, samples: int) -> list[Path]:
        """All that is written for it, where `kind` is the pictures' ending; the last is the record's signature."""
        pictures = [kind] if samples == 1 else [f"{number}.{kind}" for number in range(1, samples + 1)]
        return [
            self.file(end)
            for end in (*pictures, *(["sheet.png"] if samples > 1 else []), "hole.png", "json", "json.sig")
        ]


def jobs(photos: Sequence[Path], out: Path, kind: str, samples: int) -> list[Job]:
    """A job for each file, and for each picture file in each folder and below, in order; all names differ.

    Raises InputError where there is no such file, no picture in a folder, or where results would lie among the photos.
    """
    found: list[tuple[Path, Path, bool]] = []  # the file, where it lies below `out`, whether it was named
    target = out.resolve()
    for given in photos:
        if given.is_dir():
            below = sorted(p for p in given.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file())
            if target == given.resolve() or target.is_relative_to(given.resolve()):
                raise InputError(f"{out}: lies in the photos' own folder {given}; give another one with -o")
            if not below:
                raise InputError(f"{given}: no picture in this folder; name another one, or a file")
            found += [(file, file.relative_to(given), False) for file in below]
        elif given.is_file():
            if target == given.resolve().parent:
                raise InputError(f"{out}: is the folder of {given}; give another one with -o")
            found.append((given, Path(given.name), True))
        else:
            raise InputError(f"{given}: no such file or folder; name a photo, or a folder of photos")
    for file, _, _ in found:
        if any("\ud800" <= letter <= "\udfff" for letter in str(file)):  # neither records nor terminals take such bytes
            said = os.fsencode(file).decode(errors="backslashreplace")
            raise InputError(f"{said}: a name that is not UTF-8; rename it")
    unique = {file.resolve(): (file, place, asked) for file, place, asked in reversed(found)}
    every = [(file, place, asked) for file, place, asked in reversed(unique.values())]
    return _named(every, out, kind, samples)


def _named(every: Sequence[tuple[Path, Path, bool]], out: Path, kind: str, samples: int) -> list[Job]:
    """Results are called as the photo without its ending; where names meet, with it; where they still do, numbered."""
    for name in (
        lambda number, place: place.with_suffix(""),
        lambda number, place: place,
        lambda number, place: place.with_name(f"{number}-{place.name}"),
    ):
        made = [Job(file, out / name(number, place), asked) for number, (file, place, asked) in enumerate(every, 1)]
        written = Counter(str(file).casefold() for job in made for file in job.files(kind, samples))
        if max(written.values()) == 1:
            return made
    raise InputError(f"{out}: names of results meet; restore the folders one by one")
