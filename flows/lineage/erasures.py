"""What was erased, by the records that erasures leave: they have digests, and neither names nor pictures.

Where somebody's signatures count, those records alone count that have one: else a stranger's could say of a fault that
it was an erasure.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flows.checkout.git import Git
from flows.lineage import public_keys
from flows.lineage.records import ERASED, Found, Records
from flows.lineage.signatures import Vouchers
from stages.runs import record
from stages.runs.errors import InputError

TOMBSTONES = "tombstones.txt"  # the list of withdrawn pictures, which `ingest` reads
Erasure = Mapping[str, Any]  # a record
MD5 = re.compile("[0-9a-f]{32}([.]dir)?")


def every(root: Path) -> list[Erasure]:
    """The records of erasures, the first one first."""
    return [one.body for one in _found(root)]


def _found(root: Path) -> list[Found]:
    found = [one for one in Records(root).every(ERASED) if one.body.get("stage") == ERASED and _right(one.body)]
    return sorted(found, key=lambda one: str(one.body["ended"]))


def _right(body: Erasure) -> bool:
    """Whether all that is read of a record is of the right kind: it may be a stranger's."""
    notes = _notes(body)
    changed, gone = notes.get("changed", {}), notes.get("gone", [])
    return (
        all(isinstance(notes.get(key, []), list) for key in ("pictures", "checkpoints"))
        and all(isinstance(one, Mapping) and isinstance(one.get("image_id"), str) for one in notes.get("pictures", ()))
        and all(isinstance(one, Mapping) and isinstance(one.get("md5"), str) for one in notes.get("checkpoints", ()))
        and isinstance(changed, Mapping)
        and isinstance(gone, list)
        and all(isinstance(md5, str) and MD5.fullmatch(md5) for md5 in [*changed, *changed.values(), *gone])
    )


def known(root: Path) -> list[Erasure]:
    """The records that a letter may rest on: those of this clone, and those that count. The first one first."""
    counting = {body["digest"] for body in counted(root)}
    return [one.body for one in _found(root) if ":" not in one.where or one.body["digest"] in counting]


def counted(root: Path) -> list[Erasure]:
    """Those that count, when it is asked why something is not as it was."""
    found, git = every(root), Git(root)
    if not found or not public_keys.counted(git):
        return found
    vouchers = Vouchers(git)
    signed = []
    for body in found:
        with contextlib.suppress(InputError):
            if record.whole(body) and vouchers.of(record.text(body)):
                signed.append(body)
    return signed


@functools.cache
def replaced(root: Path) -> Mapping[str, str]:
    """What stands in the place of tables and listings that had an erased picture, by the digest that they had."""
    changed: dict[str, str] = {}
    for body in counted(root):
        changed |= changes(body)
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
    found = (_notes(body).get("gone") for body in counted(root))
    return {str(md5) for gone in found if isinstance(gone, list) for md5 in gone}


def of_picture(erased: Iterable[Erasure], *digests: str | None) -> Erasure | None:
    """The record of the erasure of a picture, by the sha256 of its file or its pixels; the last of several, or None."""
    wanted = set(filter(None, digests))
    return _last(erased, "pictures", lambda one: bool({one.get("image_id"), one.get("pixel_sha256")} & wanted))


def beginning(erased: Iterable[Erasure], digits: str) -> Erasure | None:
    """The record of the erasure of a picture whose sha256 begins so; the last of several, or None."""
    return _last(erased, "pictures", lambda one: str(one.get("image_id")).startswith(digits))


def _last(erased: Iterable[Erasure], key: str, fits: Any) -> Erasure | None:
    return next((body for body in reversed([*erased]) if any(map(fits, _listed(body, key)))), None)


def changes(body: Erasure) -> dict[str, str]:
    """The digests of tables and listings that an erasure has written anew, and of what it has made of them."""
    found = _notes(body).get("changed")
    return {str(old): str(new) for old, new in found.items()} if isinstance(found, Mapping) else {}


def removed(body: Erasure, md5: str) -> bool:
    """Whether an erasure has removed this checkpoint, because it was trained on a picture."""
    return any(one.get("md5") == md5 for one in _listed(body, "checkpoints"))


def _listed(body: Erasure, key: str) -> Iterator[Mapping[str, Any]]:
    found = _notes(body).get(key)
    yield from (one for one in (found if isinstance(found, list) else ()) if isinstance(one, Mapping))


def _notes(body: Erasure) -> Mapping[str, Any]:
    return body.get("notes") or {}
