"""`palimpsest status`: one screen for who is on call, from files and Git alone: Prefect's server need not run."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from flows.checkout.git import GitError
from flows.checkout.root import retrain_worktree
from flows.lineage import cache
from flows.operations import alerts, run_log, scheduler_state
from stages.runs.errors import InputError

PATIENCE = 5.0  # seconds in which DVC may say what is stale, and in which disk use is added up
RUNS = 8  # that are shown


@dataclasses.dataclass(frozen=True)
class Status:
    """What there is to say of a working copy."""

    working_copy: str
    promoted: dict[str, Any] | None
    promoted_unknown: str | None  # why it is not known
    scheduler: dict[str, Any] | None  # None: none is alive
    runs: list[dict[str, Any]]  # newest last
    stale: list[str] | None  # stages that `rebuild` would run or might; None where it is not known
    stale_unknown: str | None  # and why
    disk: dict[str, int]  # bytes
    disk_partly: bool  # there was no time to add up all of it
    alarms: list[str]  # why the exit code is 1


def look(root: Path, after: timedelta | None) -> Status:
    """The state of a working copy now; an alarm for what is older than `after` (None: than the scheduler's)."""
    end = time.monotonic() + PATIENCE
    # A process of its own: it may take as long as the data is large, and it imports DVC meanwhile.
    asked = subprocess.Popen(
        [sys.executable, "-m", "flows.status"], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    runs = run_log.entries(root)
    scheduler = scheduler_state.read(root)
    if after is None and scheduler and scheduler.stale_after:
        after = timedelta(seconds=scheduler.stale_after)
    alarms = [f"the last {run.command} has failed, {_local(run.began)}: {run.message}" for run in alerts.failing(root)]
    if after is not None:
        alarms += map(str, alerts.stale(root, after))
    model, hidden = alerts.promoted(root)
    disk, partly = _disk(root, end)
    stale, unknown = _stale(asked, end)
    return Status(
        working_copy=str(root),
        promoted=dataclasses.asdict(model) if model else None,
        promoted_unknown=hidden,
        scheduler=dataclasses.asdict(scheduler) if scheduler and scheduler.alive else None,
        runs=[dataclasses.asdict(run) for run in runs[-RUNS:]],
        stale=stale,
        stale_unknown=unknown,
        disk=disk,
        disk_partly=partly,
        alarms=alarms,
    )


def machine(status: Status) -> str:
    """It as JSON."""
    return json.dumps(dataclasses.asdict(status), default=lambda value: value.isoformat(), indent=1)


def show(status: Status) -> None:
    """It on the terminal."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    page = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    page.add_column(style="bold")
    page.add_column(overflow="fold")
    for alarm in status.alarms:
        page.add_row(Text("ALARM", "bold red"), Text(alarm, "red"))
    page.add_row("promoted", _promoted(status.promoted, status.promoted_unknown))
    page.add_row("scheduler", _scheduler(status.scheduler))
    page.add_row("stale", _stages(status))
    used = ", ".join(f"{name} {decimal(size)}" for name, size in status.disk.items())
    page.add_row("disk", used + (" (and more: there was no time to add up all)" if status.disk_partly else ""))
    page.add_row("last runs", Text("none yet" if not status.runs else ""))
    console.print(page)
    runs = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    for run in reversed(status.runs):
        bad = run["outcome"] in run_log.FAILURES
        log = f" [{run['log']}]" if run["log"] and bad else ""
        runs.add_row(
            _local(run["began"]),
            _length((run["ended"] or datetime.now(UTC)) - run["began"]) if run["outcome"] != "killed" else "",
            run["command"],
            Text(run["outcome"], "red" if bad else ""),
            Text(run["message"] + log),
        )
    if status.runs:
        console.print(runs)


def _promoted(model: dict[str, Any] | None, unknown: str | None) -> Text:
    if model is None:
        return Text(f"not known: {unknown}" if unknown else "nothing is promoted yet")
    data = ", ".join(f"{name} {md5[:10]}" for name, md5 in model["data"].items())
    return Text(
        f"{model['artifact']} {model['version'] or ''} since {_local(model['time'])} "
        f"({_length(datetime.now(UTC) - model['time'])}), "
        f"checkpoint {model['md5'][:10]}, commit {model['commit'][:10]}\n"
        f"from the data {data}\n{model['message']}"
    )


def _scheduler(scheduler: dict[str, Any] | None) -> Text:
    if scheduler is None:
        return Text("none runs here")
    ahead = "; ".join(
        f"{command} {_local(at)} (in {_length(at - datetime.now(UTC))})"
        for command, text in scheduler["next"].items()
        for at in [datetime.fromisoformat(text)]
    )
    page = f", {scheduler['api'].removesuffix('/api')}" if scheduler["api"] else ""
    return Text(f"PID {scheduler['pid']}{page}; next: {ahead or 'nothing is due'}")


def _stages(status: Status) -> Text:
    if status.stale is None:
        return Text(f"not known: {status.stale_unknown}")
    if not status.stale:
        return Text("nothing")
    rest = f" and {len(status.stale) - 12} more" if len(status.stale) > 12 else ""
    return Text(f"{len(status.stale)} stages: {', '.join(status.stale[:12])}{rest}")


def _stale(asked: subprocess.Popen[str], end: float) -> tuple[list[str] | None, str | None]:
    try:
        said, _ = asked.communicate(timeout=max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        # It is left to end by itself, between two stages: a kill could tear the file of DVC's read-write locks.
        return None, f"DVC has not said it in {PATIENCE:g} s; `palimpsest rebuild --dry` waits for it"
    try:
        answer = json.loads(said)
        return answer["stale"], answer["unknown"]
    except ValueError:
        return None, "`dvc status` says why"


def _disk(root: Path, end: float) -> tuple[dict[str, int], bool]:
    """Bytes under each place, and whether `end` came first."""
    places = {
        "DVC's cache": cache.folder(root),
        "training states": root / os.environ.get("PALIMPSEST_STATE", ".palimpsest/state"),
        "records": root / os.environ.get("PALIMPSEST_RECORDS", ".palimpsest/records"),
        "logs": root / ".palimpsest/logs",
        "retrain's worktree": _worktree(root),
        "Prefect's database": Path(os.environ.get("PREFECT_HOME", root / ".palimpsest/prefect")),
    }
    sizes = dict.fromkeys(places, 0)
    for name in sorted(places, key=lambda name: name == "DVC's cache"):  # the largest last
        todo = [places[name]]
        while todo:
            if time.monotonic() > end:
                return sizes, True
            with contextlib.suppress(OSError), os.scandir(todo.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(Path(entry.path))
                    else:
                        with contextlib.suppress(OSError):  # gone meanwhile
                            sizes[name] += entry.stat(follow_symlinks=False).st_size
    return sizes, False


def _worktree(root: Path) -> Path:
    if given := os.environ.get("PALIMPSEST_WORKTREE"):
        return root / given
    with contextlib.suppress(GitError):
        return retrain_worktree(root)
    return root.with_name(f"{root.name}-retrain")


def _local(at: datetime) -> str:
    return f"{at.astimezone():%Y-%m-%d %H:%M}"


def _length(span: timedelta) -> str:
    seconds = max(0, int(span.total_seconds()))
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _ask() -> None:
    """For `look`: what is stale, as DVC sees it, on standard output."""
    from flows.engine import graph
    from flows.engine.repository import DvcException, LockError

    stale, unknown = None, None
    try:
        stale = graph.stale(PATIENCE)
    except LockError:
        unknown = "DVC is at work here"
    except (DvcException, InputError) as error:
        unknown = " ".join(str(error).split())
    if stale is None and unknown is None:
        unknown = "there was no time to look at all"
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps({"stale": stale, "unknown": unknown}), flush=True)


if __name__ == "__main__":
    _ask()
