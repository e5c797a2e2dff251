"""A sheet of pictures to look at: each one asked for, beside those that look like it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flows.audit.copies import Copy, Query

if TYPE_CHECKING:
    from PIL import Image

FOLDER = Path(".palimpsest/audit")
SIDE = 256  # px, of a picture
GAP = 12
LINE = 18  # px, of a caption
ACROSS = 5  # copies beside a picture
DOWN = 20  # pictures


def write(root: Path, rows: Sequence[tuple[Query, Sequence[Copy]]], files: Mapping[Copy, Path]) -> str:
    """Draw a row per picture, the surest copies first, as far as there is room: the PNG's path below `root`.

    `files` has of each copy the table's file in which it lies: the picture's parquet file, or the crop's Arrow file.
    """
    from PIL import Image, ImageDraw

    from stages.images.decode.read import decode

    rows = [(query, sorted(copies, key=lambda copy: copy.rank)[:ACROSS]) for query, copies in rows[:DOWN]]
    across = 1 + max(len(copies) for _, copies in rows)
    height = SIDE + 2 * LINE + GAP
    sheet = Image.new("RGB", (GAP + across * (SIDE + GAP), GAP + len(rows) * height), "white")
    draw = ImageDraw.Draw(sheet)
    pictures = _pixels({copy: files[copy] for _, copies in rows for copy in copies})
    for down, (query, copies) in enumerate(rows):
        assert query.file is not None
        told = [(decode(query.file.read_bytes()), query.file.name, "asked for")]
        for copy in copies:
            mirrored = ", mirrored" * copy.mirrored
            told.append((pictures[copy], copy.path, f"{copy.kind}: {copy.bits or 0} bits{mirrored}"))
        for place, (pixels, name, said) in enumerate(told):
            left, top = GAP + place * (SIDE + GAP), GAP + down * height
            picture = _fitted(pixels)
            sheet.paste(picture, (left + (SIDE - picture.width) // 2, top + (SIDE - picture.height) // 2))
            for number, text in enumerate((_short(name), said)):
                draw.text((left, top + SIDE + 2 + number * LINE), text, "black", font_size=14)
    names = "".join(f"{query.image_id}{[copy.image_id for copy in copies]}" for query, copies in rows)
    file = FOLDER / f"{hashlib.sha256(names.encode()).hexdigest()[:16]}.png"
    (root / FOLDER).mkdir(parents=True, exist_ok=True)
    draft = root / file.with_name(f".{file.name}.{os.getpid()}")
    sheet.save(draft, "PNG")
    draft.replace(root / file)
    return file.as_posix()


def _pixels(files: Mapping[Copy, Path]) -> dict[Copy, np.ndarray]:
    """The pixels of copies, H x W x 3."""
    import pyarrow.parquet as pq

    from stages.images.decode.read import decode
    from stages.images.table import Table

    found: dict[Copy, np.ndarray] = {}
    for file in {*files.values()}:
        wanted = [copy for copy, home in files.items() if home == file]
        if wanted[0].crop:
            table = Table(file)
            places = {image_id: place for place, image_id in enumerate(table.column("image_id"))}
            crops = table.pictures([places[copy.image_id] for copy in wanted])
            found |= dict(zip(wanted, crops, strict=True))
        else:
            ids = [copy.image_id for copy in wanted]
            rows = pq.read_table(file, columns=["image", "image_id"], filters=[("image_id", "in", ids)])
            data = {row["image_id"]: row["image"]["bytes"] for row in rows.to_pylist() if row["image"]["bytes"]}
            found |= {copy: decode(data[copy.image_id]) for copy in wanted}
    return found


def _fitted(pixels: np.ndarray) -> Image.Image:
    """A picture as large as fits into SIDE x SIDE."""
    from PIL import Image

    picture = Image.fromarray(pixels)
    scale = SIDE / max(picture.size)
    return picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))


def _short(name: str) -> str:
    """A name that fits below a picture."""
    return name if len(name) <= 32 else f"...{name[-29:]}"
