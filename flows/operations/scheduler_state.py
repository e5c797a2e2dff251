"""What the scheduler of a working copy does and when: `.palimpsest/schedule.json`, which it keeps up to date.

Others read it without Prefect: `palimpsest status`, and a rebuild by hand, which then uses the scheduler's server.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path

from flows.operations import run_log

COMMANDS = ("retrain", "rebuild")  # that can be scheduled
FILE = Path(".palimpsest/schedule.json")


@dataclasses.dataclass(frozen=True)
class Timetable:
    """A scheduler's, as it last wrote it."""

    pid: int
    process: str | None  # as `run_log.process` names it
    api: str | None  # of its own server; None where PREFECT_API_URL names one, which may hold a password
    zone: str  # of the cron lines
    crons: dict[str, str]  # command -> cron line
    since: dict[str, str]  # command -> UTC time from which on what comes due is to be done
    next: dict[str, str]  # command -> UTC time of its next run
    stale_after: float | None = None  # seconds

    @property
    def alive(self) -> bool:
        """Whether the scheduler that wrote it is there."""
        return self.process is not None and run_log.process(self.pid) == self.process


def read(root: Path) -> Timetable | None:
    """The timetable of the scheduler that runs, or last ran, in the working copy; None where there was none."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Timetable(**json.loads((root / FILE).read_text(encoding="utf-8")))
    return None


def write(root: Path, table: Timetable) -> None:
    """Replace it, whole or not at all."""
    file = root / FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(".new")
    new.write_text(json.dumps(dataclasses.asdict(table), indent=1), encoding="utf-8")
    new.replace(file)
