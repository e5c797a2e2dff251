"""Pieces of pictures that are looked for in bytes: 16 of them in a row, taken from a file or from pixels.

Where a few different pieces of one picture are found in one place, the picture is there: in an uncompressed table, a
sheet, a page, an archive. Pieces with little in them (a plain background) would be found in other pictures too, and are
not used; neither are those that `drop` finds in pictures that are known to be others.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flows.process import atomic_file

SIZE = 16  # bytes of a piece: five RGB pixels and a third, or 16 of one colour
WORDS = SIZE // 8
BYTES, PIXELS = 8, 4  # how many of a piece's bytes, or of its five pixels, must differ from each other
MOST = {"pixels": 400, "crop": 4000}  # places in one form of a picture; crops are looked for inside of holes, too
ENOUGH = 4  # different pieces that say that a picture is there
STEP = 1 << 17  # bytes that are searched at once, so that they stay in a processor's cache
MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 by the golden ratio: Fibonacci hashing (Knuth, TAOCP 3, 6.4)
FIRST = (
    16,
    24,
)  # bits of the first look, at least and at most: few fit a processor's cache


class Form(NamedTuple):
    """A picture in one of the forms in which it may be kept."""

    picture: int  # its number
    what: str  # file, pixels, crop


class Needles:
    """All pieces; `add_file` and `add_pixels` take them, `find` looks for them."""

    def __init__(self) -> None:
        self.forms: list[Form] = []
        self._words = np.empty((0, WORDS), np.uint64)  # sorted by the first
        self._form = np.empty(0, np.int32)
        self._new: list[tuple[np.ndarray, int]] = []

    def add_file(self, picture: int, data: bytes) -> None:
        """Pieces of a file. Its first half is left out if it is long: other files of one camera begin alike."""
        flat = np.frombuffer(data, np.uint8)
        start = len(flat) // 2 if len(flat) > 4096 else 0
        places = np.unique(np.linspace(start, max(start, len(flat) - SIZE), 64).astype(np.int64))
        if len(flat) >= SIZE:
            pieces = flat[places[:, None] + np.arange(SIZE)]
            self._add(Form(picture, "file"), pieces[_distinct(pieces) >= BYTES])

    def add_pixels(self, picture: int, what: str, pixels: np.ndarray) -> None:
        """Pieces of pixels (uint8 H x W x 3) and of their mirror image: RGB or BGR, and each colour alone."""
        height, width = pixels.shape[:2]
        across, down = (1, 1) if what == "crop" else (4, 2)
        while (height // down) * (width // across) > MOST[what]:
            across, down = (across, down * 2) if down < 4 else (across * 2, down)
        for way in (pixels, pixels[:, ::-1]):
            pieces = []
            for order in (way, way[..., ::-1]) if 3 * width >= SIZE else ():
                lines = np.ascontiguousarray(order[::down]).reshape(-1, 3 * width)
                windows = np.lib.stride_tricks.sliding_window_view(lines, SIZE, 1)[:, :: 3 * across].reshape(-1, SIZE)
                triples = windows[:, : SIZE // 3 * 3].reshape(-1, SIZE // 3, 3)
                pieces.append(windows[_distinct(triples @ np.array([1, 1 << 8, 1 << 16])) >= PIXELS])
            if width >= SIZE:
                planes = np.lib.stride_tricks.sliding_window_view(way[..., :1], SIZE, 1)[:: 2 * down, :: 2 * across]
                flat = planes.reshape(-1, SIZE)  # of red: where it is alone, so are the others
                pieces.append(flat[_distinct(flat) >= BYTES])
            if pieces:
                self._add(Form(picture, what), np.concatenate(pieces))

    def _add(self, form: Form, pieces: np.ndarray) -> None:
        good = np.ascontiguousarray(pieces).view(np.uint64)
        if len(good):
            self.forms.append(form)
            self._new.append((good, len(self.forms) - 1))

    def ready(self) -> None:
        """Sort what was added; a piece that two pictures have is taken for the first one's."""
        if self._new:
            words = np.concatenate([self._words, *(words for words, _ in self._new)])
            form = np.concatenate([self._form, *(np.full(len(words), n, np.int32) for words, n in self._new)])
            self._new.clear()
            first = np.unique(words[:, 0], return_index=True)[1]
            self._set(words[first], form[first])

    def _set(self, words: np.ndarray, form: np.ndarray) -> None:
        order = np.argsort(words[:, 0])
        self._words, self._form = np.ascontiguousarray(words[order]), form[order]
        self._bits = int(np.clip(len(words).bit_length() + 6, *FIRST))  # of other bytes, 1 in 64 to 128 is looked at
        self._seen = np.zeros(1 << self._bits, bool)
        self._seen[self._hash(self._words[:, 0])] = True

    def _hash(self, words: np.ndarray) -> np.ndarray:
        mixed: np.ndarray = words * MIX
        mixed >>= np.uint64(64 - self._bits)
        return mixed.view(np.int64)  # NumPy would copy other indices

    def hits(self, flat: np.ndarray, stride: int = 1) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Places in bytes (uint8, one dimension) where pieces begin, and their numbers; every `stride` bytes.

        A place is a multiple of `stride`. A part of the bytes at a time.
        """
        if len(flat) < SIZE or not len(self._words):
            return
        end = len(flat) - SIZE + 1
        for start in range(0, end, STEP - STEP % stride):
            part = flat[start : start + STEP - STEP % stride + SIZE - 1]
            count = (len(part) - SIZE) // stride + 1
            first = np.ndarray(count, "<u8", part, strides=(stride,))
            maybe = np.flatnonzero(self._seen.take(self._hash(first)))
            if not len(maybe):
                continue
            found = first[maybe]
            number = np.minimum(np.searchsorted(self._words[:, 0], found), len(self._words) - 1)
            same = self._words[number, 0] == found
            maybe, number = maybe[same], number[same]
            for word in range(1, WORDS):
                rest = np.ndarray(count, "<u8", part[8 * word :], strides=(stride,))[maybe]
                same = self._words[number, word] == rest
                maybe, number = maybe[same], number[same]
            if len(maybe):
                yield start + maybe * stride, number

    def pictures(self, numbers: np.ndarray) -> dict[int, set[str]]:
        """The pictures of which enough different pieces are among these, and in which forms."""
        counts = np.bincount(self._form[np.unique(numbers)], minlength=len(self.forms))
        found: dict[int, set[str]] = {}
        for form, count in zip(self.forms, counts, strict=False):
            if count >= ENOUGH:
                found.setdefault(form.picture, set()).add(form.what)
        return found

    def find(self, flat: np.ndarray, stride: int = 1) -> dict[int, set[str]]:
        """The pictures that are in these bytes, by number, and in which forms."""
        numbers = [number for _, number in self.hits(flat, stride)]
        return self.pictures(np.concatenate(numbers)) if numbers else {}

    def drop(self, flat: np.ndarray) -> None:
        """Do not look any more for pieces that these bytes have, in which no picture to be found is."""
        gone = np.unique(np.concatenate([number for _, number in self.hits(flat)] or [np.empty(0, np.int64)]))
        if len(gone):
            kept = np.setdiff1d(np.arange(len(self._words)), gone)
            self._set(self._words[kept], self._form[kept])

    def found_in_others(self) -> set[int]:
        """The pictures that can be found inside of other pictures: enough of their pixels is looked for."""
        counts = np.bincount(self._form, minlength=len(self.forms))
        return {form.picture for form, count in zip(self.forms, counts, strict=True)
                if form.what != "file" and count >= ENOUGH}  # fmt: skip

    def save(self, file: Path) -> None:
        """Keep them, so that an interrupted erasure can go on when the pictures are gone."""
        import io

        stream = io.BytesIO()
        about: dict[str, Any] = {"picture": [each.picture for each in self.forms]}
        about["what"] = np.array([each.what for each in self.forms], "U8")
        np.savez(stream, words=self._words, form=self._form, **about)
        atomic_file.write(file, stream.getvalue())

    @classmethod
    def load(cls, file: Path) -> Needles:
        """As `save` has left them."""
        found = cls()
        with np.load(file) as kept:
            found.forms = [Form(int(n), str(w)) for n, w in zip(kept["picture"], kept["what"], strict=True)]
            found._set(kept["words"], kept["form"])
        return found


def _distinct(rows: np.ndarray) -> np.ndarray:
    """How many different values each row has."""
    ordered = np.sort(rows, axis=1)
    return 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(1)
