"""A tiny DVC project whose stages a test can hold, fail and watch; and a Prefect server's answers."""

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from forked import Forked, python, stands_for

from flows.process import supervisor

Process = Forked | subprocess.Popen[str]

ROOT = Path(__file__).parent.parent
ENV = {
    **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT")},
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "PYTHONPATH": str(ROOT),
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}
PATIENCE = 120  # seconds, on a machine that others use
_held: list[socket.socket] = []  # the ports of `free_port`
FORKED = True  # whether commands are forked from a process that has imported their libraries; not in a soak

STAGE = """
import os, sys, time
from pathlib import Path
name, out, *inputs = sys.argv[1:]
home = Path(os.environ.get("PROJECT", "."))  # where the test watches
with (home / ".palimpsest/trace").open("a") as trace:
    trace.write(f"{name} {os.getpid()} {os.environ.get('OMP_WAIT_POLICY')} {os.getcwd()}\\n")
print(name, "begins")
while Path(home, "control", name + ".hold").exists():
    time.sleep(0.02)
if Path(home, "control", name + ".fail").exists():
    sys.exit(f"{name} fails")
if Path(home, "control", name + ".edit").exists():
    Path(inputs[0]).write_text("edited")
Path(out).parent.mkdir(exist_ok=True)
Path(out).write_text(name + "".join(Path(i).read_text() for i in inputs))
"""

PIPELINE = {
    # `||` keeps the shell there, as a process between the two.
    "gen": {
        "cmd": "python stage.py gen data/gen seed || exit $?",
        "deps": ["stage.py", "seed"],
        "outs": ["data/gen"],
    },
    "mid": {
        "foreach": {"a": {"cores": 1}, "b": {"cores": 1}, "c": {"cores": 2}},
        "do": {
            "cmd": "python stage.py ${key} data/${key} data/gen || exit $?",
            "deps": ["stage.py", "data/gen"],
            "outs": ["data/${key}"],
            "meta": {"cores": "${item.cores}"},
        },
    },
    "report": {
        "cmd": "python stage.py report data/report data/a data/b data/c",
        "deps": ["stage.py", "data/a", "data/b", "data/c"],
        "outs": ["data/report"],
    },
}

# Of the folder that one stage makes, another reads a single file.
FOLDER = {
    "align": {
        "cmd": "mkdir -p data/aligned && cp train test data/aligned",
        "deps": ["train", "test"],
        "outs": ["data/aligned"],
    },
    "train": {
        "cmd": "python stage.py train data/model data/aligned/train",
        "deps": ["stage.py", "data/aligned/train"],
        "outs": ["data/model"],
    },
}

# Fills the disk that the current folder is on, but for so many bytes.
FILL = """
import os, sys
free = os.statvfs(".")
with open("fill", "wb") as file:
    file.write(bytes(free.f_bavail * free.f_frsize - int(sys.argv[1])))
"""


def command(
    module: str, words: Sequence[str], home: Path, env: Mapping[str, str], before: Sequence[str] = ()
) -> Process:
    """`python -m MODULE WORDS` in the folder `home`; words `before` it begin it, as `nsenter` does."""
    if not FORKED:
        return _spawned([*before, sys.executable, "-m", module, *words], home, env)
    env = {"FORKED_PYTHON": python(), **env}
    if not before:
        return Forked(module, words, home, env)
    return _spawned([*before, python(), "-m", module, *words], home, env)


def dvc(home: Path, *words: str) -> str:
    """`dvc WORDS` to its end, in the folder `home`: what it prints."""
    return "\n".join(end(command("dvc", words, home, ENV)))


