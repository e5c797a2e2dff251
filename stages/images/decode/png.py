"""PNG: every checksum is verified, and only what the pixels depend on reaches Pillow.

So a faulty or huge text chunk refuses no picture, while a fault in the pixels, in the palette or in
the transparent colours does. The compressed pixels are unpacked here: Pillow takes a stream that ends
early for a black rest, and does not look at its checksum.

Of APNG the default image is read, as by all readers that know no APNG. The chunks cICP, gAMA and cHRM
are not used: sRGB is assumed where there is no ICC profile, as most readers do.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator

import numpy as np

from stages.images.decode import pillow
from stages.images.decode.picture import (
    MAX_FRAMES,
    MAX_PARTS,
    MAX_PROFILE,
    BadPicture,
    Stored,
    first_of,
    orientation_in,
    refuse_large,
)
from stages.images.opencv import cv2

SIGNATURE = b"\x89PNG\r\n\x1a\n"

CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
NEEDED = (*CRITICAL, b"tRNS")  # what pixels depend on

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of each colour type
# Adam7: first column and row, and steps, of each pass.
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))

MAX_EXTRA = 1 << 20  # bytes behind the last row: some writers leave a few


def read(data: bytes) -> Stored:
    """A PNG's pixels. Raises BadPicture: "corrupt", "truncated", "too large: W x H"."""
    needed: dict[bytes, list[bytes]] = {name: [] for name in NEEDED}
    others: dict[bytes, bytes] = {}
    broken = set()
    for number, (name, body, intact) in enumerate(chunks(data)):
        if number > MAX_PARTS or not re.fullmatch(rb"[A-Za-z]{4}", name):
            raise BadPicture("corrupt")
        if name in NEEDED or name[:1].isupper():
            if not intact or name not in NEEDED:
                raise BadPicture("corrupt")
            needed[name].append(body)
        elif intact:
            if name == b"fcTL" and not needed[b"IDAT"]:
                others[b"default"] = b"is the first frame"
            others.setdefault(name, body)
        else:
            broken.add(name)
        if name == b"IEND":
            break
    remarks = [] if needed[b"IEND"] else ["end marker missing"]
    plain = _rewritten(needed)
    with pillow.opened(io.BytesIO(plain), ("PNG",)) as picture:
        stored = pillow.stored(picture)
        if needed[b"IHDR"][0][8] == 16:
            remarks.append("16-bit samples cut to 8 bits")
            if needed[b"tRNS"]:
                _clear(stored, np.asarray(picture), plain, needed[b"tRNS"][0])
    stored.remarks = first_of(_frames(others)) + remarks
    stored.profile = _profile(others[b"iCCP"]) if b"iCCP" in others else b"" if b"iCCP" in broken else None
    stored.orientation = orientation_in(others.get(b"eXIf", b""))
    return stored


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Name and content of each chunk, and whether its checksum is right; a cut one is the last.

    Raises BadPicture ("truncated") where a cut chunk holds pixels.
    """
    position = len(SIGNATURE)
    while position + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            if name in NEEDED and name != b"IEND":
                raise BadPicture("truncated")
            return
        intact = zlib.crc32(data[position + 4 : end]) == int.from_bytes(data[end : end + 4], "big")
        yield name, data[position + 8 : end], intact
        position = end + 4


def _clear(stored: Stored, values: np.ndarray, plain: bytes, colour: bytes) -> None:
    """Give 16-bit pixels of the transparent colour their alpha of 0: Pillow compares eight of their bits, or none."""
    if stored.mode == "L":
        alpha = np.where(values == int.from_bytes(colour[:2], "big"), 0, 255).astype(np.uint8)
        stored.pixels, stored.mode = np.dstack([stored.pixels, alpha]), "LA"
    elif stored.mode in ("RGB", "RGBA"):
        whole = np.asarray(cv2.imdecode(np.frombuffer(plain, np.uint8), cv2.IMREAD_UNCHANGED))
        alpha = (whole[..., 3] // 257).astype(np.uint8)  # 0 or 65535
        stored.pixels, stored.mode = np.dstack([stored.pixels[..., :3], alpha]), "RGBA"


def _rewritten(needed: dict[bytes, list[bytes]]) -> bytes:
    """A PNG of the needed chunks alone, its pixels verified and not compressed."""
    if len(needed[b"IHDR"]) != 1 or len(needed[b"IHDR"][0]) != 13:
        raise BadPicture("corrupt")
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", needed[b"IHDR"][0])
    refuse_large(width, height)
    if not width or not height or colour not in CHANNELS:
        raise BadPicture("corrupt")
    if not needed[b"IDAT"]:
        raise BadPicture("corrupt" if needed[b"IEND"] else "truncated")
    bits = depth * CHANNELS[colour]
    size = sum(
        rows * (1 + (columns * bits + 7) // 8)
        for x, y, dx, dy in (PASSES if interlaced else ((0, 0, 1, 1),))
        if (columns := -(-(width - x) // dx)) > 0 and (rows := -(-(height - y) // dy)) > 0
    )
    inflate = zlib.decompressobj()
    try:
        raw = inflate.decompress(b"".join(needed[b"IDAT"]), size)
        inflate.decompress(inflate.unconsumed_tail, MAX_EXTRA)  # on to the checksum
    except zlib.error:
        raise BadPicture("corrupt") from None
    if len(raw) < size or not inflate.eof:
        raise BadPicture("corrupt" if needed[b"IEND"] else "truncated")
    needed[b"IDAT"] = [zlib.compress(raw, 0)]
    del raw  # of a large picture each copy counts
    needed[b"IEND"] = [b""]
    parts = [SIGNATURE]
    if needed[b"tRNS"] and colour == 0 and depth in (2, 4):
        # Pillow scales the samples to 8 bits, and not the colour that is transparent.
        most = (1 << depth) - 1
        clear = (int.from_bytes(needed[b"tRNS"][0][:2], "big") & most) * (255 // most)
        needed = needed | {b"tRNS": [clear.to_bytes(2, "big")]}
    for name in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
        for body in needed[name][:1]:
            parts += [struct.pack(">I", len(body)), name, body, struct.pack(">I", zlib.crc32(body, zlib.crc32(name)))]
    return b"".join(parts)


def _frames(others: dict[bytes, bytes]) -> int:
    """How many pictures an APNG holds, the default image included."""
    if len(others.get(b"acTL", b"")) != 8:
        return 1
    return min(int.from_bytes(others[b"acTL"][:4], "big"), MAX_FRAMES) + (b"default" not in others)


def _profile(body: bytes) -> bytes:
    """The ICC profile in a chunk iCCP: a name, a zero, the method (0) and the profile, compressed; empty if broken."""
    _, _, rest = body.partition(b"\0")
    inflate = zlib.decompressobj()
    try:
        profile = inflate.decompress(rest[1:], MAX_PROFILE)
    except zlib.error:
        return b""
    return profile if inflate.eof else b""
