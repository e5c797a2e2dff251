"""kill -9 at random moments: `python tests/bench/soak_schedule.py [N [KIND...]]`, 30 of each kind.

The kinds are `scheduler`, its `run` and its `server`. A run is overdue when the scheduler starts.
After the kill, a scheduler that is started again (or that is still there) must catch up, once, to the `dvc.lock` of
plain `dvc repro`; SIGTERM must end it with exit code 0; Prefect must know of no run that still runs; and no process
may be left. Exits 1 at the first that does not.
"""

import contextlib
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

import dvc_project
from conftest import api
from dvc_project import ENV, Project, post, wait
from test_schedule import NEVER, Scheduler, the

from flows import journal, timetable

DAILY = {"retrain": NEVER, "rebuild": "0 3 * * *"}
SPREAD = float(os.environ.get("SPREAD", "12"))  # seconds in which an overdue run begins and ends


def words() -> list[str]:
    return ["--cron", DAILY["retrain"], "--rebuild-cron", DAILY["rebuild"], "--timezone", "UTC"]


def overdue(project: Project) -> None:
    since = dict.fromkeys(DAILY, (datetime.now(UTC) - timedelta(days=9)).isoformat())
    timetable.write(project.home, timetable.Timetable(1, None, None, "UTC", DAILY, since, {}))


def kill_the_scheduler(project: Project, name: str, api: str) -> None:
    process = project.start("schedule", *words(), "--name", name, PREFECT_API_URL=api)
    begun = random.random() < 0.8  # else while it starts, which takes longest
    while begun and process.poll() is None and not (project.home / ".palimpsest/logs/scheduled").exists():
        time.sleep(0.01)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(random.uniform(0, SPREAD))
    process.kill()
    process.communicate()
    finish(project, Scheduler(project, *words(), name=name, PREFECT_API_URL=api))


def kill_the_run(project: Project, name: str, api: str) -> None:
    scheduler = Scheduler(project, *words(), name=name, PREFECT_API_URL=api)
    wait(lambda: journal.entries(project.home))
    time.sleep(random.uniform(0, SPREAD / 2))
    with contextlib.suppress(ValueError, psutil.NoSuchProcess):
        the(scheduler.family(), "rebuild").kill()
    wait(lambda: journal.entries(project.home)[-1].outcome != "running")
    if journal.entries(project.home)[-1].outcome == "killed":  # nobody does it again before it is due again
        scheduler.begin("rebuild")
    finish(project, scheduler)


def kill_the_server(project: Project, name: str, _: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    scheduler = Scheduler(project, *words(), "--port", port, name=name)
    time.sleep(random.uniform(0, SPREAD))
    the(scheduler.family(), "server").kill()
    scheduler.said("it is started again")
    scheduler.said("answers again")
    finish(project, scheduler)


def finish(project: Project, scheduler: Scheduler) -> None:
    try:
        wait(lambda: any(run.outcome in journal.SUCCESSES for run in journal.entries(project.home)))
    except AssertionError:
        print(*scheduler.lines, *journal.entries(project.home), sep="\n")
        scheduler.process.kill()
        raise
    running = {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}}
    mine = {"deployments": {"name": {"any_": [scheduler.name]}}}
    wait(lambda: not post(scheduler.api, "flow_runs", {**running, **mine}))
    scheduler.stop()


KINDS = {"scheduler": kill_the_scheduler, "run": kill_the_run, "server": kill_the_server}


def main(rounds: int, kinds: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        plain = Project(Path(folder, "plain"))
        plain.run("repro")

        class Factory:  # as pytest's
            @staticmethod
            def mktemp(name: str) -> Path:
                return Path(tempfile.mkdtemp(prefix=name, dir=folder))

        with contextlib.contextmanager(api.__wrapped__)(Factory) as address:
            for kind in kinds:
                kill = KINDS[kind]
                for number in range(rounds):
                    name = f"{kill.__name__}{number}"
                    project = Project(Path(folder, name))
                    overdue(project)
                    kill(project, name, address)
                    runs = [run.outcome for run in journal.entries(project.home)]
                    same = project.lock() == plain.lock()
                    here = [p for p in psutil.process_iter(["cwd"]) if p.info["cwd"] == str(project.home)]
                    print(
                        f"{kill.__name__} {number}: {', '.join(runs)}; lock {'the same' if same else 'DIFFERS'}; "
                        f"{len(here)} left",
                        flush=True,
                    )
                    if not same or here:
                        return 1
    return 0


if __name__ == "__main__":
    dvc_project.PATIENCE = 600  # beside whatever else the machine does for so long
    os.environ.update(ENV)
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 30, sys.argv[2:] or list(KINDS)))
