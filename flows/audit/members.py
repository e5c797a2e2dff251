"""Which checkpoints were trained on pictures, by the lists of pictures that trainings leave."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from flows.audit.checkpoint import CHECKPOINT
from flows.audit.facts import Fact, find_table, listed
from flows.audit.members_index import MembersIndex
from flows.lineage import locks
from flows.lineage.cache import FoundTable
from flows.lineage.digests import Digests
from flows.registry import history

FEW = 8  # pictures that are looked up one by one; for more, Arrow makes a table of them


@dataclasses.dataclass(frozen=True)
class Search:
    """What was found in all lists that locks name."""

    uses: dict[str, list[dict[str, Any]]]  # by image_id: `checkpoint`, `md5`, `path` of the picture, `commit`, `time`
    lists: int
    rewritten: int  # of these lists, from which pictures were erased: what is left was searched
    missing: list[dict[str, str]]  # lists that are not here, or altered: `md5`, `path`, and `why` nothing is known


def search(
    root: Path, every: Iterable[tuple[locks.Lock, dict[str, str]]], wanted: Iterable[str], digest: Digests
) -> Search:
    """The checkpoints that were trained on the pictures `wanted` (image_ids), by all locks and their files."""
    lists: dict[str, str] = {}
    made: dict[str, dict[str, dict[str, Any]]] = {}  # by the md5 of a list: what was trained on it, by its md5
    for lock, files in every:
        for path, md5 in files.items():
            if path.endswith(history.MEMBERS):
                lists[md5] = path
                trained = path.removesuffix(history.MEMBERS) + CHECKPOINT
                if trained in files:
                    use = {"checkpoint": trained, "md5": files[trained], "commit": lock.commit, "time": lock.time}
                    made.setdefault(md5, {}).setdefault(files[trained], use)
    wanted = list(wanted)
    index = MembersIndex(root)
    known = index.of(wanted)
    rewritten: list[str] = []

    def look(named: tuple[str, str]) -> Fact | dict[str, str]:
        md5 = named[0]
        found = find_table(root, *named, "trained on", digest)
        if isinstance(found, FoundTable) and found.rewritten:
            rewritten.append(md5)
        if isinstance(found, Fact) or not known.get(md5, True):
            return found if isinstance(found, Fact) else {}
        rows = listed(found, "trained on")
        if isinstance(rows, Fact):
            return rows
        if md5 not in known and not found.rewritten:
            index.add(md5, rows["image_id"])
        return _among(rows, wanted)

    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:  # to wait for the disk, and to hash
        answers = list(pool.map(look, lists.items()))
    index.save()
    uses: dict[str, list[dict[str, Any]]] = {}
    missing = []
    for (md5, path), rows in zip(lists.items(), answers, strict=True):
        if isinstance(rows, Fact):
            missing.append({"md5": md5, "path": path, "why": rows.said})
            continue
        for image_id, name in rows.items():
            uses.setdefault(image_id, []).extend({**use, "path": name} for use in made.get(md5, {}).values())
    return Search(uses, len(lists), len(rewritten), missing)


def _among(rows: Any, wanted: list[str]) -> dict[str, str]:
    """Of the pictures `wanted`, the paths of those that a list has, by image_id."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if len(wanted) > FEW:
        rows = rows.filter(pc.is_in(rows["image_id"], pa.array(wanted, pa.string())))
        return dict(zip(rows["image_id"].to_pylist(), rows["path"].to_pylist(), strict=True))
    places = {one: pc.index(rows["image_id"], one).as_py() for one in wanted}
    return {one: rows["path"][place].as_py() for one, place in places.items() if place >= 0}
