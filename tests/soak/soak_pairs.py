"""Two commands at once in one working copy: `python tests/soak/soak_pairs.py [ROUNDS] [PAIR...]`, 10 of each pair.

The pairs are a rebuild with another, with `dvc repro`, `dvc push` or `dvc gc`, and a scheduler with another; the second
begins at a random moment of the first. Each must end well, or say in its last line what is in its way; then a rebuild
must find, or bring about, the `dvc.lock` of plain `dvc repro`, and leave nothing in the cache undone. Exits 1 at the
first that does not.
"""

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "flows"))
sys.path.insert(0, str(Path(__file__).parents[2]))  # before tests/, which has folders of the same names

import dvc_project
from dvc_project import ENV, Process, Project, prefect_server
from scheduler import Scheduler
from soak_rebuild import STAGE
from soak_schedule import words

ROUNDS = 10
OTHERS = {
    "rebuild": [sys.executable, "-m", "flows.cli", "rebuild"],
    "repro": ["dvc", "repro"],
    "push": ["dvc", "push"],
    "gc": ["dvc", "gc", "-w", "-f"],
}
REFUSALS = ("is busy", "Unable to acquire lock", "another scheduler runs here")  # DVC's and ours: who is in the way
SPREAD = float(os.environ.get("SPREAD", "8"))  # seconds that a rebuild takes


def ended(process: Process, begun: float) -> tuple[bool, str]:
    """Whether it has done its work, and how it has ended."""
    text, _ = process.communicate(timeout=dvc_project.PATIENCE)
    if process.returncode and not any(refusal in text for refusal in REFUSALS):
        sys.exit(f"exit {process.returncode}, and it does not say what is in its way:\n{text}")
    return not process.returncode, f"exit {process.returncode} after {time.monotonic() - begun:.1f} s"


def pair(project: Project, other: str, api: str) -> str:
    remote = f"['remote \"store\"']\n    url = {project.home}/../{project.home.name}.remote\n"
    (project.home / ".dvc" / "config").write_text(f"[core]\n    analytics = false\n    remote = store\n{remote}")
    (project.home / "stage.py").write_text(STAGE)
    first = project.start("rebuild", "--jobs", "2", PREFECT_API_URL=api)
    one = time.monotonic()
    time.sleep(random.uniform(0, SPREAD))
    two = time.monotonic()
    second = subprocess.Popen(
        OTHERS[other], cwd=project.home, env={**ENV, "PREFECT_API_URL": api},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    done, said = ended(second, two)
    first_done, first_said = ended(first, one)
    assert done or first_done, "neither has done its work"
    return f"rebuild {first_said}; {other}, begun {two - one:.1f} s later, {said}"


def schedulers(project: Project, name: str, api: str) -> str:
    first = Scheduler(project, *words(), name=name, PREFECT_API_URL=api).ready()
    begun = time.monotonic()
    second = project.start("schedule", *words(), "--name", name, PREFECT_API_URL=api)
    done, said = ended(second, begun)
    first.stop()
    assert not done
    return f"the second: {said}"


def main(rounds: int, chosen: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name, prefect_server(Path(name, "prefect")) as api:
        plain = Project(Path(name, "plain"))
        (plain.home / "stage.py").write_text(STAGE)
        plain.run("repro")
        for what in chosen:
            for number in range(rounds):
                project = Project(Path(name, f"{what}{number}"))
                if what == "schedule":
                    print(f"{what} {number}: {schedulers(project, f'pair{number}', api)}", flush=True)
                    continue
                said = pair(project, what, api)
                project.run("rebuild", PREFECT_API_URL=api)
                assert project.lock() == plain.lock()
                assert project.run("repro")[-1] == "Data and pipelines are up to date."
                subprocess.run(["dvc", "push", "-q"], cwd=project.home, env=ENV, check=True)
                for made in (".dvc/cache", "data"):
                    shutil.rmtree(project.home / made)
                subprocess.run(["dvc", "pull", "-q"], cwd=project.home, env=ENV, check=True)
                print(f"{what} {number}: {said}", flush=True)
            print(f"rebuild and {what}: {rounds} of {rounds}" if what != "schedule" else f"two schedulers: {rounds}")


if __name__ == "__main__":
    dvc_project.PATIENCE = 600  # beside whatever else the machine does for so long
    dvc_project.FORKED = False
    os.environ.update(ENV)
    given = [int(word) for word in sys.argv[1:] if word.isdigit()]
    main(*(given or [ROUNDS]), [word for word in sys.argv[1:] if not word.isdigit()] or [*OTHERS, "schedule"])
