"""A repository with ingested tables and trainings as the stages and DVC leave them, made without either: at once."""

import json
import subprocess
from collections.abc import Iterable, Sequence
from hashlib import md5, sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flows.lineage import cache
from stages import align, ingest
from stages.runs.params import build

IDENTITY = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]


class Repository:
    """Git and a DVC cache at `home`; what is `lock`ed and `commit`ted is in its history."""

    def __init__(self, home: Path) -> None:
        self.home = home
        (home / ".dvc").mkdir(parents=True)
        self.git("init", "-q")
        self.outs: dict[str, str] = {}  # of the next lock: md5 by path
        self.entries: dict[str, str] = {}  # of the next lock: entries of stages, by their names

    def git(self, *words: str) -> None:
        subprocess.run(["git", *IDENTITY, *words], cwd=self.home, check=True)

    def keep(self, path: str, content: bytes, ending: str = "") -> Path:
        """Bytes in DVC's cache, and in the next lock as the output `path`: the object."""
        digest = md5(content).hexdigest() + ending
        kept = cache.place(self.home, digest)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(content)
        self.outs[path] = digest
        return kept

    def table(self, name: str, rows: pa.Table) -> Path:
        """An ingested table of one part, in the cache: the part's object."""
        sink = pa.BufferOutputStream()
        pq.write_table(rows, sink)
        part = self.keep("part", sink.getvalue().to_pybytes())
        listing = [{"md5": self.outs.pop("part"), "relpath": "part-00000.parquet"}]
        self.keep(f"data/ingested/{name}", json.dumps(listing).encode(), ".dir")
        return part

    def folder(self, path: str, folder: Path) -> dict[str, Path]:
        """A folder as a stage left it, in the cache, and in the next lock as the output `path`: its objects by name."""
        objects = {file.name: self.keep(file.name, file.read_bytes()) for file in sorted(folder.iterdir())}
        listing = [{"md5": self.outs.pop(name), "relpath": name} for name in objects]
        self.keep(path, json.dumps(listing).encode(), ".dir")
        return objects

    def aligned(self, name: str, folder: Path, weights: Path, **section: str | int) -> dict[str, Path]:
        """An aligned table and its entry of align, which has read `weights`: its objects by name."""
        objects = self.folder(f"data/aligned/{name}", folder)
        listing = self.outs.pop(f"data/aligned/{name}")
        section["detector_model"] = str(weights)
        self.entries[f"align@{name}"] = (
            f"  align@{name}:\n    cmd: align\n    deps:\n{_file(str(weights), md5(weights.read_bytes()).hexdigest())}"
            f"    params:\n      params.yaml:\n        datasets.{name}.align: {json.dumps(section)}\n"
            f"    outs:\n{_file(f'data/aligned/{name}', listing)}"
        )
        return objects

    def blended(self, name: str, system: str, folder: Path) -> dict[str, Path]:
        """Blended pictures and their entry of blend, which has read the system's, as the next lock has them."""
        objects = self.folder(f"data/blended/{name}", folder)
        read = f"data/inpainted/{system}"
        self.entries[f"blend@{name}"] = (
            f"  blend@{name}:\n    cmd: blend\n    deps:\n{_file(read, self.outs[read])}"
            f"    outs:\n{_file(f'data/blended/{name}', self.outs.pop(f'data/blended/{name}'))}"
        )
        return objects

    def training(self, name: str, pictures: Iterable[bytes]) -> Path:
        """A checkpoint, and the list of the pictures (files) that it has read: the list's object."""
        return self.members(name, [sha256(picture).hexdigest() for picture in pictures])

    def members(self, name: str, ids: Sequence[str] | pa.Array) -> Path:
        """The same, of image_ids."""
        rows = pa.table({"image_id": ids, "path": [f"{number:06}.png" for number in range(len(ids))]})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, rows.schema) as writer:
            writer.write_table(rows)
        content = sink.getvalue().to_pybytes()
        self.keep(f"data/models/{name}.safetensors", md5(content).digest())
        return self.keep(f"data/models/{name}.members.arrow", content)

    def commit(self) -> None:
        """Write `dvc.lock`, and commit it."""
        lines = [_file(path, digest) for path, digest in self.outs.items()]
        text = f"schema: '2.0'\nstages:\n  all:\n    cmd: all\n    outs:\n{''.join([*lines, *self.entries.values()])}"
        (self.home / "dvc.lock").write_text(text)
        self.git("add", "dvc.lock")
        self.git("commit", "-qm", "made")


def _file(path: str, digest: str) -> str:
    """A file in a lock."""
    return f"    - path: {path}\n      hash: md5\n      md5: {digest}\n      size: 1\n"


def ingested(scratch: Path, pictures: dict[str, tuple[str, bytes]], **notes: dict[str, str]) -> pa.Table:
    """The table that ingest makes of pictures (split and file by path); `notes` are columns of `pictures.csv`."""
    section: dict[str, Any] = {
        "source": "folder", "root": "x", "use": "train", "licence": "CC0-1.0", "consent": "not a person",
        "origin": "a test", "split": {"val": 0, "test": 0},
    }  # fmt: skip
    root = scratch / "root"
    for path, (_, data) in pictures.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    lines = [",".join(["path", "split", *notes])]
    lines += [
        ",".join([path, split, *(known.get(path, "") for known in notes.values())])
        for path, (split, _) in pictures.items()
    ]
    (root / "pictures.csv").write_text("\n".join(lines))
    (scratch / "tombstones").touch()
    params = build(ingest.Params, section, "datasets.x.ingest")
    ingest.ingest(root, scratch / "tombstones", scratch / "out", params, "x")
    return pq.read_table(scratch / "out")


def aligned(scratch: Path, size: int = 64, **section: str) -> Path:
    """The folder that align makes of what `ingested` left in `scratch`: crops of `size` px, of the centre if `section`
    does not say otherwise."""
    section = {"mode": "centre", "detector": "annotations", "detector_model": "none"} | section
    params = build(align.Params, section | {"side": size}, "datasets.x.align")
    folder = scratch / f"aligned {size}"
    align.align(scratch / "out", Path(section["detector_model"]), folder, params, "x")
    return folder
