"""A dossier is a folder that appears whole or not at all, and that is replaced only where it is one."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from flows.process import atomic_file, atomic_folder
from stages.runs.errors import InputError

LISTING = "dossier.json"  # names every other file of a dossier, by which it is known
FORMAT = "palimpsest dossier 1"


def refuse(folder: Path) -> None:
    """Raise InputError unless a dossier may be written there: the folder is new, empty, or nothing but a dossier."""
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir():
        raise InputError(f"{folder}: is no folder; name another one with -o")
    listed = _listed(folder)
    try:
        if listed is None and any(folder.iterdir()):
            raise InputError(f"{folder}: exists, and is no dossier; name another folder with -o")
        there = {
            file.relative_to(folder).as_posix() for file in folder.rglob("*") if not file.is_dir() or file.is_symlink()
        }
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}; name another folder with -o") from None
    if strange := sorted(there - {LISTING, *(listed or ())}):
        more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        raise InputError(
            f"{folder / strange[0]}{more}: not written by `audit dossier`; move it out of the folder first"
        )


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files, by their paths in the folder, and their list. An older dossier there is replaced.

    Raises InputError where the folder cannot be made, and as `refuse` does.
    """
    refuse(folder)
    listing = {"format": FORMAT, "files": {name: sha256(data).hexdigest() for name, data in sorted(files.items())}}
    try:
        with atomic_folder.replacing(folder) as draft:
            for name, data in files.items():
                atomic_file.write(draft / name, data)
            atomic_file.write(draft / LISTING, json.dumps(listing, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}; name another folder with -o") from None


def _listed(folder: Path) -> set[str] | None:
    """The files of the dossier in a folder; None where there is none."""
    try:
        listing = json.loads((folder / LISTING).read_bytes())
        return set(listing["files"]) if listing["format"] == FORMAT else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
