"""Copies of aligned crops, as trainings read them: the same pixels, or nearly the same look.

A crop looks little like the photo that it was taken from, so crops are compared with crops: what is asked for as it is,
and as the stage `align` would crop it (`frames.py`). Aligned tables have no hashes of their own: see `crop_hashes.py`.

Near copies are as near as those of whole pictures. Of 6,378 aligned faces (CelebA, LFW; 64 px), all copies of 1,000 lay
within 24 bits of the crop (JPEG, half to double, grey, mirrored, a fifth brighter). Of 20 million pairs of crops of
different people none lay within 44, mirrored or not, 2 within 52, and 26 within 60. Pairs of one person within 40 were
looked at: each is one photo, taken in twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from flows.audit import crop_hashes, frames
from flows.audit.copies import CROP_NEAR, CROP_PIXELS, POSSIBLE, Copy, Kind, Query, Search
from flows.audit.crop_hashes import Hashes
from flows.audit.facts import read_list
from flows.lineage import tables
from flows.lineage.digests import Digests
from flows.lineage.locks import Lock
from flows.lineage.tables import Part
from stages.runs.errors import InputError

if TYPE_CHECKING:
    from stages.images import phash


MAYBE = 52  # bits: up to here somebody has to look. Aligned faces are more alike than photos, of which more may differ


class Look(NamedTuple):
    """What a query looks like."""

    query: int
    hashes: phash.Hashes
    aligned: bool  # as `align` would crop it


class Hit(NamedTuple):
    """A crop that is a query, or looks like it."""

    query: int
    row: int  # of the crop, in its table
    kind: Kind
    bits: int | None = None
    mirrored: bool = False
    aligned: bool = False


class Crops(NamedTuple):
    """The crops in a file of an aligned table."""

    part: Part
    hashes: Hashes
    names: Any  # a table of Arrow: `image_id` and `path`


def search(
    root: Path, every: Sequence[tuple[Lock, dict[str, str]]], queries: Sequence[Query], digest: Digests, found: Search
) -> None:
    """Add to `found` the copies of crops in all aligned tables that locks name (with md5 by path, of each lock)."""
    named = {table: None for _, files in every for table in tables.among(files, tables.ALIGNED).items()}
    parts, gone = tables.parts(root, named, digest)
    found.aligned = len(named)
    found.gone(gone)
    found.rewritten |= {str(PurePosixPath(part.path).parent) for part in parts if part.rewritten}
    whole: list[Crops] = []
    for part in parts:
        try:
            hashes, kept = crop_hashes.of(root, part)
            whole.append(Crops(part, hashes, read_list(part.file)))
            found.kept += len(whole[-1].names) if kept else 0
        except InputError as error:
            found.missing.append({"md5": part.md5, "path": part.path, "why": str(error)})
    found.crops = sum(len(crops.names) for crops in whole)
    looks = [Look(number, query.hashes, False) for number, query in enumerate(queries) if query.hashes]
    for crops in whole:
        _note(found, crops, [*_exact(queries, crops.hashes), *_alike(looks, crops.hashes)])
    unsure = [
        number for number, copies in enumerate(found.found) if {copy.kind for copy in copies.values()} <= {POSSIBLE}
    ]
    if whole and unsure:
        known = frames.known(root, [lock for lock, _ in every], digest)
        found.weights = known.absent
        found.unread(known.damaged)
        looks = [*_aligned(known.frames, {number: queries[number] for number in unsure})]
        for crops in whole:
            _note(found, crops, _alike(looks, crops.hashes))


def _note(found: Search, crops: Crops, hits: Iterable[Hit]) -> None:
    import pyarrow as pa

    hits = list(hits)
    rows = crops.names.take(pa.array([hit.row for hit in hits], pa.int64())).to_pylist()
    place = PurePosixPath(crops.part.path)
    table, split = place.parent.as_posix(), place.stem
    for hit, row in zip(hits, rows, strict=True):
        copy = Copy(hit.kind, row["image_id"], row["path"], table, split, hit.bits, hit.mirrored, hit.aligned)
        found.add(hit.query, copy, crops.part.file)


def _aligned(known: Sequence[frames.Frame], queries: Mapping[int, Query]) -> Iterator[Look]:
    """What queries, by their numbers, look like in each frame."""
    from tqdm import tqdm

    from stages.images import phash
    from stages.images.decode.read import decode

    if not known:
        return
    for number, query in tqdm(queries.items(), "align", unit="picture", mininterval=1, disable=None):
        if query.file and query.hashes:
            pixels = decode(query.file.read_bytes())
            for crop in (crop for frame in known for crop in frame(pixels)):
                if hashes := phash.hashes(crop):
                    yield Look(number, hashes, True)


def _exact(queries: Sequence[Query], hashes: Hashes) -> Iterator[Hit]:
    """The crops of the same pixels."""
    import pyarrow as pa
    import pyarrow.compute as pc

    asked: dict[bytes, list[int]] = {}
    for number, query in enumerate(queries):
        if query.pixel_sha256:
            asked.setdefault(bytes.fromhex(query.pixel_sha256), []).append(number)
    wanted = pa.array(list(asked), hashes.pixels.type)
    for row in pc.indices_nonzero(pc.is_in(hashes.pixels, wanted)).to_pylist():
        for number in asked[hashes.pixels[row].as_py()]:
            yield Hit(number, row, CROP_PIXELS)


def _alike(looks: Sequence[Look], hashes: Hashes) -> Iterator[Hit]:
    """The crops that look nearly the same, as they are or mirrored."""
    from stages.images import phash

    if not looks or not len(hashes.rows):
        return
    for way in range(2):
        ours = phash.stacked([look.hashes[way] for look in looks])
        for one, other, bits in phash.pairs(ours, hashes.looks, MAYBE):
            for place, row, differ in zip(one.tolist(), hashes.rows[other].tolist(), bits.tolist(), strict=True):
                kind = CROP_NEAR if differ <= phash.NEAR else POSSIBLE
                yield Hit(looks[place].query, row, kind, differ, bool(way), looks[place].aligned)
