"""kill -9 at random moments: `python tests/soak/soak_schedule.py [N [KIND...]]`, 30 of each kind.

The kinds are `scheduler`, its `run` and its `server`. A run is overdue when the scheduler starts.
After the kill, a scheduler that is started again (or that is still there) must catch up, once, to the `dvc.lock` of
plain `dvc repro`; SIGTERM must end it with exit code 0; Prefect must know of no run that still runs; and no process
may be left. Exits 1 at the first that does not.

And `retrain`, killed once for a first candidate and once for a better one. The next run must end with one decision for
each, its branches, tags and remote whole; with nothing of the user's touched; and with no process left.
"""

import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "flows"))
sys.path.insert(0, str(Path(__file__).parents[2]))  # before tests/, which has folders of the same names

import dvc_project
from dvc_project import ENV, Project, free_port, post, prefect_server, wait
from scheduler import NEVER, Scheduler
from test_retrain import IDENTITY, Lab, make_template
from test_schedule import the

from flows.operations import run_log, scheduler_state
from flows.registry import history

DAILY = {"retrain": NEVER, "rebuild": "0 3 * * *"}
RETRAINING = float(os.environ.get("RETRAINING", "20"))  # seconds that a retraining takes
SPREAD = float(os.environ.get("SPREAD", "12"))  # seconds in which an overdue run begins and ends


def words() -> list[str]:
    return ["--cron", DAILY["retrain"], "--rebuild-cron", DAILY["rebuild"], "--timezone", "UTC"]


def overdue(project: Project) -> None:
    since = dict.fromkeys(DAILY, (datetime.now(UTC) - timedelta(days=9)).isoformat())
    scheduler_state.write(project.home, scheduler_state.SchedulerState(1, None, None, "UTC", DAILY, since, {}))


def kill_the_scheduler(project: Project, name: str, api: str) -> None:
    process = project.start("schedule", *words(), "--name", name, PREFECT_API_URL=api)
    begun = random.random() < 0.8  # else while it starts, which takes longest
    while begun and process.poll() is None and not (project.home / ".palimpsest/logs/scheduled").exists():
        time.sleep(0.01)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(random.uniform(0, SPREAD))
    process.kill()
    process.communicate()
    finish(project, Scheduler(project, *words(), name=name, PREFECT_API_URL=api).ready())


def kill_the_run(project: Project, name: str, api: str) -> None:
    scheduler = Scheduler(project, *words(), name=name, PREFECT_API_URL=api).ready()
    wait(lambda: run_log.entries(project.home))
    time.sleep(random.uniform(0, SPREAD / 2))
    with contextlib.suppress(ValueError, psutil.NoSuchProcess):
        the(scheduler.family(), "rebuild").kill()
    wait(lambda: run_log.entries(project.home)[-1].outcome != "running")
    if run_log.entries(project.home)[-1].outcome == "killed":  # nobody does it again before it is due again
        scheduler.begin("rebuild")
    finish(project, scheduler)


def kill_the_server(project: Project, name: str, _: str) -> None:
    port = str(free_port())
    scheduler = Scheduler(project, *words(), "--port", port, name=name).ready()
    time.sleep(random.uniform(0, SPREAD))
    the(scheduler.family(), "server").kill()
    scheduler.said("it is started again")
    scheduler.said("answers again")
    finish(project, scheduler)


def finish(project: Project, scheduler: Scheduler) -> None:
    try:
        wait(lambda: any(run.outcome in run_log.SUCCESSES for run in run_log.entries(project.home)))
    except AssertionError:
        print(*scheduler.lines, *run_log.entries(project.home), sep="\n")
        scheduler.process.kill()
        raise
    running = {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}}
    mine = {"deployments": {"name": {"any_": [scheduler.name]}}}
    wait(lambda: not post(scheduler.api, "flow_runs", {**running, **mine}))
    scheduler.stop()


