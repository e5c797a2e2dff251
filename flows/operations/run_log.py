"""What was run in a working copy and what became of it: `.palimpsest/runs.jsonl`, for who is called at night.

A run writes one line when it begins and one when it ends, each with a single write that appends, so that processes
share the file without a lock. A run that could not write its end (kill -9, a power cut) is known by its
process, which is no longer there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.process import words
from flows.process.identity import process_name
from stages.runs.errors import InputError

FILE = Path(".palimpsest/runs.jsonl")
OUTCOMES = ("completed", "failed", "refused", "nothing changed", "promoted", "rejected", "interrupted")
SUCCESSES = ("completed", "nothing changed", "promoted", "rejected")  # a rejected candidate is a run that did its work
FAILURES = ("failed", "killed")  # what is neither says nothing of whether the command does its work
TAIL = 1 << 20  # bytes at the file's end that are read: some thousand runs


@dataclasses.dataclass(frozen=True)
class Entry:
    """One run."""

    id: str
    command: str
    pid: int
    began: datetime
    outcome: str  # one of OUTCOMES, or "running", or "killed"
    message: str = ""
    ended: datetime | None = None
    scheduled: bool = False  # started by the clock, not by hand
    log: str | None = None  # of a scheduled run: where all that it said is
    details: dict[str, Any] = dataclasses.field(default_factory=dict)


class Run:
    """The run that is going on; `run()` makes it."""

    def __init__(self, file: Path, identity: str) -> None:
        self.id = identity
        self._file = file
        self._ended = False

    def end(self, outcome: str, message: str, **details: Any) -> None:
        """Note what has become of the run, in one line; what is noted first stands.

        Raises ValueError for an outcome that there is not, TypeError for details that JSON has no word for.
        """
        if outcome not in OUTCOMES:
            raise ValueError(f"{outcome!r} is no outcome; there are {', '.join(OUTCOMES)}")
        if not self._ended:
            message = " ".join(message.split())
            _append(self._file, {"end": self.id, "at": _now(), "outcome": outcome, "message": message, **_if(details)})
            self._ended = True


@contextlib.contextmanager
def run(root: Path, command: str, identity: str | None = None, log: str | None = None) -> Iterator[Run]:
    """Log one run of `command` in the working copy `root`: a line when the block begins, one when it ends.

    What passes through ends the run as failed, as interrupted for Ctrl-C, or as refused for a user's mistake by hand;
    a block that ends by itself without a word has completed. A scheduled run has an `identity` and a `log`: the
    scheduler gives them to its process in `PALIMPSEST_RUN` and `PALIMPSEST_LOG`, for this run alone and not for what
    it starts.
    """
    given = os.environ.pop("PALIMPSEST_RUN", identity)
    log = os.environ.pop("PALIMPSEST_LOG", log)
    entry = Run(root / FILE, given or uuid.uuid4().hex)
    pid = os.getpid()
    start = {"begin": entry.id, "at": _now(), "command": command, "pid": pid, "process": process_name(pid)}
    _append(entry._file, {**start, "scheduled": given is not None, "log": log})
    try:
        yield entry
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            entry.end("interrupted", "run it again to go on")
        else:
            refused = given is None and _mistake(error)  # by the clock there is nobody who reads it
            entry.end("refused" if refused else "failed", str(error) or type(error).__name__)
        raise
    entry.end("completed", "")


def _mistake(error: BaseException) -> bool:
    from flows.engine.repository import DvcException

    return isinstance(error, InputError | DvcException)


def entries(root: Path) -> list[Entry]:
    """The runs in the log, newest last. Lines that a full disk has torn are left out."""
    found: dict[str, Entry] = {}
    for line in _lines(root / FILE):
        with contextlib.suppress(ValueError, KeyError, TypeError):  # torn
            _take(json.loads(line), found)
    return list(found.values())


def _take(line: dict[str, Any], found: dict[str, Entry]) -> None:
    at = datetime.fromisoformat(line["at"])
    if "begin" in line:
        alive = process_name(line["pid"]) == line["process"]
        found[line["begin"]] = Entry(
            line["begin"],
            line["command"],
            line["pid"],
            at,
            "running" if alive else "killed",
            "" if alive else "the process ended without a word: killed, or the machine went down",
            scheduled=line["scheduled"],
            log=line["log"],
        )
    elif line["end"] in found:
        end = {"outcome": line["outcome"], "message": line["message"], "details": line.get("details", {})}
        found[line["end"]] = dataclasses.replace(found[line["end"]], ended=at, **end)


def _lines(file: Path) -> list[bytes]:
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - TAIL))
            return stream.read().split(b"\n")
    except (FileNotFoundError, NotADirectoryError):
        return []


def _append(file: Path, line: dict[str, Any]) -> None:
    text = json.dumps(line).encode() + b"\n"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a+b", buffering=0) as stream:  # appends, whoever else does
            size = stream.seek(0, os.SEEK_END)
            torn = size and os.pread(stream.fileno(), 1, size - 1) != b"\n"  # a full disk has cut off the line before
            stream.write((b"\n" if torn else b"") + text)
    except OSError as error:  # the run itself matters more
        words.say(f"{file}: {error.strerror}; this run is missing in it")


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _if(details: dict[str, Any]) -> dict[str, Any]:
    return {"details": details} if details else {}
