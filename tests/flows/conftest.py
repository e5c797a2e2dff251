"""Fixtures that the tests of the flows share."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from audited import Laboratory
from dvc_project import ENV, Project, prefect_server
from scheduler import Scheduler

from flows.process import file_lock


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    """A folder with names such as users have: every command here must live with them.

    Who decodes the `%20`, or ends the path at the `?`, looks into a folder that is not there.
    """
    folder = tmp_path / "ü%20a" / "#1 ?"
    folder.mkdir(parents=True)
    return folder


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
    mount = f"mount -t tmpfs -o size=3m disk '{tmp_path}/small' && echo mounted && exec sleep 900"
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
def api(prefect_home: Path) -> Iterator[str]:
    """A Prefect server for all the tests that need one."""
    with prefect_server(prefect_home) as address:
        yield address


@pytest.fixture
def start(project: Project) -> Iterator[Callable[..., Scheduler]]:
    """Starts schedulers of the project; those that are left in the end are killed."""
    started: list[Scheduler] = []

    def start(*words: str, **environment: str) -> Scheduler:
        started.append(Scheduler(project, *words, **environment))
        started[-1].ready()
        return started[-1]

    yield start
    for scheduler in started:
        if scheduler.process.poll() is None:
            scheduler.process.kill()
            scheduler.ended(-signal.SIGKILL)


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    """A small laboratory to be audited, made once for all test processes; nobody alters it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "laboratory"
    folder.mkdir(exist_ok=True)
    made = Laboratory(folder / "ü #1 %20?")
    with file_lock.lock(folder / "lock"):
        if not made.old.exists() or len(made.commits) < 2:
            made.make()
    return made
