"""An index of lists of training pictures: which of them may have a picture, without reading them.

To each list belongs one bit of each picture that any list has. A picture is known by the first 64 bits of its image_id,
so the index may name a list that does not have it, and never leaves one out that does: who asks looks into those named.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from flows.audit import kept_arrays

FILE = Path(".palimpsest/audit/members.npz")
DIGITS = 16  # of an image_id


class MembersIndex:
    """Which lists (by md5) may have a picture (image_id). It is kept in a file, and made anew where that is damaged.

    As the digests beside it (`lineage/digests.py`), it saves time and proves nothing; `save` writes what is new.
    """

    def __init__(self, root: Path) -> None:
        import numpy as np

        self._file = root / FILE
        self._lists: list[str] = []  # their md5; the place is the number of the bit
        self._ids = np.empty(0, np.uint64)  # sorted
        self._bits = np.empty((0, 0), np.uint8)  # of each id, a row: bit n of it is the list n
        self._new: dict[str, Any] = {}
        kept = kept_arrays.load(self._file) or {}
        if kept.keys() >= {"lists", "ids", "bits"}:
            lists, ids, bits = kept["lists"], kept["ids"], kept["bits"]
            shapes = [(lists, (lists.size,)), (ids, (ids.size,)), (bits, (ids.size, -(-lists.size // 8)))]
            kinds = (ids.dtype, bits.dtype) == (np.uint64, np.uint8)
            if kinds and all(array.shape == shape for array, shape in shapes):
                self._lists, self._ids, self._bits = lists.tolist(), ids, bits

    def of(self, image_ids: Collection[str]) -> dict[str, bool]:
        """Of each list that the index knows, whether it may have one of the pictures."""
        import numpy as np

        asked = [number for one in image_ids if (number := _number(one)) is not None]
        if len(asked) < len(image_ids):  # one that cannot be looked up may be in any
            return dict.fromkeys(self._lists, True)
        wanted = np.array(asked, np.uint64)
        places = np.searchsorted(self._ids, wanted)
        there = places < len(self._ids)
        rows = places[there][self._ids[places[there]] == wanted[there]]
        some = np.unpackbits(np.bitwise_or.reduce(self._bits[rows], axis=0), bitorder="little")
        return {md5: bool(bit) for md5, bit in zip(self._lists, some, strict=False)}

    def add(self, md5: str, image_ids: Any) -> None:
        """Note a list by its column `image_id`; one that has anything but sha256 in it never comes into the index."""
        with contextlib.suppress(ValueError, TypeError, NotImplementedError):  # the last is Arrow's, of other types
            self._new[md5] = _numbers(image_ids)

    def save(self) -> None:
        """Write the index, where something is new and it can be written."""
        import numpy as np

        if not self._new:
            return
        ids = np.unique(np.concatenate([self._ids, *self._new.values()]))
        bits = np.zeros((len(ids), -(-(len(self._lists) + len(self._new)) // 8)), np.uint8)
        bits[np.searchsorted(ids, self._ids), : self._bits.shape[1]] = self._bits
        for number, numbers in enumerate(self._new.values(), len(self._lists)):
            bits[np.searchsorted(ids, numbers), number // 8] |= 1 << number % 8
        kept_arrays.save(self._file, lists=np.array([*self._lists, *self._new]), ids=ids, bits=bits)


def _number(image_id: str) -> int | None:
    try:
        return int.from_bytes(bytes.fromhex(image_id[:DIGITS])) if len(image_id) >= DIGITS else None
    except ValueError:
        return None


def _numbers(image_ids: Any) -> Any:
    """The first 64 bits of each sha256 of a column, sorted. Raises ValueError where one is none."""
    import numpy as np
    import pyarrow.compute as pc

    lengths = pc.min_max(pc.binary_length(image_ids)).as_py()
    if len(image_ids) and lengths != {"min": 64, "max": 64}:
        raise ValueError("not sha256")
    start = pc.utf8_slice_codeunits(image_ids, 0, DIGITS).to_pylist()
    found = np.frombuffer(bytes.fromhex("".join(start)), ">u8")
    if len(found) != len(image_ids):  # `fromhex` takes spaces, which would move what follows
        raise ValueError("not sha256")
    return np.sort(found.astype(np.uint64))
