"""Contact sheets: test pictures down, the systems' completions across."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stages.images import png
from stages.images.table import Key
from stages.pages.figures import FAINT, INK, filename
from stages.pages.pictures import Tried

TILE = 128  # pixels of a picture on a contact sheet, about: small ones are enlarged by whole numbers

LINES = 3  # that a name may take
SYSTEMS = 5  # on one contact sheet; more go to a second


class Sheet(NamedTuple):
    """A contact sheet that lies beside the page."""

    file: str
    dataset: str
    kind: str
    names: list[str]  # of the pictures, from the top


def draw_sheets(tried: Tried, kinds: Sequence[str], count: int, report: Path) -> list[Sheet]:
    """Draw a contact sheet per kind into `report`, of at most `SYSTEMS` systems each.

    Its `count` pictures are those that come first by image_id, so that a new one moves little. A system has a column of
    raw pictures, and one for each entry of `blend` that changes them.
    """
    drawn = []
    for kind in kinds:
        done = tried.completed(kind)
        able = list(done)
        chosen = sorted(set.intersection(*done.values()))[:count] if able else []
        if not chosen:
            continue
        picture, holed = tried.before(chosen)
        for start in range(0, len(able), SYSTEMS):
            groups = [("truth", [("original", picture), ("hole", holed)])]
            groups += [(name, _columns(name, tried, chosen)) for name in able[start : start + SYSTEMS]]
            file = filename("sheet", tried.name, kind, *([str(start // SYSTEMS + 1)] if start else []))
            save_sheet(groups, report / file)
            drawn.append(Sheet(file, tried.name, kind, [key[1] for key in chosen]))
    return drawn


def _columns(system: str, tried: Tried, keys: Sequence[Key]) -> list[tuple[str, np.ndarray]]:
    """A system's pictures, raw and blended; those that an entry of another name has blended, under that name."""
    return [
        (blending if name == system else name, pictures)
        for (name, blending), pictures in tried.systems[system].pictures(keys)
    ]


def save_sheet(groups: Sequence[tuple[str, Sequence[tuple[str, np.ndarray]]]], path: Path) -> None:
    """Columns of pictures (uint8 N x H x W x 3) under their labels, grouped under the group's name.

    A name that is wider than its columns takes up to three lines; what is longer still ends in "…".
    """
    from PIL import Image, ImageDraw, ImageFont

    height, width = groups[0][1][0][1].shape[1:3]
    scale = max(1, TILE // max(height, width))
    shrink = min(1.0, 2 * TILE / max(height, width))
    high, wide = round(height * scale * shrink), round(width * scale * shrink)
    near, far, line = 3, 14, 18
    count = len(groups[0][1][0][1])
    rooms = [len(columns) * (wide + near) - near for _, columns in groups]
    bold, plain = ImageFont.load_default(15), ImageFont.load_default(13)

    def fitted(text: str, font: Any, room: int) -> str:
        while text and font.getlength(text) > room:
            text = text[:-2].rstrip() + "…" if len(text) > 2 else ""
        return text

    def wrapped(text: str, room: int) -> list[str]:
        lines: list[str] = []
        for word in text.split():
            if lines and (len(lines) == LINES or bold.getlength(f"{lines[-1]} {word}") <= room):
                lines[-1] += f" {word}"
            else:
                lines.append(word)
        return [fitted(each, bold, room) for each in lines]

    titles = [wrapped(title, room) for (title, _), room in zip(groups, rooms, strict=True)]
    labels = 4 + line * max(1, *map(len, titles))
    head = labels + line
    sheet = Image.new("RGB", (sum(rooms) + far * (len(groups) + 1), head + count * (high + near) + far), "white")
    pen = ImageDraw.Draw(sheet)
    left = far
    for (_, columns), title in zip(groups, titles, strict=True):
        for number, text in enumerate(title):
            pen.text((left, 4 + line * number), text, INK, bold)
        for label, pictures in columns:
            pen.text((left, labels), fitted(label, plain, wide), FAINT, plain)
            for row, picture in enumerate(pictures):
                method = Image.Resampling.NEAREST if shrink == 1 else Image.Resampling.BOX
                tile = Image.fromarray(picture).resize((wide, high), method)
                sheet.paste(tile, (left, head + row * (high + near)))
            left += wide + near
        left += far - near
    path.write_bytes(png.encode(np.asarray(sheet)))
