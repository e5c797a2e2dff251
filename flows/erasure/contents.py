"""What is in a file, whatever it is: every picture in it is decoded, every row of a table read, and searched.

Pictures (PNG, JPEG and all that `stages/images/decode` reads) frame by frame, Arrow and Parquet tables, pages and
notebooks with embedded pictures, SQLite databases, and archives (zip, tar, gzip, bzip2, xz), one inside the other. The
bytes themselves are searched as well. A picture with too little in it to be searched for is known by its digests alone.
"""

from __future__ import annotations

import base64
import bz2
import contextlib
import dataclasses
import gzip
import hashlib
import io
import lzma
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flows.erasure import checkpoints, databases, frames
from flows.erasure.databases import LONG
from flows.erasure.needles import ENOUGH, Needles

DEPTH = 5  # files in files
# Base64 as pages have it, or as notebooks: there it has no label, but begins as PNG, JPEG, GIF or WebP does.
EMBEDDED = re.compile(
    rb"(?:data:image/[\w.+-]+;base64,|(?=iVBORw0KGgo|/9j/|R0lGOD|UklGR))((?:[A-Za-z0-9+/=\s]|\\n){100,})"
)
STREAM = b"\xff\xff\xff\xff"  # begins an Arrow stream
ROW = "row"  # beside the forms of needles: a table's row is the picture's by its image_id
PACKED: Mapping[bytes, Callable[[Any], bytes]] = {
    b"\x1f\x8b": gzip.decompress, b"BZh": bz2.decompress, b"\xfd7zXZ": lzma.decompress
}  # fmt: skip
PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"P5", b"P6")


@dataclasses.dataclass
class Seen:
    """What was found in a file."""

    pictures: dict[int, set[str]] = dataclasses.field(default_factory=dict)  # by number: in which forms
    table: bool = False  # it is a table or a list, so that it can be written without rows
    database: bool = False  # it is one of SQLite's, so that rows can be deleted
    made: dict[str, Any] = dataclasses.field(default_factory=dict)  # what made it, if it is a checkpoint
    rows: set[int] = dataclasses.field(default_factory=set)  # that have a picture; of a list, lines
    keys: set[tuple[str, ...]] = dataclasses.field(default_factory=set)  # of rows of other pictures that show one

    def add(self, found: dict[int, set[str]]) -> bool:
        """Note pictures; whether there are any."""
        for number, forms in found.items():
            self.pictures.setdefault(number, set()).update(forms)
        return bool(found)


class Search:
    """Looks for pictures; `ids` are their image_ids, in the order of the needles' numbers."""

    def __init__(
        self,
        needles: Needles,
        ids: Sequence[str],
        scales: Sequence[int] = (1,),
        pixels: Mapping[str, int] | None = None,
    ) -> None:
        """`scales` are whole numbers by which sheets enlarge pictures; `pixels` are numbers by `pixel_sha256`."""
        self._needles = needles
        self._ids = {image_id: number for number, image_id in enumerate(ids)}
        self._scales = scales
        self._pixels = pixels or {}

    def file(self, path: Path) -> Seen:
        """What a file has."""
        if not path.stat().st_size:
            return Seen()
        return self.array(np.memmap(path, np.uint8, "r"), path)

    def array(self, data: np.ndarray, path: Path | None = None, depth: int = 0) -> Seen:
        """What bytes have (uint8, one dimension); `path` is where they lie, if it is a file."""
        seen = Seen()
        head = data[:16].tobytes()
        try:
            if head.startswith((b"ARROW1", STREAM)):
                self._arrow(seen, data, depth)
            elif head.startswith(b"PAR1"):
                self._parquet(seen, data, depth)
        except (ValueError, OSError):  # pyarrow's errors are such: a damaged table, and its bytes are searched
            seen = Seen()
        if not seen.table:
            seen.database = head.startswith(databases.MAGIC)
            seen.made = checkpoints.inputs(data)
            if (number := self._ids.get(hashlib.sha256(data.data).hexdigest())) is not None:
                seen.add({number: {"file"}})
            seen.add(self._needles.find(data))
            for part in self._parts(data, head, path) if depth < DEPTH else ():
                seen.add(self.array(part, None, depth + 1).pictures)
            if head.startswith(PICTURES) or head[4:8] == b"ftyp":
                self._pictures(seen, data)
        return seen

    def _pictures(self, seen: Seen, data: np.ndarray) -> None:
        """Note what each frame of a picture file shows."""
        from stages.ingest import pixel_digest

        for pixels in frames.of(data.tobytes()):
            if (same := self._pixels.get(pixel_digest(pixels))) is not None:
                seen.add({same: {"pixels"}})
            for scale in self._scales:
                for across in range(scale):
                    seen.add(self._needles.find(np.ascontiguousarray(pixels[:, across::scale]).reshape(-1), 3))

    def _arrow(self, seen: Seen, data: np.ndarray, depth: int) -> None:
        """A table as `stages/images/table.py` writes it, a list of pictures, or anybody's."""
        import pyarrow as pa

        start = 0
        for batch in arrow_batches(pa.py_buffer(data)):
            batch.validate(full=True)
            own = self._own(seen, batch, batch.schema.names, start)
            for column in batch.columns:
                if pa.types.is_fixed_size_binary(column.type) and len(column) and column.type.byte_width >= 24:
                    self._fixed(seen, column, own, start, batch)
            self._values(seen, batch, own, start, depth)
            start += batch.num_rows
        seen.table = True

    def _own(self, seen: Seen, batch: Any, names: list[str], start: int) -> set[int]:
        """Note the rows that are a picture's by their image_id."""
        own: set[int] = set()
        if "image_id" in names:
            for row, one in enumerate(batch.column("image_id").to_pylist()):
                if one in self._ids:
                    own.add(row)
                    seen.add({self._ids[one]: {ROW}})
        seen.rows |= {start + row for row in own}
        return own

    def _fixed(self, seen: Seen, column: Any, own: set[int], start: int, batch: Any) -> None:
        """Note the rows of a column of arrays that show a picture."""
        width = column.type.byte_width
        every = np.frombuffer(column.buffers()[1], np.uint8)[column.offset * width :][: len(column) * width]
        hits = [*self._needles.hits(every)]
        if not hits:
            return
        rows = np.concatenate([places for places, _ in hits]) // width
        numbers = np.concatenate([numbers for _, numbers in hits])
        for row in np.flatnonzero(np.bincount(rows) >= ENOUGH).tolist():
            if seen.add(self._needles.pictures(numbers[rows == row])):
                seen.rows.add(start + row)
                if row not in own:
                    seen.keys.add(_key(batch, row))

    def _parquet(self, seen: Seen, data: np.ndarray, depth: int) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        file = pq.ParquetFile(pa.BufferReader(pa.py_buffer(data)))
        start = 0
        for batch in file.iter_batches(batch_size=32):  # of large photos these are 100 MB
            own = self._own(seen, batch, batch.schema.names, start)
            self._values(seen, batch, own, start, depth)
            start += batch.num_rows
        seen.table = True

    def _values(self, seen: Seen, batch: Any, own: set[int], start: int, depth: int) -> None:
        """Note the rows that show a picture in a text or in bytes, also inside of structs and lists."""
        for column in batch.columns:
            for row, value in _long(column, range(batch.num_rows)):
                if row not in own and seen.add(self.array(value, None, depth + 1).pictures):
                    seen.rows.add(start + row)
                    seen.keys.add(_key(batch, row))

    def _parts(self, data: np.ndarray, head: bytes, path: Path | None) -> Iterator[np.ndarray]:
        """Files in a file, unpacked."""
        if head.startswith(databases.MAGIC):
            yield from _values(data, path)
        elif head.startswith(b"PK\3\4"):
            with (
                contextlib.suppress(zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError),
                zipfile.ZipFile(path or io.BytesIO(data.data)) as archive,
            ):
                for name in archive.namelist():
                    yield flat(archive.read(name))
        elif packed := next((kind for start, kind in PACKED.items() if head.startswith(start)), None):
            if path and tarfile.is_tarfile(path):  # member by member: it may be large
                yield from _members(path)
            else:
                with contextlib.suppress(OSError, EOFError, ValueError, lzma.LZMAError):
                    yield flat(packed(data.data))
        elif data[257:262].tobytes() == b"ustar":
            yield from _members(path or io.BytesIO(data.data))
        elif not head.startswith(PICTURES[:2]):  # in a PNG or JPEG there is no page
            for embedded in EMBEDDED.finditer(data.data):
                with contextlib.suppress(ValueError):
                    yield flat(base64.b64decode(embedded[1].replace(b"\\n", b"")))


