"""GIF: its frames are counted, and the codes of its first checked, as Pillow takes any that fill the frame."""

from __future__ import annotations

import struct

from stages.images.decode.picture import MAX_FRAMES, BadPicture

MOST = 4096  # entries of the table of codes


def frames(data: bytes) -> int:
    """How many frames a GIF has, up to MAX_FRAMES; raises BadPicture where the codes of the first are damaged.

    Raises "truncated" where they give fewer pixels than the frame has, and "corrupt" for more, or for a code that is
    not in use.
    """
    count = 0
    try:
        place = 13 + _colours(data[10])
        while count < MAX_FRAMES and data[place] in b"!,":
            if data[place] == 0x2C:
                width, height, flags = struct.unpack_from("<4xHHB", data, place + 1)
                place += 10 + _colours(flags)
                if not count:
                    _check(data, place, width * height)
                count += 1
                place += 1
            else:
                place += 2
            while data[place]:
                place += 1 + data[place]
            place += 1
    except (IndexError, struct.error):
        pass
    return count


def _colours(flags: int) -> int:
    """The size of a colour table in bytes."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _check(data: bytes, place: int, pixels: int) -> None:
    """Follow the LZW codes that begin at `place` by their lengths alone."""
    first, place = data[place], place + 1
    if not 1 <= first <= 11:
        raise BadPicture("corrupt")
    coded = bytearray()
    while place < len(data) and data[place]:
        coded += data[place + 1 : place + 1 + data[place]]
        place += 1 + data[place]
    total = _coded_pixels(bytes(coded), first)
    if total != pixels:
        raise BadPicture("truncated" if total < pixels else "corrupt")


def _coded_pixels(coded: bytes, first: int) -> int:
    """How many pixels LZW codes give; `first` is the size of their alphabet in bits, and a code has one bit more."""
    clear = 1 << first
    lengths, size, last, total, window, bits = [1] * clear + [0, 0], first + 1, 0, 0, 0, 0
    for byte in coded:
        window |= byte << bits
        bits += 8
        while bits >= size:
            code = window & ((1 << size) - 1)
            window >>= size
            bits -= size
            if code == clear:
                del lengths[clear + 2 :]
                size, last = first + 1, 0
                continue
            if code == clear + 1:
                return total
            if code > len(lengths) or (code == len(lengths) and (not last or code == MOST)):
                raise BadPicture("corrupt")
            length = lengths[code] if code < len(lengths) else last + 1
            total += length
            if last and len(lengths) < MOST:
                lengths.append(last + 1)
                if len(lengths) == 1 << size and size < 12:
                    size += 1
            last = length
    return total
