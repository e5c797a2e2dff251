"""Fixtures that the tests of the flows share."""

import contextlib
import http.client
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from dvc_project import ENV, Project, wait


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
def server_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file into which the server at `api` logs."""
    return tmp_path_factory.mktemp("prefect") / "log"


@pytest.fixture(scope="session")
def api(server_log: Path) -> Iterator[str]:
    """A Prefect server for all the tests that need one."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with server_log.open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            env={**ENV, "PREFECT_HOME": str(server_log.parent)},
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
