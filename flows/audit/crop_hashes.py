"""Hashes of the crops in aligned tables: made when they are first asked for, and kept in a file per table's file.

No stage makes them, as ingest does for whole pictures.
"""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import Any, NamedTuple

from flows.lineage.tables import Part
from flows.process import atomic_file

FOLDER = Path(".palimpsest/audit/crops")
AT_ONCE = 256  # crops that a thread hashes before it reports


class Hashes(NamedTuple):
    """The hashes of N crops, of which M have more than one colour."""

    pixels: Any  # sha256 of each crop's pixels and shape, as ingest's `pixel_sha256`: an array of Arrow, N x 32 bytes
    rows: Any  # int64, M: the crops that have a perceptual hash
    looks: Any  # uint8, M x phash.BYTES: the perceptual hashes


def of(root: Path, part: Part) -> Hashes:
    """The hashes of the crops in a file of an aligned table.

    As the digests (`lineage/digests.py`), what is kept saves time and proves nothing. It is made anew where it is
    damaged. Raises InputError where the file is no table of pictures.
    """
    file = root / FOLDER / f"{part.md5}.npz"
    found = _kept(file)
    if found is None:
        found = _made(part)
        _keep(file, found)
    return found


def _kept(file: Path) -> Hashes | None:
    import numpy as np

    from stages.images import phash

    # A zip archive has a checksum of every member: a changed byte is found. NumPy raises many things then.
    with contextlib.suppress(Exception), np.load(io.BytesIO(file.read_bytes())) as kept:
        pixels, rows, looks = kept["pixels"], kept["rows"], kept["looks"]
        if looks.shape == (len(rows), phash.BYTES) and looks.dtype == np.uint8:
            return Hashes(_digests(pixels.tobytes()), rows, looks)
    return None


def _keep(file: Path, hashes: Hashes) -> None:
    import numpy as np

    buffer = io.BytesIO()
    pixels = np.frombuffer(hashes.pixels.buffers()[1], np.uint8)
    np.savez(buffer, pixels=pixels, rows=hashes.rows, looks=hashes.looks)
    with contextlib.suppress(OSError):
        atomic_file.write(file, buffer.getvalue())


def _made(part: Part) -> Hashes:
    import numpy as np
    from tqdm import tqdm

    from stages import ingest
    from stages.images import phash
    from stages.images.table import Table
    from stages.images.threads import in_order

    table = Table(part.file)

    def some(start: int) -> list[tuple[bytes, phash.Hashes | None]]:
        crops = table.pictures(range(start, min(start + AT_ONCE, len(table))))
        return [(bytes.fromhex(ingest.pixel_digest(crop)), phash.hashes(crop)) for crop in crops]

    pixels: list[bytes] = []
    looks: dict[int, bytes] = {}
    with tqdm(total=len(table), desc=f"hash {part.path}", unit="crop", mininterval=1, disable=None) as bar:
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
