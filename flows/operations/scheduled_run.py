"""One run of the scheduler: a command of the command line, in a process of its own."""

from __future__ import annotations

import errno
import math
import os
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect.states import Cancelled, Completed, Failed, State

from flows.operations import run_log
from flows.operations.scheduler_state import COMMANDS
from flows.prefect_server import server
from flows.process.command import Command, Say

LOGS = Path(".palimpsest/logs/scheduled")
KEPT = 200  # so many logs of scheduled runs are kept
# Seconds that a run has to save what it needs to go on; systemd gives a service 90.
GRACE = float(os.environ.get("PALIMPSEST_GRACE", 60))


class Log:
    """A log file in which lines are missing while the disk is full."""

    def __init__(self, file: Path) -> None:
        """Make it, with its first line and its folder. Raises OSError where there is no room for them."""
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file = file.open("wb", buffering=0)
        self._missing = 0  # lines since the last one that was written
        if reason := self.write(f"--- {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"):
            self._file.close()
            file.unlink()
            raise OSError(reason.errno, reason.strerror, str(file))

    def write(self, line: str) -> OSError | None:
        """Add a line; what has kept it from being written, where that is new."""
        gap = f"\n--- {self._missing} lines are missing: the disk was full\n" if self._missing else ""
        text = f"{gap}{line}\n".encode("utf-8", errors="backslashreplace")
        try:
            if self._file.write(text) < len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._missing = 0
        except OSError as error:
            self._missing += 1
            return error if self._missing == 1 else None
        return None

    def close(self) -> None:
        self._file.close()


class ScheduledRun:
    """A command that runs in the working copy, for the scheduler or a worker of Prefect's."""

    def __init__(self, root: Path, command: str, identity: str) -> None:
        """Prepare it, and make its log. Raises OSError where there is no room for that."""
        self.command = command
        self.id = identity
        self.log = LOGS / f"{command}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{identity[:8]}.log"
        self.stopped = False  # it has been told to end
        self.lost_server = False  # Prefect's server was lost on the way, which may be why it fails
        self._root = root
        self._limit = math.inf  # when it has to have ended
        self._file = Log(root / self.log)
        for old in sorted((root / LOGS).iterdir(), key=lambda file: file.stat().st_mtime)[:-KEPT]:
            old.unlink(missing_ok=True)

    def start(self, lock: int, say: Say) -> None:
        """Start it. `say` gets every line that it prints, from another thread; it holds `lock`, a descriptor, too."""
        self._process = Command(
            [sys.executable, "-m", "flows.cli", *COMMANDS[self.command]],
            cwd=self._root,
            # What Prefect tells the process of a flow is not for the flows that the command runs.
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT__")},
                "PALIMPSEST_RUN": self.id,
                "PALIMPSEST_LOG": str(self.log),
                "PYTHONUNBUFFERED": "1",
                server.PATIENCE: str(server.START),  # the scheduler is starting a lost server again
            },
            pass_fds=[lock],
        )

        def write(line: str) -> None:
            if error := self._file.write(line):
                say(f"{self.log}: {error.strerror}; lines are missing in it")
            if line.strip():
                say(line.strip())

        self._process.listen(write)

    def ended(self) -> bool:
        """Whether it has ended."""
        return self.wait(0)

    def late(self) -> bool:
        """Whether it has been told to end, and had the time to."""
        return time.monotonic() > self._limit

    def stop(self) -> None:
        """Tell it to end: it ends its stages, which save what they need to go on."""
        self.stopped = True
        self._limit = time.monotonic() + GRACE
        self._process.signal(signal.SIGINT)

    def wait(self, seconds: float | None = None) -> bool:
        """Whether it has ended within that time."""
        return self._process.wait(seconds) is not None

    def discard(self) -> None:
        """Drop it, where it has not been started."""
        self._file.close()
        (self._root / self.log).unlink(missing_ok=True)

    def close(self) -> State[Any]:
        """What has become of it. What is left of it is killed."""
        code = self._process.close()
        self._process.signal(signal.SIGKILL)  # what it has left in its process group
        self._file.close()
        last = self._process.last
        entry = next((run for run in run_log.entries(self._root) if run.id == self.id), None)
        if entry is None and code and not self.stopped:  # it did not get as far as its entry in the run log
            with run_log.run(self._root, self.command, self.id, str(self.log)) as run:
                run.end("failed", last or f"exit code {code}")
        if code == 0:
            words = entry.outcome.capitalize() if entry and entry.outcome in run_log.SUCCESSES else "Completed"
            return Completed(name=words, message=entry.message if entry else last)
        if self.stopped:
            return Cancelled(message="stopped; the next run goes on")
        if code - 128 in set(signal.Signals):
            return Failed(message=f"killed by {signal.Signals(code - 128).name}; log: {self.log}")
        return Failed(message=f"{last or f'exit code {code}'}; log: {self.log}")
