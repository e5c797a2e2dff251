"""A disk that is full at a random moment: `python tests/soak/soak_full_disk.py [ROUNDS] [KIND...]`.

10 rounds of each kind: `rebuild`, `retrain`, `schedule`. The working copy lies on a small disk of its own, which
something else fills while the command runs, to the last byte or nearly. The command must end by itself, and name the
full disk where it does not succeed. When there is room again, nothing may be lost, and the next run must end where an
undisturbed one does. Exits 1 at the first that does not.
"""

import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "flows"))
sys.path.insert(0, str(Path(__file__).parents[2]))  # before tests/, which has folders of the same names

import dvc_project
from dvc_project import ENV, Process, Project, prefect_server, wait
from scheduler import Scheduler
from soak_schedule import overdue, words
from test_retrain import IDENTITY, Lab, make_template

from flows.operations import run_log
from flows.registry import history

ROUNDS = 10
FULL = ("No space left on device", "Out of diskspace")  # the system's words, and Git's
SIZE = {"rebuild": 4, "retrain": 64, "schedule": 4}  # MB
SPREAD = float(os.environ.get("SPREAD", "15"))  # seconds in which a run begins and ends


@contextlib.contextmanager
def disk(home: Path, size: int) -> Iterator[Path]:
    """An empty disk of so many MB at `home`."""
    home.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}m", "disk", str(home)], check=True)
    try:
        yield home
    finally:
        subprocess.run(["umount", "--lazy", str(home)], check=True)
        home.rmdir()


class Filler:
    """Fills a disk after a random time, but for a random rest that is mostly small."""

    def __init__(self, home: Path) -> None:
        self.wait, self.rest = random.uniform(0, SPREAD), random.choice([0, 0, random.randrange(40_000)])
        self._file = home / "fill"
        self._free = threading.Event()
        self._thread = threading.Thread(target=self._fill, daemon=True)
        self._thread.start()

    def _fill(self) -> None:
        if self._free.wait(self.wait):
            return
        with self._file.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while not self._free.is_set():  # what others free on the way, too
                left = os.statvfs(file.fileno())
                more = left.f_bavail * left.f_frsize - self.rest
                if more > 0:
                    file.write(bytes(more))
                elif self.rest:
                    return  # the last of it is for the command
                time.sleep(0.01)

    def empty(self) -> None:
        """There is room again."""
        self._free.set()
        self._thread.join()
        self._file.unlink(missing_ok=True)


def said_clearly(process: Process) -> str:
    """The command's last line; exits where that does not tell of a full disk, and the command has failed."""
    text, _ = process.communicate(timeout=dvc_project.PATIENCE)
    last = text.splitlines()[-1] if text else ""
    if process.returncode and ("Traceback" in text or not any(words in last for words in FULL)):
        sys.exit(f"exit {process.returncode}, and its last line does not name the full disk:\n{text}")
    return f"exit {process.returncode}: {last!r}"


def rebuild(home: Path, api: str, plain: str) -> str:
    project = Project(home / "project")
    process = project.start("rebuild", "--jobs", "2", PREFECT_API_URL=api)
    filler = Filler(home)
    said = said_clearly(process)
    filler.empty()
    project.run("rebuild", PREFECT_API_URL=api)
    assert project.lock() == plain
    return f"full after {filler.wait:.1f} s but for {filler.rest} B: {said}"


def retrain(home: Path, api: str, _: str) -> str:
    shutil.copytree(home.with_name("template"), home, dirs_exist_ok=True)
    lab = Lab(home)
    lab.unplug()
    lab.photos("fair")
    with lab.untouched():
        process = lab.start(PREFECT_API_URL=api)
        filler = Filler(home)
        said = said_clearly(process)
        filler.empty()
        lab.run(PREFECT_API_URL=api)
    assert [entry.decision.outcome for entry in history.read(lab.git)] == ["promoted"]
    assert lab.git.commit("promoted") == lab.git.commit("candidates")
    assert set(lab.git("tag", "--list").split()) == {"face-net@v1.0.0", "face-net#prod#1"}
    return f"full after {filler.wait:.1f} s but for {filler.rest} B: {said}"


def schedule(home: Path, api: str, plain: str) -> str:
    project = Project(home / "project")
    overdue(project)
    scheduler = Scheduler(project, *words(), name=home.name, PREFECT_API_URL=api).ready()
    filler = Filler(home)
    deadline = time.monotonic() + SPREAD + random.uniform(0, 10)
    wait(lambda: time.monotonic() > deadline or scheduler.process.poll() is not None)
    assert scheduler.process.poll() is None, scheduler.lines
    filler.empty()
    wait(lambda: not any(run.outcome == "running" for run in run_log.entries(project.home)))
    before = [run.outcome for run in run_log.entries(project.home)]
    scheduler.begin("rebuild")
    done = {*run_log.SUCCESSES}
    wait(lambda: run_log.entries(project.home)[len(before) :] and run_log.entries(project.home)[-1].outcome in done)
    scheduler.stop()
    assert project.lock() == plain
    return f"full after {filler.wait:.1f} s but for {filler.rest} B: {', '.join(before)}, and then completed"


def main(rounds: int, chosen: list[str]) -> None:
    os.environ.update(IDENTITY)
    with tempfile.TemporaryDirectory() as name, prefect_server(Path(name, "prefect")) as api:
        os.environ["PREFECT_HOME"] = ENV["PREFECT_HOME"] = str(Path(name, "client"))
        make_template(Path(name, "template"))
        plain = Project(Path(name, "plain"))
        plain.run("repro")
        for what in chosen:
            for number in range(rounds):
                with disk(Path(name, f"{what}{number}"), SIZE[what]) as home:
                    print(f"{what} {number}: {globals()[what](home, api, plain.lock())}", flush=True)
            print(f"{what}: {rounds} of {rounds}", flush=True)


if __name__ == "__main__":
    if not os.environ.get("MOUNTS_OF_ITS_OWN"):
        os.execvpe("unshare", ["unshare", "-rm", sys.executable, *sys.argv], {**os.environ, "MOUNTS_OF_ITS_OWN": "1"})
    dvc_project.PATIENCE = 600  # beside whatever else the machine does for so long
    dvc_project.FORKED = False
    os.environ.update(ENV)
    given = [int(word) for word in sys.argv[1:] if word.isdigit()]
    main(*(given or [ROUNDS]), [word for word in sys.argv[1:] if not word.isdigit()] or [*SIZE])
