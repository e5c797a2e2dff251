"""Near copies of pictures, by a perceptual hash: 256 bits that a copy shares with its original, but for a few.

The hash is `imagehash.phash` with `hash_size=16` (Zauner 2010): the 16 x 16 lowest frequencies of the grey picture at
64 x 64 pixels, each a bit, whether it is above their median. Pillow resizes in whole numbers, and SciPy's cosine
transform gives the same bytes on every x86-64 CPU (tests/stages/test_same_bytes.py).

Of 300 photos all copies that were saved anew (JPEG, quality 50 to 95), resized (half to double) or turned grey lie
within 20 bits of their original; of 14.66 million pairs of photos of different people none within 40, and one of
200,000 within 64. Crops of 5 % lie within 62, most often. Other crops and turned pictures are not found.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

import imagehash
import numpy as np
from PIL import Image, ImageOps

from stages.images.table import SPLITS
from stages.images.threads import in_order

SIDE = 16  # frequencies in each direction
BYTES = SIDE * SIDE // 8
THUMBNAIL = 4 * SIDE  # px, the side of what is transformed: imagehash's own `highfreq_factor`

NEAR = 40  # bits: up to here one picture is a near copy of another
POSSIBLE = 62  # bits: up to here somebody has to look

# How many hashes are compared at once, so that all of it stays in a core's cache.
QUERIES, HASHES = 64, 4096
TASK = 16 * HASHES  # and how many one thread compares with QUERIES before it reports


class Hashes(NamedTuple):
    """The perceptual hash of a picture, and that of its mirror image; BYTES bytes each."""

    upright: bytes
    mirrored: bytes


def hashes(pixels: np.ndarray) -> Hashes | None:
    """The hashes of upright uint8 pixels, H x W x 3; None for a picture of one colour, which is like any other."""
    grey = Image.fromarray(pixels).convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    low, high = grey.getextrema()
    if low == high:
        return None
    return Hashes(*(_packed(imagehash.phash(one, hash_size=SIDE)) for one in (grey, ImageOps.mirror(grey))))


def _packed(found: imagehash.ImageHash) -> bytes:
    return np.packbits(found.hash).tobytes()


def stacked(found: list[bytes]) -> np.ndarray:
    """Hashes as uint8, N x BYTES."""
    return np.frombuffer(b"".join(found), np.uint8).reshape(-1, BYTES)


def pairs(queries: np.ndarray, others: np.ndarray, most: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """All pairs of hashes (uint8, N x BYTES and M x BYTES) that differ in at most `most` bits, some at a time.

    Yields rows of `queries`, rows of `others` and the bits that differ, as int64 of one length. No pair is missed:
    half of the bits are compared first, and the rest where these do not differ in too many already.
    """
    ours, theirs = (np.ascontiguousarray(np.ascontiguousarray(each).view(np.uint64).T) for each in (queries, others))

    def compare(task: tuple[int, int]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        first, start = task
        found = []
        # Made once: new memory for each step would take twice the time of all the rest.
        mixed, counts = np.empty((QUERIES, HASHES), np.uint64), np.empty((2, QUERIES, HASHES), np.uint8)
        for begin in range(start, min(start + TASK, theirs.shape[1]), HASHES):
            words, others = ours[:, first : first + QUERIES, None], theirs[:, begin : begin + HASHES]
            room = np.s_[: words.shape[1], : others.shape[1]]
            for word in range(2):
                np.bitwise_xor(words[word], others[word], out=mixed[room])
                np.bitwise_count(mixed[room], out=counts[word][room])
            half = np.add(counts[0], counts[1], out=counts[0])[room]  # 128 at most, which a uint8 holds
            # Flat, as NumPy's `nonzero` of more dimensions is slower than all that is above.
            one, other = np.divmod(np.flatnonzero(half <= most), others.shape[1])
            rest = np.bitwise_count(words[2:, one, 0] ^ others[2:, other]).sum(0, dtype=np.int64)
            bits = half[one, other] + rest
            kept = bits <= most
            found.append((one[kept] + first, other[kept] + begin, bits[kept]))
        return found

    tasks = [(first, start) for first in range(0, ours.shape[1], QUERIES) for start in range(0, theirs.shape[1], TASK)]
    for found in in_order(compare, tasks, min(os.cpu_count() or 1, 8)):
        yield from found


def nearest(found: list[Hashes | None], sides: list[str | None]) -> list[int | None]:
    """Of each picture, the nearest one of another side, by its number; None where none is a near copy.

    `sides` are train, val and test, None for a picture that does not count. Of the two pictures of a pair, that of the
    stricter side is mirrored too. Of equally near ones the first is taken.
    """
    count = len(found)
    of = {side: np.array([i for i, each in enumerate(found) if each and sides[i] == side], np.int64) for side in SPLITS}
    best = np.full(count, (NEAR + 1) * count, np.int64)  # bits * count + the other's number: the least is the nearest
    for strict, lax in ((strict, lax) for place, strict in enumerate(SPLITS) for lax in SPLITS[:place]):
        others = stacked([each.upright for i in of[lax] if (each := found[i])])
        for way in range(len(Hashes._fields)):
            queries = stacked([each[way] for i in of[strict] if (each := found[i])])
            for one, other, bits in pairs(queries, others, NEAR):
                ours, theirs = of[strict][one], of[lax][other]
                np.minimum.at(best, ours, bits * count + theirs)
                np.minimum.at(best, theirs, bits * count + ours)
    return [int(each % count) if each < (NEAR + 1) * count else None for each in best]
