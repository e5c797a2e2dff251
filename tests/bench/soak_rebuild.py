"""kill -9 of the flow or of a stage, at random moments: `python tests/bench/soak_rebuild.py [ROUNDS]`, 30 of each.

After every kill one more rebuild must end in the `dvc.lock` of plain `dvc repro`, and no process of the killed
one may be left. Exits 1 at the first that does not.
"""

import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from test_rebuild import ENV, Project

SPREAD = 3.0  # seconds, in which all stages run


def kill_the_flow(process: subprocess.Popen[str], project: Project) -> None:
    among_stages = random.random() < 0.8  # else while the server starts, which takes longest
    while among_stages and "gen" not in project.trace() and process.poll() is None:
        time.sleep(0.005)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(random.uniform(0, SPREAD))
    process.kill()


def kill_a_stage(process: subprocess.Popen[str], project: Project) -> None:
    victim = random.choice(["gen", "a", "b", "c", "report"])
    while victim not in project.trace() and process.poll() is None:
        time.sleep(0.005)
    time.sleep(random.uniform(0, 0.1))
    with contextlib.suppress(KeyError, psutil.NoSuchProcess):
        psutil.Process(int(project.trace()[victim][0])).kill()


def main(rounds: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        plain = Project(Path(folder, "plain"))
        plain.run("repro")
        for number in range(rounds):
            for kill in (kill_the_flow, kill_a_stage):
                project = Project(Path(folder, f"{kill.__name__}{number}"))
                process = project.start("rebuild", "--jobs", "2")
                kill(process, project)
                said, _ = process.communicate()
                end = project.run("rebuild", "--jobs", "2")[-1]
                same = project.lock() == plain.lock()
                here = [p for p in psutil.process_iter(["cwd"]) if p.info["cwd"] == str(project.home)]
                print(f"{kill.__name__} {number}: {end}; lock {'the same' if same else 'DIFFERS'}; {len(here)} left")
                if not same or here:
                    print(said)
                    return 1
    return 0


if __name__ == "__main__":
    os.environ.update(ENV)
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 30))
