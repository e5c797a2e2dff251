"""The tables of pictures that locks name, ingested or aligned, file by file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from flows.lineage import cache
from flows.lineage.dvc_lock import INGESTED
from stages.runs import record
from stages.runs.errors import InputError

ALIGNED = "data/aligned/"

FOLDER = ".dir"  # ends the digest of a folder
REJECTED = "rejected.parquet"  # in an aligned table: what could not be aligned, without pictures


class Part(NamedTuple):
    """A file of a table, whose digest is the recorded one unless it was rewritten."""

    md5: str
    path: str  # in the working copy that has made it
    file: Path  # where its bytes lie
    rewritten: bool  # a picture was erased from it, or from another part of the table: this is what is left


class Gone(NamedTuple):
    """A table, or a part of one, that is not here or altered."""

    md5: str
    path: str
    why: str | None  # what is wrong with its bytes; None: they are not here


def among(files: Mapping[str, str], folder: str = INGESTED) -> dict[str, str]:
    """Of what a lock names (md5 by path), the tables in `folder`."""
    return {path: md5 for path, md5 in files.items() if path.startswith(folder) and md5.endswith(FOLDER)}


def parts(
    root: Path, named: Iterable[tuple[str, str]], digest: Callable[[Path], str] = record.digest
) -> tuple[list[Part], list[Gone]]:
    """The parts of tables (path and md5 of each), every one once, and what of them is missing or altered."""
    found: dict[str, Part] = {}
    gone: list[Gone] = []
    for path, md5 in named:
        try:
            listed, rewritten = _listing(root, md5, path, digest)
        except InputError as error:
            gone.append(Gone(md5, path, str(error)))
            continue
        if listed is None:
            gone.append(Gone(md5, path, None))
        for name, part in (listed or {}).items():
            if part in found or name == REJECTED:
                continue
            try:
                table = cache.find_table(root, part, f"{path}/{name}", digest)
            except cache.Altered as error:
                gone.append(Gone(part, f"{path}/{name}", str(error)))
                continue
            if table:
                found[part] = Part(part, f"{path}/{name}", table.file, rewritten or table.rewritten)
            else:
                gone.append(Gone(part, f"{path}/{name}", None))
    return list(found.values()), gone


def _listing(root: Path, md5: str, path: str, digest: Callable[[Path], str]) -> tuple[dict[str, str] | None, bool]:
    """md5 by name of a folder's files: by the cache's listing, else by the folder itself; None where neither is here.
    And whether an erasure has written it anew.

    Raises InputError where the cache has other bytes, or what is no listing.
    """
    if listing := cache.find_table(root, md5, "", digest):
        return cache.listing(listing.file), listing.rewritten
    folder = root / path
    if folder.is_dir() and record.digest(folder) == md5:
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        return {file.relative_to(folder).as_posix(): digest(file) for file in files}, False
    return None, False
