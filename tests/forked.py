"""`python -m MODULE` as a process of its own that need not import the libraries: it is forked from one that has.

Importing torch or Prefect takes longer than most of what the tests let a command do. `fork_server` says what such a
process has not from its own environment. A test that is about one of these starts an interpreter.
"""

import atexit
import contextlib
import functools
import multiprocessing.spawn
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import fork_client
import fork_server
import psutil

from flows.process import file_lock

# One server for all processes of a test run: the first of them names its folder.
NAME = "PALIMPSEST_FORK_SERVER"
if NAME not in os.environ:
    os.environ[NAME] = tempfile.mkdtemp(prefix="forked-")
    atexit.register(shutil.rmtree, os.environ[NAME], ignore_errors=True)
HOME = Path(os.environ[NAME])
SERVER = HOME / "socket"
PYTHON = HOME / "bin" / "python"  # an interpreter for others to start; `python()` makes it


@functools.cache
def server() -> str:
    """The address of the process to be forked; it is there as long as this process is."""
    with file_lock.lock(HOME / "lock"):
        if (held := _connected()) is None:
            SERVER.unlink(missing_ok=True)
            # Prefect reads its settings at its import: it is to find none of anybody's.
            mine = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "PYTHONPATH"))}
            mine.update(DO_NOT_TRACK="1", PREFECT_HOME=str(HOME / "prefect"))
            process = subprocess.Popen([sys.executable, fork_server.__file__, str(SERVER)], env=mine,
                                       stdin=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
            while (held := _connected()) is None:
                assert process.poll() is None
                time.sleep(0.02)
            process.returncode = 0  # nobody waits for it
    atexit.register(held.close)
    return str(SERVER)


def _connected() -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.connect(str(SERVER))
    except OSError:
        connection.close()
        return None
    return connection


@functools.cache
def python() -> str:
    """The path of a `python` whose processes are forked: `-m` and `-c`; for others it is the real one.

    With this in the variable FORKED_PYTHON, a forked process begins its own children by it.
    """
    words = shlex.join([sys.executable, "-I", "-S", fork_client.__file__, server()])
    with file_lock.lock(HOME / "lock"):
        PYTHON.parent.mkdir(exist_ok=True)
        # The last one tells others that all are there: to write one anew while it is executed would fail.
        for name, module in {"dvc": " -m dvc", "palimpsest": " -m flows.cli", PYTHON.name: ""}.items():
            if not PYTHON.exists():
                draft = PYTHON.with_name(f"{name}.draft")
                draft.write_text(f'#!/bin/sh\nexec {words}{module} "$@"\n')
                draft.chmod(0o755)
                draft.rename(PYTHON.with_name(name))
    return str(PYTHON)


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """Variables by which `python`, `dvc` and `palimpsest`, and what these start, are forked."""
    path = os.pathsep.join([str(PYTHON.parent), str(Path(sys.executable).parent), env["PATH"]])
    return {**env, "PATH": path, "FORKED_PYTHON": python()}


@contextlib.contextmanager
def spawning() -> Iterator[None]:
    """What `multiprocessing` spawns here meanwhile is forked as well."""
    before = multiprocessing.spawn.get_executable()
    multiprocessing.set_executable(python())
    try:
        yield
    finally:
        multiprocessing.set_executable(before)


def family(process: psutil.Process) -> list[psutil.Process]:
    """A process and all that it has started; with an interpreter of `python`, what this stands for."""
    found = [process]
    with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
        for child in process.children():
            found += family(child)
        if (other := stands_for(process)) != process:
            found += family(other)
    return found


def stands_for(process: psutil.Process) -> psutil.Process:
    """The forked process that an interpreter of `python` stands for; another process itself."""
    kind, _, pid = process.name().rpartition(" ")
    return psutil.Process(int(pid)) if f"{kind} " == fork_client.STANDS_FOR else process


class Forked:
    """The process, with the names that `subprocess.Popen` has; its errors go where its output goes, or `apart`."""

    def __init__(
        self, module: str, words: Sequence[str], home: Path, env: Mapping[str, str], *, apart: bool = False
    ) -> None:
        self._code: int | None = None
        ways = [os.pipe() for _ in range(1 + apart)]
        with Path(os.devnull).open("rb") as nothing:
            fds = {0: nothing.fileno(), 1: ways[0][1], 2: ways[-1][1]}
            self._asker, self.pid = fork_client.ask(server(), ["-m", module, *words], str(home), dict(env), fds)
        self._streams = []
        for reader, writer in ways:
            os.close(writer)
            self._streams.append(os.fdopen(reader, encoding="utf-8", errors="replace"))
        self.stdout = self._streams[0]
        self._said: dict[int, str] = {}
        self._readers: list[threading.Thread] = []

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self._code

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def wait(self, timeout: float | None = None) -> int:
        if self._code is None:
            self._asker.settimeout(timeout)
            try:
                self._code = int(self._asker.recv(100))
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0) from None
            self._asker.close()
        return self._code

    def communicate(self, timeout: float | None = None) -> tuple[str, str | None]:
        end = None if timeout is None else time.monotonic() + timeout
        if not self._readers:
            numbers = range(len(self._streams))
            self._readers = [threading.Thread(target=self._read, args=(number,), daemon=True) for number in numbers]
            for reader in self._readers:
                reader.start()
        for reader in self._readers:
            reader.join(None if end is None else max(0.0, end - time.monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        self.wait(None if end is None else max(0.0, end - time.monotonic()))
        return self._said[0], self._said.get(1)

    def __del__(self) -> None:
        self._asker.close()
        for stream in self._streams:
            stream.close()

    def _read(self, which: int) -> None:
        with self._streams[which] as stream:
            self._said[which] = stream.read()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(module: str, words: Sequence[str], home: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """The command to its end."""
    process = Forked(module, words, home, env, apart=True)
    said, errors = process.communicate()
    return subprocess.CompletedProcess([module, *words], process.wait(), said, errors)
