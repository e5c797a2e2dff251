"""TIFF: its pages, the range of its grey values, and faults in its strips that libtiff passes over."""

from __future__ import annotations

import math
import struct
import zlib
from typing import Any

import numpy as np
from PIL import TiffImagePlugin

from stages.images.decode import jpeg
from stages.images.decode.picture import MAX_FRAMES, MAX_PIXELS, BadPicture

BITS, PHOTOMETRIC, STRIPS, STRIP_SIZES, TILES, TILE_SIZES = 258, 262, 273, 279, 324, 325
LOWEST, HIGHEST = 280, 281  # MinSampleValue and MaxSampleValue
FORMAT, SMALLEST, LARGEST = 339, 340, 341  # SampleFormat, SMinSampleValue and SMaxSampleValue
TABLES = 347  # JPEGTables

WHITE_IS_ZERO = 0
UNSIGNED, SIGNED, FLOAT = 1, 2, 3

PIECE = 16 << 20  # bytes unpacked at a time
BAND = 1 << 20  # values scaled at a time


def pages(data: bytes) -> int:
    """How many pages a TIFF's chain of directories has, up to MAX_FRAMES; a broken or circular chain ends it."""
    order = "<" if data[:2] == b"II" else ">"
    large = struct.unpack_from(order + "H", data, 2)[0] == 43  # BigTIFF
    start, count, entry, offset = (8, "Q", 20, "Q") if large else (4, "H", 12, "I")
    seen: set[int] = set()
    try:
        (place,) = struct.unpack_from(order + offset, data, start)
        while place and place not in seen and len(seen) < MAX_FRAMES:
            (entries,) = struct.unpack_from(order + count, data, place)
            following = place + struct.calcsize(order + count) + entries * entry
            seen.add(place)
            (place,) = struct.unpack_from(order + offset, data, following)
    except struct.error:
        pass
    return len(seen)


def check_strips(picture: TiffImagePlugin.TiffImageFile, data: bytes) -> None:
    """Raises BadPicture where a strip or tile of JPEG is damaged, or one of deflate has the wrong checksum."""
    compression = picture.info.get("compression")
    if compression not in ("jpeg", "tiff_adobe_deflate", "tiff_deflate"):
        return
    tags = picture.tag_v2
    tables = tags.get(TABLES, b"")
    tables = (
        tables.encode("latin-1", "replace") if isinstance(tables, str) else tables
    )  # of an odd type, still readable
    places = zip(tags.get(STRIPS, tags.get(TILES, ())), tags.get(STRIP_SIZES, tags.get(TILE_SIZES, ())), strict=False)
    for start, size in places:
        strip = data[start : start + size]
        if compression != "jpeg":
            _check_deflate(strip)
        else:  # tables and strips are streams of their own, each with its start and end
            jpeg.check(tables[:-2] + strip[2:] if tables else strip)


def _check_deflate(strip: bytes) -> None:
    inflate, total = zlib.decompressobj(), 0
    try:
        while strip and not inflate.eof and total <= 8 * MAX_PIXELS:
            total += len(inflate.decompress(strip, PIECE))
            strip = inflate.unconsumed_tail
    except zlib.error:
        raise BadPicture("corrupt") from None
    if not inflate.eof:
        raise BadPicture("truncated")


def to_8_bits(values: np.ndarray, tags: Any) -> tuple[np.ndarray, str]:
    """Grey values (H x W, any number type) as uint8, from the range that the file states, and a remark on it.

    The range is SMinSampleValue to SMaxSampleValue, else MinSampleValue to MaxSampleValue, else for unsigned values of
    up to 16 bits all that they can hold. Values beyond are clipped. Of a whole 16-bit range the upper eight bits are
    kept, as of 16-bit colours. Raises BadPicture where no range is stated or a value is not finite.
    """
    bits, kind = tags.get(BITS, (1,))[0], tags.get(FORMAT, (1,))[0]
    name = f"{bits}-bit {'float' if kind == FLOAT else 'grey'}"
    if kind == UNSIGNED and bits == 32:
        values = values.view(np.uint32)  # Pillow holds them as signed
    if kind == FLOAT and not np.isfinite(values).all():
        raise BadPicture(f"unsupported pixels: {name} with values that are not finite")
    low, high = _range(tags, bits, kind, name)
    if (low, high) == (0, 0xFFFF):
        grey = (np.clip(values, 0, 0xFFFF).astype(np.uint16) >> 8).astype(np.uint8)
    else:
        grey = np.empty(values.shape, np.uint8)
        rows = max(1, BAND // values.shape[1])
        for top in range(0, len(values), rows):
            band = (values[top : top + rows].astype(np.float64) - low) * (255 / (high - low))
            grey[top : top + rows] = np.rint(np.clip(band, 0, 255))
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        grey = 255 - grey
    return grey, f"{name} from {low:.6g} to {high:.6g} scaled to 8 bits"


def _range(tags: Any, bits: int, kind: int, name: str) -> tuple[float, float]:
    whole = (0, 2**bits - 1) if kind == UNSIGNED and bits <= 16 else (None, None)
    low, high = (
        next((value for tag in names if (value := _number(tags.get(tag))) is not None), default)
        for names, default in zip(((SMALLEST, LOWEST), (LARGEST, HIGHEST)), whole, strict=True)
    )
    if low is None and kind == UNSIGNED:
        low = 0.0
    if low is None or high is None:
        raise BadPicture(
            f"unsupported pixels: {name} without a range (write the tags SMinSampleValue and SMaxSampleValue)"
        )
    if not low < high and None not in whole:  # a range that is empty says nothing
        return whole  # type: ignore[return-value]
    if not low < high:
        raise BadPicture(f"unsupported pixels: {name} of range {low:.6g} to {high:.6g}")
    return low, high


def _number(value: Any) -> float | None:
    """A tag's first value as a finite number; None where it has none."""
    if isinstance(value, tuple):
        value = value[0] if value else None
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) else None
