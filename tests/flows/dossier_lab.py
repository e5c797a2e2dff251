"""A repository whose checkpoint was trained and scored, put together by hand: all that is in it is known."""

from __future__ import annotations

import io
import json
import subprocess
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image
from ruamel.yaml import YAML
from safetensors.numpy import save_file

from flows.lineage import erasures, keys, public_keys
from flows.lineage.records import ERASED
from stages.metrics.means import summarise, write_means
from stages.runs import git, record

NET, MEMBERS = "data/models/net.safetensors", "data/models/net.members.arrow"
MORE = "data/models/more.safetensors"
CODE = "stages/train_net.py"
TABLE, ALIGNED, SCORES = "data/ingested/faces", "data/aligned/faces", "data/scores/net"
PATHS = [f"{name}.png" for name in "abcdefgh"]  # the first five train, the others are for tests
GROUPS = ["young", "old", "young", "old", None, "young", "old", "old"]
COLLECTED = ["2026-03-01", "2025", "2026-03", None, "2025-12-31", None, None, "2027-01-01"]
PURPOSE = ["a study", "a study", "a study", "a show", None, "a study", None, "another"]
PSNR = {"f.png": 20.0, "g.png": 10.0, "h.png": 14.0}
TERMS = {"source": "folder", "use": "train", "licence": "CC-BY-4.0", "consent": "given", "origin": "a shoot"}
ENVIRONMENT = {
    "python": "3.11.7", "system": "Linux", "machine": "x86_64", "libc": "glibc", "processor": "A processor", "cores": 4,
    "accelerator": None, "libraries": {"torch": "2.15.0", "numpy": None}, "kernels": {"torch": None, "threads": 2},
}  # fmt: skip


def png(name: str) -> bytes:
    stream = io.BytesIO()
    size = (6, 4) if name < "c" else (8, 8)
    Image.new("RGB", size, (ord(name[0]), 0, 0)).save(stream, "PNG")
    return stream.getvalue()


FILES = {path: png(path) for path in PATHS}
IDS = {path: sha256(data).hexdigest() for path, data in FILES.items()}


