"""Ingest: pictures of any source become one verified, split, deduplicated table.

Every input is one row, kept or rejected with a reason, in the order of paths. Splits are sticky,
so that new pictures never move old ones, and no two rows on different sides show the same bytes,
the same pixels or the same person:

- of equal pictures the first in the order of paths is kept;
- the official partition counts where there is one; of a person whom it has in several, all
  pictures lie in the strictest (test before val before train), and so do those that it lacks;
- else the person's name decides, by its hash, else the picture's pixels.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field
from pydantic.dataclasses import dataclass
from tqdm import tqdm

from stages.images import png, sources, table
from stages.images.decode.picture import MAX_PIXELS, BadPicture
from stages.images.decode.read import read
from stages.images.sources import Item
from stages.runs import command
from stages.runs.errors import InputError
from stages.runs.params import STRICT

MIN_SIDE = 8  # pixels; smaller is nothing to complete
MAX_BYTES = 3 * MAX_PIXELS  # a larger file is not read: no picture within the limits needs more

SHARD_ROWS = 2000
SHARD_BYTES = 64 << 20

Share = Annotated[float, Field(ge=0, lt=1)]
Words = Annotated[str, Field(min_length=1)]

SCHEMA = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),  # the file itself; no bytes if rejected
        ("image_id", pa.string()),  # sha256 of the file, or `pixel_sha256` where a picture is no file
        ("path", pa.string()),  # relative to the root
        ("pixel_sha256", pa.string()),  # of the upright RGB pixels and their shape
        ("source", pa.string()),
        ("identity", pa.string()),
        ("split", pa.string()),  # train, val or test; null if rejected
        ("width", pa.int32()),  # upright, pixels
        ("height", pa.int32()),
        ("landmarks", table.LANDMARKS),  # in upright pixels
        ("licence", pa.string()),
        ("consent", pa.string()),
        ("origin", pa.string()),
        ("status", pa.string()),  # kept or rejected
        ("reason", pa.string()),  # why it was rejected, or what was odd about a kept picture
    ]
)


@dataclass(frozen=True, config=STRICT)
class Split:
    """Shares of pictures (or people), used where the source has no official partition; the rest trains."""

    val: Share
    test: Share

    def __post_init__(self) -> None:
        if self.val + self.test >= 1:
            raise ValueError("val and test together must be below 1")


@dataclass(frozen=True, config=STRICT)
class Params:
    source: str  # one of sources.SOURCES
    root: Words  # the folder; the path itself comes from the command line
    use: Literal["train", "evaluate"]  # evaluate: every kept picture is in the test split
    licence: Words  # these three for every picture that pictures.csv says nothing else of
    consent: Words
    origin: Words
    split: Split

    def __post_init__(self) -> None:
        if self.source not in sources.SOURCES:
            raise ValueError(f"unknown source '{self.source}'; one of: {', '.join(sources.SOURCES)}")


@plain_dataclass(frozen=True, slots=True)
class Examined:
    """What reading one input gave; None where it was not got to."""

    data: bytes | None = None
    image_id: str | None = None
    pixel_sha256: str | None = None
    width: int | None = None
    height: int | None = None
    reason: str | None = None
    remarks: tuple[str, ...] = ()  # what was odd about a good picture


def examine(item: Item) -> Examined:
    """Read and decode one input; whatever is wrong with it becomes its reason."""
    if item.reason:
        return Examined(reason=item.reason)
    remarks: tuple[str, ...] = ()
    if isinstance(item.content, np.ndarray):
        pixels = np.ascontiguousarray(item.content)
        data, image_id = png.encode(pixels), pixel_digest(pixels)
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
    return Examined(data, image_id, pixel_digest(pixels), width, height, small, remarks)


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


def split_of(key: str, shares: Split) -> str:
    """The side that a key (a person, or a picture's pixels) falls on: by its hash alone, so for ever the same."""
    place = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    if place < shares.test:
        return "test"
    return "val" if place < shares.test + shares.val else "train"


def official_sides(items: Iterable[Item]) -> dict[str, str]:
    """For each person whom the official partition has: the strictest of their splits."""
    sides: dict[str, str] = {}
    for item in items:
        if item.identity and item.split in table.SPLITS:
            sides[item.identity] = max(sides.get(item.identity, "train"), item.split, key=table.SPLITS.index)
    return sides


class Judge:
    """Decides, input by input in the order of paths, who is kept, and where."""

    def __init__(self, params: Params, sides: dict[str, str], withdrawn: frozenset[str]):
        self._params = params
        self._sides = sides
        self._withdrawn = withdrawn  # image_ids and pixel digests
        self._by_bytes: dict[str, str] = {}  # image_id -> the kept picture's path
        self._by_pixels: dict[str, str] = {}
        self.reasons: Counter[str] = Counter()  # how often each kind of reason was given; "" for the kept

    def row(self, item: Item, examined: Examined) -> dict[str, Any]:
        """The table's row for one input."""
        reason = self._reason(examined)
        self.reasons[re.split(r":| of ", reason or "")[0]] += 1
        params = self._params
        if reason is None:
            self._by_bytes[str(examined.image_id)] = self._by_pixels[str(examined.pixel_sha256)] = item.path
        return {
            "image": {"bytes": None if reason else examined.data, "path": item.path},
            "image_id": examined.image_id,
            "path": item.path,
            "pixel_sha256": examined.pixel_sha256,
            "source": params.source,
            "identity": item.identity,
            "split": None if reason else self._split(item, examined.pixel_sha256 or ""),
            "width": examined.width,
            "height": examined.height,
            "landmarks": item.landmarks,
            "licence": item.licence or params.licence,
            "consent": item.consent or params.consent,
            "origin": item.origin or params.origin,
            "status": "rejected" if reason else "kept",
            "reason": reason or "; ".join(examined.remarks) or None,
        }

    def _reason(self, examined: Examined) -> str | None:
        if examined.image_id in self._withdrawn or examined.pixel_sha256 in self._withdrawn:
            return "withdrawn"
        if examined.reason:
            return examined.reason
        if examined.image_id in self._by_bytes:
            return f"duplicate bytes of {self._by_bytes[examined.image_id]}"
        if examined.pixel_sha256 in self._by_pixels:
            return f"duplicate pixels of {self._by_pixels[examined.pixel_sha256]}"
        return None

    def _split(self, item: Item, pixel_sha256: str) -> str:
        if self._params.use == "evaluate":
            return "test"
        if item.identity in self._sides:
            return self._sides[item.identity]
        if item.split in table.SPLITS:
            return item.split
        key = f"identity {item.identity}" if item.identity else pixel_sha256
        side = split_of(key, self._params.split)
        # An official training set gives no picture to the test.
        return "train" if item.split == sources.TRAIN_OR_VAL and side == "test" else side


def read_tombstones(file: Path) -> frozenset[str]:
    """The withdrawn image_ids: one a line, `#` begins a comment. Raises InputError for any other line or no text."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{file}: cannot be read as UTF-8 text; restore it with: git checkout {file}") from None
    found = set()
    for number, line in enumerate(lines, 1):
        entry = line.partition("#")[0].strip().lower()
        if entry and not re.fullmatch("[0-9a-f]{64}", entry):
            raise InputError(f"{file}, line {number}: an image_id has 64 hexadecimal digits (got {entry[:70]!r})")
        if entry:
            found.add(entry)
    return frozenset(found)


def spread(withdrawn: frozenset[str], items: list[Item]) -> frozenset[str]:
    """`withdrawn` with the pixel digests of what it names: else another file of the same picture would step in."""
    if not withdrawn:
        return withdrawn
    pixels = set()
    for item in items:
        if item.reason or isinstance(item.content, np.ndarray):  # there the image_id is the pixel digest
            continue
        try:
            named = hashlib.sha256(_read(item.content)).hexdigest() in withdrawn
        except BadPicture:
            continue
        if named and (digest := examine(item).pixel_sha256):
            pixels.add(digest)
    return withdrawn | pixels


In = TypeVar("In")
Out = TypeVar("Out")


def in_order(work: Callable[[In], Out], items: Iterable[In], workers: int) -> Iterator[Out]:
    """`work` of every item, in their order, by several threads that run at most a few items ahead."""
    with ThreadPoolExecutor(workers) as pool:
        window: deque[Any] = deque()
        for item in items:
            window.append(pool.submit(work, item))
            if len(window) > 4 * workers:
                yield window.popleft().result()
        while window:
            yield window.popleft().result()


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
        names = [name for name in SCHEMA.names if name not in ("image", "landmarks")]
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


def ingest(root: Path, tombstones: Path, ingested: Path, params: Params, name: str) -> None:
    """Read every picture below `root` into the table `ingested`, a folder of parquet shards.

    Raises InputError where the folder is missing or empty, a list in it cannot be read, or no
    picture can be used.
    """
    items = sources.find(params.source, root)
    judge = Judge(params, official_sides(items), spread(read_tombstones(tombstones), items))
    shards = Shards(ingested)
    workers = min(os.cpu_count() or 1, 8)
    progress = tqdm(total=len(items), desc=f"ingest {name}", unit="picture", mininterval=1, disable=None)
    with progress:
        for item, examined in zip(items, in_order(examine, items, workers), strict=True):
            shards.append(judge.row(item, examined))
            progress.update()
    shards.flush()
    kept = judge.reasons.pop("", 0)
    why = ", ".join(f"{count} {reason}" for reason, count in judge.reasons.most_common())
    if not kept:
        raise InputError(f"{root}: none of its {len(items)} pictures can be used: {why}")
    print(f"ingest {name}: {len(items)} in, {kept} kept, {len(items) - kept} rejected {why}".rstrip(), file=sys.stderr)


if __name__ == "__main__":
    command.run(
        ingest,
        sections={"params": "datasets.{name}.ingest"},
        inputs=("root", "tombstones"),
        outputs=("ingested",),
    )
