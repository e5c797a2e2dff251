"""A dataset behind a checkpoint: files, pictures, terms, and whether it shows persons, as far as that is recorded."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from flows.audit import evidence
from flows.audit.facts import read_table
from flows.exports.pieces import Bytes, Piece
from flows.lineage import tables
from flows.lineage.dvc_lock import INGESTED
from flows.lineage.entries import Entry
from stages.runs.errors import InputError

ALIGNED = tables.ALIGNED
NOBODY = "not a person"  # the consent of a picture that shows nobody
PEOPLE = ("celeba", "celeba_hq", "lfw")  # sources whose pictures are photos of persons
ORIGINS = 20  # that are named, those of most pictures: pictures.csv may give every picture its own

Sensitivity = Literal["personal data", "no personal data"]


@dataclasses.dataclass(frozen=True)
class Terms:
    """Licence and consent of some pictures."""

    licence: str | None
    consent: str | None
    pictures: int | None  # None: whether these are the terms of all is not recorded


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A dataset as it was ingested."""

    name: str
    table: Piece  # the folder
    files: list[Piece] | None  # of the folder; None: neither they nor the cache's listing of them are here
    commit: str | None  # whose `dvc.lock` has the table first
    source: str | None  # how the folder was read: `celeba`, `folder`, ...
    use: str | None
    pictures: int | None  # that were kept
    splits: dict[str, int] | None  # of these
    trained: int | None  # of these the checkpoint, and those that it has gone on from, have read
    rejected: dict[str, int] | None  # pictures by reason
    terms: list[Terms]
    origins: dict[str, int | None]  # where pictures come from, by number; at most ORIGINS
    identified: int | None  # pictures of which it is recorded who is shown
    faces: int | None  # pictures whose eyes, nose and mouth are marked
    sensitivity: Sensitivity | None  # None: not recorded
    why: list[str]  # what that rests on
    record: str | None  # where the record of its ingestion is
    erased: list[str]  # the days on which pictures were erased from it; then `files` and numbers are of what is left


def of(
    here: Bytes, said: evidence.Dataset, found: Iterable[Entry], read: set[str] | None, erased: list[str]
) -> Dataset:
    """What is recorded of a dataset. `found` are the entries behind the checkpoint, `read` its pictures' image_ids,
    `erased` the days on which it lost pictures."""
    path = INGESTED + said.name
    made = said.run.record or {}
    entry = next((entry for entry in found if entry.outs.get(path) == said.md5), None)
    section = (entry.params if entry else {}).get(f"datasets.{said.name}.ingest")
    section = section if isinstance(section, Mapping) else {}
    parts, gone = tables.parts(here.root, [(path, said.md5)], here.digest)
    # What is left after an erasure has another digest than the part that it was.
    files = None if gone else [here.piece(part.path, here.digest(part.file), None, part.file) for part in parts]
    counted = _counted([part.here for part in files if part.here], read) if files is not None else {}
    terms = counted.get("terms") or _terms(said)
    origins = counted.get("origins") or ({said.origin: None} if said.origin else {})
    identified, faces = counted.get("identified"), counted.get("faces")
    sensitivity, why = judge(section.get("source"), terms, identified, faces)
    return Dataset(
        said.name, here.piece(path, said.md5, made), files, entry.lock.commit if entry else None,
        section.get("source"), section.get("use"), counted.get("pictures", said.kept), counted.get("splits"),
        counted.get("trained"), said.rejected, terms, origins,
        identified, faces, sensitivity, why, said.run.where, erased,
    )  # fmt: skip


def judge(
    source: str | None, terms: list[Terms], identified: int | None, faces: int | None
) -> tuple[Sensitivity | None, list[str]]:
    """Whether a dataset is personal data, and what says so; by what is recorded alone, so it may be unknown (None)."""
    nobody = bool(terms) and all(one.consent == NOBODY for one in terms)
    why = []
    if identified:
        why.append(f"of {identified} pictures it is recorded who is shown")
    if source in PEOPLE:
        why.append(f"source {source}: photos of persons")
    if faces and not nobody:
        why.append(f"of {faces} pictures eyes, nose and mouth are marked, and consent does not say '{NOBODY}'")
    if why:
        return "personal data", why
    if nobody and all(one.pictures is not None for one in terms):
        return "no personal data", [f"consent of every picture: {NOBODY}"]
    return None, []


def _terms(said: evidence.Dataset) -> list[Terms]:
    if said.terms:
        return [Terms(one["licence"], one["consent"], one["pictures"]) for one in said.terms]
    return [Terms(said.licence, said.consent, None)] if said.licence or said.consent else []


def _counted(files: list[Any], read: set[str] | None) -> dict[str, Any]:
    """What the table's own rows say; empty where they cannot be read."""
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = ["image_id", "path", "status", "split"]
    more = ["licence", "consent", "origin", "identity", "landmarks"]
    try:
        parts = [read_table(file, columns, more) for file in files]
        there = [name for name in more if all(name in part.column_names for part in parts)]
        rows = pa.concat_tables(part.select([*columns, *there]) for part in parts)
        kept = rows.filter(pc.equal(rows["status"], "kept"))
    except (InputError, pa.ArrowException, ValueError):
        return {}
    found: dict[str, Any] = {"pictures": len(kept), "splits": dict(Counter(kept["split"].to_pylist()))}
    if read is not None:
        found["trained"] = sum(image_id in read for image_id in kept["image_id"].to_pylist())
    if {"licence", "consent"} <= set(there):
        pairs = Counter(zip(kept["licence"].to_pylist(), kept["consent"].to_pylist(), strict=True))
        found["terms"] = [Terms(*pair, count) for pair, count in pairs.most_common()]
    if "origin" in there:
        found["origins"] = dict(Counter(kept["origin"].to_pylist()).most_common(ORIGINS))
    for name, column in {"identified": "identity", "faces": "landmarks"}.items():
        if column in there:
            found[name] = len(kept) - kept[column].null_count
    return found