def kill_a_retraining(lab: Lab, api: str) -> str:
    """At any time, or soon after its decision, which leaves tags and a push to be done; where it was then."""
    before = lab.git.commit("candidates")
    process = lab.start(PREFECT_API_URL=api)
    late = random.random() < 0.4
    while late and lab.git.commit("candidates") == before and process.poll() is None:
        time.sleep(0.001)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(random.uniform(0, RETRAINING / 10 if late else RETRAINING))
    process.kill()
    said, _ = process.communicate()
    return said.splitlines()[-1] if said else "nothing said"


def retrain(rounds: int, folder: Path, api: str) -> None:
    """Raises AssertionError where a kill has left something."""
    os.environ.update(IDENTITY)
    template = make_template(folder / "template")
    for number in range(rounds):
        home = folder / f"retrain{number}"
        shutil.copytree(template, home)
        lab = Lab(home)
        subprocess.run(["dvc", "remote", "add", "-q", "-d", "store", "../remote"], cwd=lab.root, check=True)
        lab.git("commit", "-qam", "A remote")
        lab.unplug()
        decided: list[str] = []
        for level in ("fair", "good"):
            lab.photos(level)
            (lab.root / "dvc.yaml").write_text("half an edit")
            with lab.untouched():
                when = kill_a_retraining(lab, api)
                before = [entry.decision.outcome for entry in history.read(lab.git)][len(decided) :]
                last = lab.run(PREFECT_API_URL=api)[-1]
            decided = [entry.decision.outcome for entry in history.read(lab.git)]
            print(f"retrain {number}: {level}, killed at {when!r}, {before} by then; then {last!r}", flush=True)
            check(lab, level, decided)
        shutil.rmtree(home)


def check(lab: Lab, level: str, decided: list[str]) -> None:
    """One promotion a level; the branches and tags that belong to them; the checkpoint in the remote; nobody left."""
    count = ("fair", "good").index(level) + 1
    assert decided == ["promoted"] * count, decided
    now = history.current(lab.root)
    assert now is not None
    assert now.commit == lab.git.commit("promoted") == lab.git.commit("candidates")
    tags = {f"face-net{mark}" for number in range(count) for mark in (f"@v{number + 1}.0.0", f"#prod#{number + 1}")}
    assert set(lab.git("tag", "--list").split()) == tags
    assert lab.git("rev-parse", f"{now.artifact}@{now.version}^{{commit}}") == now.commit
    clone = lab.home / f"clone of {level}"
    tag = f"{now.artifact}@{now.version}"
    subprocess.run(
        ["git", "-c", "advice.detachedHead=false", "clone", "--quiet", "-b", tag, str(lab.root), str(clone)], check=True
    )
    subprocess.run(["dvc", "pull", "--quiet", "data/models/net.safetensors"], cwd=clone, check=True)
    pulled = (clone / "data/models/net.safetensors").read_bytes()
    assert pulled == (lab.root / "weights" / f"{level}.safetensors").read_bytes()
    left = [one for one in psutil.process_iter(["cwd"]) if Path(one.info["cwd"] or "/").is_relative_to(lab.home)]
    assert not left, left


KINDS = {"scheduler": kill_the_scheduler, "run": kill_the_run, "server": kill_the_server}


def main(rounds: int, kinds: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        plain = Project(Path(folder, "plain"))
        plain.run("repro")

        with prefect_server(Path(folder, "prefect")) as address:
            for kind in kinds:
                if kind == "retrain":
                    retrain(rounds, Path(folder), address)
                    continue
                kill = KINDS[kind]
                for number in range(rounds):
                    name = f"{kill.__name__}{number}"
                    project = Project(Path(folder, name))
                    overdue(project)
                    kill(project, name, address)
                    runs = [run.outcome for run in run_log.entries(project.home)]
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
    dvc_project.FORKED = False
    os.environ.update(ENV)
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 30, sys.argv[2:] or [*KINDS, "retrain"]))
