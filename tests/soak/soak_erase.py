"""Erasure, tried on a repository of CelebA photos.

`python tests/soak/soak_erase.py [scene | erase [COUNT [AT_ONCE]] | copies]`

scene: a repository with a DVC remote, five kinds of model, a retraining that was promoted, an experiment, a killed
experiment, a killed training, a Dask worker's clone, Prefect's database, a stash and a linked worktree. One person is
erased. What is left is searched by other means than the program's, and checkpoints must be byte for byte those of a
clone that never held the photos.
erase: photos of that repository, erased one by one, each from a fresh copy: nothing left, nothing else removed.
copies: photos that were saved anew come back, and strangers do.

Prints a line for each check; exits 1 where one fails. Needs ../shared.
"""

import base64
import hashlib
import io
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))  # before tests/, which has folders of the same names

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from test_pipeline import checkout, small_params, write_params

ROOT = Path(__file__).parents[2]
CELEBA = ROOT.parent / "shared" / "data" / "celeba"
PHOTOS = 60
ENV = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "OMP_WAIT_POLICY": "PASSIVE",
    "PALIMPSEST_PASSPHRASE": "",
    "DO_NOT_TRACK": "1",
}
KINDS = ("dcgan", "autoencoder", "partial_conv", "context_encoder", "dmfn")
failed = 0


def run(home: Path, *words: str, code: int | None = 0, **more: str) -> str:
    done = subprocess.run(words, cwd=home, env=ENV | more, capture_output=True, text=True, check=False)
    assert code is None or done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def check(what: str, holds: bool, more: object = "") -> None:
    global failed
    failed += not holds
    print(f"  {'ok  ' if holds else 'FAIL'} {what}{f': {more}' if more != '' else ''}", flush=True)


# ---------------------------------------------------------------------------------------------------------------------
# The repository.


def photos() -> list[tuple[Path, str]]:
    """Photos and who is on them: several of each person, as many people as fit."""
    people: dict[str, list[str]] = {}
    for line in (CELEBA / "identity_CelebA.txt").read_text().splitlines():
        name, person = line.split()
        people.setdefault(person, []).append(name)
    found = [(name, person) for person, names in people.items() if len(names) >= 4 for name in names[:4]]
    return [(CELEBA / "img_align_celeba" / name, person) for name, person in found[:PHOTOS]]


def params(folder: str) -> dict:
    given = small_params(Path(folder))
    faces = given["datasets"].pop("own")
    faces["ingest"] |= {"use": "train", "licence": "CelebA: research only", "consent": "not asked"}
    faces["ingest"]["split"] = {"val": 0.2, "test": 0.2}
    faces["align"]["side"] = 64
    given["datasets"] = {"faces": faces}
    none = {key: given["train_dcgan"]["dcgan"][key] for key in ("also", "start")}
    small = {**none, "dataset": "faces", "steps": 4, "batch": 8, "width": 4, "sample_every": 2, "save_every": 1}
    for kind in KINDS:
        given[f"train_{kind}"] = {kind: dict(small)}
    given["train_context_encoder"]["context_encoder"]["objective"] = "vae"
    given["train_dmfn"]["dmfn"] |= {"blocks": 1, "d_width": 4}
    given["search"] = {"dcgan": {"model": "dcgan", "dataset": "faces", "iterations": 5, "starts": 4}}
    network = {"dataset": "faces", "checkpoint": none["start"]}
    given["infer"] = {
        "nearest": network | {"network": "classical", "method": "nearest"},
        **{kind: network | {"network": kind, "checkpoint": f"data/models/{kind}.safetensors"} for kind in KINDS[1:]},
    }
    given["blend"] = {
        name: {"system": name, "dataset": "faces", "method": "exact"} for name in ("dcgan", *given["infer"])
    }
    given["retrain"] = {
        "system": "dcgan", "metric": "psnr_hole", "margin": -50.0, "minimum": 2, "confidence": 0.9, "warm": False,
    }  # fmt: skip
    return given


