"""Whether train, val and test are disjoint: by bytes, pixels, looks and people."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

from flows.audit.facts import Fact, absent, page, read_table
from flows.checkout.git import Git
from flows.lineage import locks, tables
from flows.lineage.dvc_lock import INGESTED
from stages.images.table import SPLITS
from stages.runs.errors import InputError

SHOWN = 5  # what is shared that people see; `--json` has all
COLUMNS = ("image_id", "path", "pixel_sha256", "identity", "split")
WHAT = {"image_id": "bytes", "pixel_sha256": "pixels", "near": "near copies", "identity": "identity"}


@dataclasses.dataclass(frozen=True)
class Dataset:
    """What the splits of a dataset have in common."""

    name: str
    md5: str  # of its ingested table
    pictures: dict[str, int] | None  # kept ones, by split; None: the table is not here, or altered
    shared: dict[str, list[Any]]  # by bytes, pixels, near copies and identity: pictures (`path` and `split`) each
    facts: list[Fact]


@dataclasses.dataclass(frozen=True)
class Splits:
    """What the splits of datasets have in common."""

    commit: str | None  # None: the working copy's `dvc.lock`
    datasets: list[Dataset]

    @property
    def found(self) -> bool:
        return any(dataset.pictures is None or any(dataset.shared.values()) for dataset in self.datasets)


def ask(root: Path, name: str | None, rev: str | None) -> Splits:
    """What the splits have in common, of one dataset or of all, as the working copy's `dvc.lock` has them, or that of
    the commit `rev`.

    Raises InputError where there is no such dataset or commit.
    """
    commit = Git(root).commit(rev) if rev else None
    if rev and commit is None:
        raise InputError(f"--rev: no commit '{rev}'")
    text = (Git(root).file(commit, locks.NAME) or "").encode("utf-8", "surrogateescape") if commit else _own(root)
    named = tables.among(locks.files(text))
    known = sorted(path.removeprefix(INGESTED) for path in named)
    if name is not None and name not in known:
        raise InputError(f"{name}: no {INGESTED}{name} in dvc.lock; it has: {', '.join(known) or 'no dataset'}")
    chosen = known if name is None else [name]
    return Splits(commit, [of_table(root, one, named[INGESTED + one]) for one in chosen])


def _own(root: Path) -> bytes:
    file = root / locks.NAME
    return file.read_bytes() if file.is_file() else b""


def of_table(root: Path, name: str, md5: str) -> Dataset:
    """What the splits of a dataset have in common, by its ingested table of this digest."""
    import pyarrow as pa
    import pyarrow.compute as pc

    path = INGESTED + name
    parts, gone = tables.parts(root, [(path, md5)])
    if gone:
        facts = [
            Fact("table", each.why, "DIFFERS")
            if each.why
            else Fact("table", absent(each.md5, each.path), "cannot tell")
            for each in gone
        ]
        return Dataset(name, md5, None, {}, facts)
    try:
        read = [read_table(part.file, COLUMNS, ["phash", "near"]) for part in parts]
    except InputError as error:
        return Dataset(name, md5, None, {}, [Fact("table", str(error), "cannot tell")])
    new = all({"phash", "near"} <= set(rows.column_names) for rows in read)
    rows = pa.concat_tables(rows.select([*COLUMNS, *["phash", "near"] * new]) for rows in read)
    rows = rows.filter(pc.is_valid(rows["split"]))
    of = Counter(rows["split"].to_pylist())
    pictures = {split: of[split] for split in SPLITS}
    facts = [Fact("table", f"{path} has the digest {md5}, which dvc.lock has", "verified")]
    if any(part.rewritten for part in parts):
        said = f"{path} {md5[:10]}: pictures were erased from it; this is what is left"
        facts = [Fact("table", said, "recorded")]
    shared = {}
    unknown = rows["identity"].null_count
    for column, what in WHAT.items():
        if column == "near" and not new:
            facts.append(Fact(what, "its ingest looked for none; `palimpsest rebuild` makes it anew", "cannot tell"))
            continue
        if column == "identity" and unknown == len(rows):
            continue  # told below
        shared[what] = _near(rows) if column == "near" else _shared(rows, column)
        facts += [Fact(what, said, "verified") for said in _said(what, shared[what])]
    if unknown:
        facts.append(
            Fact("identity", f"of {unknown} of {len(rows)} pictures nobody has said who is shown", "cannot tell")
        )
    return Dataset(name, md5, pictures, shared, facts)


def _shared(rows: Any, column: str) -> list[dict[str, Any]]:
    """What of a column lies in several splits: its `value`, and the `pictures` that have it."""
    import pyarrow.compute as pc

    rows = rows.filter(pc.is_valid(rows[column]))
    splits = rows.group_by(column).aggregate([("split", "count_distinct")])
    several = splits.filter(pc.greater(splits["split_count_distinct"], 1))[column]
    found: dict[str, list[dict[str, str]]] = {}
    for row in rows.filter(pc.is_in(rows[column], several.combine_chunks())).to_pylist():
        found.setdefault(row[column], []).append({"path": row["path"], "split": row["split"]})
    return [{"value": value, "pictures": pictures} for value, pictures in found.items()]


def _near(rows: Any) -> list[dict[str, Any]]:
    """Each picture with the nearest one of another split, a pair once: the `bits` of 256 that differ, and `pictures`.

    `bits` are None where one of the two is mirrored.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from stages.images import phash

    near = rows.filter(pc.is_valid(rows["near"]))
    wanted = pa.chunked_array([*near["image_id"].chunks, *near["near"].chunks], pa.string()).unique()
    known = {row["image_id"]: row for row in rows.filter(pc.is_in(rows["image_id"], wanted)).to_pylist()}
    found = []
    for pair in {frozenset((row["image_id"], row["near"])): None for row in near.to_pylist()}:
        both = sorted((known[one] for one in pair), key=lambda row: row["path"])
        one, other = (np.frombuffer(row["phash"], np.uint8) for row in both)
        bits = int(np.bitwise_count(one ^ other).sum(dtype=int))  # each is a uint8, which holds no 256
        pictures = [{"path": row["path"], "split": row["split"]} for row in both]
        found.append({"bits": bits if bits <= phash.NEAR else None, "pictures": pictures})
    return found


