"""What an experiment has made, read from its commit and from DVC's cache."""

from __future__ import annotations

import contextlib
import math
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flows.checkout.git import Git, GitError
from flows.lineage import cache, entries, locks
from flows.lineage.entries import Entry
from flows.lineage.locks import Lock
from flows.lineage.upstream import upstream
from flows.studies.compare import Scores
from flows.studies.outcome import Pictures
from stages.images.table import KEY, Key
from stages.runs.errors import InputError

CHECKPOINT, HISTORY = ".safetensors", ".csv"


class Experiment:
    """The commit of an experiment in the repository at `root`."""

    def __init__(self, root: Path, commit: str):
        self.root, self.commit = root, commit
        git = Git(root)
        place = f"{commit}:{git.prefix}{locks.NAME}"
        try:
            text = git.blobs([place])[place]
        except GitError:
            raise InputError(
                f"experiment {commit[:10]} has no {locks.NAME}; remove it with `dvc exp remove`, then run it again"
            ) from None
        self._lock = Lock(commit, None, text)
        self._found: dict[str, list[Entry]] = {}
        self._tables: dict[str, pa.Table] = {}

    @cached_property
    def _entries(self) -> dict[str, Entry]:
        return {entry.stage: entry for entry in entries.of(self._lock)}

    def _entry(self, system: str) -> Entry:
        """That of `evaluate` for the system. Raises InputError where it has not run."""
        if entry := self._entries.get(f"evaluate@{system}"):
            return entry
        raise InputError(f"experiment {self.commit[:10]}: has no scores of {system}")

    def _behind(self, system: str) -> list[Entry]:
        """The entries that a system's scores come from, with their own."""
        if system not in self._found:
            entry = self._entry(system)
            self._found[system] = [entry, *upstream(self.root, [self._lock], entry, []).entries]
        return self._found[system]

    def checkpoints(self, system: str) -> dict[str, str]:
        """The checkpoints that the system's pictures were completed by: md5 by path."""
        return {
            path: md5
            for entry in self._behind(system)
            if not entry.stage.startswith("train_")  # which may go on from another
            for path, md5 in entry.deps.items()
            if path.endswith(CHECKPOINT)
        }

    def histories(self, system: str) -> dict[str, Path]:
        """The losses of those trainings that made the system's checkpoints: files, by their paths.

        What is not in the cache, or has been altered there, is left out.
        """
        made = self.checkpoints(system).items()
        found: dict[str, Path] = {}
        for entry in self._behind(system):
            for path, md5 in entry.outs.items() if made & entry.outs.items() else ():
                with contextlib.suppress(cache.Altered):
                    if path.endswith(HISTORY) and (file := cache.find(self.root, md5, path)):
                        found[path] = file
        return found

    def parameters(self, system: str) -> dict[str, Any]:
        """The parameters that have had a part in the system's scores, by their ways."""
        return {key: value for entry in self._behind(system) for key, value in entries.plain(entry.params).items()}

    def scores(self, system: str, metric: str, kind: str | None, split: str, blending: str) -> Scores:
        """A system's scores in a metric; what has no number is left out.

        Raises InputError where the table is not in the cache, or has no such column or no such rows.
        """
        table = self._table(system)
        if metric not in table.column_names:
            remedy = "; set evaluate.lpips and its weights" if metric == "lpips" else ""
            raise InputError(f"{metric} was not measured{remedy}")
        if "split" in table.column_names:
            table = table.filter(pc.equal(table["split"], split))
        elif split != "test":  # older tables are of test pictures alone
            table = table.slice(0, 0)
        # Where blending changes no picture there are raw rows alone.
        wanted = blending if blending in pc.unique(table["blending"]).to_pylist() else "raw"
        table = table.filter(pc.equal(table["blending"], wanted))
        if kind:
            table = table.filter(pc.equal(table["kind"], kind))
        columns = (table[name].to_pylist() for name in (*KEY, metric))
        found: dict[Key, float] = {
            (image, path, hole): value
            for image, path, hole, value in zip(*columns, strict=True)
            if value is not None and math.isfinite(value)
        }
        if not found:
            holes = f" of {kind} holes" if kind else ""
            raise InputError(f"there are no scores{holes} on {split} pictures")
        return found

    def _table(self, system: str) -> pa.Table:
        if system not in self._tables:
            path = f"data/scores/{system}.parquet"
            md5 = self._entry(system).outs.get(path, "")
            file = cache.find(self.root, md5, path)
            if file is None:
                raise self._lacking(path)
            try:
                self._tables[system] = pq.read_table(file)
            except pa.ArrowException:
                raise InputError(f"{path} of experiment {self.commit[:10]} is no table of scores") from None
        return self._tables[system]

    def _lacking(self, path: str) -> InputError:
        return InputError(f"{path} of experiment {self.commit[:10]} is not in DVC's cache; `dvc exp pull` brings it")

    def pictures(self, system: str, seed: int, split: str) -> Pictures:
        """The system's pictures of a split, unread. Raises InputError where one of their files is not in the cache."""
        deps = self._entry(system).deps

        def held(room: str, name: str) -> tuple[Path, str]:
            path = next((path for path in deps if path.startswith(f"data/{room}/")), f"data/{room}")
            listing = cache.place(self.root, deps.get(path, "none"))
            md5 = cache.listing(listing).get(name, "none") if listing.is_file() else "none"
            file = cache.place(self.root, md5)
            if not file.is_file():
                raise self._lacking(f"{path}/{name}")
            return file, md5

        (truth, one), (holes, other) = held("aligned", f"{split}.arrow"), held("masks", f"{split}.arrow")
        raw, blended = held("inpainted", "completed.arrow")[0], held("blended", "blended.arrow")[0]
        return Pictures(seed, split, truth, holes, raw, blended, (one, other))
