"""Ingest: pictures of any source become one verified, split, deduplicated table.

Every input is one row, kept or rejected with a reason, in the order of paths. Splits are sticky,
so that new pictures never move old ones, and no two rows on different sides show the same bytes,
the same pixels or the same person: `stages/images/splits.py` says how. A picture that is linked to
others by its pixels or its person, and for their sake lies on another side than it would alone, is
named in the log and in the record, and its `reason` says so.

Pictures that look the same, though neither bytes nor pixels are equal, move nobody. They are only found: `near` names
the nearest one of another split, by the perceptual hash of `stages/images/phash.py`.

The pictures are read twice: first for their pixels' digests, on which the splits depend, then for
the bytes of those that are kept. Never more than one shard of bytes is held.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field
from pydantic.dataclasses import dataclass
from tqdm import tqdm

from stages.images import phash, png, sources, splits, table, withdrawn
from stages.images.decode.picture import MAX_PIXELS, BadPicture
from stages.images.decode.read import read
from stages.images.outside import link_outside
from stages.images.sources import Item
from stages.images.splits import Member, Split
from stages.images.threads import in_order
from stages.runs import command
from stages.runs.errors import InputError
from stages.runs.params import STRICT

MIN_SIDE = 8  # pixels; smaller is nothing to complete
MAX_BYTES = 3 * MAX_PIXELS  # a larger file is not read: no picture within the limits needs more

SHARD_ROWS = 2000
SHARD_BYTES = 64 << 20

SHOWN = 20  # pictures that the log names one by one
TERMS = 20  # pairs of licence and consent that the record names: those of most pictures

Words = Annotated[str, Field(min_length=1)]

SCHEMA = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),  # the file itself; no bytes if rejected
        ("image_id", pa.string()),  # sha256 of the file, or `pixel_sha256` where a picture is no file
        ("path", pa.string()),  # relative to the root
        ("pixel_sha256", pa.string()),  # of the upright RGB pixels and their shape
        ("phash", pa.binary(phash.BYTES)),  # how it looks; null if rejected, or of one colour
        ("source", pa.string()),
        ("identity", pa.string()),
        ("split", pa.string()),  # train, val or test; null if rejected
        ("near", pa.string()),  # image_id of the picture of another split that looks nearly the same; null for none
        ("width", pa.int32()),  # upright, pixels
        ("height", pa.int32()),
        ("landmarks", table.LANDMARKS),  # in upright pixels
        ("licence", pa.string()),
        ("consent", pa.string()),
        ("origin", pa.string()),
        ("group", pa.string()),  # by which scores are compared; these three by pictures.csv alone
        ("purpose", pa.string()),  # why it was collected
        ("collected", pa.string()),  # when, as 2026-11-27, 2026-11 or 2026
        ("status", pa.string()),  # kept or rejected
        ("reason", pa.string()),  # why it was rejected, or what is odd about a kept picture
    ]
)


@dataclass(frozen=True, config=STRICT)
class Params:
    source: str  # how the folder is read: portraits, folder, celeba, celeba_hq, lfw, cifar10, places or scenes
    root: Words  # the folder of the pictures; relative to the project's root, or absolute
    use: Literal["train", "evaluate"]  # evaluate: every kept picture is in the test split
    licence: Words  # of every picture for which pictures.csv has none
    consent: Words  # the same
    origin: Words  # the same
    split: Split

    def __post_init__(self) -> None:
        if self.source not in sources.SOURCES:
            raise ValueError(f"unknown source '{self.source}'; one of: {', '.join(sources.SOURCES)}")


@plain_dataclass(frozen=True, slots=True)
class Examined:
    """What reading one input gave; None where it was not got to."""

    image_id: str | None = None
    pixel_sha256: str | None = None
    width: int | None = None
    height: int | None = None
    reason: str | None = None
    remarks: tuple[str, ...] = ()  # what is odd about a picture that can be used
    hashes: phash.Hashes | None = None


def examine(item: Item) -> Examined:
    """Read and decode one input; whatever is wrong with it becomes its reason."""
    if item.reason:
        return Examined(reason=item.reason)
    remarks: tuple[str, ...] = ()
    if isinstance(item.content, np.ndarray):
        pixels = np.ascontiguousarray(item.content)
        image_id = pixel_digest(pixels)
    else:
        try:
            data = _read(item.content)
            image_id = hashlib.sha256(data).hexdigest()
        except BadPicture as bad:
            return Examined(reason=str(bad))
        try:
            picture = read(data)
        except BadPicture as bad:
            return Examined(image_id=image_id, reason=str(bad))
        pixels, remarks = picture.pixels, picture.remarks
    height, width = pixels.shape[:2]
    small = f"too small: {width} x {height}" if min(width, height) < MIN_SIDE else None
    return Examined(image_id, pixel_digest(pixels), width, height, small, remarks, phash.hashes(pixels))


def contents(item: Item, image_id: str) -> bytes:
    """The bytes of an input that was examined before; InputError where they have changed since."""
    if isinstance(item.content, np.ndarray):
        return png.encode(np.ascontiguousarray(item.content))
    try:
        data = _read(item.content)
    except BadPicture:
        data = b""
    if hashlib.sha256(data).hexdigest() != image_id:
        raise InputError(f"{item.content}: changed while it was read; run this stage again")
    return data


def pixel_digest(pixels: np.ndarray) -> str:
    """sha256 of uint8 pixels, row by row, followed by their shape as text ("218x178x3")."""
    total = hashlib.sha256(pixels.tobytes())
    total.update("x".join(map(str, pixels.shape)).encode())
    return total.hexdigest()


def _read(file: Path) -> bytes:
    try:
        size = file.stat().st_size
        if size > MAX_BYTES:
            raise BadPicture(f"too large: {size >> 20} MiB")
        return file.read_bytes()
    except OSError as error:
        raise BadPicture(f"cannot be read: {error.strerror}") from None


class Verdict(NamedTuple):
    """What is decided of one input."""

    split: str | None = None  # None: rejected
    reason: str | None = None  # why it is rejected
    moved: str | None = None  # why it, or the copy of it that is kept, lies on another side than it would alone
    withdrawn: bool = False


def judge(
    items: Sequence[Item], examined: Sequence[Examined], tombstones: withdrawn.Tombstones, params: Params
) -> list[Verdict]:
    """Who is kept, and where. Rejected inputs have no say in it, copies of a kept one apart.

    A picture with the pixels of a withdrawn one, or nearly its look, is withdrawn too, else it would step in.
    """
    gone = tombstones.digests | {
        each.pixel_sha256 for each in examined if each.image_id in tombstones.digests and each.pixel_sha256
    }
    verdicts = []
    for each, near in zip(examined, tombstones.near([each.hashes for each in examined]), strict=True):
        if {each.image_id, each.pixel_sha256} & gone:
            verdicts.append(Verdict(None, "withdrawn", withdrawn=True))
        elif near:
            verdicts.append(Verdict(None, withdrawn.reason(*near), withdrawn=True))
        else:
            verdicts.append(Verdict(None, each.reason))
    usable = [index for index, verdict in enumerate(verdicts) if verdict.reason is None]
    members = [
        Member(
            path=items[index].path,
            pixel_sha256=str(examined[index].pixel_sha256),
            identity=items[index].identity,
            official="test" if params.use == "evaluate" else items[index].split,
        )
        for index in usable
    ]
    ids = {items[index].path: examined[index].image_id for index in usable}
    for index, member, place in zip(usable, members, splits.assign(members, params.split), strict=True):
        moved = f"moved from {place.alone} to {place.side}: linked to {place.because}" if place.because else None
        if place.kept != member.path:
            what = "bytes" if ids[place.kept] == ids[member.path] else "pixels"
            verdicts[index] = Verdict(None, f"duplicate {what} of {place.kept}", moved)
        else:
            verdicts[index] = Verdict(place.side, None, moved)
    return verdicts


def to_row(
    item: Item, examined: Examined, verdict: Verdict, near: str | None, data: bytes | None, params: Params
) -> dict[str, Any]:
    """The table's row for one input; `near` is an image_id; `data` are the file's bytes, None for a rejected one.

    Of a withdrawn picture only its digests and the reason are kept: no path, no name.
    """
    if verdict.withdrawn:
        return dict.fromkeys(SCHEMA.names) | {
            "image": {"bytes": None, "path": None},
            "image_id": examined.image_id,
            "pixel_sha256": examined.pixel_sha256,
            "status": "rejected",
            "reason": verdict.reason,
        }
    remarks = "; ".join(filter(None, (verdict.moved, *examined.remarks))) if verdict.split else None
    return {
        "image": {"bytes": data, "path": item.path},
        "image_id": examined.image_id,
        "path": item.path,
        "pixel_sha256": examined.pixel_sha256,
        "phash": examined.hashes.upright if verdict.split and examined.hashes else None,
        "source": params.source,
        "identity": item.identity,
        "split": verdict.split,
        "near": near,
        "width": examined.width,
        "height": examined.height,
        "landmarks": item.landmarks,
        "licence": item.licence or params.licence,
        "consent": item.consent or params.consent,
        "origin": item.origin or params.origin,
        "group": item.group,
        "purpose": item.purpose,
        "collected": item.collected,
        "status": "kept" if verdict.split else "rejected",
        "reason": verdict.reason or remarks or None,
    }


class Shards:
    """Writes rows to part-00000.parquet, part-00001.parquet, ... in `folder`, never holding more than one of them."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True)
        self._folder = folder
        self._rows: list[dict[str, Any]] = []
        self._bytes = self._count = 0

    def append(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        self._bytes += len(row["image"]["bytes"] or b"")
        if len(self._rows) >= SHARD_ROWS or self._bytes >= SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        if not self._rows:
            return
        shard = pa.Table.from_pylist(self._rows, schema=SCHEMA)
        # Pictures are compressed already: compressing again, their dictionary and statistics would only cost.
        names = [name for name in SCHEMA.names if name not in ("image", "phash", "landmarks")]
        with pq.ParquetWriter(
            self._folder / f"part-{self._count:05d}.parquet",
            SCHEMA,
            compression="none",
            use_dictionary=names,
            write_statistics=names,
        ) as writer:
            writer.write_table(shard)
        self._rows.clear()
        self._bytes, self._count = 0, self._count + 1


def ingest(root: Path, tombstones: Path, ingested: Path, params: Params, name: str) -> dict[str, Any]:
    """Read every picture below `root` into the table `ingested`, a folder of parquet shards.

    Returns the record's notes: counts, which pictures lie on another side than they would alone, how many of those kept
    have a near copy on another side, under which licence and consent how many are kept, and how many of those had a
    colour profile, several frames or another oddity.

    Raises InputError where the folder is missing or empty, a list in it cannot be read, a picture changes
    meanwhile, or none can be used.
    """
    items = sources.find(params.source, root)
    gone = withdrawn.read(tombstones)
    workers = min(os.cpu_count() or 1, 8)
    with tqdm(total=len(items), desc=f"ingest {name}", unit="picture", mininterval=1, disable=None) as progress:
        examined = []
        for each in in_order(examine, items, workers):
            examined.append(each)
            progress.update()
    verdicts = judge(items, examined, gone, params)
    rejected = Counter(kind(verdict.reason or "") for verdict in verdicts if not verdict.split)
    kept = len(items) - rejected.total()
    why = ", ".join(f"{count} {reason}" for reason, count in rejected.most_common())
    if not kept:
        raise InputError(f"{root}: none of its {len(items)} pictures can be used: {why}")

    near = [
        None if other is None else examined[other].image_id
        for other in phash.nearest([each.hashes for each in examined], [verdict.split for verdict in verdicts])
    ]

    def row(number: int) -> dict[str, Any]:
        item, each, verdict = items[number], examined[number], verdicts[number]
        data = contents(item, str(each.image_id)) if verdict.split else None
        return to_row(item, each, verdict, near[number], data, params)

    shards = Shards(ingested)
    for values in in_order(row, range(len(items)), workers):
        shards.append(values)
    shards.flush()
    print(f"ingest {name}: {len(items)} in, {kept} kept, {rejected.total()} rejected {why}".rstrip(), file=sys.stderr)
    moved = {item.path: verdict.moved for item, verdict in zip(items, verdicts, strict=True) if verdict.moved}
    for path, reason in list(moved.items())[:SHOWN]:
        print(f"ingest {name}: {path}: {reason}", file=sys.stderr)
    if len(moved) > SHOWN:
        print(f"ingest {name}: and {len(moved) - SHOWN} more, which the record and the table name", file=sys.stderr)
    alike = len(near) - near.count(None)
    if alike:
        said = f"{alike} kept pictures look nearly like one of another split, which the table's column `near` names"
        print(f"ingest {name}: {said}", file=sys.stderr)
    odd = Counter(r for each, verdict in zip(examined, verdicts, strict=True) if verdict.split for r in each.remarks)
    for remark, count in odd.most_common(SHOWN):
        print(f"ingest {name}: {count} kept: {remark}", file=sys.stderr)
    terms = Counter(
        (item.licence or params.licence, item.consent or params.consent)
        for item, verdict in zip(items, verdicts, strict=True)
        if verdict.split
    )
    link_outside(root, Path.cwd())
    return {
        "kept": kept,
        "rejected": dict(rejected),
        "moved": moved,
        "near": alike,
        "remarks": dict(odd),
        "terms": [
            {"licence": licence, "consent": consent, "pictures": count}
            for (licence, consent), count in terms.most_common(TERMS)
        ],
    }


def kind(reason: str) -> str:
    """A reason without what it names: to be counted by."""
    return re.split(r":| of ", reason)[0]


if __name__ == "__main__":
    command.run(
        ingest,
        sections={"params": "datasets.{name}.ingest"},
        inputs=("root", "tombstones"),
        outputs=("ingested",),
    )