def _spawned(words: Sequence[str], home: Path, env: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(words, cwd=home, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


class Project:
    """A DVC repository in `home`: `gen`, then `mid@a`, `mid@b` and `mid@c` (which takes two cores), then `report`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.words: list[str] = []  # by which its commands are begun
        home.mkdir(parents=True, exist_ok=True)
        subprocess.run(["git", "init", "-q", str(home)], check=True)
        for folder in (".dvc", ".palimpsest", "control"):
            (home / folder).mkdir()
        (home / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
        (home / ".gitignore").write_text("/data/\n/.palimpsest/\n/control/\n")
        (home / "stage.py").write_text(STAGE)
        (home / "seed").write_text("1")
        self.pipeline(PIPELINE)

    def pipeline(self, stages: dict) -> None:
        (self.home / "dvc.yaml").write_text(json.dumps({"stages": stages}))

    def start(self, *words: str, **environment: str) -> Process:
        """`palimpsest WORDS`, or `dvc repro`."""
        module = "dvc" if words[0] == "repro" else "flows.cli"
        return command(module, words, self.home, {**ENV, **environment}, self.words)

    def run(self, *words: str, code: int = 0, **environment: str) -> list[str]:
        """The lines that the command prints."""
        return end(self.start(*words, **environment), code)

    def control(self, name: str) -> Path:
        return self.home / "control" / name

    def trace(self) -> dict[str, list[str]]:
        """Of each stage that has begun, at the last time: its process, its OMP_WAIT_POLICY and its folder."""
        file = self.home / ".palimpsest" / "trace"
        lines = file.read_text().splitlines() if file.exists() else []
        return {name: rest for name, *rest in (line.split(" ", 3) for line in lines)}

    def lock(self) -> str:
        return (self.home / "dvc.lock").read_text()


def drawing(home: Path, way: str = "") -> Project:
    """The stage `draw`, which leaves records, committed in a repository at `home` whose folder `way` is the project."""
    project = Project(home / way)
    root = project.home
    shutil.copytree(ROOT / "stages", root / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "params.yaml").write_text("draw: {count: 1, side: 64, seed: 1}\n")
    draw = {"cmd": "python -m stages.draw --portraits data/raw/portraits", "params": ["draw"],
            "deps": ["stages/draw.py"], "outs": ["data/raw/portraits"]}  # fmt: skip
    project.pipeline({"draw": draw})
    if way:
        shutil.move(root / ".git", home)
    for words in (["add", "-A"], ["-c", "user.name=Ada", "-c", "user.email=a@example.org", "commit", "-qm", "first"]):
        subprocess.run(["git", *words], cwd=home, check=True)
    return project


def end(process: Process, code: int = 0, patience: float = PATIENCE) -> list[str]:
    out, _ = process.communicate(timeout=patience)
    assert process.returncode == code, out
    return out.splitlines()


def gone(pid: int) -> bool:
    """Whether the process has ended; one that nobody has reaped has."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def server_of(process: Process) -> psutil.Process:
    """The Prefect server that a command has started for itself."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # one that has ended meanwhile
            words = child.cmdline()
            found += [child] * ("server" in words and supervisor.__file__ not in words)
    (server,) = found
    if (forked := stands_for(server)) == server and FORKED:
        raise ValueError("it is not there yet")
    return forked


def wait(reached: Callable[[], object]) -> None:
    """Look until it is reached, a fifth of the time at most: a server that is asked all the time does little else."""
    limit = time.monotonic() + PATIENCE
    while True:
        begun = time.monotonic()
        if reached():
            return
        assert begun < limit, "waited in vain"
        time.sleep(max(0.02, 4 * (time.monotonic() - begun)))


def free_port() -> int:
    """A port for a server; nobody else is given it while this process lives."""
    probe = socket.socket()
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # so that a server may have it all the same
    probe.bind(("127.0.0.1", 0))
    _held.append(probe)
    return probe.getsockname()[1]


def start_prefect_server(home: Path, before: Sequence[str] = (), **options: Any) -> tuple[subprocess.Popen, str]:
    """A Prefect server with its PREFECT_HOME at `home`, which logs into `home/log`; and its API's address.

    Words `before` it begin its command; `options` are Popen's.
    """
    port = str(free_port())
    interpreter = python() if FORKED else sys.executable
    words = [interpreter, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
    with (home / "log").open("w") as log:
        environment = {**ENV, "PREFECT_HOME": str(home)}
        server = subprocess.Popen([*before, *words], env=environment, stdout=log, stderr=log, **options)

    def answers() -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=5).status == 200
        return False

    wait(answers)
    return server, f"http://127.0.0.1:{port}/api"


@contextlib.contextmanager
def prefect_server(home: Path) -> Iterator[str]:
    """The same, while the block runs: its API's address."""
    home.mkdir(exist_ok=True)
    server, address = start_prefect_server(home)
    try:
        yield address
    finally:
        server.kill()
        server.wait()


def post(api: str, what: str, query: dict) -> list[dict]:
    request = urllib.request.Request(
        f"{api}/{what}/filter", json.dumps(query).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def of(home: Path) -> dict[str, dict]:
    """The part of a query by which Prefect answers for the runs of one working copy."""
    return {"flow_runs": {"tags": {"all_": [f"{socket.gethostname()}:{home}"]}}}


def states(api: str, home: Path) -> dict[str, str]:
    """Of each stage, its state in the latest run of a working copy that Prefect knows of."""
    runs = post(api, "flow_runs", {**of(home), "sort": "START_TIME_DESC", "limit": 1})
    if not runs:
        return {}
    run = runs[0]["id"]
    tasks = post(api, "task_runs", {"flow_runs": {"id": {"any_": [run]}}})
    return {one["name"]: one["state_name"] for one in tasks}
