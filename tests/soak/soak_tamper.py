"""Single bytes changed at random: `python tests/soak/soak_tamper.py [CHANGES] [UNTOUCHED]`, 1000 and 100.

A small pipeline of the real stages is built three times: two commits and a state that is not committed. Its records are
signed. Then one byte of a checkpoint, table, list of pictures, `dvc.lock`, record or attestation is changed, `audit
verify` must name the file, and the byte is put back. (Records and attestations lie in a folder and on a branch: the
one or the other is changed. The branch is written anew, without a trace in Git's reflog.) Untouched runs go round the
states that a user brings about: as built, committed, an older commit, an experiment, clones, after `dvc gc`. Prints
what was missed, and exits 1 where something was, or where an untouched repository had a fault.
"""

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))  # before tests/, which has folders of the same names

from test_pipeline import checkout, repro, small_params, write_params

from flows.audit import verify
from flows.checkout.git import Git
from flows.lineage import cache, keys, record_branch, signatures
from stages.runs import record

ENV = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "OMP_WAIT_POLICY": "PASSIVE",
}
TIMES = ("ended", "peak_memory_mib", "seconds", "started")  # what a record's name does not cover


def run(home: Path, *words: str) -> None:
    subprocess.run(words, cwd=home, env=ENV, check=True, capture_output=True)


def commit(home: Path, message: str) -> None:
    run(home, "git", "add", "-A")
    run(home, "git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", message)


def build(home: Path) -> Path:
    pictures = home.parent / "pictures"
    pictures.mkdir(parents=True)
    import cv2
    import numpy as np

    for number in range(3):
        picture = np.random.default_rng(number).integers(0, 256, (50, 60, 3), dtype=np.uint8)
        cv2.imwrite(str(pictures / f"{number}.png"), picture)
    params = small_params(pictures)
    checkout(home, params)
    repro(home)
    commit(home, "one")
    params["train_dcgan"]["dcgan"]["steps"] = 7
    write_params(home, params)
    repro(home)
    commit(home, "two")
    params["datasets"]["portraits"]["mask"]["seed"] = 8
    write_params(home, params)
    repro(home)  # not committed
    os.environ[keys.KEY] = str(home.parent / "key.pem")
    keys.new(home, "Ada", "")
    signatures.collect(home)
    return home


def rewrite(home: Path, path: str, data: bytes) -> None:
    """Give a file of the branch of records other bytes, as somebody would who hides it."""
    git, branch = Git(home), f"refs/heads/{record_branch.name(Git(home))}"
    file = home.parent / "forged"
    file.write_bytes(data)
    blob = git("hash-object", "-w", "--no-filters", "--", str(file))
    with tempfile.TemporaryDirectory() as folder:
        apart = Git(home, GIT_INDEX_FILE=f"{folder}/index", **record_branch.WRITER)
        apart("read-tree", branch)
        apart("update-index", "--cacheinfo", f"100644,{blob},{path}")
        git("update-ref", branch, apart("commit-tree", apart("write-tree"), "-m", "forged"))


def forge(home: Path, end: str, rng: random.Random) -> str | None:
    """Change one byte of a file of the branch whose name ends so; None where it was found, else its name."""
    git, branch = Git(home), f"refs/heads/{record_branch.name(Git(home))}"
    path, data = rng.choice(sorted(record_branch.files(git, end).items()))
    tip, at, by = git("rev-parse", branch), rng.randrange(len(data)), rng.randrange(1, 256)
    log = git.common() / "logs" / branch
    kept = log.read_bytes()
    rewrite(home, path, data[:at] + bytes([data[at] ^ by]) + data[at + 1 :])
    log.unlink()
    wanted = f"attestation {Path(path).stem[:10]}" if end == signatures.END else f"{record_branch.name(git)}:{path}"
    found = any(fault.file == wanted for fault in verify.ask(home).faults)
    git("update-ref", branch, tip)
    log.write_bytes(kept)
    return None if found else f"{path}, byte {at} ^ {by}"


def kinds(home: Path) -> dict[str, list[Path]]:
    """The files to be altered; of checkpoints, tables and lists those in the cache too, where older ones are."""
    data = [file for file in (home / "data").rglob("*") if file.is_file()]
    kept = [file for _, file in cache.objects(home)]
    return {
        "checkpoint": [file for file in data if file.suffix == ".safetensors"],
        "table": [file for file in data if file.suffix in (".arrow", ".parquet") and "models" not in file.parts],
        "members": [file for file in data if file.name.endswith(".members.arrow")],
        "cache": kept,
        "score": [file for file in data if file.suffix == ".json"],
        "lock": [home / "dvc.lock"],
        "record": sorted((home / record.home()).glob("*/*.json")),
        "attestation": sorted((home / record.home()).glob(f"*/*{signatures.END}")),
    }


