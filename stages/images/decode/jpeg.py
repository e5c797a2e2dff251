"""JPEG: decoded by libjpeg-turbo through `simplejpeg`, for which each of libjpeg's warnings is an error.

Only what the pixels depend on reaches the decoder. So a fault in a comment, a thumbnail or a colour
profile refuses no picture, and a missing end marker alone neither: libjpeg warns where a pixel lacks.

JPEG has no checksum, and libjpeg notices few of the faults that leave each code a valid one. Most of
those that can be seen make later blocks brighter than white or darker than black, as each block is coded
by its difference to the one before; `_refuse_beyond_white` finds these. What is left is a valid picture.
Coded bytes that are left over are refused, be they zeros: a changed bit often leaves some.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import simplejpeg
from PIL import Image

from stages.images.decode.picture import (
    MAX_FRAMES,
    MAX_PARTS,
    BadPicture,
    Stored,
    first_of,
    orientation_in,
    refuse_large,
)

SIGNATURE = b"\xff\xd8\xff"

MAX_SCANS = 100  # of a progressive picture; writers make about 10, and each costs a pass over all pixels

MAX_SCANNED = 2_500_000_000  # pixels in all passes together: seconds of work

START, END = b"\xff\xd8", b"\xff\xd9"
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15, without DHT, JPG and DAC
PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
ALONE = frozenset({0x01, *range(0xD0, 0xDA)})  # markers without a length
SCAN, QUANTA, COMMENT, APP0, APP1, APP2, APP14, APP15 = 0xDA, 0xDB, 0xFE, 0xE0, 0xE1, 0xE2, 0xEE, 0xEF

# In entropy-coded data, 0xFF before 0x00 is a byte and before 0xD0..0xD7 a restart; else it is a marker.
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")

JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"  # version 1.1, no density, no thumbnail

ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"  # version 100, colours stored as they are

BEYOND = 1.05  # how far from grey a block's mean may lie, white and black being at 1: real photos reach 1

PICTURES_IN_FILE = 0xB001  # tag of the multi-picture format (CIPA DC-007)

CHANNELS = {1: "L", 3: "RGB", 4: "CMYK"}
COLOURS = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}  # simplejpeg's words


@dataclass(slots=True)
class File:
    """What the segments of a JPEG say."""

    pieces: list[bytes]  # the file without the segments that no pixel depends on
    ended: bool = False  # whether its own end marker is there
    frame: int = 0  # the marker of its frame header, which tells the coding
    precision: int = 0  # bits
    height: int = 0
    width: int = 0
    components: bytes = b""  # their identifiers
    tables: bytes = b""  # and which quantisation table each has
    steps: dict[int, int] = field(default_factory=dict)  # a quantisation table's step of a block's mean, by its number
    quanta: dict[int, bytes] = field(default_factory=dict)  # which of `pieces` hold tables, and their numbers
    colours: list[int] = field(default_factory=list)  # which of `pieces` tell how colours are coded
    scans: int = 0
    lacking: dict[tuple[int, int], int] = field(default_factory=dict)  # (component, coefficient) -> bits not yet seen
    exif: bytes = b""
    profile_parts: list[bytes] = field(default_factory=list)
    pictures: bytes = b""  # the multi-picture index


def read(data: bytes) -> Stored:
    """A JPEG's pixels. Raises BadPicture: "corrupt", "truncated", "too large: W x H", "unsupported pixels: ..."."""
    file = _parse(data)
    mode, pixels = _pixels(file)
    remarks = first_of(_pictures(file.pictures))
    if not file.ended:
        remarks.append("end marker missing")
    return Stored(pixels, mode, remarks, _profile(file.profile_parts), orientation_in(file.exif))


def check(data: bytes) -> None:
    """Raises BadPicture where `read` would."""
    _pixels(_parse(data))


def _pixels(file: File) -> tuple[str, np.ndarray]:
    reason = "corrupt" if file.ended else "truncated"
    if not file.components:
        raise BadPicture("corrupt")
    refuse_large(file.width, file.height)
    if file.precision != 8:
        raise BadPicture(f"unsupported pixels: {file.precision}-bit JPEG")
    if len(file.components) not in CHANNELS:
        raise BadPicture(f"unsupported pixels: JPEG of {len(file.components)} components")
    if file.scans * file.width * file.height > MAX_SCANNED:
        raise BadPicture("corrupt")
    if any(file.lacking.values()):  # a picture that was cut between two scans
        raise BadPicture("truncated")
    mode = CHANNELS[len(file.components)]
    try:
        pixels = simplejpeg.decode_jpeg(
            b"".join(file.pieces), COLOURS[mode], fastdct=False, fastupsample=False, strict=True
        )
        _refuse_beyond_white(file, COLOURS[mode])
    except ValueError:  # libjpeg's errors and, as it is strict, its warnings
        raise BadPicture(reason) from None
    if mode == "L":
        return mode, pixels[..., 0]
    # All writers of CMYK follow Adobe, who store 255 for no ink.
    return mode, 255 - pixels if mode == "CMYK" else pixels


