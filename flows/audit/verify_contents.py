"""Contents against each other: tables can be read, checkpoints say what locks say, their pictures are in the tables of
their data, and records are what their names promise."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from flows.audit.checkpoint import CHECKPOINT
from flows.audit.facts import read_list
from flows.audit.findings import Findings
from flows.audit.hashing import Digests
from flows.audit.verify_locks import contradiction
from flows.lineage import cache, dvc_lock
from flows.lineage.entries import Entry, plain
from flows.lineage.records import Records
from flows.registry import history
from stages.images.table import Table
from stages.runs import record
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
        for entry in entries:
            for path, md5 in entry.outs.items():
                self.made[path, md5].append(entry)
                for name, inside in (self.listing(md5) or {}).items():
                    self.made[f"{path}/{name}", inside].append(entry)
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
        named: dict[str, Sequence[str | None]] = {"members": members, "data": data, "start": starts or [None]}
        for key, locked in named.items():
            if key in says and locked and says[key] not in locked:
                said = f"its metadata say {key} {says[key]}, and dvc.lock {locked[0]} {where}: one of them was altered"
                self.findings.fault(path, said)
        for section, values in entry.params.items():
            claimed = plain(says.get("runtime" if section == "runtime" else "params", {}))
            for key, value in plain(values).items():
                if key in claimed and not isinstance(value, list) and claimed[key] != value:
                    said = f"its metadata say {key}: {claimed[key]}, and dvc.lock {section}.{key}: {value} {where}"
                    self.findings.fault(path, f"{said}: one of them was altered")

    def _data(self, entry: Entry) -> list[str]:
        """The digests that the entry's table of training pictures may have."""
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
        for md5 in self._data(entry):
            if table := self.digests.having(md5):
                self._only(path, read, _pictures(read_list(table)), f"the table that it was trained on ({md5[:10]})")
            tables = [made for (name, inside), makers in self.made.items()
                      if inside == md5 and name.endswith(TRAIN) for made in makers]  # fmt: skip
            datasets = {md5: name for made in tables for name, md5 in made.deps.items() if dvc_lock.INGESTED in name}
            allowed = {md5: self.trainable(md5) for md5 in datasets}
            known = [pictures for pictures in allowed.values() if pictures is not None]
            if known:
                rest = min((read - pictures for pictures in known), key=len)
                name = ", ".join(f"{name} {md5[:10]}" for md5, name in datasets.items())
                self._only(
                    path, rest, set(), f"the training pictures of {name}: rejected, withdrawn, or of another split"
                )
            elif table is None or datasets:
                self.findings.cannot_tell(
                    path, "the table of its data is not here; `dvc fetch --all-commits` brings it"
                )

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

    def records(self) -> None:
        """Every record is what its name promises, and contradicts no lock."""
        entries: dict[tuple[str, str], list[Entry]] = defaultdict(list)
        for entry in self.entries:
            for out in entry.outs.items():
                entries[out].append(entry)
        newer, alone = [], []
        whole: dict[str, dict[str, Any]] = {}
        for where, text in Records(self.root).texts().items():
            self.findings.checked["records"] += 1
            try:
                about = record.parse(text, where)
            except record.Newer:
                newer.append(where)
                continue
            except InputError:
                self.findings.fault(where, "is damaged; remove it")
                continue
            stage, _, name = where.rpartition(":")[2].rpartition("/")
            if not record.whole(about) or not name.startswith(about["digest"]) or stage != about["stage"]:
                altered = "says something else than its name promises: it was altered; remove it"
                self.findings.fault(where, altered, name)
            elif (json.dumps(about, indent=1, sort_keys=True) + "\n").encode() != text:
                self.findings.fault(where, "is not spelled as a run writes it: it was altered; remove it")
            else:
                whole[where] = about
        agreed: set[int] = set()
        against: dict[str, list[tuple[Entry, str]]] = {}
        for file, about in whole.items():
            found = _of_outputs(entries, about["outputs"])
            said = [(entry, contradiction(about, entry)) for entry in found]
            agreed |= {id(entry) for entry, wrong in said if wrong is None}
            if not found:
                alone.append(file)
            elif all(wrong for _, wrong in said):
                against[file] = [(entry, wrong) for entry, wrong in said if wrong]
        for file, pairs in against.items():
            entry, wrong = pairs[0]
            if not any(id(each) in agreed for each, _ in pairs):  # else it is of another run with the same outputs
                self.findings.fault(file, f"contradicts dvc.lock on {entry.stage}: {wrong}")
        self.findings.gone("records", newer, "of a newer format; update Palimpsest")
        if alone:
            self.findings.remarks.append(("records", f"{len(alone)} are of runs whose outputs no lock has"))


def _of_outputs(entries: dict[tuple[str, str], list[Entry]], outputs: dict[str, str]) -> list[Entry]:
    found: Iterable[Entry] = entries.get(next(iter(outputs.items()), ("", "")), [])
    return [entry for entry in found if outputs.items() <= entry.outs.items()]


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
