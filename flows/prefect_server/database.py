"""The file in which a Prefect server of ours keeps its runs: one server at a time, or runs are lost ("locked")."""

from __future__ import annotations

import fcntl
import functools
import itertools
import os
import struct
from pathlib import Path

from flows.process import file_lock, words

URLS = ("PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL")
OTHERS = ("PREFECT_SERVER_DATABASE_DRIVER", "PREFECT_API_DATABASE_DRIVER")  # begins a set of variables for PostgreSQL
NAME = "prefect.db"
SQLITE = "sqlite+aiosqlite:///"
IN_USE = 128  # the byte of SQLite's `-shm` file that every connection locks as long as it lasts (os_unix.c, DMS)
FLOCK = "hhqqi"  # fcntl.h, Linux on 64 bits: type, whence, start, length, process


def environment() -> tuple[dict[str, str], list[int]]:
    """What a server's process needs: variables that name the file, and the descriptor of a lock on it.

    The file is `prefect.db` in PREFECT_HOME. Where another server uses that, it is `prefect-2.db` or the next that is
    free, and a line says so. None of this where the user's environment names a database.
    """
    if any(os.environ.get(name) for name in (*URLS, *OTHERS)):
        return {}, []
    first = Path(os.environ["PREFECT_HOME"]).expanduser() / NAME
    file, lock = _free(first)
    if file == first and not {"%", "?"} & set(str(file)):
        return {}, [lock]  # Prefect's own default, or what its files of settings say
    # In an address, `a%20b` is `a b`, and `?` ends the path.
    return {URLS[0]: SQLITE + str(file).replace("%", "%25").replace("?", "%3F")}, [lock]


@functools.cache  # kept as long as this process is there: a server that is started again goes on with its file
def _free(first: Path) -> tuple[Path, int]:
    for number in itertools.count(1):
        file = first if number == 1 else first.with_stem(f"{first.stem}-{number}")
        if (lock := file_lock.acquire(file.with_suffix(".lock"))) is None:
            continue
        if not in_use(file):
            if file != first:
                words.say(f"{first}: another Prefect server uses it; this one keeps its runs in {file.name}")
            return file, lock
        os.close(lock)
    raise AssertionError  # there are as many as are counted


def in_use(file: Path) -> bool:
    """Whether another process has this SQLite database open, as a server does that the user has started."""
    try:
        handle = os.open(f"{file}-shm", os.O_RDONLY)
    except OSError:
        return False
    try:
        question = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, IN_USE, 1, 0)
        return bool(struct.unpack(FLOCK, fcntl.fcntl(handle, fcntl.F_GETLK, question))[0] != fcntl.F_UNLCK)
    finally:
        os.close(handle)
