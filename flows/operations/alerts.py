"""Alerts: a scheduled run has failed, or a model or a command's last good run is too old. Each is sent once."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flows.checkout.git import GitError
from flows.operations import notify, run_log, scheduler_state
from flows.process import atomic_file, file_lock
from flows.registry import history
from stages.runs.errors import InputError

FILE = Path(".palimpsest/alarms.json")
UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclasses.dataclass(frozen=True)
class Stale:
    """Something that is too old."""

    what: str
    since: datetime

    def __str__(self) -> str:
        return f"{self.what} is of {self.since.astimezone():%Y-%m-%d %H:%M}"


def span(text: str) -> timedelta:
    """`7d`, `36h`, `90m`, `2w` as a length of time. Raises InputError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([mhdw])", text.strip())
    if not match or not float(match[1]):
        raise InputError(f"{text!r} is no length of time; write it as 7d, 36h or 90m")
    return timedelta(**{UNITS[match[2]]: float(match[1])})


def promoted(root: Path) -> tuple[history.Promoted | None, str | None]:
    """What is promoted, or None; and why that is not known, where it is not."""
    try:
        return history.current(root), None
    except InputError as error:
        outside = isinstance(error, GitError) and error.no_repository  # and nothing is promoted there
        return None, None if outside else str(error)


def stale(root: Path, after: timedelta) -> list[Stale]:
    """What is older than `after`: the promoted model, and the last run that did its work, of each command.

    Commands without a cron line are only looked at where there has never been a scheduler.
    """
    found = []
    model, _ = promoted(root)
    if model:
        found.append(Stale("the promoted model", model.time))
    scheduler, runs = scheduler_state.read(root), run_log.entries(root)
    for command in scheduler.crons if scheduler else scheduler_state.COMMANDS:
        mine = [run for run in runs if run.command == command]
        done = [run for run in mine if run.outcome in run_log.SUCCESSES]
        if done:
            found.append(Stale(f"the last successful {command}", done[-1].ended or done[-1].began))
        elif mine:
            found.append(Stale(f"the first {command}, none having succeeded since,", mine[0].began))
    return [one for one in found if datetime.now(UTC) - one.since > after]


def failing(root: Path) -> list[run_log.Entry]:
    """Of each command, the last run that came to an end of its own, where that was a failure."""
    last: dict[str, run_log.Entry] = {}
    for run in run_log.entries(root):
        if run.outcome in (*run_log.SUCCESSES, *run_log.FAILURES):
            last[run.command] = run
            if run.command == "retrain":  # it settles what a rollback has left, which nobody is to repeat for that
                last.pop("retrain --rollback", None)
    return [run for run in last.values() if run.outcome in run_log.FAILURES]


def send(
    root: Path, target: str, after: timedelta | None, say: Callable[[str], None], sent: set[str] | None = None
) -> None:
    """Send an event to `target` for every scheduled run that has failed, and for what is older than `after`.

    Each is sent once; what is too old is sent again when it has been renewed and is too old again. Several processes
    may call this at once. A kill between an event and its note in FILE repeats the event: better than silence.
    `sent` is what this process has sent: where the disk is full, and FILE cannot be written, it sends each once, too.
    """
    sent = set() if sent is None else sent
    with _locked(root) as known:
        runs = run_log.entries(root)
        noted = {*known.get("runs", []), *sent}
        for run in runs:
            if run.scheduled and run.outcome in run_log.FAILURES and run.id not in noted:
                notify.send(target, _failure(root, run), say)
                sent.add(run.id)
                noted.add(run.id)
                _write(root, {**known, "runs": [run.id for run in runs if run.id in noted]})
        known["runs"] = [run.id for run in runs if run.id in noted]
        if after is not None:
            old = {one.what: one for one in stale(root, after)}
            for what, one in old.items():
                if what not in {*known.get("stale", []), *sent}:
                    event = {"event": "stale", "message": str(one), "what": what, "since": one.since.isoformat()}
                    notify.send(target, {**event, "working_copy": str(root)}, say)
                    sent.add(what)
            sent &= {*old, *(run.id for run in runs)}
            known["stale"] = [*old]
        _write(root, known)


def _failure(root: Path, run: run_log.Entry) -> dict[str, Any]:
    return {
        "event": "failed",
        "message": f"{run.command} {run.outcome}: {run.message}",
        "command": run.command,
        "outcome": run.outcome,
        "run": run.id,
        "began": run.began.isoformat(),
        "ended": run.ended.isoformat() if run.ended else None,
        "log": run.log,
        "working_copy": str(root),
    }


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[dict[str, Any]]:
    """What has been sent already, as FILE has it; other processes wait, where there is room for a lock on the disk."""
    file = root / FILE
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            stack.enter_context(file_lock.lock(file.with_suffix(".lock")))
        known: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError, TypeError):
            known = dict(json.loads(file.read_text(encoding="utf-8")))
        yield known


def _write(root: Path, known: dict[str, Any]) -> None:
    file = root / FILE
    text = json.dumps(known)
    with contextlib.suppress(OSError):  # there is none yet, or the disk is full
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            atomic_file.write(file, text)
