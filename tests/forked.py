"""`python -m MODULE` as a process of its own that need not import the libraries: it is forked from one that has.

Importing torch or Prefect takes longer than most of what the tests let a command do. The process that is forked has
imported no file of ours and computed nothing. What a command still has of it, and not from its own environment: the
command line that others see, Python's hash seed, and what a library reads once, at its import (OMP_NUM_THREADS, HOME in
Prefect's case). A test that is about one of these starts an interpreter.
"""

import atexit
import contextlib
import functools
import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import multiprocessing.process
import multiprocessing.util
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

STAGES = ("torch", "lightning_fabric", "pyarrow.parquet", "pydantic")
# All that Prefect imports but `prefect.main`, which sets its logging up as the environment says.
FLOWS = (
    "dvc.cli.parser", "dvc.repo", "dvc.scm", "networkx", "prefect.flows", "prefect.tasks", "prefect.deployments",
    "prefect.events", "fastapi.encoders", "typer", "ruamel.yaml", "tabulate", "configobj", "psutil",
    "securesystemslib.signer", "cryptography.hazmat.primitives.serialization",
)  # fmt: skip
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([*STAGES, *FLOWS])


@functools.cache
def _ready() -> None:
    """The process to be forked is there. Prefect reads its settings at its import: it is to find none of anybody's."""
    kept = dict(os.environ)
    home = tempfile.mkdtemp(prefix="palimpsest-forked-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    try:
        for name in [name for name in os.environ if name.startswith("PREFECT")]:
            del os.environ[name]
        os.environ.update(DO_NOT_TRACK="1", PREFECT_HOME=home)
        multiprocessing.forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(kept)


class Forked:
    """The process, with the names that `subprocess.Popen` has; its errors go where its output goes, or `apart`."""

    def __init__(
        self, module: str, words: Sequence[str], home: Path, env: Mapping[str, str], *, apart: bool = False
    ) -> None:
        _ready()
        ways = [CONTEXT.Pipe(duplex=False) for _ in range(1 + apart)]
        into = [writer for _, writer in ways]
        self._process = CONTEXT.Process(target=_become, args=(module, list(words), home, dict(env), into))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid
        multiprocessing.util.Finalize(None, self.kill, exitpriority=0)  # else the end of pytest would wait for it
        self._streams = []
        for reader, writer in ways:
            self._streams.append(os.fdopen(os.dup(reader.fileno()), encoding="utf-8", errors="replace"))
            reader.close()
            writer.close()
        self.stdout = self._streams[0]
        self._said: dict[int, str] = {}
        self._readers: list[threading.Thread] = []

    def poll(self) -> int | None:
        return self._process.exitcode

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if (code := self._process.exitcode) is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout or 0)
        return code

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
                raise subprocess.TimeoutExpired(str(self._process), timeout or 0)
        self.wait(None if end is None else max(0.0, end - time.monotonic()))
        return self._said[0], self._said.get(1)

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


def _become(
    module: str,
    words: list[str],
    home: Path,
    env: dict[str, str],
    into: list[multiprocessing.connection.Connection],
) -> None:
    os.chdir(home)
    os.environ.clear()
    os.environ.update(env)
    for stream, way in ((1, into[0]), (2, into[-1])):
        os.dup2(way.fileno(), stream)
    for way in into:
        way.close()
    random.seed()
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()
    own = Path(__file__).parent
    path = [str(home), *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    sys.path[:] = [*path, *(name for name in sys.path if not Path(name).is_relative_to(own))]
    multiprocessing.process.ORIGINAL_DIR = str(home)
    sys.argv[1:] = words
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:  # as an interpreter ends, and a forked process does not
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