def _said(what: str, shared: list[dict[str, Any]]) -> list[str]:
    """What is shared, in words: how much, then some of it."""
    if not shared:
        return ["none in two splits"]
    kind = {"near copies": "pairs", "identity": "people"}.get(what, "pictures")
    return [f"{len(shared)} {kind} in two splits", *map(_each, shared[:SHOWN]),
            *[f"and {len(shared) - SHOWN} more (--json lists them)"] * (len(shared) > SHOWN)]  # fmt: skip


def _each(shared: dict[str, Any]) -> str:
    names = [f"{picture['path']} ({picture['split']})" for picture in shared["pictures"]]
    more = f" and {len(names) - SHOWN} more" * (len(names) > SHOWN)
    how = ""
    if "bits" in shared:
        how = ": mirrored" if shared["bits"] is None else f": {shared['bits']} of 256 bits differ"
    return f"{', '.join(names[:SHOWN])}{more}{how}"


def show(answer: Splits) -> None:
    """An answer on the terminal: a line per dataset, and below it what it rests on."""
    for dataset in answer.datasets:
        if dataset.pictures is None:
            print(f"{dataset.name}: cannot tell")
        else:
            counts = ", ".join(f"{split} {count}" for split, count in dataset.pictures.items())
            shared = ", ".join(f"{len(found)} by {what}" for what, found in dataset.shared.items() if found)
            print(f"{dataset.name}: {counts}: {f'shared: {shared}' if shared else 'nothing is shared'}")
        page([(fact.about, fact.word, fact.said) for fact in dataset.facts])
