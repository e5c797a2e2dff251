"""A project with a checkpoint and all that stands behind it: files, `dvc.lock`, records, what its owner says."""

import json
import subprocess
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ready_made import IDENTITY, ingested
from safetensors.numpy import save_file

from stages.images import png
from stages.metrics.means import Interval, write_means
from stages.runs import git, record

PHOTOS = {f"Ada_Lovelace_{number}.png": number for number in range(5)}  # a path may name a person
TABLE = "data/ingested/faces"
MODEL = "data/models/net.safetensors"
SCORES = {"raw": 20.5, "blended": 21.25}  # mean psnr_hole
SOFT = {"raw": 20.5, "blended": 22.5}  # the same of another blend
OWNER = """
owner: "Ada | Lovelace"
purpose: to complete <b>portraits</b>
licence: Apache-2.0
checkpoints: {net: {url: "https://example.org/net"}}
datasets:
  faces: {url: "https://example.org/faces", creator: Ada Lovelace, published: "2026-11-27", description: Five}
"""
ENVIRONMENT = {"processor": "a test's", "python": "3.11.7", "libraries": {}}
SOURCE = "0" * 64
COMMIT = "c" * 40


class Project:
    """At `home`; `rows` are those of the ingested table."""

    def __init__(self, home: Path) -> None:
        self.home = home
        (home / ".dvc").mkdir(parents=True)
        self.git("init", "-q")
        pictures = {name: ("train", png.encode(_pixels(number))) for name, number in PHOTOS.items()}
        pictures["Ada_Lovelace_4.png"] = ("test", pictures["Ada_Lovelace_4.png"][1])
        pictures["broken.png"] = ("train", b"no picture")
        licences = {"Ada_Lovelace_0.png": "MIT", "Ada_Lovelace_1.png": "as Ada says"}
        rows = ingested(home / "scratch", pictures, licence=licences, identity={"Ada_Lovelace_0.png": "Ada"})
        self.rows = rows.to_pylist()
        self._write(f"{TABLE}/part-00000.parquet", _parquet(rows[:4]))
        self._write(f"{TABLE}/part-00001.parquet", _parquet(rows[4:]))
        self._write("data/raw/faces/one", b"raw")
        self._write("data/aligned/faces/train.arrow", b"aligned")
        train = rows.filter(pa.compute.equal(rows["split"], "train")).select(["image_id", "path"])
        self._write("data/models/net.members.arrow", _arrow(train))
        inputs = {"network": "net", "members": record.digest(home / "data/models/net.members.arrow")}
        save_file({"network.w": np.zeros((3, 4), np.float32)}, home / MODEL, {"palimpsest": json.dumps(inputs)})
        scored = pa.table(
            {"image_id": ["4", "4", "0"], "split": ["test", "test", "train"], "psnr_hole": [20.5, 21.25, 30]}
        )
        self._write("data/scores/net.parquet", _parquet(scored))
        means = {(name, "overall", "all"): {"psnr_hole": Interval(3, x, x - 1, x + 1)} for name, x in SCORES.items()}
        means["difference", "overall", "all"] = {"psnr_hole": Interval(3, 0.75, 0, 1)}
        trained = {("raw", "overall", "all"): {"psnr_hole": Interval(1, 30, 30, 30)}}
        write_means({"test": means, "train": trained}, home / "data/scores/net.means.parquet")
        section = {"source": "folder", "root": "/home/ada/photos", "use": "train", "licence": "CC0-1.0",
                   "consent": "not a person", "origin": "a test"}  # fmt: skip
        counts = {"kept": 5, "rejected": {"not a picture": 1}}
        self._lock = "schema: '2.0'\nstages:\n"
        self._ran("ingest@faces", ["data/raw/faces"], [TABLE], {"datasets.faces.ingest": section}, counts)
        self._ran("align@faces", [TABLE], ["data/aligned/faces"], {"datasets.faces.align": {"mode": "face"}})
        models = [MODEL, "data/models/net.members.arrow"]
        self._ran("train_net@net", ["data/aligned/faces/train.arrow"], models, {"train_net.net": {"seed": 1}})
        scores = ["data/scores/net.parquet", "data/scores/net.means.parquet"]
        self._ran("evaluate@net", ["data/aligned/faces", MODEL], scores, {"evaluate": {}})
        more = ["data/models/more.safetensors", "data/models/more.members.arrow"]  # has gone on from the other one
        save_file({"network.w": np.ones((3, 4), np.float32)}, home / more[0], {"palimpsest": json.dumps(inputs)})
        (home / more[1]).write_bytes((home / models[1]).read_bytes())
        self._ran("train_net@more", ["data/aligned/faces/train.arrow", MODEL], more, {"train_net.more": {"seed": 2}})
        self._write("data/scores/more.parquet", _parquet(scored))
        self._ran("evaluate@more", ["data/aligned/faces", more[0]], ["data/scores/more.parquet"], {"evaluate": {}})
        (home / "audit.yaml").write_text(OWNER)
        (home / ".gitignore").write_text("/data/\n/.palimpsest/\n/scratch/\n/own/\n")
        self._commit()

    def blend_again(self) -> None:
        """Another entry of `blend` for what `net` has completed, and its scores; the name comes before the system's."""
        self._write("data/inpainted/net/guide.arrow", b"guide")
        means = {(name, "overall", "all"): {"psnr_hole": Interval(3, x, x, x)} for name, x in SOFT.items()}
        self._write("data/scores/a_soft.parquet", _parquet(pa.table({"image_id": ["4"], "psnr_hole": [22.5]})))
        write_means({"test": means}, self.home / "data/scores/a_soft.means.parquet")
        scores = ["data/scores/a_soft.parquet", "data/scores/a_soft.means.parquet"]
        self._ran("evaluate@a_soft", ["data/aligned/faces", MODEL, "data/inpainted/net"], scores, {"evaluate": {}})
        self._commit()

    def _commit(self) -> None:
        (self.home / "dvc.lock").write_text(self._lock)
        self.git("add", "-A")
        self.git("commit", "-qm", "made")

    def git(self, *words: str) -> None:
        subprocess.run(["git", *IDENTITY, *words], cwd=self.home, check=True)

    def _write(self, path: str, content: bytes) -> None:
        (self.home / path).parent.mkdir(parents=True, exist_ok=True)
        (self.home / path).write_bytes(content)

    def _ran(self, stage: str, deps: list[str], outs: list[str], params: dict, notes: dict | None = None) -> None:
        """A run of a stage: its record, and its entry in the lock."""
        files = [self.home / path for path in outs]
        facts = {
            "inputs": {path: record.digest(self.home / path) for path in deps},
            "outputs": {path: record.digest(file) for path, file in zip(outs, files, strict=True)},
            "sha256": {path: record.digests(file, "sha256")[0] for path, file in zip(outs, files, strict=True)},
            "params": params, "code": "0" * 64, "sources": {"stage.py": SOURCE}, "weights": {"yunet.onnx": "1" * 64},
            "environment": ENVIRONMENT, **({"notes": notes} if notes else {}),
        }  # fmt: skip
        around = {
            "started": "2026-11-27T10:00:00+00:00", "ended": "2026-11-27T10:00:01+00:00", "seconds": 1,
            "packages": {"imported": {"torch": "2.15.0", "opencv_python": "4.14.0.94"}, "installed": "2" * 64},
        }  # fmt: skip
        record.write(self.home / record.home(), stage, facts, around, git.State(COMMIT, [], b""))
        params_text = "".join(f"        {key}: {json.dumps(value)}\n" for key, value in params.items())
        self._lock += (
            f"  {stage}:\n    cmd: {stage}\n    deps:\n{_files(facts['inputs'])}"
            f"    params:\n      params.yaml:\n{params_text}    outs:\n{_files(facts['outputs'])}"
        )


def _files(md5s: dict[str, str]) -> str:
    """As DVC writes them."""
    return "".join(
        f"    - path: {path}\n      hash: md5\n      md5: {md5}\n      size: 1\n" for path, md5 in md5s.items()
    )


def _pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (16, 12, 3), np.uint8)


def _parquet(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink)
    return sink.getvalue().to_pybytes()


def _arrow(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, rows.schema) as writer:
        writer.write_table(rows)
    return sink.getvalue().to_pybytes()


def digest(file: Path) -> str:
    """sha256, by other means than the project's."""
    return sha256(file.read_bytes()).hexdigest()
