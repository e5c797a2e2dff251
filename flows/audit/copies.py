"""Copies of pictures among those of ingested tables: the same bytes, the same pixels, or nearly the same look."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from flows.audit.facts import absent, left_out, read_table
from flows.lineage import tables
from flows.lineage.digests import Digests
from flows.lineage.locks import NAME
from flows.lineage.tables import Gone, Part
from stages.runs.errors import InputError

Kind = Literal[
    "the same bytes", "the same pixels", "the same pixels as the crop", "a near copy", "a near copy of the crop",
    "possible",
]  # fmt: skip
BYTES, PIXELS, CROP_PIXELS, NEAR, CROP_NEAR, POSSIBLE = KINDS = get_args(Kind)  # the surest first


@dataclasses.dataclass(frozen=True)
class Query:
    """A picture that copies are looked for, as ingest reads it."""

    asked: str
    file: Path | None  # None: only its sha256 is known
    image_id: str | None  # sha256 of the file; None: it cannot be read
    pixel_sha256: str | None = None  # None: it cannot be decoded
    hashes: Any = None  # `stages.images.phash.Hashes`; None: it cannot be decoded, or has one colour
    why: str | None = None  # it cannot be decoded


@dataclasses.dataclass(frozen=True)
class Copy:
    """A kept picture that is what was asked for, or looks like it; or whose aligned crop is, or does."""

    kind: Kind
    image_id: str
    path: str  # of the picture, in its dataset's folder
    table: str  # data/ingested/NAME; data/aligned/NAME: the picture's crop in it was compared
    split: str
    bits: int | None = None  # of 256 that differ; None where bytes or pixels are the same
    mirrored: bool = False
    aligned: bool = False  # what was asked for was brought to the crop's frame first

    @property
    def rank(self) -> tuple[int, int, str]:
        """The less, the surer."""
        return KINDS.index(self.kind), self.bits or 0, self.path

    @property
    def crop(self) -> bool:
        """Whether it is the picture's crop in an aligned table."""
        return self.table.startswith(tables.ALIGNED)

    def said(self) -> str:
        """It in words."""
        how = ", mirrored" * self.mirrored + ", its face aligned first" * self.aligned
        differ = "" if self.bits is None else f"; {self.bits} of 256 bits differ{how}"
        return f"{self.path} of {self.table} ({self.split}){differ}"


@dataclasses.dataclass
class Search:
    """What was found in all ingested and aligned tables that locks name."""

    found: list[dict[str, Copy]]  # for each query, by image_id
    tables: int = 0  # ingested ones
    pictures: int = 0  # kept ones that were compared, each as often as tables that differ have it
    aligned: int = 0  # tables
    crops: int = 0  # that were compared, counted alike
    kept: int = 0  # of these crops, by hashes that an earlier answer has made
    weights: list[str] = dataclasses.field(default_factory=list)  # of detectors, which could not be used to align faces
    rewritten: set[str] = dataclasses.field(default_factory=set)  # tables from which pictures were erased
    missing: list[dict[str, str]] = dataclasses.field(default_factory=list)  # `md5`, `path`, and `why`
    files: dict[Copy, Path] = dataclasses.field(default_factory=dict)  # the table's file that has the picture

    def gone(self, files: Iterable[Gone]) -> None:
        """Note tables that are missing or altered."""
        self.missing += [
            {"md5": one.md5, "path": one.path, "why": one.why or absent(one.md5, one.path)} for one in files
        ]

    def unread(self, damaged: Iterable[str]) -> None:
        """Note damaged locks, by what is wrong with them; each once."""
        for error in damaged:
            one = {"md5": "", "path": NAME, "why": left_out(error)}
            if one not in self.missing:
                self.missing.append(one)

    def add(self, number: int, copy: Copy, file: Path) -> None:
        """Note a copy of a query, where none of the same picture is surer."""
        before = self.found[number].get(copy.image_id)
        if before is None or copy.rank < before.rank:
            self.found[number][copy.image_id] = copy
            self.files[copy] = file


