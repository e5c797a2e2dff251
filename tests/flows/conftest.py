"""Fixtures that the tests of the flows share."""

import contextlib
import http.client
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from dvc_project import ENV, Project, wait


@pytest.fixture
def project(tmp_path: Path, prefect_database: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", ENV["PATH"])
    project = Project(tmp_path)
    (tmp_path / ".palimpsest" / "prefect").mkdir()
    shutil.copy(prefect_database, tmp_path / ".palimpsest" / "prefect")
    return project


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The `dvc.lock` that plain `dvc repro` leaves."""
    project = Project(tmp_path_factory.mktemp("plain"))
    project.run("repro")
    return project.lock()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[list[str]]:
    """A disk of 3 MB on `tmp_path / "small"`: the words with which a command sees it."""
    (tmp_path / "small").mkdir()
    mount = f"mount -t tmpfs -o size=3m disk {tmp_path}/small && echo mounted && exec sleep 900"
    holder = subprocess.Popen(["unshare", "-rm", "sh", "-c", mount], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert holder.stdout is not None
    try:
        if not holder.stdout.readline():
            pytest.skip("no disk may be mounted here")
        enter = ["nsenter", "-t", str(holder.pid), "-U", "-m", "--preserve-credentials"]
        yield [*enter, "sh", "-c", 'cd "$0" && exec "$@"', f"{tmp_path}/small"]
    finally:
        holder.kill()
        holder.communicate()


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory, prefect_database: Path) -> Path:
    """The PREFECT_HOME of `api`."""
    home = tmp_path_factory.mktemp("prefect")
    shutil.copy(prefect_database, home)
    return home


@pytest.fixture(scope="session")
def server_log(prefect_home: Path) -> Path:
    """The file into which the server at `api` logs."""
    return prefect_home / "log"


@pytest.fixture(scope="session")
def api(prefect_home: Path, server_log: Path) -> Iterator[str]:
    """A Prefect server for all the tests that need one."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with server_log.open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            env={**ENV, "PREFECT_HOME": str(prefect_home)},
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
