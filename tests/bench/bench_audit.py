"""`palimpsest audit image` over a hundred checkpoints of 202,599 pictures each: `python tests/bench/bench_audit.py`.

A hundred lists of as many pictures as CelebA has, all different, in a hundred commits, and one ingested table of so
many pictures. Asked are a sha256 that no list has, so that every list is searched to its end, and a picture's file, for
which the table is compared too. Each time the page cache has been emptied of the files: first nothing has been hashed
before, then all has. Beside it the same command where there is nothing to search, and `grep` for the sha256 in the
lists, whose digests it does not check. Exits 1 where a goal is missed. Needs 4 GB of disk.
"""

import os
import subprocess
import sys
import tempfile
from hashlib import md5
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "flows"))
sys.path.insert(0, str(Path(__file__).parents[2]))  # before tests/, which has folders of the same names

import numpy as np
import pyarrow as pa
from PIL import Image
from ready_made import Repository

from stages.ingest import SCHEMA

ROOT = Path(__file__).parents[2]
PICTURES = 202_599
CHECKPOINTS = 100
SECONDS = 1  # more than where there is nothing to search, with a cold cache; or what `grep` takes, on a slower disk
MEGABYTES = 500  # in all

# A small process: what a command takes at its most counts what the one that starts it has.
LAUNCH = """
import os, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
assert os.waitstatus_to_exitcode(status) in (0, 1)
print(time.perf_counter() - start, usage.ru_maxrss)
"""


def made(home: Path) -> Repository:
    rng = np.random.default_rng(0)
    everyone = pa.array([rng.bytes(32).hex() for _ in range(PICTURES + CHECKPOINTS)])
    repository = Repository(home)
    hashes = [rng.bytes(32) for _ in range(PICTURES)]
    columns = {name: pa.nulls(PICTURES, SCHEMA.field(name).type) for name in SCHEMA.names}
    columns |= {
        "image_id": everyone[:PICTURES],
        "pixel_sha256": everyone[CHECKPOINTS:],
        "phash": pa.array(hashes, pa.binary(32)),
        "path": pa.array([f"{number:06}.jpg" for number in range(PICTURES)]), "split": pa.array(["train"] * PICTURES),
    }  # fmt: skip
    repository.table("celeba", pa.table(columns))
    for number in range(CHECKPOINTS):
        repository.members("net", everyone[number : number + PICTURES])
        repository.commit()
    return repository


def forget(files: list[Path]) -> None:
    """Empty the page cache of files."""
    os.sync()
    for file in files:
        with file.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run(words: list[str], home: Path) -> tuple[float, float]:
    """Seconds and peak memory (MB) of a command."""
    done = subprocess.run(
        [sys.executable, "-c", LAUNCH, *words], cwd=home, env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    seconds, kilobytes = done.stdout.split()[-2:]
    return float(seconds), float(kilobytes) / 1024


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        empty, repository = Repository(base / "empty"), made(base / "full")
        empty.members("net", [md5(b"x").hexdigest() * 2])
        empty.commit()
        noise = np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(noise).resize((178, 218)).save(base / "photo.jpg")
        objects = [file for file in (repository.home / ".dvc").rglob("*") if file.is_file()]
        lists = [str(file) for file in objects if file.stat().st_size > 10 << 20]
        size = sum(file.stat().st_size for file in objects) / 1e6
        print(f"{CHECKPOINTS} lists and a table of {PICTURES} pictures: {size:.0f} MB")
        audit = [sys.executable, "-m", "flows.cli", "audit", "image"]
        asked = {"a sha256": f"{1:064x}", "a file": str(base / "photo.jpg")}
        forget(objects)
        first = run([*audit, asked["a file"]], repository.home)
        print(f"a file, for the first time (all is hashed), cold   {first[0]:6.2f} s  {first[1]:5.0f} MB")
        missed = 0
        for name, words in asked.items():
            run([*audit, words], empty.home)  # so that Python's own files are in memory
            nothing = min(run([*audit, words], empty.home) for _ in range(3))
            forget(objects)
            cold = run([*audit, words], repository.home)
            warm = min(run([*audit, words], repository.home) for _ in range(3))
            forget(objects)
            grep = run(["grep", "-lF", asked["a sha256"], *lists], repository.home)
            print(f"{name}, nothing to search                        {nothing[0]:6.2f} s  {nothing[1]:5.0f} MB")
            print(f"{name}, hashed before, cold                      {cold[0]:6.2f} s  {cold[1]:5.0f} MB")
            print(f"{name}, hashed before, warm                      {warm[0]:6.2f} s  {warm[1]:5.0f} MB")
            print(f"grep -lF, cold                                   {grep[0]:6.2f} s; the search took "
                  f"{(cold[0] - nothing[0]) / grep[0]:.2f} times as long")  # fmt: skip
            missed += cold[0] - nothing[0] > max(SECONDS, grep[0]) or cold[1] > MEGABYTES
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
