"""`python -m MODULE` as a process of its own that need not import the libraries: it is forked from one that has.

Importing torch or Prefect takes longer than most of what the tests let a command do. The process that is forked has
imported no file of ours, read no setting and computed nothing, so a command begins in it as in a new interpreter.
"""

import atexit
import multiprocessing
import multiprocessing.connection
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

STAGES = ("torch", "lightning_fabric", "pyarrow", "pydantic")
# All that Prefect imports but `prefect.main`, which sets its logging up as the environment says.
FLOWS = ("dvc.repo", "networkx", "prefect.flows", "prefect.tasks", "prefect.deployments", "prefect.events")
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([*STAGES, *FLOWS])


class Forked:
    """The process, with the names that `subprocess.Popen` has; its errors go where its output goes, or `apart`."""

    def __init__(
        self, module: str, words: Sequence[str], home: Path, env: Mapping[str, str], *, apart: bool = False
    ) -> None:
        ways = [CONTEXT.Pipe(duplex=False) for _ in range(1 + apart)]
        into = [writer for _, writer in ways]
        self._process = CONTEXT.Process(target=_become, args=(module, list(words), home, dict(env), into))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid
        self._streams = []
        for reader, writer in ways:
            self._streams.append(os.fdopen(os.dup(reader.fileno()), encoding="utf-8"))
            reader.close()
            writer.close()
        self.stdout = self._streams[0]

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
        said: dict[int, str] = {}
        readers = [
            threading.Thread(target=lambda i=i, stream=stream: said.update({i: stream.read()}), daemon=True)
            for i, stream in enumerate(self._streams)
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(timeout)
            if reader.is_alive():
                raise subprocess.TimeoutExpired(str(self._process), timeout or 0)
        for stream in self._streams:
            stream.close()
        self.wait(timeout)
        return said[0], said.get(1)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
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
    sys.argv[1:] = words
    own = str(Path(__file__).parent)
    sys.path[:] = ["", *env.get("PYTHONPATH", "").split(os.pathsep), *(p for p in sys.path if not p.startswith(own))]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:  # as an interpreter ends, and a forked process does not
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
