"""Hashes of the crops in aligned tables: made when they are first asked for, and kept in a file per table's file.

No stage makes them, as ingest does for whole pictures.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flows.audit import kept_arrays
from flows.lineage.tables import Part
from stages.runs import record

if TYPE_CHECKING:
    from stages.images.table import Table

FOLDER = Path(".palimpsest/audit/crops")
AT_ONCE = 256  # crops that a thread hashes before it reports


class Hashes(NamedTuple):
    """The hashes of N crops, of which M have more than one colour."""

    pixels: Any  # sha256 of each crop's pixels and shape, as ingest's `pixel_sha256`: an array of Arrow, N x 32 bytes
    rows: Any  # int64, M: the crops that have a perceptual hash
    looks: Any  # uint8, M x phash.BYTES: the perceptual hashes


def of(root: Path, part: Part) -> tuple[Hashes, bool]:
    """The hashes of the crops in a file of an aligned table, and whether an earlier answer has made them.

    As the digests (`lineage/digests.py`), what is kept saves time and proves nothing. It is made anew where it is
    damaged, of another table, or of other versions of what hashes. Raises InputError where the file is no table of
    pictures.
    """
    from stages.images.table import Table

    table = Table(part.file)
    file = root / FOLDER / f"{part.md5}.npz"
    found = _kept(file, len(table))
    if found is not None:
        return found, True
    made = _made(table, part.path)
    _keep(file, made)
    return made, False


def _versions() -> str:
    """Of what decides a perceptual hash: our own code, and the libraries that it uses."""
    from importlib.metadata import version

    from stages.images import phash

    used = [f"{name} {version(name)}" for name in ("imagehash", "pillow", "scipy")]
    return ", ".join([record.digest(Path(phash.__file__)), *used])


def _kept(file: Path, count: int) -> Hashes | None:
    import numpy as np

    from stages.images import phash

    kept = kept_arrays.load(file) or {}
    if kept.keys() >= {"versions", "pixels", "rows", "looks"}:
        versions, pixels, rows, looks = (kept[name] for name in ("versions", "pixels", "rows", "looks"))
        shapes = [(pixels, np.uint8, (32 * count,)), (rows, np.int64, (rows.size,)),
                  (looks, np.uint8, (rows.size, phash.BYTES))]  # fmt: skip
        sound = all(array.dtype == kind and array.shape == shape for array, kind, shape in shapes)
        # Rising, so they are rows of the table, each once.
        if sound and (np.diff(rows, prepend=-1, append=count) > 0).all() and str(versions) == _versions():
            return Hashes(_digests(pixels.tobytes()), rows, looks)
    return None


def _keep(file: Path, hashes: Hashes) -> None:
    import numpy as np

    pixels = np.frombuffer(hashes.pixels.buffers()[1], np.uint8)
    kept_arrays.save(file, versions=np.array(_versions()), pixels=pixels, rows=hashes.rows, looks=hashes.looks)


def _made(table: Table, path: str) -> Hashes:
    import numpy as np
    from tqdm import tqdm

    from stages import ingest
    from stages.images import phash
    from stages.images.threads import in_order

    def some(start: int) -> list[tuple[bytes, phash.Hashes | None]]:
        crops = table.pictures(range(start, min(start + AT_ONCE, len(table))))
        return [(bytes.fromhex(ingest.pixel_digest(crop)), phash.hashes(crop)) for crop in crops]

    pixels: list[bytes] = []
    looks: dict[int, bytes] = {}
    with tqdm(total=len(table), desc=f"hash {path}", unit="crop", mininterval=1, disable=None) as bar:
        for found in in_order(some, range(0, len(table), AT_ONCE), min(os.cpu_count() or 1, 8)):
            for digest, hashes in found:
                if hashes:
                    looks[len(pixels)] = hashes.upright
                pixels.append(digest)
            bar.update(len(found))
    return Hashes(_digests(b"".join(pixels)), np.array(list(looks), np.int64), phash.stacked(list(looks.values())))


def _digests(content: bytes) -> Any:
    """Many sha256 as an array of Arrow."""
    import pyarrow as pa

    kind = pa.binary(32)
    return pa.FixedSizeBinaryArray.from_buffers(kind, len(content) // 32, [None, pa.py_buffer(content)])