def read(files: Iterable[tuple[str, Path, str | None]]) -> Iterator[Query]:
    """Queries of picture files: what was asked, the file, and why it is refused unread. Several are decoded at once."""
    from stages import ingest
    from stages.images.sources import Item
    from stages.images.threads import in_order

    def one(named: tuple[str, Path, str | None]) -> Query:
        asked, file, reason = named
        seen = ingest.examine(Item(asked, file, reason=reason))
        return Query(
            asked, file, seen.image_id, seen.pixel_sha256, seen.hashes, None if seen.pixel_sha256 else seen.reason
        )

    return in_order(one, files, min(os.cpu_count() or 1, 8))


def search(root: Path, every: Iterable[dict[str, str]], queries: Sequence[Query], digest: Digests) -> Search:
    """The copies of pictures among the kept ones of all ingested tables that locks name (md5 by path, of each lock)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    named = {table: None for files in every for table in tables.among(files).items()}
    parts, gone = tables.parts(root, named, digest)
    found = Search([{} for _ in queries], len(named))
    found.gone(gone)
    found.rewritten |= {str(PurePosixPath(part.path).parent) for part in parts if part.rewritten}
    if not named:
        why = "no dvc.lock that Git knows here names an ingested table: only the same bytes were looked for"
        found.missing.append({"md5": "", "path": tables.INGESTED, "why": why})
    hashed: list[Any] = []
    unhashed: list[tuple[Part, Any]] = []
    for part in parts:
        try:
            rows = read_table(part.file, ["image_id", "path", "pixel_sha256", "split"], ["phash"])
        except InputError as error:
            found.missing.append({"md5": part.md5, "path": part.path, "why": str(error)})
            continue
        rows = rows.filter(pc.is_valid(rows["split"]))
        found.pictures += rows.num_rows
        _exact(found, queries, rows, part)
        if "phash" in rows.column_names:
            _alike(found, queries, rows, part)
            hashed += rows["image_id"].chunks
        else:
            unhashed.append((part, rows["image_id"]))
    if unhashed:  # of an older ingest; what a newer one has kept as well was compared there
        seen = pa.chunked_array(hashed, pa.string()).unique()
        for part, ids in unhashed:
            if left := pc.sum(pc.invert(pc.is_in(ids, seen))).as_py():
                why = (
                    f"{left} pictures of {part.path} {part.md5[:10]} have no perceptual hash, as ingest made none "
                    "then: only the same bytes and pixels were looked for among them"
                )
                found.missing.append({"md5": part.md5, "path": part.path, "why": why})
    return found


def _exact(found: Search, queries: Sequence[Query], rows: Any, part: Part) -> None:
    """Note the rows of the same bytes, and of the same pixels."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for column, kind in (("image_id", BYTES), ("pixel_sha256", PIXELS)):
        asked: dict[str, list[int]] = {}
        for number, query in enumerate(queries):
            if value := getattr(query, column):
                asked.setdefault(value, []).append(number)
        for row in rows.filter(pc.is_in(rows[column], pa.array(list(asked), pa.string()))).to_pylist():
            for number in asked[row[column]]:
                found.add(number, _copy(kind, row, part), part.file)


def _alike(found: Search, queries: Sequence[Query], rows: Any, part: Part) -> None:
    """Note the rows that look nearly the same, as they are or mirrored."""
    import pyarrow.compute as pc

    from stages.images import phash

    asked = [(number, query.hashes) for number, query in enumerate(queries) if query.hashes]
    rows = rows.filter(pc.is_valid(rows["phash"]))
    if not asked or not rows.num_rows:
        return
    others = phash.stacked(rows["phash"].to_pylist())
    for way in range(2):
        for one, other, bits in phash.pairs(phash.stacked([each[way] for _, each in asked]), others, phash.POSSIBLE):
            for number, place, differ in zip(one.tolist(), other.tolist(), bits.tolist(), strict=True):
                kind = NEAR if differ <= phash.NEAR else POSSIBLE
                row = rows.slice(place, 1).to_pylist()[0]
                found.add(asked[number][0], _copy(kind, row, part, differ, bool(way)), part.file)


def _copy(kind: Kind, row: dict[str, Any], part: Part, bits: int | None = None, mirrored: bool = False) -> Copy:
    table = part.path.rpartition("/")[0]
    return Copy(kind, row["image_id"], row["path"], table, row["split"], bits, mirrored)
