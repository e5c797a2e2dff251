"""What is in a file, whatever it is: every picture in it is decoded, every row of a table read, and searched.

Pictures (PNG, JPEG and all that `stages/images/decode` reads), Arrow and Parquet tables, pages with embedded pictures,
SQLite databases, and zip, tar and gzip archives, one inside the other. The bytes themselves are searched as well.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import gzip
import io
import re
import sqlite3
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flows.erasure.needles import ENOUGH, Needles

DEPTH = 5  # files in files
EMBEDDED = re.compile(rb"data:image/[\w.+-]+;base64,([A-Za-z0-9+/=\s]+)")
LONG = 200  # characters of a text that may have a picture embedded
ROW = "row"  # beside the forms of needles: a table's row is the picture's by its image_id
PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"P5", b"P6")


@dataclasses.dataclass
class Seen:
    """What was found in a file."""

    pictures: dict[int, set[str]] = dataclasses.field(default_factory=dict)  # by number: in which forms
    table: bool = False  # it is a table or a list, so that it can be written without rows
    rows: set[int] = dataclasses.field(default_factory=set)  # that have a picture; of a list, lines
    keys: set[tuple[str, ...]] = dataclasses.field(default_factory=set)  # of rows of other pictures that show one

    def add(self, found: dict[int, set[str]]) -> bool:
        """Note pictures; whether there are any."""
        for number, forms in found.items():
            self.pictures.setdefault(number, set()).update(forms)
        return bool(found)


class Search:
    """Looks for pictures; `ids` are their image_ids, in the order of the needles' numbers."""

    def __init__(self, needles: Needles, ids: Sequence[str], scales: Sequence[int] = (1,)) -> None:
        """`scales` are whole numbers by which sheets enlarge pictures."""
        self._needles = needles
        self._ids = {image_id: number for number, image_id in enumerate(ids)}
        self._scales = scales

    def file(self, path: Path) -> Seen:
        """What a file has."""
        if not path.stat().st_size:
            return Seen()
        return self.array(np.memmap(path, np.uint8, "r"), path)

    def array(self, data: np.ndarray, path: Path | None = None, depth: int = 0) -> Seen:
        """What bytes have (uint8, one dimension); `path` is where they lie, if it is a file."""
        seen = Seen()
        head = data[:8].tobytes()
        try:
            if head.startswith(b"ARROW1"):
                self._arrow(seen, data)
            elif head.startswith(b"PAR1"):
                self._parquet(seen, data, depth)
        except ValueError:  # pyarrow's errors are such: it is a damaged table, and its bytes are searched
            seen = Seen()
        if not seen.table:
            seen.add(self._needles.find(data))
            for part in self._parts(data, head, path) if depth < DEPTH else ():
                seen.add(self.array(part, None, depth + 1).pictures)
            if head.startswith(PICTURES) or head[4:8] == b"ftyp":
                seen.add(self._picture(data))
        return seen

    def _picture(self, data: np.ndarray) -> dict[int, set[str]]:
        from stages.images.decode.picture import BadPicture
        from stages.images.decode.read import decode

        try:
            pixels = decode(data.tobytes())
        except BadPicture:
            return {}
        found: dict[int, set[str]] = {}
        for scale in self._scales:
            for across in range(scale):
                flat = np.ascontiguousarray(pixels[:, across::scale]).reshape(-1)
                for number, forms in self._needles.find(flat, 3).items():
                    found.setdefault(number, set()).update(forms)
        return found

    def _arrow(self, seen: Seen, data: np.ndarray) -> None:
        """A table as `stages/images/table.py` writes it, or a list of pictures."""
        import pyarrow as pa

        reader = pa.ipc.open_file(pa.py_buffer(data))
        names, start = reader.schema.names, 0
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            batch.validate(full=True)
            own = self._own(seen, batch, names, start)
            for name in names:
                column = batch.column(name)
                if pa.types.is_fixed_size_binary(column.type) and len(column) and column.type.byte_width >= 24:
                    self._fixed(seen, column, own, start, batch)
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
        flat = np.frombuffer(column.buffers()[1], np.uint8)[column.offset * width :][: len(column) * width]
        hits = [*self._needles.hits(flat)]
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
        for batch in file.iter_batches(batch_size=256):
            own = self._own(seen, batch, batch.schema.names, start)
            for name in batch.schema.names:
                column = batch.column(name)
                if pa.types.is_struct(column.type):
                    column = column.flatten()[0]
                binary = pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)
                if not binary and not pa.types.is_string(column.type):
                    continue
                for row, value in enumerate(column):
                    buffer = value.as_buffer() if value.is_valid else None
                    if buffer is None or buffer.size < LONG or row in own:
                        continue
                    inside = self.array(np.frombuffer(buffer, np.uint8), None, depth + 1)
                    if seen.add(inside.pictures):
                        seen.rows.add(start + row)
                        seen.keys.add(_key(batch, row))
            start += batch.num_rows
        seen.table = True

    def _parts(self, data: np.ndarray, head: bytes, path: Path | None) -> Iterator[np.ndarray]:
        """Files in a file, unpacked."""
        if head.startswith(b"SQLite f"):
            yield from _cells(data, path)
        elif head.startswith(b"PK\3\4"):
            with (
                contextlib.suppress(zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError),
                zipfile.ZipFile(io.BytesIO(data.tobytes())) as archive,
            ):
                for name in archive.namelist():
                    yield _array(archive.read(name))
        elif head.startswith(b"\x1f\x8b"):
            with contextlib.suppress(OSError, EOFError):
                yield _array(gzip.decompress(data.tobytes()))
        elif data[257:262].tobytes() == b"ustar":
            with (
                contextlib.suppress(tarfile.TarError, OSError),
                tarfile.open(fileobj=io.BytesIO(data.tobytes())) as tar,
            ):
                for member in tar:
                    if inner := tar.extractfile(member) if member.isfile() else None:
                        yield _array(inner.read())
        else:
            for embedded in EMBEDDED.finditer(data.data):
                with contextlib.suppress(ValueError):
                    yield _array(base64.b64decode(embedded[1]))


def _key(batch: Any, row: int) -> tuple[str, ...]:
    return tuple(str(batch.column(name)[row]) for name in ("image_id", "path", "kind") if name in batch.schema.names)


def _array(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


def _cells(data: np.ndarray, path: Path | None) -> Iterator[np.ndarray]:
    """All long values of a SQLite database. It is read where it lies: its newest rows may be in another file."""
    with contextlib.ExitStack() as stack:
        if path is None:
            copy = stack.enter_context(tempfile.NamedTemporaryFile(suffix=".db"))
            copy.write(data.tobytes())
            copy.flush()
            path = Path(copy.name)
        with contextlib.suppress(sqlite3.Error):
            open_one = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10)
            open_one.text_factory = bytes
            with contextlib.closing(open_one) as database:
                names = [
                    row[0].decode() for row in database.execute("SELECT name FROM sqlite_master WHERE type='table'")
                ]
                for name in names:
                    quoted = name.replace('"', '""')
                    for row in database.execute(f'SELECT * FROM "{quoted}"'):
                        for value in row:
                            if isinstance(value, bytes) and len(value) >= LONG:
                                yield _array(value)
