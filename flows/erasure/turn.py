"""An erasure takes turns with everything that could bring back what it removes."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from pathlib import Path

from flows.audit import rebuild
from flows.checkout.root import retrain_lock, study_lock
from flows.engine import turns
from flows.erasure import places
from flows.process import file_lock
from flows.process.command import Say
from stages.runs.errors import InputError


@contextlib.contextmanager
def taken(root: Path, say: Say) -> Iterator[None]:
    """This working copy, its worktrees and workers' clones for this process alone.

    A rebuild, a retraining, a study, another erasure and DVC's experiments are waited for. A Dask worker is not, as it
    may have its clone for days: raises InputError where one runs.
    """
    with contextlib.ExitStack() as stack:

        def take(file: Path) -> None:
            stack.enter_context(file_lock.lock(file, functools.partial(_waiting, say, file)))

        # Always in one order, so that two erasures do not wait for each other.
        for file in (retrain_lock(root), study_lock(root), rebuild.lock_of(root)):
            take(file)
        copies = places.copies(root)  # with the worktrees that are left now
        for copy in copies:
            take(copy / ".dvc" / "tmp" / "palimpsest.lock")
        for file in places.workers(root):
            if (lock := file_lock.acquire(file)) is None:
                raise InputError(
                    f"{file.with_suffix('')}: a Dask worker's clone, which it uses (PID {file.read_text()}); stop that "
                    "process, and run this again"
                )
            stack.callback(os.close, lock)
        stack.enter_context(turns.alone(copies, folders(root), say))
        yield


def folders(root: Path) -> list[Path]:
    """The folders in which nothing may run meanwhile."""
    return [tree.top for tree in places.trees(root) if not tree.shared]


def _waiting(say: Say, file: Path, pid: str) -> None:
    say(f"waiting for a rebuild, a retraining, a study, an audit rebuild or another erasure (PID {pid} has {file})")
