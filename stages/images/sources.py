"""Pictures of any kind, from bytes: one decoder for the whole project.

The size is read from the header by Pillow before anything is decoded, so that a bomb costs
nothing. Plain JPEG (8-bit, three channels or grey) is decoded by `cv2.imdecode`, the fastest;
every other form by Pillow, which converts them and raises where bytes are missing.
"""

from __future__ import annotations

import io
import re
import struct

import cv2
import numpy as np
from PIL import Image

MAX_PIXELS = 100_000_000
MAX_SIDE = 32_767  # cv2's warps cannot read a longer side

# Not Pillow's whole list: some of its readers start other programs (EPS runs Ghostscript).
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM")

# How files of these formats begin: what starts so and cannot be read is a damaged picture, not another thing.
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"RIFF", b"II*\0", b"MM\0*", b"GIF8")

PNG_END = b"IEND\xaeB`\x82"

ORIENTATION = 0x0112  # the EXIF tag

# In entropy-coded JPEG data, 0xFF before 0x00 is a byte and before 0xD0..0xD7 a restart; else it is a marker.
JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


class BadPicture(Exception):
    """Bytes that are no usable picture; the message is the reason, a short stable phrase."""


def decode(data: bytes) -> np.ndarray:
    """A picture file's bytes as uint8 RGB, H x W x 3, upright.

    EXIF orientation is applied; grey, palette, CMYK and 16-bit pictures are converted (16 bits
    lose the lower eight), alpha and transparent colours lie over white. Of several frames the
    first counts. Raises BadPicture: "empty file", "not a picture", "too large: W x H",
    "truncated", "corrupt", "unsupported pixels: MODE".
    """
    if not data:
        raise BadPicture("empty file")
    # Pillow's own limit warns or raises without the size; `_refuse_large` says it.
    Image.MAX_IMAGE_PIXELS = None
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception:  # on foreign bytes Pillow's readers raise nearly anything
        raise BadPicture("corrupt" if data.startswith(SIGNATURES) else "not a picture") from None
    with picture:
        _refuse_large(*picture.size)
        if picture.format in ("JPEG", "MPO") and picture.mode in ("RGB", "L"):
            pixels = _jpeg(data)
        elif picture.format == "PNG" and PNG_END not in data:
            raise BadPicture("truncated")
        else:
            pixels = _converted(picture)
        return np.ascontiguousarray(_upright(pixels, _orientation(picture)))


def _refuse_large(width: int, height: int) -> None:
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise BadPicture(f"too large: {width} x {height}")


def _jpeg(data: bytes) -> np.ndarray:
    # cv2 fills the missing part of a truncated JPEG with grey and says nothing.
    if not _ends(data):
        raise BadPicture("truncated")
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        bgr = None
    if bgr is None:
        raise BadPicture("corrupt")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def _ends(data: bytes) -> bool:
    """Whether a JPEG's own end marker is there, not that of a thumbnail in its header; bytes behind it do not count."""
    position = 2
    while match := JPEG_MARKER.search(data, position):
        marker, position = data[match.end() - 1], match.end()
        if marker == 0xD9:
            return True
        if marker == 0x01:  # the one other marker without a length
            continue
        if position + 2 > len(data):
            return False
        position += struct.unpack_from(">H", data, position)[0]
    return False


def _converted(picture: Image.Image) -> np.ndarray:
    try:
        picture.load()
        mode = picture.mode
        if mode.startswith("I"):  # 16-bit grey, for which some formats have 32 bits
            grey = (np.clip(np.asarray(picture).astype(np.int64), 0, 0xFFFF) >> 8).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            white = Image.new("RGBA", picture.size, "white")
            return np.asarray(Image.alpha_composite(white, picture).convert("RGB"))
        if mode != "F":
            return np.asarray(picture.convert("RGB"))
    except Exception as error:  # on corrupt bytes Pillow's decoders raise nearly anything
        raise BadPicture("truncated" if "truncated" in str(error).lower() else "corrupt") from None
    raise BadPicture(f"unsupported pixels: {mode}")


def _orientation(picture: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 where there is none or none can be read."""
    try:
        value = picture.getexif().get(ORIENTATION, 1)
    except Exception:  # Pillow's EXIF reader raises nearly anything; the pixels are still good
        return 1
    return value if value in range(1, 9) else 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo the camera's orientation (EXIF 2.32, tag 0x0112): orientations above 4 swap the axes first."""
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    # Where row 0 and column 0 of the stored picture lie when it stands upright.
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels
