"""The scheduler of a working copy, its cron lines and next runs: `.palimpsest/schedule.json`, which it keeps current.

Others read it without Prefect: `palimpsest status`, and a rebuild by hand, which then uses the scheduler's server.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path

from flows.process import atomic_file, file_lock
from flows.process.identity import process_name
from stages.runs.errors import InputError

# What can be scheduled, and the words of its command line.
COMMANDS = {"retrain": ("retrain",), "rebuild": ("rebuild",), "audit": ("audit", "verify")}
FILE = Path(".palimpsest/schedule.json")
LOCK = Path(".palimpsest/schedule.lock")  # held by the scheduler


@dataclasses.dataclass(frozen=True)
class SchedulerState:
    """A scheduler, as it last wrote it down."""

    pid: int
    process: str | None  # as `identity.process_name` names it
    api: str | None  # of its own server; None where PREFECT_API_URL names one, which may hold a password
    zone: str  # of the cron lines
    crons: dict[str, str]  # command -> cron line
    since: dict[str, str]  # command -> UTC time; what came due before it is not caught up
    next: dict[str, str]  # command -> UTC time of its next run
    stale_after: float | None = None  # seconds

    @property
    def alive(self) -> bool:
        """Whether the scheduler that wrote it is there."""
        return self.process is not None and process_name(self.pid) == self.process


def read(root: Path) -> SchedulerState | None:
    """The state of the scheduler that runs, or last ran, in the working copy; None where there was none."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return SchedulerState(**json.loads((root / FILE).read_text(encoding="utf-8")))
    return None


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """Be the working copy's one scheduler until the block ends. Raises InputError where another one runs."""
    if (lock := file_lock.acquire(root / LOCK)) is None:
        there = read(root)
        raise InputError(f"another scheduler runs here{f' (PID {there.pid})' if there and there.alive else ''}")
    try:
        yield
    finally:
        os.close(lock)


def api(root: Path) -> str | None:
    """The address of the server that the working copy's scheduler has started; None where no such scheduler runs."""
    state = read(root)
    return state.api if state and state.alive else None


def write(root: Path, state: SchedulerState) -> None:
    """Replace it."""
    atomic_file.write(root / FILE, json.dumps(dataclasses.asdict(state), indent=1))
