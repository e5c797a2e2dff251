"""kill -9 at random moments: `python tests/soak/soak_rebuild.py [flow | stage | server | container | force] [ROUNDS]`.

Of the flow, of a stage, of Prefect's server, and of a container-like PID namespace, whose next rebuild has the same
PIDs: 30 of each; then 40 forced rebuilds in a row. After every kill, and
nothing done by hand, one more rebuild must end in the `dvc.lock` and the outputs of plain `dvc repro`, with no
process of the killed one left. Exits 1 at the first that does not.
"""

import collections
import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "flows"))
sys.path.insert(0, str(Path(__file__).parents[2]))  # before tests/, which has folders of the same names

import dvc_project
from dvc_project import ENV, Process, Project, end, prefect_server
from test_rebuild import NAMESPACE

dvc_project.PATIENCE = 600  # seconds: a machine that soaks does other things too
dvc_project.FORKED = False

ROUNDS = 30
FORCED = 40
STAGES = 5

# Writes its output in two halves, so that there is something torn to be found.
STAGE = """
import os, sys, time
from pathlib import Path
name, out, *inputs = sys.argv[1:]
with open(".palimpsest/trace", "a") as trace:
    trace.write(f"{name} {os.getpid()} - -\\n")
print(name, "begins")
text = name + "".join(Path(i).read_text() for i in inputs)
Path(out).parent.mkdir(exist_ok=True)
with open(out, "w") as file:
    file.write(text[:1])
    file.flush()
    time.sleep(0.3)
    file.write(text[1:])
"""


class Soaked(Project):
    def __init__(self, home: Path) -> None:
        super().__init__(home)
        (home / "stage.py").write_text(STAGE)

    def contained(self, api: str) -> Process:
        """A rebuild in a PID namespace of its own, where it is PID 1; to kill it kills all in there."""
        return subprocess.Popen(
            [*NAMESPACE, sys.executable, "-m", "flows.cli", "rebuild", "--jobs", "2"],
            cwd=self.home, env={**ENV, "PREFECT_API_URL": api},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def end(self) -> dict[str, str]:
        """What a rebuild leaves."""
        files = [self.home / "dvc.lock", *sorted((self.home / "data").iterdir())]
        return {str(file.relative_to(self.home)): file.read_text() for file in files}

    def processes(self) -> list[psutil.Process]:
        return [one for one in psutil.process_iter(["cwd"]) if one.info["cwd"] == str(self.home)]


def moment(process: Process, project: Project) -> str:
    """Wait for a random moment of a rebuild; which one it was."""

    def until(reached: Callable[[], object]) -> None:
        while not reached() and process.poll() is None:
            time.sleep(0.001)

    kind = random.choice(["at first", *3 * ["after a stage began", "in a dump", "after a dump"]])
    if kind == "at first":
        time.sleep(random.uniform(0, 3))
        return kind
    begun = random.randint(1, STAGES)
    until(lambda: len(project.trace()) >= begun)
    lock, draft = project.home / "dvc.lock", project.home / ".dvc" / "tmp" / "palimpsest.dvc.lock"
    if kind == "in a dump":
        until(draft.exists)
    elif kind == "after a dump":
        before = lock.read_text() if lock.exists() else ""
        until(lambda: lock.exists() and lock.read_text() != before)
        time.sleep(random.uniform(0, 0.05))
    else:
        time.sleep(random.uniform(0, 0.6))
    return kind


def kill_flow(process: Process, project: Project) -> str:
    when = moment(process, project)
    process.kill()
    return when


def kill_container(process: Process, project: Project) -> str:
    return kill_flow(process, project)


def kill_stage(process: Process, project: Project) -> str:
    victim = random.choice(["gen", "a", "b", "c", "report"])
    while victim not in project.trace() and process.poll() is None:
        time.sleep(0.001)
    time.sleep(random.uniform(0, 0.3))
    with contextlib.suppress(KeyError, psutil.NoSuchProcess):
        psutil.Process(int(project.trace()[victim][0])).kill()
    return victim


def kill_server(process: Process, project: Project) -> str:
    """The process itself, not its supervisor."""
    home = str(project.home)
    while process.poll() is None:
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if "server" in child.cmdline() and "-I" not in child.cmdline() and child.cwd() == home:
                    when = moment(process, project)
                    child.kill()
                    return when
        time.sleep(0.01)
    return "never"


def soak(kill: Callable[[Process, Project], str], rounds: int, folder: Path, api: str) -> None:
    plain = Soaked(folder / "plain")
    plain.run("repro")
    begun = collections.Counter[str]()
    for number in range(rounds):
        project = Soaked(folder / f"round{number}")
        environment = {"PREFECT_HOME": str(folder / "own")} if kill is kill_server else {"PREFECT_API_URL": api}
        contained = kill is kill_container
        process = project.contained(api) if contained else project.start("rebuild", "--jobs", "2", **environment)
        when = kill(process, project)
        said, _ = process.communicate(timeout=dvc_project.PATIENCE)
        done = len(project.trace())
        again = project.contained(api) if contained else project.start("rebuild", "--jobs", "2", PREFECT_API_URL=api)
        last = end(again)[-1]
        same = project.end() == plain.end()
        left = project.processes()
        line = said.splitlines()[-1] if said else ""
        begun[f"{when}, {done} begun"] += 1
        print(f"{kill.__name__} {number}: {when}, {done} begun, exit {process.returncode}: {line!r}; then {last!r}")
        # Stages begin before the server answers; one that is killed until then ends the rebuild, with its name.
        lost = kill is kill_server and process.returncode and done and "Prefect's server did not start" not in line
        if not same or left or lost:
            sys.exit(f"{said}\nlock and outputs: {'the same' if same else 'DIFFER'}; left: {left}")
        shutil.rmtree(project.home)
    print(
        f"{kill.__name__}: {rounds} of {rounds} ended as plain repro does; kills by moment: {dict(begun)}", flush=True
    )
    shutil.rmtree(plain.home)


def force(rounds: int, folder: Path, api: str) -> None:
    plain = Soaked(folder / "plain")
    plain.run("repro")
    project = Soaked(folder / "forced")
    for _ in range(rounds):
        shutil.rmtree(project.home / "data", ignore_errors=True)
        shutil.rmtree(project.home / ".palimpsest")
        shutil.rmtree(project.home / ".dvc" / "tmp", ignore_errors=True)
        (project.home / ".palimpsest").mkdir()
        last = project.run("rebuild", "--force", "--jobs", "4", PREFECT_API_URL=api)[-1]
        if project.end() != plain.end() or last != f"rebuild: {STAGES} ran":
            sys.exit(f"forced: {last}; the end is not that of plain repro")
    print(f"forced: {rounds} of {rounds} ended as plain repro does", flush=True)
    shutil.rmtree(plain.home)


def main(words: list[str]) -> None:
    kills = {"flow": kill_flow, "stage": kill_stage, "server": kill_server, "container": kill_container}
    rounds = next((int(word) for word in words if word.isdigit()), None)
    chosen = [word for word in words if not word.isdigit()] or [*kills, "force"]
    with tempfile.TemporaryDirectory() as name, prefect_server(Path(name, "prefect")) as api:
        for what in chosen:
            if what == "force":
                force(rounds or FORCED, Path(name), api)
            else:
                soak(kills[what], rounds or ROUNDS, Path(name), api)


if __name__ == "__main__":
    os.environ.update(ENV)
    main(sys.argv[1:])
