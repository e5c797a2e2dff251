"""Several answers beside each other, to choose from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stages.images import png
from stages.images.opencv import cv2

TALLEST, WIDEST = 360, 480  # px of a picture on the sheet
ACROSS = 1600  # px of the pictures beside each other, about; five of them at most
GAP, LINE = 12, 22  # px; a caption's height
MARKED = np.array([230, 60, 120])  # the colour of the hole


def draw(view: np.ndarray, hole: np.ndarray, answers: Sequence[tuple[str, np.ndarray]]) -> bytes:
    """A PNG: the photo around its hole with that marked, then each answer (its title and uint8 H x W x 3)."""
    from PIL import Image, ImageDraw

    box = _around(hole)
    marked = view[box].copy()
    marked[hole[box]] = (marked[hole[box]] * 0.35 + MARKED * 0.65).astype(np.uint8)
    pictures = [("the photo, its hole", marked), *((title, pixels[box]) for title, pixels in answers)]
    height, width = marked.shape[:2]
    scale = min(1.0 if height > 180 else 180 / height, TALLEST / height, WIDEST / width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    across = min(len(pictures), 5, max(1, ACROSS // size[0]))
    down = -(-len(pictures) // across)
    sheet = Image.new("RGB", (GAP + across * (size[0] + GAP), GAP + down * (size[1] + LINE + GAP)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (title, pixels) in enumerate(pictures):
        left, top = GAP + number % across * (size[0] + GAP), GAP + number // across * (size[1] + LINE + GAP)
        shown = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        sheet.paste(Image.fromarray(shown), (left, top))
        pen.text((left, top + size[1] + 4), title[: max(8, size[0] // 6)], "black")
    return png.encode(np.asarray(sheet))


def _around(hole: np.ndarray) -> tuple[slice, slice]:
    """The hole's box with as much again around it."""
    spans = []
    for axis, length in ((1, hole.shape[0]), (0, hole.shape[1])):
        place = np.flatnonzero(hole.any(axis=axis))
        reach = max(16, int(place[-1] - place[0]) // 2)
        spans.append(slice(max(0, int(place[0]) - reach), min(length, int(place[-1]) + 1 + reach)))
    return spans[0], spans[1]
