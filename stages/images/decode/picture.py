"""What a decoded picture is, what is refused, and how large one may be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

MAX_PIXELS = 100_000_000
MAX_SIDE = 32_767  # cv2's warps cannot read a longer side
MAX_PARTS = 100_000  # segments or chunks of one file: no writer makes so many, and walking through them takes time
MAX_FRAMES = 1000  # more are not counted
MAX_PROFILE = 16 << 20  # bytes of a colour profile; the largest for printing have 3 MiB

ORIENTATION = 0x0112  # the EXIF tag

# Pillow's own limit warns, or raises without the size; `refuse_large` says it.
Image.MAX_IMAGE_PIXELS = None


class BadPicture(Exception):
    """Bytes that are no usable picture; the message is the reason, a short stable phrase."""


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A decoded picture."""

    pixels: np.ndarray  # uint8 RGB, H x W x 3, upright, sRGB
    remarks: tuple[str, ...] = ()  # what was odd about the file, in short stable phrases


@dataclass(slots=True)
class Stored:
    """A picture as its file holds it: neither upright nor sRGB yet."""

    pixels: np.ndarray  # uint8, H x W for mode L, else H x W x channels
    mode: str  # L, LA, RGB, RGBA or CMYK (0 is no ink)
    remarks: list[str]
    profile: bytes | None = None  # the ICC profile; empty where the file holds only parts of one
    orientation: int = 1  # EXIF's, 1 to 8


def refuse_large(width: int, height: int) -> None:
    """Raises BadPicture where a picture has too many pixels or too long a side."""
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise BadPicture(f"too large: {width} x {height}")


def first_of(frames: int) -> list[str]:
    """The remark on a file of several pictures, of which the first is read; none on a file of one."""
    if frames >= MAX_FRAMES:
        return [f"first of {MAX_FRAMES} or more"]
    return [f"first of {frames}"] if frames > 1 else []


def orientation_in(exif: Image.Exif | bytes) -> int:
    """The orientation in EXIF data, 1 to 8; 1 where there is none or none can be read."""
    try:
        if isinstance(exif, bytes):
            tags = Image.Exif()
            tags.load(exif)
        else:
            tags = exif
        value = tags.get(ORIENTATION, 1)
    except Exception:  # on broken EXIF Pillow's reader raises nearly anything; the pixels are still good
        return 1
    return value if value in range(1, 9) else 1
