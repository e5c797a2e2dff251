"""What the ingested tables say of the pictures that a checkpoint was trained on: how many, how large, why and when
they were collected, and of which groups."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from flows.audit.facts import read_table

COLUMNS = ("image_id", "path", "status", "split")
MORE = ("width", "height", "group", "purpose", "collected", "image")  # an older table lacks some
DATE = re.compile(r"\d{4}(-\d\d(-\d\d)?)?")
SHOWN = 50  # groups and purposes that are counted one by one: those of most pictures


def counted(files: Sequence[Path], read: Collection[str] | None) -> dict[str, Any]:
    """What the shards of an ingested table say of the kept pictures that were `read` (image_ids).

    Where these are not known (None), of those in the split train. Sides are in upright pixels, `bytes` those of the
    pictures' own files. `group`, `purpose` and `collected` are None where the table has no such column.

    Raises InputError where a file is no such table.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    sizes, formats, sides, columns = 0, Counter[str](), dict[str, list[Any]](), dict[str, Counter[Any]]()
    rows, missing = 0, set[str]()
    ids = None if read is None else pa.array(read, pa.string())
    for file in files:
        part = read_table(file, COLUMNS, MORE)  # one at a time: it holds the pictures' bytes
        missing |= {name for name in MORE if name not in part.column_names}
        chosen = pc.equal(part["split"], "train") if ids is None else pc.is_in(part["image_id"], ids)
        part = part.filter(pc.and_(pc.equal(part["status"], "kept"), chosen))
        rows += len(part)
        formats.update(PurePosixPath(path).suffix.lower() or "none" for path in part["path"].to_pylist())
        if "image" in part.column_names:
            sizes += pc.sum(pc.binary_length(pc.struct_field(part["image"], "bytes"))).as_py() or 0
        for name in ("width", "height"):
            if name in part.column_names:
                sides.setdefault(name, []).extend(part[name].drop_null().to_pylist())
        for name in ("group", "purpose", "collected"):
            if name in part.column_names:
                columns.setdefault(name, Counter()).update(part[name].to_pylist())
    return {
        "of": "the pictures of the split train" if read is None else "the pictures that the training has read",
        "pictures": rows,
        "bytes": None if "image" in missing else sizes,
        "formats": dict(formats.most_common()),
        **{name: _spread(values) for name, values in sides.items()},
        "group": None if "group" in missing else _shares(columns.get("group", Counter())),
        "purpose": None if "purpose" in missing else _shares(columns.get("purpose", Counter())),
        "collected": None if "collected" in missing else dates(columns.get("collected", Counter())),
    }


def _spread(values: list[int]) -> dict[str, int] | None:
    values.sort()
    return {"smallest": values[0], "median": values[len(values) // 2], "largest": values[-1]} if values else None


def _shares(found: Counter[str | None]) -> list[dict[str, Any]]:
    """Pictures by what is said of them, most first; `said` is None for those of which nothing is."""
    return [{"said": said, "pictures": count} for said, count in found.most_common(SHOWN)]


def dates(found: Counter[str | None]) -> dict[str, Any]:
    """`earliest` and `latest` of dates by number, how many `pictures` have one, and how many are `without`.

    A date is a day, a month or a year (ISO 8601): 2026-11-27, 2026-11 or 2026. A month may have begun on its first day,
    and may have gone on until its last.
    """
    known = {said: count for said, count in found.items() if said is not None and DATE.fullmatch(said)}
    return {
        "earliest": min(known, key=lambda said: said + "-01-01"[len(said) - 4 :], default=None),
        "latest": max(known, key=lambda said: said + "-12-31"[len(said) - 4 :], default=None),
        "pictures": sum(known.values()),
        "without": found.total() - sum(known.values()),
    }


def groups(files: Iterable[Path]) -> dict[str, str | None] | None:
    """The group of each picture of an ingested table by image_id; None where the table has no such column.

    Raises InputError where a file is no such table.
    """
    found: dict[str, str | None] = {}
    for file in files:
        part = read_table(file, ["image_id"], ["group"])
        if "group" not in part.column_names:
            return None
        found |= dict(zip(part["image_id"].to_pylist(), part["group"].to_pylist(), strict=True))
    return found
