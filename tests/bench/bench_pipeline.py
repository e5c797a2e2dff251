"""The project's own pipeline from scratch, by plain `dvc repro` and by `palimpsest rebuild`, server start included.

    python tests/bench/bench_pipeline.py [TARGETS]

Two fresh clones of this checkout's commit, each with an empty cache, a Prefect home of its own, one after the other.
(`dvc.lock` stays: nothing that it names is there, so every stage runs, and without it DVC's order varies.)
With the embedded default it takes two pipelines' time; TARGETS (as `dvc repro` takes them) make it shorter. Exits 1
where rebuild is slower, or ends in another `dvc.lock`.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def clone(home: Path) -> Path:
    subprocess.run(["git", "clone", "-q", str(ROOT), str(home)], check=True)
    config = ["dvc", "config", "--local"]
    subprocess.run([*config, "core.site_cache_dir", str(home / ".site")], cwd=home, check=True)
    subprocess.run([*config, "cache.dir", str(home / ".dvc" / "cache")], cwd=home, check=True)
    return home


def seconds(command: list[str], home: Path) -> float:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    env |= {"PYTHONPATH": str(home), "DO_NOT_TRACK": "1"}
    start = time.perf_counter()
    with (home / "log").open("w") as log:
        code = subprocess.run(command, cwd=home, env=env, stdout=log, stderr=log).returncode
    took = time.perf_counter() - start
    if code:
        sys.exit(f"{' '.join(command)}: exit code {code}\n{(home / 'log').read_text()[-3000:]}")
    return took


def main(targets: list[str]) -> int:
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with tempfile.TemporaryDirectory() as folder:
        plain, rebuilt = clone(Path(folder, "plain")), clone(Path(folder, "rebuilt"))
        repro = seconds(["dvc", "repro", *targets], plain)
        print(f"plain dvc repro: {repro:.1f} s", flush=True)
        rebuild = seconds([sys.executable, "-m", "flows.cli", "rebuild", *targets], rebuilt)
        same = (plain / "dvc.lock").read_bytes() == (rebuilt / "dvc.lock").read_bytes()
        print(f"palimpsest rebuild: {rebuild:.1f} s, {rebuild / repro:.2f}x, lock {'the same' if same else 'DIFFERS'}")
    return int(rebuild > repro or not same)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