class DossierLab:
    """`net` was trained on five of eight pictures, and `more` has gone on from it; no DVC has run."""

    def __init__(self, home: Path, columns: bool = True) -> None:
        """Without `columns` the ingested table is of an older version."""
        self.home = home
        (home / ".dvc").mkdir(parents=True)
        (home / ".gitignore").write_text("/data/*\n!/data/scores/\n/.palimpsest/\n")
        self.git("init", "-q", "-b", "main")
        for folder in (TABLE, ALIGNED, "data/models", "data/scores"):
            (home / folder).mkdir(parents=True)
        (home / CODE).parent.mkdir()
        (home / CODE).write_text("train()")
        self._table(columns)
        (home / ALIGNED / "train.arrow").write_bytes(b"train")
        (home / ALIGNED / "test.arrow").write_bytes(b"test")
        self._members()
        said = {"network": "net", "members": record.digest(home / MEMBERS)}
        save_file({"net.w": np.zeros((3, 2), np.float32)}, home / NET, {"palimpsest": json.dumps(said)})
        save_file({"w": np.ones(3, np.float32)}, home / MORE, {"palimpsest": json.dumps({"network": "net"})})
        self.score(PSNR)
        self.commit("made")
        for stage, (deps, outs, params) in self.stages().items():
            self.ran(stage, deps, outs, params)

    def git(self, *words: str) -> str:
        identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
        done = subprocess.run(["git", *identity, *words], cwd=self.home, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def commit(self, message: str) -> None:
        self.lock()
        self.git("add", "-A")
        self.git("commit", "-qm", message)

    def digests(self, *paths: str) -> dict[str, str]:
        return {path: record.digest(self.home / path) for path in paths}

    def stages(self) -> dict[str, tuple[list[str], list[str], dict[str, Any]]]:
        """Inputs, outputs and parameters."""
        return {
            "ingest@faces": ([], [TABLE], {"datasets.faces.ingest": TERMS}),
            "align@faces": ([TABLE], [ALIGNED], {"datasets.faces.align": {"side": 4, "mode": "centre"}}),
            "train_net@net": (
                [f"{ALIGNED}/train.arrow", CODE], [NET, MEMBERS],
                {"train_net.net": {"seed": 7, "holes": {"lines": {}}}},
            ),
            "train_net@more": ([NET], [MORE], {"train_net.more": {"seed": 8}}),
            "infer@net": ([NET, ALIGNED], [], {}),
            "evaluate@net": (
                [NET, ALIGNED], [f"{SCORES}{end}" for end in (".json", ".parquet", ".means.parquet")],
                {"evaluate": {"bootstrap": 50, "seed": 3}},
            ),
        }  # fmt: skip

    def lock(self) -> None:
        def files(paths: list[str]) -> list[dict[str, str]]:
            return [{"path": path, "hash": "md5", "md5": md5} for path, md5 in self.digests(*paths).items()]

        content = {
            stage: {"cmd": "x", "deps": files(deps), "params": {"params.yaml": params}, "outs": files(outs)}
            for stage, (deps, outs, params) in self.stages().items()
        }
        with (self.home / "dvc.lock").open("w") as file:
            YAML().dump({"schema": "2.0", "stages": content}, file)

    def ran(self, stage: str, deps: list[str], outs: list[str], params: dict[str, Any]) -> Path:
        """Leave the record of a run."""
        facts = {
            "inputs": self.digests(*deps), "outputs": self.digests(*outs), "params": params, "code": "c" * 64,
            "sources": {f"{stage.partition('@')[0]}.py": "d" * 64}, "weights": {}, "environment": ENVIRONMENT,
        }  # fmt: skip
        if stage.startswith("ingest"):
            terms = [{"licence": "CC-BY-4.0", "consent": "given", "pictures": 8}]
            moved = {"b.png": "to train, where its twin is"}
            facts["notes"] = {"kept": 8, "rejected": {"too small": 2}, "terms": terms, "moved": moved}
        told = {
            "started": "2026-01-01T00:00:00+00:00", "ended": "2026-01-01T00:01:00+00:00", "seconds": 60.0,
            "peak_memory_mib": 1234, "packages": {"imported": {"torch": "2.15.0"}, "installed": "e" * 64},
        }  # fmt: skip
        return record.write(self.records, stage, facts, told, git.State(self.git("rev-parse", "HEAD"), [], b""))

    @property
    def records(self) -> Path:
        return self.home / ".palimpsest" / "records"

    def score(self, psnr: dict[str, float]) -> None:
        """The files of scores: of each picture one hole, raw alone."""
        rows = {
            "image_id": [IDS[path] for path in psnr], "path": [*psnr], "kind": ["lines"] * len(psnr),
            "split": ["test"] * len(psnr), "blending": ["raw"] * len(psnr), "ratio": [0.2] * len(psnr),
            "psnr_hole": [*psnr.values()], "ssim": [0.5] * len(psnr),
        }  # fmt: skip
        pq.write_table(pa.table(rows), self.home / f"{SCORES}.parquet")
        write_means({"test": summarise(rows, 50, 3)}, self.home / f"{SCORES}.means.parquet")
        (self.home / f"{SCORES}.json").write_text(json.dumps({"n": len(psnr)}))

    def erase(self, path: str) -> Path:
        """Take a picture out as `audit erase` does, with the checkpoint if it was trained on it; the record of that."""
        files = [*sorted((self.home / TABLE).iterdir()), self.home / MEMBERS, self.home / f"{SCORES}.parquet"]
        before = {file: record.digest(file) for file in (*files, self.home / TABLE)}
        for file in files:
            rows = _read(file)
            _write(rows.filter(pc.not_equal(rows["path"], path)), file)
        changed = {md5: new for file, md5 in before.items() if (new := record.digest(file)) != md5}
        if md5 := changed.get(before[self.home / TABLE]):
            parts = sorted((self.home / TABLE).iterdir())
            self.cache(md5, [{"md5": record.digest(file), "relpath": file.name} for file in parts])
        gone = []
        if path in PATHS[:5]:
            gone = [{"path": NET, "md5": record.digest(self.home / NET), "stage": "train_net@net"}]
            (self.home / NET).unlink()
        return self.erased({"pictures": [{"image_id": IDS[path]}], "checkpoints": gone, "changed": changed, "gone": []})

    def cache(self, md5: str, listing: list[dict[str, str]]) -> None:
        """Put the listing of a folder into DVC's cache."""
        file = self.home / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(listing, sort_keys=True))

    def erased(self, notes: dict[str, Any]) -> Path:
        """Leave the record of an erasure."""
        facts = {"inputs": {}, "outputs": {}, "params": {}, "environment": {}, "notes": notes}
        erasures.replaced.cache_clear()
        return record.write(self.records, ERASED, facts, {"ended": "2026-02-01T00:00:00+00:00"})

    def key(self, name: str) -> None:
        """A key of the user's own, which everybody who has the repository trusts."""
        keys.new(self.home, name, "")
        self.git("add", public_keys.SIGNERS)
        self.git("commit", "-qm", f"trust {name}")

    def _table(self, columns: bool) -> None:
        rows: dict[str, Any] = {
            "image": [{"bytes": data, "path": path} for path, data in FILES.items()],
            "image_id": [*IDS.values()], "path": PATHS, "pixel_sha256": [*IDS.values()], "identity": [None] * 8,
            "split": ["train"] * 5 + ["test"] * 3, "status": ["kept"] * 8,
            "width": [6, 6] + [8] * 6, "height": [4, 4] + [8] * 6, "licence": ["CC-BY-4.0"] * 7 + [None],
            "consent": ["given"] * 7 + [None], "origin": ["a shoot"] * 8,
        }  # fmt: skip
        if columns:
            rows |= {"group": GROUPS, "purpose": PURPOSE, "collected": COLLECTED}
        table = pa.table(rows).cast(pa.schema([
            pa.field(name, pa.string() if column.type == pa.null() else column.type)
            for name, column in zip(rows, pa.table(rows).columns, strict=True)
        ]))  # fmt: skip
        half = len(table) // 2  # two shards, as a large dataset has
        for number, part in enumerate((table.slice(0, half), table.slice(half))):
            pq.write_table(part, self.home / TABLE / f"part-{number:05d}.parquet")

    def _members(self) -> None:
        rows = pa.table({"image_id": [IDS[path] for path in PATHS[:5]], "path": PATHS[:5]})
        _write(rows, self.home / MEMBERS)


def _read(file: Path) -> pa.Table:
    return pq.read_table(file) if file.suffix == ".parquet" else pa.ipc.open_file(file.read_bytes()).read_all()


def _write(rows: pa.Table, file: Path) -> None:
    if file.suffix == ".parquet":
        pq.write_table(rows, file)
        return
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, rows.schema) as writer:
        writer.write_table(rows)