def _key(batch: Any, row: int) -> tuple[str, ...]:
    return tuple(str(batch.column(name)[row]) for name in ("image_id", "path", "kind") if name in batch.schema.names)


def flat(data: bytes) -> np.ndarray:
    """Bytes as they are searched."""
    return np.frombuffer(data, np.uint8)


def arrow_batches(buffer: Any) -> Iterator[Any]:
    """The record batches of an Arrow file or stream."""
    import pyarrow as pa

    if buffer[:6].to_pybytes() == b"ARROW1":
        reader = pa.ipc.open_file(buffer)
        yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
    else:
        yield from pa.ipc.open_stream(buffer)


def _long(column: Any, rows: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    """The long values of a column, each with its row; `rows` are those of the column's own values."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_dictionary(kind):
        yield from _long(column.dictionary_decode(), rows)
    elif pa.types.is_struct(kind):
        for part in column.flatten():
            yield from _long(part, rows)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        parents = pc.list_parent_indices(column).to_numpy()
        inside = column.flatten()
        if pa.types.is_uint8(kind.value_type):
            numbers = inside.fill_null(0).to_numpy()
            ends = np.flatnonzero(np.diff(parents, append=-1)) + 1
            for start, end in zip([0, *ends[:-1]], ends, strict=False):
                if end - start >= LONG:
                    yield rows[parents[start]], np.ascontiguousarray(numbers[start:end])
        else:
            yield from _long(inside, [rows[parent] for parent in parents])
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or _is_text(kind):
        if (pc.max(pc.binary_length(column)).as_py() or 0) < LONG:
            return
        for row, value in zip(rows, column, strict=True):
            if value.is_valid and (buffer := value.as_buffer()).size >= LONG:
                yield row, np.frombuffer(buffer, np.uint8)


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _members(file: Any) -> Iterator[np.ndarray]:
    """The files in a tar archive, which is a path or an open file."""
    with (
        contextlib.suppress(tarfile.TarError, OSError, EOFError, lzma.LZMAError),
        tarfile.open(file) if isinstance(file, Path) else tarfile.open(fileobj=file) as tar,
    ):
        for member in tar:
            if inner := tar.extractfile(member) if member.isfile() else None:
                yield flat(inner.read())


def _values(data: np.ndarray, path: Path | None) -> Iterator[np.ndarray]:
    """The long values of a SQLite database; of one inside of another file, by a copy. Raises as `databases.values`."""
    with contextlib.ExitStack() as stack:
        if path is None:
            copy = stack.enter_context(tempfile.NamedTemporaryFile(suffix=".db"))
            copy.write(data.data)
            copy.flush()
            path = Path(copy.name)
        yield from map(flat, databases.values(path))