def _refuse_beyond_white(file: File, colours: str) -> None:
    """Raises BadPicture where a block's mean lies far outside of what 8 bits hold.

    A decoder clips such a block, so the file is decoded again with other quantisation tables: the step of the mean
    halved, so that nothing clips, and all others 0. An eighth of the size shows each block's mean, and costs little
    more than reading the codes. A step of 1, which no quality below 97 has, cannot be halved: there nothing is found.
    """

    def halved(step: int) -> int:
        return min(max(1, step // 2), 255)

    steps = [file.steps.get(table, 1) for table in file.tables]
    if max(steps) == 1:
        return
    pieces = list(file.pieces)
    for place in file.colours:
        pieces[place] = b""
    for place, tables in file.quanta.items():
        body = b"".join(bytes([table, halved(file.steps[table])]) + bytes(63) for table in tables)
        pieces[place] = b"\xff\xdb" + struct.pack(">H", 2 + len(body)) + body
    pieces.insert(1, ADOBE)
    means = simplejpeg.decode_jpeg(b"".join(pieces), colours, min_height=1, min_width=1, strict=True)
    # An encoder may round the mean by a whole step, each of an eighth of a level; what is seen is rounded to a level.
    limits = [(BEYOND * 128 / step + 1 / 8) * halved(step) + 1 for step in steps]
    if (np.abs(means.astype(np.int16) - 128) > limits).any():
        raise BadPicture("corrupt")


def _parse(data: bytes) -> File:
    file = File([START])
    done = 2  # what lies before is in `pieces`, or dropped
    for number, (marker, start, end) in enumerate(_segments(data)):
        if number > MAX_PARTS or file.scans > MAX_SCANS:
            raise BadPicture("corrupt")
        body = data[start + 4 : end]
        if marker == END[1]:
            file.ended = True
            file.pieces += [data[done:start], END]
            return file
        if marker in FRAMES:
            _frame(file, marker, body)
        elif marker == SCAN:
            _scan(file, body)
        elif marker == QUANTA:
            file.pieces.append(data[done:start])
            file.quanta[len(file.pieces)] = _quanta(file, body)
            file.pieces.append(data[start:end])
            done = end
        elif APP0 <= marker <= APP15 or marker == COMMENT:
            file.pieces.append(data[done:start])
            done = end
            # These two tell how colours are coded; what else JFIF says is of no use, and may be faulty.
            if marker == APP0 and body.startswith(b"JFIF\0") and JFIF not in file.pieces:
                file.colours.append(len(file.pieces))
                file.pieces.append(JFIF)
            elif marker == APP14 and body.startswith(b"Adobe"):
                file.colours.append(len(file.pieces))
                file.pieces.append(data[start:end])
            elif marker == APP1 and body.startswith(b"Exif\0\0"):
                file.exif = file.exif or body
            elif marker == APP2 and body.startswith(b"ICC_PROFILE\0"):
                file.profile_parts.append(body[12:])
            elif marker == APP2 and body.startswith(b"MPF\0"):
                file.pictures = body[4:]
    file.pieces += [data[done:], END]
    return file


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """The marker, start and end of every segment with a length, as far as they are whole, and of the end marker.

    Coded data follow a scan's segment, and are in none.
    """
    position = 2
    while match := MARKER.search(data, position):
        marker, position = data[match.end() - 1], match.end()
        if marker == END[1]:
            yield marker, match.start(), position
            return
        if marker in ALONE:
            continue
        if position + 2 > len(data):
            return
        position += struct.unpack_from(">H", data, position)[0]
        if position > len(data):
            return
        yield marker, match.start(), position


def _frame(file: File, marker: int, body: bytes) -> None:
    if file.components or len(body) < 6 or len(body) != 6 + 3 * body[5]:
        raise BadPicture("corrupt")
    file.frame = marker
    file.precision, file.height, file.width, count = struct.unpack_from(">BHHB", body)
    file.components, file.tables = body[6::3], body[8::3]
    if not (file.width and file.height and count and len(set(file.components)) == count):
        raise BadPicture("corrupt")
    coefficients = range(64) if marker in PROGRESSIVE else range(1)
    file.lacking = {(name, place): 14 for name in file.components for place in coefficients}


def _quanta(file: File, body: bytes) -> bytes:
    """Note the steps of the quantisation tables in a segment, and give their numbers."""
    numbers = []
    while body:
        wide = body[0] > 15  # 16 bits a step
        number, size = body[0] & 15, 129 if wide else 65
        if len(body) < size:
            raise BadPicture("corrupt")
        step = int.from_bytes(body[1 : 3 if wide else 2], "big")
        file.steps[number] = max(1, min(step, file.steps.get(number, step)))
        numbers.append(number)
        body = body[size:]
    return bytes(numbers)


def _scan(file: File, body: bytes) -> None:
    """Note which bits of which coefficients a scan brings: 14 are more than any coefficient has."""
    file.scans += 1
    if not body or len(body) != 4 + 2 * body[0]:
        raise BadPicture("corrupt")
    first, last, bits = body[-3:]
    for name in body[1:-3:2]:
        if file.frame in PROGRESSIVE:
            file.lacking.update({(name, place): bits & 15 for place in range(first, last + 1)})
        else:
            file.lacking[name, 0] = 0


def _profile(parts: list[bytes]) -> bytes | None:
    """The ICC profile in its parts, each with its number and how many there are (ICC.1:2022, B.4)."""
    if not parts:
        return None
    parts = sorted(parts)
    whole = [(part[0], part[1]) for part in parts if len(part) > 2] == [(n + 1, len(parts)) for n in range(len(parts))]
    return b"".join(part[2:] for part in parts) if whole else b""


def _pictures(index: bytes) -> int:
    try:
        entries = Image.Exif()
        entries.load(index)
        count = entries.get(PICTURES_IN_FILE, 1) if index else 1
    except Exception:  # as for EXIF, whose form it has
        return 1
    return min(count, MAX_FRAMES) if isinstance(count, int) else 1
