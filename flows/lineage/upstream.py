"""What an output comes from: the entries of `dvc.lock` before it, joined by path and digest.

Entries of one lock need not belong together: a stage may have run again while those behind it have not. So an input is
traced by its digest, through the same lock first and then through the others.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import NamedTuple

from flows.lineage import cache, entries, erasures
from flows.lineage.entries import Entry
from flows.lineage.locks import NAME, Lock
from stages.runs.errors import InputError


class Upstream(NamedTuple):
    """What an entry comes from."""

    entries: list[Entry]  # that made what it has read, and so on; the nearest first
    unknown: dict[str, str]  # inputs that some stage makes, and of which it is not known which run did: md5 by path


def upstream(root: Path, locks: list[Lock], entry: Entry, damaged: list[str]) -> Upstream:
    """The entries that made what `entry` has read, and what those have read.

    What is wrong with locks that are damaged is added to `damaged`.
    """
    outs = [(lock, entries.files(lock, damaged)) for lock in locks]
    paths = {path for _, files in outs for path in files}
    found: list[Entry] = []
    unknown: dict[str, str] = {}
    todo = [entry]
    while todo:
        here = todo.pop(0)
        for path, md5 in here.deps.items():
            if not _made(path, paths):
                continue
            maker = _maker(root, outs, here, path, md5, damaged)
            if maker is None:
                unknown[path] = md5
            elif maker not in found:
                found.append(maker)
                todo.append(maker)
    return Upstream(found, unknown)


def as_of_now(root: Path, locks: list[Lock], entry: Entry, damaged: list[str]) -> Upstream:
    """The same as the newest lock has it; the working copy's, if `entry` is in that.

    A stage may have run again and made the same, from other inputs than when `entry` ran: from pictures with another
    licence, say, or from more test pictures.
    """
    own = (root / NAME).read_bytes() if (root / NAME).is_file() else None
    newest = [*(lock for lock in locks if lock.text == own), *reversed(locks)]
    lock = next(lock for lock in newest if next(entries.same([lock], entry), None))
    found = upstream(root, locks, entry._replace(lock=lock), damaged)
    return found._replace(entries=[next(entries.same(locks, each)) for each in found.entries])


def _made(path: str, paths: set[str]) -> bool:
    return path in paths or any(str(folder) in paths for folder in PurePosixPath(path).parents)


def _maker(
    root: Path, outs: list[tuple[Lock, dict[str, str]]], here: Entry, path: str, md5: str, damaged: list[str]
) -> Entry | None:
    order = sorted(outs, key=lambda each: each[0] is not here.lock)  # its own lock first
    having = [lock for lock, files in order if files.get(path) == md5]
    if maker := next(entries.making(having, md5, path, damaged), None):
        return maker
    folders = {files[folder]: folder for folder in map(str, PurePosixPath(path).parents) for _, files in order
               if folder in files}  # fmt: skip
    for digest, folder in folders.items():
        holds, wanted = held(root, digest, path.removeprefix(f"{folder}/")), md5
        if holds is None and digest in (replaced := erasures.replaced(root)):  # it has lost a picture since
            holds, wanted = held(root, replaced[digest], path.removeprefix(f"{folder}/")), replaced.get(md5, md5)
        # Without its listing, it is this one only if there is no other: a stage alone may have run again.
        if holds == wanted or (holds is None and len(folders) == 1):
            return next(entries.making([lock for lock, _ in order], digest, folder, damaged), None)
    return None


def held(root: Path, digest: str, path: str) -> str | None:
    """The md5 of a file inside a folder that has this digest; empty where it has no such file, None where the listing
    is not in the cache."""
    try:
        file = cache.place(root, digest)
        return cache.listing(file).get(path, "") if file.is_file() else None
    except InputError:
        return None
