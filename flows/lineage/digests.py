"""Digests of files, hashed once and remembered for as long as a file stays as it is, as Git's index and DVC do."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

from flows.process import atomic_file
from stages.runs import record

FILE = Path(".palimpsest/audit/digests.json")

FRESH = 2_000_000_000  # ns; a file changed since may change again without another time


class Digests:
    """md5 of files. `Digests(root)(file)` hashes, unless size, times and inode are those at which it hashed before.

    Whoever writes to a file changes its `ctime`, which can be set back only with the machine's clock. But whoever may
    write here may forge this memory as well: it saves time, and proves nothing. To hash everything again, remove it.
    """

    def __init__(self, root: Path) -> None:
        self._memory = root / FILE
        self._known: dict[str, list[Any]] = {}
        with contextlib.suppress(OSError, ValueError, RecursionError):
            found = json.loads(self._memory.read_bytes())
            self._known = found if isinstance(found, dict) else {}
        self._new: dict[str, list[Any]] = {}
        self.remembered = 0  # files that were not hashed now

    def __call__(self, file: Path) -> str:
        """As `record.digest` of a file; several threads may call."""
        name, before = str(file.absolute()), _stamp(file)
        known = self._known.get(name)
        if isinstance(known, list) and known[1:] == before:
            self.remembered += 1
            return str(known[0])
        md5 = record.digest(file)
        if _stamp(file) == before and before[1] < time.time_ns() - FRESH:
            self._new[name] = [md5, *before]
        return md5

    def save(self) -> None:
        """Write what is new, where that can be written; files that are gone are forgotten."""
        if self._new:
            known = {name: entry for name, entry in {**self._known, **self._new}.items() if Path(name).exists()}
            with contextlib.suppress(OSError):
                atomic_file.write(self._memory, json.dumps(known))


def _stamp(file: Path) -> list[int]:
    """What changes with a file: size, the time of its last change, that of its content, and where it lies."""
    stat = file.stat()
    return [stat.st_size, stat.st_ctime_ns, stat.st_mtime_ns, stat.st_ino, stat.st_dev]