def tamper(home: Path, changes: int, rng: random.Random) -> bool:
    """Whether each change was found."""
    files = kinds(home)
    forged = {"record on the branch": ".json", "attestation on the branch": signatures.END}
    tried, found = Counter[str](), Counter[str]()
    for number in range(changes):
        if number and number % 100 == 0:
            print(f"{found.total()} of {tried.total()} found", flush=True)
        kind = [*files, *forged][number % (len(files) + len(forged))]
        if kind in forged:
            tried[kind] += 1
            missed = forge(home, forged[kind], rng)
            found[kind] += missed is None
            if missed:
                print(f"missed: {kind}, {missed}", flush=True)
            continue
        file = rng.choice(files[kind])
        mode, whole = file.stat().st_mode, file.read_bytes()
        at, by = rng.randrange(len(whole)), rng.randrange(1, 256)
        changed = bytearray(whole)
        changed[at] ^= by
        file.chmod(0o644)
        file.write_bytes(changed)
        name = file.relative_to(home).as_posix()
        line = whole[whole.rfind(b"\n", 0, at) + 1 : whole.find(b"\n", at)].decode(errors="replace").strip()
        if kind == "record" and line.startswith(tuple(f'"{key}"' for key in TIMES)):
            kind = "record, times and memory"
        tried[kind] += 1
        known = {name, file.relative_to(home / record.home()).as_posix() if ".palimpsest" in file.parts else name}
        if any(fault.file in known for fault in verify.ask(home).faults):
            found[kind] += 1
        else:
            shown = line if kind in ("lock", "record", "record, times and memory") else ""
            print(f"missed: {name}, byte {at} ^ {by} {shown}", flush=True)
        file.write_bytes(whole)
        file.chmod(mode)
    for kind, count in tried.items():
        print(f"{kind}: {found[kind]} of {count} found")
    print(f"all: {found.total()} of {tried.total()} found")
    return found == tried


def states(home: Path) -> dict[str, Path]:
    """Copies of the repository as users leave them."""
    made: dict[str, Path] = {"as built": home}

    def copy(name: str, *commands: str, of: str = "as built") -> None:
        made[name] = home.parent / name.replace(" ", "-")
        shutil.copytree(made[of], made[name], symlinks=True)
        for words in commands:
            run(made[name], *words.split())

    copy("committed", "git add -A", "git -c user.name=t -c user.email=t@t commit -qm three")
    copy("older commit", "git stash -q", "git checkout -q HEAD~1", "dvc checkout -q -f")
    copy("collected", "dvc gc -q -w -f")
    copy("experiment", "git stash -q", "dvc checkout -q -f", "dvc exp run -q -S evaluate.seed=6 evaluate@telea_own")
    copy("before the key", "git checkout -q HEAD~1", "dvc checkout -q -f", of="committed")
    for name, of, *more in (
        ("clone", "as built"),
        ("clone with the key", "committed"),
        ("shallow clone", "committed", "--depth", "1", "--no-single-branch"),
    ):
        made[name] = home.parent / name.replace(" ", "-")
        run(home.parent, "git", "clone", "-q", *more, "--no-local", str(made[of]), str(made[name]))
    return made


def main(changes: int = 1000, untouched: int = 100, seed: int = 1) -> int:
    with tempfile.TemporaryDirectory(prefix="tamper-") as folder:
        home = build(Path(folder).resolve() / "repository")
        alarms = 0
        made = states(home)
        begun = time.monotonic()
        for number in range(untouched):
            name = [*made][number % len(made)]
            answer = verify.ask(made[name])
            if number < len(made):
                print(f"{name}: {len(answer.faults)} faults, {len(answer.unknown)} lines cannot tell, {answer.checked}")
            for fault in answer.faults:
                alarms += 1
                print(f"false alarm, {name}: {fault}")
        print(f"untouched: {alarms} faults in {untouched} runs, {(time.monotonic() - begun) / untouched:.2f} s a run")
        begun = time.monotonic()
        whole = tamper(home, changes, random.Random(seed))
        print(f"{(time.monotonic() - begun) / changes:.2f} s a change")
    return int(bool(alarms) or not whole)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
