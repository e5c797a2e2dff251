"""Files by their digests: md5 as `dvc.lock` has it, and sha256, which the formats of others ask for."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.lineage import cache
from stages.runs import record


@dataclasses.dataclass(frozen=True)
class Piece:
    """A file or a folder."""

    path: str  # in the working copy that made it
    md5: str  # of a folder with `.dir` behind it
    sha256: str | None  # None: neither are the bytes here, nor has the record it
    size: int | None  # bytes of a file; None: they are not here, or it is a folder
    here: Path | None  # where the bytes lie, hashed now: they have this md5; None: they are not here, or altered


class Bytes:
    """The bytes that the project at `root` has, in its working copy and its cache; every file is hashed once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: dict[Path, tuple[str, str]] = {}

    def digest(self, file: Path) -> str:
        """md5 of a file, as `record.digest`."""
        return self._digests(file)[0]

    def piece(self, path: str, md5: str, made: Mapping[str, Any] | None, known: Path | None = None) -> Piece:
        """A file or folder by its md5; `made` is the record of the run that made it, `known` a file with this md5."""
        noted = ((made or {}).get("sha256") or {}).get(path)
        if md5.endswith(".dir"):
            return Piece(path, md5, noted, None, None)
        file = known
        with contextlib.suppress(cache.Altered):  # `audit checkpoint` and `audit verify` tell it
            file = known or cache.find(self.root, md5, path, self.digest)
        if file is None:
            return Piece(path, md5, noted, None, None)
        return Piece(path, md5, self._digests(file)[1], file.stat().st_size, file)

    def _digests(self, file: Path) -> tuple[str, str]:
        if file not in self._known:
            md5, sha256 = record.digests(file, "md5", "sha256")
            self._known[file] = md5, sha256
        return self._known[file]
