"""Pictures that were withdrawn: each has a tombstone, by which it and copies of it are rejected from then on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from stages.images import phash
from stages.runs.errors import InputError

LINE = "image_id, pixel_sha256 and phash, of which the last two may be missing"
NAMED = 10  # digits by which a reason names a tombstone


class Tombstones(NamedTuple):
    """What is known of withdrawn pictures."""

    digests: frozenset[str]  # sha256 of files, and of pixels
    hashes: dict[str, bytes]  # perceptual hashes, by the first digest of their line

    def near(self, found: Sequence[phash.Hashes | None]) -> list[tuple[str, int] | None]:
        """Of each picture the tombstone whose near copy it is, as it is or mirrored, and the bits that differ."""
        names, others = [*self.hashes], phash.stacked([*self.hashes.values()])
        known = [(number, each) for number, each in enumerate(found) if each]
        best: list[tuple[str, int] | None] = [None] * len(found)
        if not names:
            return best
        for way in range(len(phash.Hashes._fields)):
            queries = phash.stacked([each[way] for _, each in known])
            for one, other, bits in phash.pairs(queries, others, phash.NEAR):
                for query, place, differ in zip(one.tolist(), other.tolist(), bits.tolist(), strict=True):
                    number = known[query][0]
                    before = best[number]
                    if before is None or (differ, names[place]) < before[::-1]:
                        best[number] = names[place], differ
        return best


def read(file: Path) -> Tombstones:
    """The tombstones of a file: a picture a line, `#` begins a comment.

    A line has one to three words of 64 hexadecimal digits: the sha256 of the picture's file (`image_id`), that of its
    pixels (`pixel_sha256`), and its perceptual hash (`phash`). Either sha256 may stand on a line of its own.

    Raises InputError for any other line, or no text.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{file}: cannot be read as UTF-8 text; restore it with: git checkout {file}") from None
    digests: set[str] = set()
    hashes: dict[str, bytes] = {}
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].lower().split()
        for word in words:
            if not re.fullmatch("[0-9a-f]{64}", word):
                raise InputError(f"{file}, line {number}: an image_id has 64 hexadecimal digits (got {word[:70]!r})")
        if len(words) > 3:
            raise InputError(f"{file}, line {number}: has {len(words)} words; a line has {LINE}")
        digests.update(words[:2])
        if len(words) == 3:
            hashes[words[0]] = bytes.fromhex(words[2])
    return Tombstones(frozenset(digests), hashes)


def line(image_id: str, pixel_sha256: str | None, hashed: bytes | None) -> str:
    """A picture's line, by which it and its near copies are rejected; without a hash, its pixels alone are."""
    if pixel_sha256 is None:
        return image_id
    return " ".join([image_id, pixel_sha256, *([hashed.hex()] if hashed else [])])


def reason(tombstone: str, bits: int) -> str:
    """Why a near copy of a withdrawn picture is rejected."""
    return f"withdrawn: a near copy of tombstone {tombstone[:NAMED]} ({bits} of {8 * phash.BYTES} bits differ)"
