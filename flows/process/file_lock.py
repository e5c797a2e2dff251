"""A lock on a file: one process at a time, whatever becomes of the one before."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path


def acquire(file: Path) -> int | None:
    """The descriptor of a lock on `file`; None where another process has it.

    The lock lasts until the descriptor is closed, here and in every process that it was handed to (`pass_fds`). So
    what a killed process has left running keeps it. (The package `filelock` does not hand its descriptor on.)
    """
    while True:
        handle = _open(file)
        if _lock(handle) and _stands(handle, file):
            return handle
        there = _stands(handle, file)
        os.close(handle)
        if there:
            return None


@contextlib.contextmanager
def lock(
    file: Path, waiting: Callable[[str], None] | None = None, pause: Callable[[], None] | None = None
) -> Iterator[int]:
    """The descriptor of a lock on `file`, until the block ends; another process that has it is waited for.

    `waiting` is told that process's PID. `pause` is called again and again meanwhile, and may raise to give up.
    """
    handle = _open(file)
    try:
        if not _lock(handle):
            if waiting:
                waiting(os.pread(handle, 20, 0).decode())
            while not _lock(handle, wait=pause is None):
                assert pause is not None
                pause()
        yield handle
    finally:
        os.close(handle)


def release(handle: int, file: Path) -> None:
    """End a lock that `acquire` has given, and remove its file: one of many would pile up."""
    file.unlink(missing_ok=True)  # before others get the lock: they see that it is gone, and make it anew
    os.close(handle)


def _open(file: Path) -> int:
    file.parent.mkdir(parents=True, exist_ok=True)
    return os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)


def _stands(handle: int, file: Path) -> bool:
    """Whether the file that was opened is still the one at its place."""
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False


def _lock(handle: int, wait: bool = False) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    with contextlib.suppress(OSError):  # a full disk takes no number, which is for people alone
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
    return True
