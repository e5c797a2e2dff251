"""`palimpsest rebuild` against plain `dvc repro` and the bound of the graph: `python tests/bench/bench_rebuild.py`.

A fan-out of stages that sleep (first, then eight at once, then last), from scratch, in one run, Prefect's server
already running. The bound is what a scheduler that costs nothing would take with that many workers. Then what a stage
costs beside its command: the difference between two widths of stages that do nothing. Exits 1 where a goal is missed.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECONDS = 5
WIDTH = 8
WIDER = 40
GOAL = 1.35  # times the bound


def project(home: Path, width: int = WIDTH, seconds: float = SECONDS) -> Path:
    def stage(name: str, *inputs: str) -> dict:
        return {"cmd": f"sleep {seconds} && echo {name} > {name}", "deps": ["seed", *inputs], "outs": [name]}

    middle = [f"middle{i}" for i in range(width)]
    stages = {
        "first": stage("first"),
        **{name: stage(name, "first") for name in middle},
        "last": stage("last", *middle),
    }
    (home / ".dvc").mkdir(parents=True)
    (home / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
    (home / "dvc.yaml").write_text(json.dumps({"stages": stages}))
    (home / "seed").write_text("1")
    (home / ".gitignore").write_text("/first\n/middle*\n/last\n/.palimpsest/\n")
    subprocess.run(["git", "init", "-q"], cwd=home, check=True)
    return home


def seconds(command: list[str], home: Path, env: dict[str, str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, cwd=home, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> int:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        server = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", "4289"],
            env={**env, "PREFECT_HOME": str(base / "prefect")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            env["PREFECT_API_URL"] = "http://127.0.0.1:4289/api"
            while True:
                try:
                    urllib.request.urlopen(f"{env['PREFECT_API_URL']}/health", timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.2)
            plain = seconds(["dvc", "repro"], project(base / "plain"), env)
            print(f"plain dvc repro: {plain:.1f} s for {(2 + WIDTH) * SECONDS} s of sleep")
            missed = False
            for workers in (2, 4):
                home = project(base / f"rebuild{workers}")
                command = [sys.executable, "-m", "flows.cli", "rebuild", "--jobs", str(workers)]
                took = seconds(command, home, env)
                bound = SECONDS * (2 + math.ceil(WIDTH / workers))
                same = (home / "dvc.lock").read_bytes() == (base / "plain" / "dvc.lock").read_bytes()
                missed |= took > GOAL * bound or not same
                print(
                    f"rebuild --jobs {workers}: {took:.1f} s, bound {bound} s, {took / bound:.2f}x (goal {GOAL}), "
                    f"{(took - bound) / (2 + WIDTH):.2f} s a stage, lock {'the same' if same else 'DIFFERS'}"
                )
            for words in (["dvc", "repro"], [sys.executable, "-m", "flows.cli", "rebuild", "--jobs", "2"]):
                few, many = (
                    seconds(words, project(base / f"{words[-1]}{width}", width, 0), env) for width in (WIDTH, WIDER)
                )
                print(f"a stage that does nothing, {' '.join(words[-3:])}: {(many - few) / (WIDER - WIDTH):.2f} s")
        finally:
            server.terminate()
            server.wait()
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
