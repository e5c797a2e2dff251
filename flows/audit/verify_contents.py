"""Contents against each other: tables can be read, checkpoints say what locks say, and their pictures are in the tables
of their data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from flows.audit.checkpoint import CHECKPOINT
from flows.audit.facts import read_list
from flows.audit.findings import Findings
from flows.audit.hashing import Digests
from flows.lineage import cache, dvc_lock
from flows.lineage.entries import Entry, plain
from flows.registry import history
from stages.images.table import Table
from stages.runs.errors import InputError
from stages.runs.header import Header

PICTURES = ("data/aligned/", "data/masks/", "data/inpainted/", "data/blended/")  # of tables of pictures or holes
TRAIN = "train.arrow"
JUDGED = ("image_id", "path", "status", "split")  # columns of an ingested table that say what may train
SHOWN = 5  # pictures that people see

Picture = tuple[str, str]  # image_id, path


class Contents:
    """What the entries of all locks name, so far as whole bytes of it are here."""

    def __init__(self, root: Path, entries: list[Entry], digests: Digests, findings: Findings) -> None:
        self.root, self.entries, self.digests, self.findings = root, entries, digests, findings
        self.made: dict[tuple[str, str], list[Entry]] = defaultdict(list)  # by path and md5, also inside of folders
        self.listings: dict[str, dict[str, str] | None] = {}
        self.trained_on: dict[str, list[Entry]] = defaultdict(list)  # who made a table of training pictures, by its md5
        for entry in entries:
            for path, md5 in entry.outs.items():
                self.made[path, md5].append(entry)
                for name, inside in (self.listing(md5) or {}).items():
                    self.made[f"{path}/{name}", inside].append(entry)
        for (path, md5), makers in self.made.items():
            if PurePosixPath(path).name == TRAIN:
                self.trained_on[md5] += makers
        self._trainable: dict[str, set[Picture] | None] = {}

    def listing(self, md5: str) -> dict[str, str] | None:
        """What is inside a folder of this digest; None for a file, and where its listing is not here."""
        if not md5.endswith(".dir"):
            return None
        if md5 not in self.listings:
            file = self.digests.having(md5)
            try:
                self.listings[md5] = cache.listing(file) if file else None
            except InputError as error:
                self.listings[md5] = None
                self.findings.fault(str(file), str(error))
        return self.listings[md5]

    def tables(self) -> None:
        """Every table that is here can be read, and has the columns by which pictures are known."""
        for (path, md5), _ in self.made.items():
            file = self.digests.having(md5)
            if file is None or md5.endswith(".dir"):
                continue
            try:
                if path.startswith(dvc_lock.INGESTED) and path.endswith(".parquet"):
                    _ingested(file)
                elif path.startswith(PICTURES) and path.endswith(".arrow"):
                    Table(file)
                else:
                    continue
                self.findings.checked["tables"] += 1
            except InputError as error:
                said = str(error).partition(": ")[2]
                self.findings.fault(path, f"has the digest that dvc.lock says, and is {said}", md5, md5)

    def checkpoints(self) -> None:
        """Every checkpoint says of itself what its lock says; every list of pictures is of pictures that may train."""
        for entry in self.entries:
            for path, md5 in entry.outs.items():
                if path.endswith(CHECKPOINT) and (file := self.digests.having(md5)):
                    self._checkpoint(entry, path, file)
                elif path.endswith(history.MEMBERS) and (file := self.digests.having(md5)):
                    self._members(entry, path, file)

    def _checkpoint(self, entry: Entry, path: str, file: Path) -> None:
        try:
            says = Header(file, "it cannot be checked").inputs
        except InputError as error:
            self.findings.cannot_tell(path, str(error))
            return
        self.findings.checked["checkpoints"] += 1
        where = f"(dvc.lock of {entry.lock.commit[:10] if entry.lock.commit else 'the working copy'})"
        members = [md5 for out, md5 in entry.outs.items() if out.endswith(history.MEMBERS)]
        starts: list[str | None] = [md5 for dep, md5 in entry.deps.items() if dep.endswith(CHECKPOINT)]
        data = self._data(entry)
        named: dict[str, Sequence[str | None]] = {"members": members, "data": data, "also": data}
        named["start"] = starts or [None]
        for key, locked in named.items():
            if key in says and locked and says[key] not in locked:
                there = " and ".join(map(str, locked))
                said = f"its metadata say {key} {says[key]}, and dvc.lock {there} {where}: one of them was altered"
                self.findings.fault(path, said)
        for section, values in entry.params.items():
            claimed = plain(says.get("runtime" if section == "runtime" else "params", {}))
            for key, value in plain(values).items():
                if key in claimed and not isinstance(value, list) and claimed[key] != value:
                    said = f"its metadata say {key}: {claimed[key]}, and dvc.lock {section}.{key}: {value} {where}"
                    self.findings.fault(path, f"{said}: one of them was altered")

    def _data(self, entry: Entry) -> list[str]:
        """The digests of the entry's tables of training pictures."""
        found = []
        for path, md5 in entry.deps.items():
            if PurePosixPath(path).name == TRAIN:
                found.append(md5)
            elif inside := (self.listing(md5) or {}).get(TRAIN):
                found.append(inside)
        return found

    def _members(self, entry: Entry, path: str, file: Path) -> None:
        try:
            read = _pictures(read_list(file))
        except InputError as error:
            self.findings.fault(path, str(error))
            return
        self.findings.checked["lists of pictures"] += 1
        listed = {md5: self._listed(path, md5) for md5 in self._data(entry)}
        if listed and None not in listed.values():
            every = set().union(*filter(None, listed.values()))
            names = ", ".join(md5[:10] for md5 in listed)
            self._only(
                path, read, every, f"the {'tables' if len(listed) > 1 else 'table'} that it was trained on ({names})"
            )
        rest, origins = read, dict[str, str]()
        for md5, pictures in listed.items():
            makers = self.trained_on.get(md5, [])
            datasets = {md5: name for made in makers for name, md5 in made.deps.items() if dvc_lock.INGESTED in name}
            known = [found for found in map(self.trainable, datasets) if found is not None]
            if known:
                rest = min((rest - found for found in known), key=len)
                origins |= datasets
            elif pictures is None or datasets:
                why = "the table of its data is not here; `dvc fetch --all-commits` brings it"
                self.findings.cannot_tell(path, why)
                return
            else:
                rest = rest - pictures
        if origins:
            name = ", ".join(f"{name} {md5[:10]}" for md5, name in origins.items())
            which = f"the training pictures of {name}: rejected, withdrawn, or of another split"
            self._only(path, rest, set(), which)

    def _listed(self, path: str, md5: str) -> set[Picture] | None:
        """The pictures of a table that the list at `path` rests on; None where the table is not here, or damaged."""
        if (table := self.digests.having(md5)) is None:
            return None
        try:
            return _pictures(read_list(table))
        except InputError as error:
            self.findings.cannot_tell(path, str(error))
            return None

    def _only(self, path: str, read: set[Picture], allowed: set[Picture], which: str) -> None:
        if strangers := sorted(name for _, name in read - allowed):
            names = ", ".join(strangers[:SHOWN]) + (f" and {len(strangers) - SHOWN} more" * (len(strangers) > SHOWN))
            self.findings.fault(path, f"{len(strangers)} of its pictures are not among {which}: {names}")

    def trainable(self, ingested: str) -> set[Picture] | None:
        """The pictures of an ingested dataset that may train; None where a part of it is not here."""
        import pyarrow.parquet as pq

        if ingested not in self._trainable:
            parts = [self.digests.having(md5) for md5 in (self.listing(ingested) or {}).values()]
            found: set[Picture] | None = None
            if parts and all(parts):
                found = set()
                for part in filter(None, parts):
                    try:
                        rows = pq.read_table(part, columns=list(JUDGED)).to_pydict()
                    except Exception:  # `tables` has named it
                        continue
                    found |= {
                        (image, path)
                        for image, path, status, split in zip(*(rows[name] for name in JUDGED), strict=True)
                        if (status, split) == ("kept", "train")
                    }
            self._trainable[ingested] = found
        return self._trainable[ingested]


def _pictures(rows: Any) -> set[Picture]:
    return set(zip(rows["image_id"].to_pylist(), rows["path"].to_pylist(), strict=True))


def _ingested(file: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(file)
        rows = pq.read_table(file, columns=[name for name in JUDGED if name in schema.names])
        rows.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{file}: not readable as Parquet ({str(error).splitlines()[0]})") from None
    if gone := [name for name in JUDGED if name not in schema.names or not pa.types.is_string(schema.field(name).type)]:
        raise InputError(f"{file}: without a column of text '{gone[0]}'")
