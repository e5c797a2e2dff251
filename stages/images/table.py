"""Pictures and holes as Arrow IPC files, memory-mapped: a batch is read without decoding anything.

A row's key is (`image_id`, `path`), and the hole's `kind` where there is one. Pixels are uint8
RGB, H x W x 3; a hole is boolean H x W, True = missing, packed eight pixels to a byte on disk.
The files hold no time and no order but the writer's, so the same rows give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stages.runs.errors import InputError

ROWS = 1024  # rows a record batch; fixed, since it shows in the bytes

SPLITS = ("train", "val", "test")  # as CelebA's list numbers them; a later one is the stricter

Key = tuple[str, ...]
KEY = ("image_id", "path", "kind")  # its columns

LANDMARKS = pa.list_(pa.float32(), 10)  # x, y of five points: eyes, nose, mouth corners, image-left first

ALIGNED = {  # columns beside `pixels` in data/aligned/<dataset>/<split>.arrow
    "image_id": pa.string(),
    "path": pa.string(),
    "transform": pa.list_(pa.float64(), 6),  # 2 x 3, row by row: original to crop, pixel centres
    "landmarks": LANDMARKS,  # in the crop; null where there are none
}
COMPLETED = {  # columns beside `pixels` in data/inpainted/<system>/ and data/blended/<entry of blend>/
    "image_id": pa.string(),
    "path": pa.string(),
    "kind": pa.string(),
    "split": pa.string(),  # test, or train: whose pictures are completed where `train_count` asks for them
}
HOLES = {  # columns beside `bits` in data/masks/<dataset>/<split>.arrow
    "image_id": pa.string(),
    "path": pa.string(),
    "kind": pa.string(),
    "ratio": pa.float32(),  # missing pixels over all
}


class Writer:
    """Appends rows to one Arrow file, a record batch every `ROWS` rows; use `writing`."""

    def __init__(self, path: Path, array: str, width: int, columns: Mapping[str, pa.DataType], shape: tuple[int, int]):
        fields = [pa.field(array, pa.binary(width), nullable=False)]
        fields += [pa.field(name, kind) for name, kind in columns.items()]
        # One metadata key alone: several are written in no fixed order.
        self.schema = pa.schema(fields, metadata={"size": f"{shape[0]}x{shape[1]}"})
        self._writer = pa.ipc.new_file(str(path), self.schema)
        self._rows: list[tuple[Any, ...]] = []

    def append(self, *row: Any) -> None:
        """One row: the array's bytes (or the array itself), then the columns in their order."""
        head = row[0] if isinstance(row[0], bytes) else np.ascontiguousarray(row[0]).tobytes()
        self._rows.append((head, *row[1:]))
        if len(self._rows) == ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            columns = zip(*self._rows, strict=True)
            arrays = [pa.array(column, type=field.type) for column, field in zip(columns, self.schema, strict=True)]
            self._writer.write_batch(pa.record_batch(arrays, schema=self.schema))
            self._rows.clear()

    def close(self) -> None:
        self._flush()
        self._writer.close()


@contextmanager
def writing_pictures(path: Path, size: tuple[int, int], columns: Mapping[str, pa.DataType]) -> Iterator[Writer]:
    """A Writer of uint8 pictures of `size` (height, width); rows are (pixels, *columns)."""
    writer = Writer(path, "pixels", size[0] * size[1] * 3, columns, size)
    yield writer
    writer.close()


