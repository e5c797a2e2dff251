"""The records that `palimpsest restore` leaves beside restored photos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flows.lineage import shape

LARGEST = 16 << 20  # bytes

_checkpoint = shape.maybe(shape.having(path=shape.text, sha256=shape.text))
_system = shape.having(system=shape.text, checkpoint=_checkpoint, ask=shape.maybe(shape.text))
_fits = shape.having(
    photo=shape.having(name=shape.text, sha256=shape.text),
    hole=shape.having(share=shape.number),
    answers=shape.many(shape.having(system=_system)),
    files=shape.named(shape.text),
)


def _is_one(found: Any) -> bool:
    return (
        _fits(found)
        and {"photo", "hole", "answers", "files"} <= found.keys()
        and {"name", "sha256"} <= found["photo"].keys()
        and "share" in found["hole"]
        and all("system" in one and "system" in one["system"] for one in found["answers"])
    )


def beside(file: Path, sha256: str) -> tuple[Path, dict[str, Any]] | None:
    """The record in the folder of a file that says that it was made, by its digest, and what it says; None for none."""
    for place in sorted(file.resolve().parent.glob("*.json")):
        try:
            if place.stat().st_size > LARGEST:
                continue
            found = json.loads(place.read_bytes())
        except (OSError, ValueError, RecursionError):
            continue
        if _is_one(found) and sha256 in found["files"].values():
            return place, found
    return None


def answers(record: dict[str, Any], sha256: str) -> list[dict[str, Any]]:
    """Which of a record's answers a file holds: each one's system and frames; none for the hole or a sheet.

    It is one of them; of a photo that was painted by hand all, one after the other.
    """
    names = [name for name, digest in record["files"].items() if digest == sha256]
    pictures = [name for name in record["files"] if not name.endswith((".hole.png", ".sheet.png"))]
    if record["hole"].get("painted"):
        return list(record["answers"]) if pictures[:1] == names[:1] else []
    return [dict(one) for name, one in zip(pictures, record["answers"], strict=False) if name in names]
