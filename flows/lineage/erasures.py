"""What was erased, by the records that erasures leave: they have digests, and neither names nor pictures."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flows.lineage.records import Records

ERASED = "erasure"  # the folder of their records, which are no stage's


def every(root: Path) -> list[Mapping[str, Any]]:
    """The records of erasures, the first one first."""
    found = [one.body for one in Records(root).every() if one.body.get("stage") == ERASED]
    return sorted(found, key=lambda body: str(body["ended"]))


@functools.cache
def replaced(root: Path) -> Mapping[str, str]:
    """What stands in the place of tables and listings that had an erased picture, by the digest that they had."""
    changed: dict[str, str] = {}
    for body in every(root):
        changed |= {str(old): str(new) for old, new in ((body.get("notes") or {}).get("changed") or {}).items()}
    found = {}
    for old in changed:
        new, seen = old, {old}
        while (after := changed.get(new)) and after not in seen:
            new = after
            seen.add(new)
        found[old] = new
    return found


def gone(root: Path) -> set[str]:
    """The digests of what erasures have removed."""
    return {str(md5) for body in every(root) for md5 in (body.get("notes") or {}).get("gone") or ()}


def of_picture(erased: Iterable[Mapping[str, Any]], *digests: str | None) -> Mapping[str, Any] | None:
    """The record of the erasure of a picture, by the sha256 of its file or its pixels; the last of several, or None."""
    found = None
    for body in erased:
        for one in (body.get("notes") or {}).get("pictures") or ():
            if {one.get("image_id"), one.get("pixel_sha256")}.intersection(filter(None, digests)):
                found = body
    return found


def beginning(root: Path, digits: str) -> Mapping[str, Any] | None:
    """The record of the erasure of a picture whose sha256 begins so; the last of several, or None."""
    found = None
    for body in every(root):
        for one in (body.get("notes") or {}).get("pictures") or ():
            if str(one.get("image_id")).startswith(digits):
                found = body
    return found


def of_checkpoint(erased: Iterable[Mapping[str, Any]], md5: str) -> Mapping[str, Any] | None:
    """The record of the erasure that has removed a checkpoint, because it was trained on a picture; or None."""
    found = None
    for body in erased:
        if any(one.get("md5") == md5 for one in (body.get("notes") or {}).get("checkpoints") or ()):
            found = body
    return found