@contextmanager
def writing_holes(path: Path, size: tuple[int, int]) -> Iterator[Writer]:
    """A Writer of holes of `size` (height, width); rows are (pack(hole), image_id, path, kind, ratio)."""
    writer = Writer(path, "bits", (size[0] * size[1] + 7) // 8, HOLES, size)
    yield writer
    writer.close()


def pack(hole: np.ndarray) -> bytes:
    """A boolean hole as bytes, eight pixels to a byte, row by row."""
    return np.packbits(hole.reshape(-1)).tobytes()


class Table:
    """A memory-mapped file written by `writing_pictures` or `writing_holes`.

    `size` is (height, width). Raises InputError where the file is missing or no such table.
    """

    def __init__(self, path: Path):
        try:
            self._reader = pa.ipc.open_file(pa.memory_map(str(path)))
            height, width = self._reader.schema.metadata[b"size"].split(b"x")
            self.size = (int(height), int(width))
            self._batches = [self._reader.get_batch(i) for i in range(self._reader.num_record_batches)]
            for batch in self._batches:
                batch.validate(full=True)  # offsets and texts; any pixels are valid
            self._columns = self._reader.schema.names
        except FileNotFoundError:
            raise InputError(f"{path}: not found; `dvc repro` makes it") from None
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError):
            raise InputError(f"{path}: not a table of pictures or holes; remove it and run `dvc repro`") from None
        self.path = path
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)])
        # Views of the mapped file, one a record batch, each rows x bytes.
        self._views = [self._view(batch.column(0)) for batch in self._batches]

    @staticmethod
    def _view(array: pa.FixedSizeBinaryArray) -> np.ndarray:
        width = array.type.byte_width
        flat = np.frombuffer(array.buffers()[1], np.uint8, count=len(array) * width, offset=array.offset * width)
        return flat.reshape(len(array), width)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def _need(self, column: str) -> None:
        if column not in self._columns:
            raise InputError(f"{self.path}: has no column '{column}': another kind of table; run `dvc repro`")

    def _gather(self, rows: Sequence[int] | np.ndarray | None, out: np.ndarray | None = None) -> np.ndarray:
        wanted = np.arange(len(self)) if rows is None else np.asarray(rows, dtype=np.int64)
        width = self._reader.schema.field(0).type.byte_width
        if out is None:
            out = np.empty((len(wanted), width), np.uint8)
        homes = np.searchsorted(self._starts, wanted, side="right") - 1
        places = wanted - self._starts[homes]
        for row, home, place in zip(out.reshape(len(wanted), width), homes.tolist(), places.tolist(), strict=True):
            row[:] = self._views[home][place]
        return out

    def pictures(self, rows: Sequence[int] | np.ndarray | None = None, out: np.ndarray | None = None) -> np.ndarray:
        """uint8 N x H x W x 3, a copy, of the given rows or of all.

        A loop that passes its last batch back as `out` (contiguous) reads several times as fast: most of the
        time goes to the page faults of new memory.
        """
        self._need("pixels")
        return self._gather(rows, out).reshape(-1, *self.size, 3)

    def holes(self, rows: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """bool N x H x W, True = missing, of the given rows or of all."""
        self._need("bits")
        pixels = self.size[0] * self.size[1]
        return np.unpackbits(self._gather(rows), axis=1, count=pixels).view(bool).reshape(-1, *self.size)

    def column(self, name: str) -> list[Any]:
        """A text or number column as a list."""
        self._need(name)
        return [value for batch in self._batches for value in batch.column(name).to_pylist()]

    def landmarks(self) -> np.ndarray:
        """float32 N x 5 x 2 (x, y in the crop), NaN where a picture has none."""
        rows = [[np.nan] * 10 if row is None else row for row in self.column("landmarks")]
        return np.asarray(rows, np.float32).reshape(-1, 5, 2)

    def keys(self) -> list[Key]:
        """(image_id, path) of every row, or (image_id, path, kind) where the table has kinds."""
        return list(zip(*(self.column(name) for name in KEY if name != "kind" or name in self._columns), strict=True))

    def splits(self) -> dict[str, np.ndarray]:
        """The rows (int64, rising) of each split of a table of completed pictures, in the order of their first rows.

        Raises InputError for a table without the column, and for a split that there is not.
        """
        column = self.column("split")
        there = list(dict.fromkeys(column))
        if not {*there} <= {*SPLITS}:
            raise InputError(f"{self.path}: has rows of a split that there is not; remove it and run `dvc repro`")
        return {split: np.flatnonzero(np.array(column, object) == split) for split in there}

    def find(self, keys: Sequence[Key]) -> np.ndarray:
        """The row of each key, int64. Raises InputError for a key that the table has not."""
        rows = {key: row for row, key in enumerate(self.keys())}
        for key in keys:
            if key not in rows:
                raise InputError(f"{self.path}: no row for {' '.join(key[1:])} (image {key[0]}); run `dvc repro`")
        return np.array([rows[key] for key in keys], np.int64)
