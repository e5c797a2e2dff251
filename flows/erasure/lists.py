"""The lists beside original pictures (`pictures.csv`, landmarks, CelebA's): which of their lines are a picture's."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Collection, Mapping, Sequence, Set
from pathlib import Path, PurePosixPath

from flows.erasure import places
from flows.erasure.pictures import Picture

ENDS = (".csv", ".txt")


class Lists:
    """Knows the lists of datasets by where they lie, and the lines of pictures in them."""

    def __init__(self, root: Path, pictures: Sequence[Picture]) -> None:
        home = root.resolve()
        self._names: dict[str, set[str]] = {}  # by a part of a path, `/photos/`: paths and file names of pictures
        for dataset, folder in places.originals(root).items():
            names = {
                name
                for one in pictures
                for where, path in one.names
                if where == dataset
                for name in _both(path, folder)
            }
            place = folder.resolve()
            part = place.relative_to(home) if place.is_relative_to(home) else place
            if names:
                self._names.setdefault(f"/{part.as_posix().strip('/')}/", set()).update(names)

    def names(self, paths: Collection[str]) -> set[str]:
        """The names that a list may have, by its paths: in the project, in a copy of the project, or absolute."""
        found = set()
        for path in paths:
            if path.endswith(ENDS):
                whole = f"/{path.lstrip('/')}"
                found |= {name for part, names in self._names.items() if part in whole for name in names}
        return found


def _both(path: str, folder: Path) -> set[str]:
    """A picture's path, and its name alone, as CelebA's lists have it; unless that is another picture's path."""
    name = PurePosixPath(path).name
    return {path} if (folder / name).exists() else {path, name}


def lines(data: bytes, names: Set[str]) -> list[int]:
    """The lines of a list, by number, that have one of the names as a field.

    A list is CSV, or its fields are parted by spaces, as in CelebA's; the first of these may have spaces itself.
    """
    every = [line.decode("utf-8-sig", "replace") for line in data.splitlines(keepends=True)]
    found: set[int] = set()
    reader, start = csv.reader(every), 0
    with contextlib.suppress(csv.Error):
        for fields in reader:  # a field may have several lines
            if names & {*fields}:
                found.update(range(start, reader.line_num))
            start = reader.line_num
    for number, line in enumerate(every):
        if names & {*line.split()} or line.startswith(tuple(f"{name} " for name in names)):
            found.add(number)
    return sorted(found)


def without(data: bytes, gone: Collection[int]) -> bytes:
    """A list without these lines. The count that begins some of CelebA's is lowered."""
    every = data.splitlines(keepends=True)
    kept = [line for number, line in enumerate(every) if number not in gone]
    if kept and (count := kept[0].strip()).isdigit():
        kept[0] = kept[0].replace(count, str(max(0, int(count) - (len(every) - len(kept)))).encode())
    return b"".join(kept)


def roots(root: Path) -> Mapping[str, Path]:
    """The folders of original pictures inside of the project, by their path in it."""
    home = root.resolve()
    found = {folder.resolve() for folder in places.originals(root).values()}
    return {
        folder.relative_to(home).as_posix(): folder
        for folder in found
        if folder.is_dir() and folder.is_relative_to(home)
    }
