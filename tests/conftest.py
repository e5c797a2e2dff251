"""Fixtures that several test files share."""

import contextlib
import ctypes
import http.client
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from dvc_project import ENV, Project, wait
from hypothesis import settings

# Two tests at once on two cores: threads that spin while they wait would take turns with those that work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A shell's background job ignores Ctrl-C, and its children would too: the tests that press it need it heard.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Large tensors go back to the system as soon as they are let go: glibc would keep them, and a worker only grow.
M_MMAP_THRESHOLD = -3  # malloc.h
with contextlib.suppress(OSError, AttributeError):  # another C library
    ctypes.CDLL("libc.so.6").mallopt(M_MMAP_THRESHOLD, 1 << 20)

# The same examples in every run: a submission fails for what it changed, not for the day's luck.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real photos beside the checkout; tests that need it skip where it is absent."""
    folder = ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("real photos are not here (no ../shared/data)")
    return folder


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", ENV["PATH"])
    return Project(tmp_path)


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The `dvc.lock` that plain `dvc repro` leaves."""
    project = Project(tmp_path_factory.mktemp("plain"))
    project.run("repro")
    return project.lock()


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server for all the tests that need one."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    home = tmp_path_factory.mktemp("prefect")
    with (home / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            env={**ENV, "PREFECT_HOME": str(home)},
            stdout=log,
            stderr=log,
        )

    def answers() -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=5).status == 200
        return False

    try:
        wait(answers)
        yield f"http://127.0.0.1:{port}/api"
    finally:
        server.kill()
        server.wait()
