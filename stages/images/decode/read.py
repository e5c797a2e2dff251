"""Pictures of any kind: one decoder for the whole project.

What is damaged is refused, with the reason; what is whole but oddly written is kept, with a remark. A
picture's size is read from its header before anything is decoded, so that a bomb costs nothing.
"""

from __future__ import annotations

import struct

import numpy as np
from PIL import Image

from stages.images.decode import colour, jpeg, pillow, png
from stages.images.decode.picture import BadPicture, Picture, Stored


def read(data: bytes) -> Picture:
    """A picture file's bytes as uint8 sRGB pixels, H x W x 3, upright, with remarks on what was odd.

    JPEG, PNG, TIFF, WebP, AVIF, GIF, BMP and PPM are read, and HEIC where `pillow-heif` is installed. EXIF
    orientation is applied. Colours with an ICC profile are converted to sRGB; grey, palette, CMYK and deeper pictures
    to 8-bit RGB. Alpha and transparent colours lie over white. Of several pictures in a file the first counts.

    Remarks: "first of N", "end marker missing", "colours from NAME to sRGB", "broken colour profile ignored",
    "CMYK converted without a profile", "16-bit samples cut to 8 bits", "N-bit grey from A to B scaled to 8 bits".
    Raises BadPicture: "empty file", "not a picture", "too large: W x H", "truncated", "corrupt",
    "unsupported pixels: ...", or which package to install.
    """
    return to_picture(stored(data))


def stored(data: bytes) -> Stored:
    """The same file as it holds its picture: neither upright nor sRGB yet. Raises BadPicture as `read` does."""
    if not data:
        raise BadPicture("empty file")
    reader = (
        jpeg.read if data.startswith(jpeg.SIGNATURE) else png.read if data.startswith(png.SIGNATURE) else pillow.read
    )
    try:
        return reader(data)
    except (TypeError, ValueError, LookupError, ArithmeticError, struct.error):  # tags of types that nobody writes
        raise BadPicture("corrupt") from None


def to_picture(stored: Stored) -> Picture:
    """What a file holds, brought to uint8 sRGB pixels, H x W x 3, upright."""
    pixels, mode, alpha = stored.pixels, stored.mode, None
    if mode in ("LA", "RGBA"):
        mode, alpha = mode[:-1], pixels[..., -1]
        pixels = np.ascontiguousarray(pixels[..., 0] if mode == "L" else pixels[..., :3])
    rgb, remarks = colour.to_srgb(pixels, mode, stored.profile)
    if alpha is not None:
        rgb = _over_white(rgb, alpha)
    return Picture(np.ascontiguousarray(upright(rgb, stored.orientation)), (*stored.remarks, *remarks))


def decode(data: bytes) -> np.ndarray:
    """The pixels that `read` gives; raises BadPicture as it does."""
    return read(data).pixels


def _over_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    picture = Image.fromarray(np.dstack([rgb, alpha]), "RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return np.asarray(Image.alpha_composite(white, picture).convert("RGB"))


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo the camera's orientation (EXIF 2.32, tag 0x0112): orientations above 4 swap the axes first."""
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    # Where row 0 and column 0 of the stored picture lie when it stands upright.
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels
