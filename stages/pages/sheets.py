"""Contact sheets: test pictures down, the systems' completions across."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stages.images import png
from stages.images.table import Key, Table
from stages.metrics.means import Means
from stages.pages.figures import FAINT, INK, filename
from stages.pages.results import Folders
from stages.pages.scores import blendings

TILE = 128  # pixels of a picture on a contact sheet, about: small ones are enlarged by whole numbers

SYSTEMS = 5  # on one contact sheet; more go to a second


class Sheet(NamedTuple):
    """A contact sheet that lies beside the page."""

    file: str
    dataset: str
    kind: str
    names: list[str]  # of the pictures, from the top


class Shown(NamedTuple):
    """A system's two tables and where each (image_id, path, kind) lies in them."""

    raw: Table
    blended: Table
    rows: dict[Key, tuple[int, int]]


def open_system(folders: Folders, system: str) -> Shown:
    raw = Table(folders.inpainted / system / "completed.arrow")
    blended = Table(folders.blended / system / "blended.arrow")
    places = [{key: row for row, key in enumerate(table.keys())} for table in (raw, blended)]
    return Shown(raw, blended, {key: (row, places[1][key]) for key, row in places[0].items() if key in places[1]})


def draw_sheets(
    folders: Folders, dataset: str, kinds: Sequence[str], systems: Mapping[str, Means], count: int, report: Path
) -> list[Sheet]:
    """Draw a contact sheet per kind into `report`, of at most `SYSTEMS` systems each.

    Its `count` pictures are those that come first by image_id, so that a new one moves little. A system that blending
    does not change has one column.
    """
    if not systems:
        return []
    opened = {system: open_system(folders, system) for system in systems}
    truth, holes = Table(folders.aligned / dataset / "test.arrow"), Table(folders.masks / dataset / "test.arrow")
    masked = set(holes.keys())
    drawn = []
    for kind in kinds:
        done = {system: {key for key in shown.rows if key[2] == kind} for system, shown in opened.items()}
        able = [system for system in systems if done[system]]
        chosen = sorted(masked.intersection(*(done[system] for system in able)))[:count] if able else []
        if not chosen:
            continue
        picture, hole = truth.pictures(truth.find([key[:2] for key in chosen])), holes.holes(holes.find(chosen))
        holed = np.where(hole[..., None], np.uint8(255), picture)
        for start in range(0, len(able), SYSTEMS):
            groups = [("truth", [("original", picture), ("hole", holed)])]
            for system in able[start : start + SYSTEMS]:
                raw, blended, rows = opened[system]
                columns = list(zip(blendings(systems[system]), (raw, blended), strict=False))
                made = [table.pictures([rows[key][i] for key in chosen]) for i, (_, table) in enumerate(columns)]
                groups.append((system, [(name, one) for (name, _), one in zip(columns, made, strict=True)]))
            file = filename("sheet", dataset, kind, *([str(start // SYSTEMS + 1)] if start else []))
            save_sheet(groups, report / file)
            drawn.append(Sheet(file, dataset, kind, [key[1] for key in chosen]))
    return drawn


def save_sheet(groups: Sequence[tuple[str, Sequence[tuple[str, np.ndarray]]]], path: Path) -> None:
    """Columns of pictures (uint8 N x H x W x 3) under their labels, grouped under the group's name."""
    from PIL import Image, ImageDraw, ImageFont

    height, width = groups[0][1][0][1].shape[1:3]
    scale = max(1, TILE // max(height, width))
    shrink = min(1.0, 2 * TILE / max(height, width))
    high, wide = round(height * scale * shrink), round(width * scale * shrink)
    near, far, head = 3, 14, 40
    count = len(groups[0][1][0][1])
    total = sum(len(columns) * (wide + near) - near for _, columns in groups) + far * (len(groups) + 1)
    sheet = Image.new("RGB", (total, head + count * (high + near) + far), "white")
    pen, bold, plain = ImageDraw.Draw(sheet), ImageFont.load_default(15), ImageFont.load_default(13)
    left = far
    for title, columns in groups:
        room = len(columns) * (wide + near) - near
        while title and pen.textlength(title, bold) > room:
            title = title[:-2].rstrip() + "…" if len(title) > 2 else ""
        pen.text((left, 4), title, INK, bold)
        for label, pictures in columns:
            pen.text((left, 22), label, FAINT, plain)
            for row, picture in enumerate(pictures):
                method = Image.Resampling.NEAREST if shrink == 1 else Image.Resampling.BOX
                tile = Image.fromarray(picture).resize((wide, high), method)
                sheet.paste(tile, (left, head + row * (high + near)))
            left += wide + near
        left += far - near
    path.write_bytes(png.encode(np.asarray(sheet)))