class Scene:
    """The repository: `home`; beside it its remote, the worktrees and a worker's clone."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "repository"
        self.env = {
            "PALIMPSEST_WORKSPACES": str(folder / "workspaces"),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "PALIMPSEST_KEY": str(folder / "key.pem"),
        }

    def run(self, *words: str, code: int | None = 0, home: Path | None = None) -> str:
        return run(home or self.home, *words, code=code, **self.env)

    def commit(self, message: str) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", message)

    def add(self, chosen: list[tuple[Path, str]]) -> None:
        """Photos, with who is on them."""
        place = self.home / "photos"
        place.mkdir(exist_ok=True)
        for file, _ in chosen:
            shutil.copy(file, place)
        names = {file.name: person for file, person in photos()}
        rows = [f"{file.name},person {names[file.name]}" for file in sorted(place.glob("*.jpg"))]
        (place / "pictures.csv").write_text("\n".join(["path,identity", *rows]) + "\n")
        self.run("dvc", "add", "-q", "photos")

    def build(self, without: str | None = None) -> None:
        """All of it; `without` a person: a clone that never held their photos, the pipeline alone."""
        self.home.mkdir()
        every = [(file, person) for file, person in photos() if person != without]
        checkout(self.home, params("photos"))
        for key, value in {"user.name": "Ada", "user.email": "ada@example.org"}.items():
            self.run("git", "config", key, value)
        self.add(every if without else every[: PHOTOS - 10])
        if without:
            self.commit("photos")
            self.run("dvc", "repro", "-q")
            return
        self.run("palimpsest", "audit", "key", "new", "Ada")
        self.run("dvc", "remote", "add", "-q", "-d", "store", str(self.folder / "store"))
        self.commit("photos")
        self.run("palimpsest", "rebuild")  # Prefect's database keeps its contact sheet
        self.commit("made")
        self.run("palimpsest", "retrain")
        self.add(every)
        self.run("palimpsest", "rebuild")
        self.commit("more photos")
        self.run("palimpsest", "retrain")
        self.run("dvc", "exp", "run", "-q", "-S", "train_dcgan.dcgan.steps=5", "train_dcgan@dcgan")
        self.run("git", "checkout", "-q", ".")
        self.run("dvc", "checkout", "-q", "-f")
        self.killed_experiment()
        self.killed_training()
        self.worker()
        self.run("palimpsest", "audit", "collect")
        self.run("dvc", "push", "-q", "--all-commits", "--run-cache")
        self.stash()
        self.run("git", "worktree", "add", "-q", str(self.folder / "linked"), "HEAD")
        self.run("dvc", "config", "--local", "cache.dir", str(self.home / ".dvc/cache"), home=self.folder / "linked")
        self.run("dvc", "checkout", "-q", home=self.folder / "linked")

    def person(self) -> str:
        """Somebody whose photos were trained on."""
        rows = pq.read_table(self.home / "data/ingested/faces", columns=["split", "identity"]).to_pylist()
        return next(row["identity"].removeprefix("person ") for row in rows if row["split"] == "train")

    def killed_experiment(self) -> None:
        words = ["dvc", "exp", "run", "--temp", "-S", "train_dcgan.dcgan.steps=2000", "train_dcgan@dcgan"]
        self.killed(words, ".dvc/tmp/exps/standalone/tmp*/.palimpsest/state/*/state.safetensors")

    def killed_training(self) -> None:
        """A training that is killed leaves its state."""
        text = (self.home / "params.yaml").read_text()
        given = json.loads(text)
        given["train_autoencoder"]["autoencoder"]["steps"] = 5000
        write_params(self.home, given)
        words = ["dvc", "repro", "train_autoencoder@autoencoder"]
        self.killed(words, ".palimpsest/state/autoencoder-*/state.safetensors")
        (self.home / "params.yaml").write_text(text)
        self.run("git", "checkout", "-q", ".")
        self.run("dvc", "checkout", "-q", "-f")

    def killed(self, words: list[str], when: str) -> None:
        """A command that is killed as soon as a file is there."""
        process = subprocess.Popen(words, cwd=self.home, env=ENV | self.env, start_new_session=True,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        self.wait(lambda: [*self.home.glob(when)])
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        (self.home / ".dvc/tmp/rwlock").unlink(missing_ok=True)

    def wait(self, there: object) -> None:
        for _ in range(600):
            if there():  # type: ignore[operator]
                return
            time.sleep(0.1)
        raise AssertionError("it did not come")

    def worker(self) -> None:
        """A rebuild on a Dask worker, whose clone and cache stay when it ends."""
        file = self.folder / "scheduler.json"
        words = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
        log = subprocess.DEVNULL
        scheduler = subprocess.Popen([*words, "--scheduler-file", str(file), "--no-dashboard"], stdout=log, stderr=log)
        self.wait(lambda: file.exists() and file.read_text().endswith("}"))
        address = json.loads(file.read_text())["address"]
        words = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-nanny", "--nthreads", "2"]
        words += ["--host", "127.0.0.1", "--local-directory", str(self.folder / "dask"), "--no-dashboard"]
        worker = subprocess.Popen(words, env=ENV | self.env, stdout=log, stderr=log)
        try:
            self.run("palimpsest", "rebuild", "--force", "--runner", f"dask={address}", "infer@nearest", "blend@dcgan")
        finally:
            for process in (worker, scheduler):
                process.kill()
                process.wait()

    def stash(self) -> None:
        """Somebody has stashed what they were at: a photo in a note of theirs, and an edit."""
        (self.home / "notes").mkdir()
        photo = next(file for file, person in photos() if person == self.person())
        shutil.copy(photo, self.home / "notes" / "look.jpg")
        (self.home / "notes" / "thoughts.txt").write_text("a thought that nobody may lose\n")
        with (self.home / "README.md").open("a") as file:
            file.write("\nan edit\n")
        self.run("git", "stash", "push", "-q", "--include-untracked")


# ---------------------------------------------------------------------------------------------------------------------
# Another search than the program's: everything decoded by OpenCV, Pillow and pyarrow, and compared pixel by pixel.


class Hunter:
    """Finds photos in anything by exact 6 x 6 patches of the photos and of their crops."""

    SIDE = 6

    def __init__(self, files: list[bytes], crops: list[np.ndarray]) -> None:
        self.files = [hashlib.sha256(data).hexdigest() for data in files]
        self.raw = [data[len(data) // 2 :][:64] for data in files]
        self.patches: set[bytes] = set()
        self.first: set[bytes] = set()
        for pixels in [*(self.decode(data) for data in files), *crops]:
            assert pixels is not None
            for way in (pixels, pixels[:, ::-1]):
                for y in range(0, way.shape[0] - self.SIDE, 3):
                    for x in range(0, way.shape[1] - self.SIDE, 3):
                        patch = way[y : y + self.SIDE, x : x + self.SIDE]
                        if len(np.unique(patch.reshape(-1, 3), axis=0)) > 20:
                            self.patches.add(patch.tobytes())
                            self.first.add(patch[0].tobytes())

    @staticmethod
    def decode(data: bytes) -> np.ndarray | None:
        try:
            return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        except Exception:
            return None

    def in_pixels(self, pixels: np.ndarray) -> bool:
        for scale in (1, 2):
            for oy in range(scale):
                for ox in range(scale):
                    part = np.ascontiguousarray(pixels[oy::scale, ox::scale])
                    if self._in(part):
                        return True
        return False

    def _in(self, pixels: np.ndarray) -> bool:
        side = self.SIDE
        if min(pixels.shape[:2]) < side:
            return False
        rows = np.lib.stride_tricks.sliding_window_view(pixels.reshape(pixels.shape[0], -1), 3 * side, 1)[:, ::3]
        flat = np.ascontiguousarray(rows[: len(rows) - side + 1]).view(f"V{3 * side}")[..., 0]
        maybe = np.isin(flat, np.array(sorted(self.first), flat.dtype)) if self.first else np.zeros(flat.shape, bool)
        for y, x in zip(*np.nonzero(maybe), strict=True):
            if pixels[y : y + side, x : x + side].tobytes() in self.patches:
                return True
        return False

    def find(self, data: bytes, depth: int = 0) -> bool:
        if hashlib.sha256(data).hexdigest() in self.files or any(raw in data for raw in self.raw):
            return True
        if data[:6] == b"ARROW1":
            table = pa.ipc.open_file(io.BytesIO(data)).read_all()
            if set(table.column("image_id").to_pylist()) & set(self.files) if "image_id" in table.column_names else 0:
                return True
            size = (table.schema.metadata or {}).get(b"size")
            if "pixels" in table.column_names and size:
                shape = (*map(int, size.split(b"x")), 3)
                return any(
                    self._in(np.frombuffer(value, np.uint8).reshape(shape)) for value in table["pixels"].to_pylist()
                )
            return False
        if data[:4] == b"PAR1":
            table = pq.read_table(io.BytesIO(data))
            if "image_id" in table.column_names:
                rows = table.to_pylist()
                if any(row["image_id"] in self.files and row.get("status") != "rejected" for row in rows):
                    return True
                if "image" in table.column_names:
                    return any(self.find(row["image"]["bytes"], depth + 1) for row in rows if row["image"]["bytes"])
            return False
        pixels = self.decode(data) if len(data) < 50_000_000 else None
        if pixels is not None and self.in_pixels(pixels):
            return True
        embedded = re.findall(rb"base64,([A-Za-z0-9+/=]{200,})", data) if depth < 3 else ()
        return any(self.find(base64.b64decode(found[: len(found) // 4 * 4]), depth + 1) for found in embedded)


def everything(scene: Scene) -> Iterator[tuple[str, bytes]]:
    """Every file of the scene, its Git objects and the cells of its databases."""
    for file in sorted(scene.folder.rglob("*")):
        if file.is_file() and ".git" not in file.parts and "config" not in file.relative_to(scene.folder).parts[:1]:
            data = file.read_bytes()
            yield str(file), data
            if data[:13] == b"SQLite format":
                with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as database:
                    for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type='table'").fetchall():
                        for row in database.execute(f'SELECT * FROM "{name}"'):
                            for value in row:
                                if isinstance(value, str | bytes) and len(value) > 200:
                                    yield f"{file}:{name}", value if isinstance(value, bytes) else value.encode()
    for home in (scene.home, *(scene.folder / "workspaces").glob("[0-9]")):
        said = scene.run("git", "cat-file", "--batch-all-objects", "--batch-check", home=home)
        for line in said.splitlines():
            sha, kind, _ = line.split()
            if kind == "blob":
                data = subprocess.run(
                    ["git", "cat-file", "blob", sha], cwd=home, capture_output=True, check=True
                ).stdout
                yield f"{home}: blob {sha}", data


def crops_of(home: Path, ids: set[str]) -> list[np.ndarray]:
    """The crops of photos in any aligned table of the cache."""
    found = []
    for file in (home / ".dvc/cache/files/md5").glob("*/*"):
        data = file.read_bytes()
        if data[:6] == b"ARROW1":
            table = pa.ipc.open_file(io.BytesIO(data)).read_all()
            if "pixels" in table.column_names and "transform" in table.column_names:
                shape = (*map(int, table.schema.metadata[b"size"].split(b"x")), 3)
                for row in table.select(["pixels", "image_id"]).to_pylist():
                    if row["image_id"] in ids:
                        found.append(np.frombuffer(row["pixels"], np.uint8).reshape(shape))
    return found


# ---------------------------------------------------------------------------------------------------------------------
# What is tried.


def scene_(folder: Path) -> None:
    scene = Scene(folder)
    if not scene.home.exists():
        began = time.monotonic()
        scene.build()
        print(f"scene: built in {time.monotonic() - began:.0f} s", flush=True)
    person = scene.person()
    files = [file for file, one in photos() if one == person]
    data = [file.read_bytes() for file in files]
    ids = {hashlib.sha256(one).hexdigest() for one in data}
    hunter = Hunter(data, crops_of(scene.home, ids))
    before = [where for where, content in everything(scene) if hunter.find(content)]
    check("held before, by another search", len(before) > 50, len(before))
    began = time.monotonic()
    print(scene.run("palimpsest", "audit", "erase", "--identity", f"person {person}"))
    print(f"looked in {time.monotonic() - began:.1f} s", flush=True)
    began = time.monotonic()
    receipt = folder / "receipt.md"
    words = ["palimpsest", "audit", "erase", "--identity", f"person {person}", "--purge", "--yes"]
    print(scene.run(*words, "--receipt", str(receipt)))
    print(f"erased in {time.monotonic() - began:.1f} s", flush=True)
    left = [where for where, content in everything(scene) if hunter.find(content)]
    check("nothing is left, by another search", not left, left[:10])
    pointers = [(place / "photos.dvc").read_text() for place in (scene.home, folder / "linked")]
    check("the linked worktree's photos.dvc is the repository's", pointers[0] == pointers[1])
    thoughts = scene.run("git", "stash", "show", "--include-untracked", "-p")
    check("the stash has the rest", "a thought that nobody may lose" in thoughts and "an edit" in thoughts)
    check("git is whole", "error" not in scene.run("git", "fsck", "--full", code=None))
    scene.run("git", "add", "-A")
    scene.run("git", "commit", "-qm", "erased")
    scene.run("dvc", "repro", "-q")
    scene.run("git", "add", "-A")
    scene.run("git", "commit", "-qm", "made without them")
    left = [where for where, content in everything(scene) if hunter.find(content)]
    check("nothing is back after dvc repro", not left, left[:10])
    verify = scene.run("palimpsest", "audit", "verify", code=None)
    check("audit verify has no fault", verify.startswith("nothing is altered"), "\n".join(verify.splitlines()[:8]))
    ids_text = sorted(ids)
    scene.run("palimpsest", "audit", "erase", *ids_text, "--receipt", str(receipt))
    print(receipt.read_text())
    other = Scene(folder / "never")
    other.folder.mkdir()
    other.build(without=person)
    for kind in KINDS:
        one, two = (home / f"data/models/{kind}.safetensors" for home in (scene.home, other.home))
        check(f"{kind}: byte for byte that of a clone that never held them", one.read_bytes() == two.read_bytes())


class Index:
    """What pictures each content shows: a hash of every six pixels side by side that it has, decoded."""

    SIDE = 6
    MIX = np.random.default_rng(7).integers(1, 1 << 63, 18, np.uint64) | np.uint64(1)

    def __init__(self) -> None:
        self.hashes: dict[str, np.ndarray] = {}
        self.rows: dict[str, set[str]] = {}  # image_ids of a table's rows
        self.models: dict[str, bytes] = {}  # checkpoints
        self.lists: dict[str, bytes] = {}  # `pictures.csv`, which names pictures

    def windows(self, pixels: np.ndarray) -> np.ndarray:
        if pixels.shape[1] < self.SIDE:
            return np.empty(0, np.uint64)
        rows = np.lib.stride_tricks.sliding_window_view(pixels.reshape(len(pixels), -1), 3 * self.SIDE, 1)[:, ::3]
        total = np.zeros(rows.shape[:2], np.uint64)
        for number, factor in enumerate(self.MIX):
            total += rows[..., number].astype(np.uint64) * factor
        return total.reshape(-1)

    def add(self, data: bytes) -> str:
        sha = hashlib.sha256(data).hexdigest()
        if sha not in self.hashes:
            found, self.rows[sha] = [np.empty(0, np.uint64)], set()
            self._look(data, found, self.rows[sha])
            self.hashes[sha] = np.unique(np.concatenate(found))
            if data[8:9] == b"{" and b"palimpsest" in data[:4000]:
                self.models[sha] = data
            if data.startswith(b"path,"):
                self.lists[sha] = data
        return sha

    def _look(self, data: bytes, found: list[np.ndarray], rows: set[str]) -> None:
        if data[:6] == b"ARROW1":
            table = pa.ipc.open_file(io.BytesIO(data)).read_all()
            if "image_id" in table.column_names:
                rows.update(table["image_id"].to_pylist())
            size = (table.schema.metadata or {}).get(b"size")
            if "pixels" in table.column_names and size:
                shape = (*map(int, size.split(b"x")), 3)
                for value in table["pixels"].to_pylist():
                    found.append(self.windows(np.frombuffer(value, np.uint8).reshape(shape)))
        elif data[:4] == b"PAR1":
            table = pq.read_table(io.BytesIO(data))
            if "image_id" in table.column_names:
                kept = [row for row in table.to_pylist() if row.get("status") != "rejected"]
                rows.update(row["image_id"] for row in kept)
                for row in kept:
                    if (row.get("image") or {}).get("bytes"):
                        self._look(row["image"]["bytes"], found, set())
        elif data[:4] in (b"\x89PNG", b"\xff\xd8\xff\xe0", b"\xff\xd8\xff\xe1"):
            pixels = Hunter.decode(data)
            if pixels is not None:
                found.append(self.windows(pixels))
                for x in (0, 1):
                    found.append(self.windows(np.ascontiguousarray(pixels[:, x::2])))
        elif data[:13] == b"SQLite format":
            with tempfile.NamedTemporaryFile(suffix=".db") as copy:
                copy.write(data)
                copy.flush()
                with sqlite3.connect(copy.name) as database:
                    database.text_factory = bytes
                    for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type='table'").fetchall():
                        for row in database.execute(f'SELECT * FROM "{name.decode()}"'):
                            for value in row:
                                if isinstance(value, bytes) and len(value) > 200:
                                    self._embedded(value, found)
        else:
            self._embedded(data, found)

    def _embedded(self, data: bytes, found: list[np.ndarray]) -> None:
        for part in re.findall(rb"base64,([A-Za-z0-9+/=]{200,})", data):
            self._look(base64.b64decode(part[: len(part) // 4 * 4]), found, set())

    def shows(self, sha: str, wanted: np.ndarray, image_id: str) -> bool:
        there = self.hashes[sha]
        places = np.searchsorted(there, wanted)
        places[places == len(there)] = 0
        hits = int((there[places] == wanted).sum()) if len(there) else 0
        return hits >= 6 or image_id in self.rows[sha]


def contents(scene: Scene) -> Iterator[tuple[str, bytes]]:
    for file in sorted(scene.folder.rglob("*")):
        if file.is_file() and not file.is_symlink() and ".git" not in file.parts:
            yield str(file.relative_to(scene.folder)), file.read_bytes()
    said = scene.run("git", "cat-file", "--batch-all-objects", "--batch-check")
    for line in said.splitlines():
        sha, kind, size = line.split()
        if kind == "blob" and int(size) > 2000:
            words = ["git", "cat-file", "blob", sha]
            yield f"git {sha}", subprocess.run(words, cwd=scene.home, capture_output=True, check=True).stdout


# What may change without having a picture: lists of files, what was remembered, logs, databases.
OWN = (
    ".dir",
    ".dvc",
    ".csv",
    "tombstones.txt",
    ".db",
    ".db-shm",
    ".db-wal",
    "prefect.lock",
    ".lock",
    "rwlock",
    "btime",
)
MEMORY = (".palimpsest/audit/", ".dvc/tmp/", "cache/palimpsest/dvc", "/runs/", ".palimpsest/state/")


def erase_(folder: Path, count: int, at_once: int) -> None:
    """`count` photos are erased, `at_once` in one command, each time in a fresh copy of a scene as `build` left it.

    `folder` holds the scene, and beside it, named with `.t` behind it, lies the copy.
    """
    scene, template = Scene(folder), Path(f"{folder}.t")
    index, rng = Index(), np.random.default_rng(1)
    before = {where: index.add(data) for where, data in contents(scene)}
    print(f"erase: {len(before)} contents, {len(index.hashes)} different", flush=True)
    rows = pq.read_table(scene.home / "data/ingested/faces").to_pylist()
    kept = [row for row in rows if row["status"] == "kept"]
    trained = _checkpoints(scene)
    md5s = {sha: hashlib.md5(data).hexdigest() for sha, data in index.models.items()}
    shown: dict[str, set[str]] = {}  # by picture: the contents that show it or name it

    def shows(row: dict, sha: str, wanted: np.ndarray) -> bool:
        return index.shows(sha, wanted, row["image_id"]) or row["path"].encode() in index.lists.get(sha, b"")

    needles = {}
    for row in kept:
        pixels = Hunter.decode(row["image"]["bytes"])
        assert pixels is not None
        forms = [pixels, *crops_of(scene.home, {row["image_id"]})]
        needles[row["image_id"]] = np.unique(np.concatenate([_textured(index, form) for form in forms]))
        shown[row["image_id"]] = {sha for sha in index.hashes if shows(row, sha, needles[row["image_id"]])}
    known = set(index.hashes)
    left_total = wrong_total = 0
    took = []
    for number in range(0, count, at_once):
        chosen = [kept[place] for place in rng.permutation(len(kept))[:at_once]]
        ids = [row["image_id"] for row in chosen]
        shutil.rmtree(folder)
        subprocess.run(["cp", "-a", str(template), str(folder)], check=True)
        began = time.monotonic()
        said = json.loads(scene.run("palimpsest", "audit", "erase", *ids, "--purge", "--yes", "--json"))
        took.append(time.monotonic() - began)
        assert said["left"] == []
        after = {where: index.add(data) for where, data in contents(scene)}
        for sha in set(index.hashes) - known:
            for row in kept:
                if shows(row, sha, needles[row["image_id"]]):
                    shown[row["image_id"]].add(sha)
        known = set(index.hashes)
        held = set().union(*(shown[one] for one in ids))
        left = [
            where for where, sha in after.items() if sha in held and not (where.startswith("git ") and said["kept"])
        ]
        wrong = [
            where
            for where, sha in before.items()
            if after.get(where) != sha
            and sha not in held
            and not where.endswith(OWN)
            and not any(part in where for part in MEMORY)
            and not where.startswith("git ")
            and trained.get(md5s.get(sha, ""), set()).isdisjoint(ids)
        ]
        left_total += len(left)
        wrong_total += len(wrong)
        say = f"  {number + len(chosen)} of {count}: {sum(after.get(w) != s for w, s in before.items())} things changed"
        print(f"{say}, left {left[:5]}, wrongly removed {wrong[:5]}", flush=True)
    check(f"{count} photos erased, {at_once} at once: nothing is left", not left_total, left_total)
    check(f"{count} photos erased: nothing else was removed", not wrong_total, wrong_total)
    print(f"  an erasure takes {min(took):.1f} to {max(took):.1f} s")


def _textured(index: Index, pixels: np.ndarray) -> np.ndarray:
    """The hashes of windows with six different pixels, of every second row."""
    part = np.ascontiguousarray(pixels[::2])
    rows = np.lib.stride_tricks.sliding_window_view(part.reshape(len(part), -1), 3 * index.SIDE, 1)[:, ::3]
    packed = rows.reshape(-1, index.SIDE, 3).astype(np.uint32) @ np.array([1, 1 << 8, 1 << 16], np.uint32)
    ordered = np.sort(packed, 1)
    return index.windows(part)[(ordered[:, 1:] != ordered[:, :-1]).all(1)]


def _checkpoints(scene: Scene) -> dict[str, set[str]]:
    """The pictures that each checkpoint in the history was trained on, by its md5: by the lists beside it."""
    found: dict[str, set[str]] = {}
    for commit in scene.run("git", "log", "--all", "--format=%H", "--", "dvc.lock").split():
        lock = scene.run("git", "show", f"{commit}:dvc.lock")
        for kind in KINDS:
            block = re.search(rf"^  train_{kind}@{kind}:\n(?:   .*\n)+", lock, re.M)
            outs = block[0].partition("    outs:")[2] if block else ""
            md5 = dict(re.findall(r"path: (\S+)\n +hash: md5\n +md5: (\w+)", outs))
            model, listed = md5.get(f"data/models/{kind}.safetensors"), md5.get(f"data/models/{kind}.members.arrow")
            place = scene.home / ".dvc/cache/files/md5" / listed[:2] / listed[2:] if listed else None
            if model and place and place.exists():
                found[model] = set(pa.ipc.open_file(place).read_all()["image_id"].to_pylist())
    return found


def copies_(folder: Path) -> None:
    """500 photos are withdrawn; copies of them, and 500 photos of others, are ingested."""
    from stages import ingest
    from stages.images import phash, withdrawn
    from stages.images.decode.read import decode
    from stages.runs.params import build

    names = sorted((CELEBA / "img_align_celeba").glob("*.jpg"))
    people = dict(line.split() for line in (CELEBA / "identity_CelebA.txt").read_text().splitlines())
    first = names[:500]
    gone = {people[file.name] for file in first}
    others = [file for file in names[500:] if people[file.name] not in gone][:500]
    lines = []
    for file in first:
        pixels = decode(file.read_bytes())
        hashes = phash.hashes(pixels)
        assert hashes
        sha = hashlib.sha256(file.read_bytes()).hexdigest()
        lines.append(withdrawn.line(sha, ingest.pixel_digest(pixels), hashes.upright))
    (folder / "tombstones.txt").write_text("\n".join(lines))
    root = folder / "copies"
    root.mkdir()
    ways = {
        **{f"q{quality}": (1.0, quality, False) for quality in (50, 65, 80, 95)},
        "half": (0.5, 90, False), "double": (2.0, 90, False), "mirrored": (1.0, 90, True),
    }  # fmt: skip
    for file in first:
        picture = Image.open(file)
        for way, (scale, quality, mirrored) in ways.items():
            copy = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else picture
            size = round(copy.width * scale), round(copy.height * scale)
            copy.resize(size, Image.Resampling.BICUBIC).save(root / f"{file.stem}-{way}.jpg", quality=quality)
    for file in others:
        shutil.copy(file, root / f"stranger-{file.name}")
    section = {"source": "folder", "root": "x", "use": "train", "licence": "x", "consent": "x", "origin": "x",
               "split": {"val": 0.1, "test": 0.1}}  # fmt: skip
    made = ingest.ingest(root, folder / "tombstones.txt", folder / "out", build(ingest.Params, section, "x"), "copies")
    table = pq.read_table(folder / "out").to_pylist()
    kept = [row["path"] for row in table if row["status"] == "kept"]
    strangers = sum(path.startswith("stranger") for path in kept)
    refused = 1 - (len(kept) - strangers) / (len(first) * len(ways))
    named = all("tombstone" in row["reason"] for row in table if (row["reason"] or "").startswith("withdrawn"))
    check(f"{len(first) * len(ways)} copies that come back: {refused:.2%} refused", refused >= 0.995)
    check("each names its tombstone", named, made["rejected"])
    check(f"strangers that were refused, of {len(others)}", strangers == len(others), len(others) - strangers)


if __name__ == "__main__":
    what = sys.argv[1] if len(sys.argv) > 1 else "scene"
    kept = os.environ.get("SOAK_FOLDER")  # where a scene lies, or is to be left
    folder = Path(kept) if kept else Path(tempfile.mkdtemp())
    try:
        if what == "erase":
            if not (folder / "repository").exists():
                Scene(folder).build()
            if not Path(f"{folder}.t").exists():
                subprocess.run(["cp", "-a", str(folder), f"{folder}.t"], check=True)
            count, at_once = [*map(int, sys.argv[2:4]), *([100, 1][len(sys.argv) - 2 :])][:2]
            erase_(folder, count, at_once)
        elif what == "copies":
            copies_(Path(tempfile.mkdtemp(dir=folder)))
        else:
            scene_(folder)
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.rmtree(f"{folder}.t", ignore_errors=True)
    sys.exit(bool(failed))
