"""Objects of DVC, in a cache's folder or on a remote: taken away, or replaced by what is left without a picture."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from flows.erasure import rewriting
from flows.erasure.journal import Journal
from flows.lineage import cache
from flows.lineage.tables import FOLDER
from flows.process import atomic_file
from stages.runs.errors import InputError


class Objects(Protocol):
    """Objects by their digests: `flows.engine.remotes.Store`, or a `Cache`."""

    @property
    def objects(self) -> Sequence[str]:
        """The digests of all that there are; of a folder's listing with `.dir` behind it."""

    def read(self, md5: str) -> bytes:
        """The bytes of an object."""

    def add(self, md5: str, data: bytes) -> None:
        """Put an object there."""

    def remove(self, md5: str) -> None:
        """Delete an object."""


class Cache:
    """The objects in the folder of a DVC cache."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def objects(self) -> Sequence[str]:
        """The digests of all that there are."""
        return [md5 for md5, _ in cache.within(self._folder)]

    def read(self, md5: str) -> bytes:
        """The bytes of an object."""
        return cache.inside(self._folder, md5).read_bytes()

    def add(self, md5: str, data: bytes) -> None:
        """Put an object there, as DVC does: not to be written."""
        place = cache.inside(self._folder, md5)
        if not place.exists():
            atomic_file.write(place, data)
            place.chmod(0o444)

    def remove(self, md5: str) -> None:
        """Delete an object."""
        cache.inside(self._folder, md5).unlink(missing_ok=True)


def exchange(store: Objects, md5: str, new: bytes | None, journal: Journal) -> None:
    """Delete an object, and put `new` there in its place, unless that is None."""
    digest = None
    if new is not None:
        digest = hashlib.md5(new).hexdigest() + (FOLDER if md5.endswith(FOLDER) else "")
    journal.note(md5, digest)
    if new is not None and digest is not None:
        store.add(digest, new)
    store.remove(md5)


def exchange_listings(store: Objects, journal: Journal) -> None:
    """Write the listings of folders anew that name what is gone or was exchanged."""
    for md5 in store.objects:
        if md5.endswith(FOLDER):
            try:
                new = rewriting.listing(store.read(md5), journal.gone, journal.changed)
            except (InputError, FileNotFoundError):  # it is none, or it was exchanged itself
                continue
            if new is not None:
                exchange(store, md5, new, journal)
