"""Processes that share the work on a stage's pictures: none hears a signal meant for the stage, none outlives it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any


@contextmanager
def processes(count: int, start: Callable[..., None], *arguments: Any) -> Iterator[ProcessPoolExecutor]:
    """`count` new processes, in each of which `start(*arguments)` is called first; what is left to do at the end is not
    done."""
    # Spawned, not forked: OpenCV's and Arrow's threads do not survive a fork.
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _begin, (start, arguments))
    # A terminal's Ctrl-C goes to all processes, and the stage is to answer it: blocked here, it stays blocked in them.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        for _ in range(count):
            pool.submit(int)  # starts a process
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(start: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_the_stage, daemon=True).start()
    start(*arguments)


def _end_with_the_stage() -> None:
    """Where the stage was killed, its end of the queue stays open in the other processes: they would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
