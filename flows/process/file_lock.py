"""Taking turns: one process at a time, whatever becomes of the one before."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def alone(
    file: Path, waiting: Callable[[str], None] | None = None, pause: Callable[[], None] | None = None
) -> Iterator[int]:
    """An flock on `file` until the block ends.

    It lasts as long as any process that the descriptor is handed to: what a killed one has left is waited for too.
    `waiting` is told the PID of whoever has it, where one has; `pause` is called again and again meanwhile, and may
    raise to give up.
    """
    handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting:
                waiting(os.pread(handle, 20, 0).decode())
            _wait(handle, pause)
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield handle
    finally:
        os.close(handle)


def _wait(handle: int, pause: Callable[[], None] | None) -> None:
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | (fcntl.LOCK_NB if pause else 0))
        except BlockingIOError:
            assert pause is not None
            pause()
