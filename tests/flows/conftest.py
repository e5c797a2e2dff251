"""Fixtures that the tests of the flows share."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from audited import Laboratory
from dvc_project import ENV, Project, start_prefect_server
from scheduler import Scheduler

from flows.process import file_lock, supervisor


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
def prefect_home(together: Path, prefect_database: Path) -> Path:
    """The PREFECT_HOME of `api`."""
    home = together / "prefect"
    with file_lock.lock(together / "prefect.lock"):
        if not home.exists():
            shutil.copytree(prefect_database.parent, home)
    return home


@pytest.fixture(scope="session")
def api(prefect_home: Path) -> Iterator[str]:
    """A Prefect server for all the tests that need one, of all test processes.

    It ends with the last of these, however that ends: its supervisor then reads the end of a pipe that they all hold.
    """
    pipe, address = prefect_home / "pipe", prefect_home / "address"
    with file_lock.lock(prefect_home / "lock"):
        held = None
        with contextlib.suppress(OSError):  # it is not there, or nobody reads: the server has ended
            held = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            os.set_blocking(held, True)
        if held is None:
            pipe.unlink(missing_ok=True)
            os.mkfifo(pipe)
            end = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # else it would wait for one that writes
            held = os.open(pipe, os.O_WRONLY)
            os.set_blocking(end, True)
            words = [sys.executable, "-I", "-S", supervisor.__file__]
            server, found = start_prefect_server(prefect_home, words, stdin=end, start_new_session=True)
            server.returncode = 0  # nobody here waits for it
            os.close(end)
            address.write_text(found)
    yield address.read_text()
    os.close(held)


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
def lab(together: Path) -> Laboratory:
    """A small laboratory to be audited, made once for all test processes; nobody alters it."""
    folder = together / "laboratory"
    folder.mkdir(exist_ok=True)
    made = Laboratory(folder / "ü #1 %20?")
    with file_lock.lock(folder / "lock"):
        if not made.old.exists() or len(made.commits) < 2:
            made.make()
    return made
