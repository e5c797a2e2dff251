"""Commands whose output is read line by line. They do not outlive this process: `supervisor` sees to that."""

from __future__ import annotations

import contextlib
import functools
import io
import math
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

from flows.process import supervisor, words

Say = Callable[[str], None]  # gets one line of text, without its end

POLL = 0.5  # seconds
PROGRESS = 10  # seconds between two shown states of a progress bar
LONGEST = 10_000  # characters of a line


class Command:
    """A supervised process. A `with` block ends it, and all that it has started, at the latest."""

    def __init__(self, command: Sequence[str], **options: Any) -> None:
        """Start it; `options` are those of `subprocess.Popen`."""
        self.last = ""  # the last line so far that was not blank
        self._process = supervisor.start(command, **options)
        self._reader: threading.Thread | None = None

    def lines(self) -> Iterator[str]:
        """What it prints, as it prints it, until it ends."""
        for line in lines(io.BufferedReader(Output(self._process))):
            self.last = line.strip() or self.last
            yield line

    def listen(self, say: Say) -> None:
        """Call `say` with each line, from another thread. What `say` raises is told once on standard error."""

        def read() -> None:
            told = False
            for line in self.lines():  # to the last: the command would wait for ever for somebody to empty its pipe
                try:
                    say(line)
                except Exception as error:
                    if not told:
                        words.say(f"lines of a command are lost: {error}")
                    told = True

        self._reader = threading.Thread(target=read, daemon=True)
        self._reader.start()

    def silent(self, seconds: float) -> bool:
        """Whether it has ended within that time, and `listen` has passed on all its lines."""
        assert self._reader is not None
        self._reader.join(seconds)
        return not self._reader.is_alive()

    def wait(self, seconds: float | None = None) -> int | None:
        """Its exit code; None where it does not end within that time."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(seconds)
        return None

    def signal(self, number: int) -> None:
        """Send a signal to it and to what it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def kill(self) -> None:
        """Kill it and all that descends from it, even what has left its process group."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def close(self) -> int:
        """Its exit code; it is killed where it has not ended."""
        self.kill()
        code = self._process.wait()
        if self._reader is None or self.silent(10 * POLL):
            assert self._process.stdout is not None
            self._process.stdout.close()
        return code

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Stopped(Exception):
    """Nothing more is to begin, after `Runner.stop`."""

    def __init__(self) -> None:
        super().__init__("stopped before it began")


class Runner:
    """Runs commands, several at once from as many threads, until it is stopped."""

    def __init__(self, *locks: int) -> None:
        """`locks` are descriptors of file locks, which every command keeps as long as it runs."""
        self.stopped = False
        self._locks = locks
        self._running: set[Command] = set()
        self._mutex = threading.Lock()  # for the running ones and `stopped`; never held for long

    def run(self, command: Sequence[str], say: Say, locks: Sequence[int] = (), **options: Any) -> tuple[int, str]:
        """Run a command to its end: its exit code, and its last line that was not blank; `say` gets every line.

        Raises Stopped after `stop`.
        """
        with self._mutex:
            self.check()
            process = Command(command, pass_fds=[*self._locks, *locks], **options)
            self._running.add(process)
        try:
            with process:
                for line in process.lines():
                    say(line)
                return process.wait() or 0, process.last
        finally:
            with self._mutex:
                self._running.discard(process)

    def check(self) -> None:
        """Raise Stopped after `stop`."""
        if self.stopped:
            raise Stopped

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Let no other command begin, and send a signal to those that run. For another thread."""
        with self._mutex:
            self.stopped = True
            for command in self._running:
                command.signal(number)


class Output(io.RawIOBase):
    """What a process prints until it has ended, even where something that it leaves running could print on."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self._process, self._pipe = process, process.stdout.fileno()
        self._news = select.poll()  # `select` knows no descriptor above 1023
        self._news.register(self._pipe, select.POLLIN)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        ended = False
        while not self._news.poll(0 if ended else 1000 * POLL):
            if ended:
                return 0
            ended = self._process.poll() is not None  # and then one look more
        data = os.read(self._pipe, len(buffer))
        buffer[: len(data)] = data
        return len(data)


def lines(output: IO[bytes]) -> Iterator[str]:
    """What a process prints, as lines for a log, each as soon as it is there.

    Of a progress bar, which is written over and over (`\\r`), one state in PROGRESS seconds and the last. Bytes that
    are no UTF-8, and zeros, are escaped; a line of more than LONGEST characters is broken.
    """
    shown, bar = -math.inf, ""
    with io.TextIOWrapper(output, encoding="utf-8", errors="backslashreplace", newline="") as text:
        for piece in iter(functools.partial(text.readline, LONGEST), ""):
            line = piece.rstrip("\r\n").replace("\0", "\\x00")
            if not piece.endswith("\r"):
                bar = ""
                yield line
            elif line and time.monotonic() - shown >= PROGRESS:
                shown, bar = time.monotonic(), ""
                yield line
            elif line:
                bar = line
    if bar:
        yield bar
