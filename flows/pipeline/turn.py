"""Taking turns: one process at a time, whatever becomes of the one before."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def alone(file: Path, waiting: Callable[[str], None] | None = None) -> Iterator[int]:
    """An flock on `file` until the block ends; `waiting` is told the PID of whoever has it, where one has.

    It lasts as long as any process that the descriptor is handed to: what a killed one has left is waited for too.
    """
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting:
                waiting(os.pread(handle, 20, 0).decode())
            fcntl.flock(handle, fcntl.LOCK_EX)
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield handle
    finally:
        os.close(handle)
