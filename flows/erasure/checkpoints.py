"""Which checkpoints were trained on pictures, and trainings that were interrupted while they read them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from flows.audit import members
from flows.audit.checkpoint import CHECKPOINT
from flows.erasure import places
from flows.lineage import entries, locks
from flows.lineage.digests import Digests
from flows.lineage.records import Records
from flows.registry import history
from stages.runs.errors import InputError
from stages.runs.header import KEY, Header

UNKNOWN = "unknown"  # an older version's state does not say its start; no training of this version goes on with it


@dataclasses.dataclass(frozen=True)
class Trained:
    """A checkpoint that was trained on pictures that are to be erased, or has gone on from one that was."""

    path: str
    md5: str
    pictures: tuple[int, ...]  # by number
    stage: str
    commit: str | None  # the first whose `dvc.lock` has it
    time: datetime | None
    after: str | None  # md5 of the checkpoint that it has gone on from, if that alone was trained on them
    seconds: float | None  # that its training took, by its record
    current: bool  # the working copy's `dvc.lock` has it: the next `dvc repro` trains it anew


def find(root: Path, image_ids: Sequence[str], digest: Digests) -> tuple[list[Trained], list[str]]:
    """The checkpoints, and why something cannot be told, a line each: a list of pictures that is not here."""
    every = locks.every(root)
    damaged: list[str] = []
    files = [(lock, entries.files(lock, damaged)) for lock in every]
    searched = members.search(root, files, image_ids, digest)
    numbers = {one: number for number, one in enumerate(image_ids)}
    pictures: dict[str, set[int]] = {}
    for image_id, uses in searched.uses.items():
        for use in uses:
            pictures.setdefault(use["md5"], set()).add(numbers[image_id])
    after: dict[str, str] = {}
    found, _ = entries.distinct(every)
    grown = True
    while grown:
        grown = False
        for entry in found:
            before = [md5 for md5 in entry.deps.values() if md5 in pictures]
            for path, md5 in entry.outs.items():
                if path.endswith(CHECKPOINT) and before and not pictures.get(md5, set()) >= pictures[before[0]]:
                    after.setdefault(md5, before[0])
                    pictures.setdefault(md5, set()).update(pictures[before[0]])
                    grown = True
    records = Records(root)
    now = _now(root)
    trained = []
    for md5, some in pictures.items():
        made = next(entries.making(every, md5, None, damaged), None)
        if made:
            path = made.at(md5)[0]
            ran = records.of(path, md5, made.deps)
            took = ran.body.get("seconds") if ran else None
            trained.append(Trained(path, md5, tuple(sorted(some)), made.stage, made.lock.commit, made.lock.time,
                                   after.get(md5), took, now.get(path) == md5))  # fmt: skip
    return trained, [*damaged, *(gone["why"] for gone in searched.missing)]


def _now(root: Path) -> dict[str, str]:
    own = root / locks.NAME
    return locks.files(own.read_bytes()) if own.is_file() else {}


def promoted(root: Path, md5s: Sequence[str]) -> tuple[history.Promoted | None, history.Entry | None]:
    """What is promoted if that is one of these checkpoints; and the promotion that stands when they are withdrawn."""
    from flows.checkout.git import Git

    now = history.current(root)
    live = history.active(history.read(Git(root)))
    left = [entry for entry in live if entry.decision.md5 not in md5s]
    return (now if now and now.md5 in md5s else None), (left[-1] if left else None)


def inputs(data: np.ndarray) -> dict[str, Any]:
    """What made a checkpoint, as its bytes (uint8) claim in the header of the format safetensors; else nothing."""
    size = int.from_bytes(data[:8].tobytes(), "little")
    if data[8:9].tobytes() != b"{" or size > len(data):
        return {}
    try:
        found = json.loads(json.loads(data[8 : 8 + size].tobytes())["__metadata__"][KEY])
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def trained(made: Mapping[str, Mapping[str, Any]], had: Mapping[str, Collection[int]]) -> dict[str, set[int]]:
    """The pictures that checkpoints were trained on, or have gone on from, whether a lock names them or not.

    `made` is what made each, by its md5; `had` are the pictures of lists of pictures and of other checkpoints, by md5.
    """
    found: dict[str, set[int]] = {}
    grown = True
    while grown:
        grown = False
        for md5, facts in made.items():
            known = [found.get(one) or had.get(one) or () for one in map(str, map(facts.get, ("members", "start")))]
            pictures = {number for some in known for number in some}
            if not pictures <= found.get(md5, set()):
                found.setdefault(md5, set()).update(pictures)
                grown = True
    return found


def states(root: Path, rows: dict[int, set[int]], trained: Collection[str], before: Collection[str] = ()) -> list[Path]:
    """The folders of interrupted trainings that have read a picture, or have gone on from a checkpoint that has.

    `rows`: of tables of training pictures, by how many rows they have, those of the pictures. A training notes which
    rows of its tables it has read. `trained` are the md5 of checkpoints that were trained on the pictures, and `before`
    those of what was removed already.
    """
    from safetensors import SafetensorError, safe_open

    from stages.training.run import SEEN

    starts = {*before, *trained, *([UNKNOWN] if trained else [])}
    found = []
    for file in places.states(root):
        try:
            with safe_open(file, "np") as state:
                names = [name for name in state.keys() if name.partition(".")[0] == SEEN]  # noqa: SIM118
                marks = [state.get_tensor(name) for name in names]
        except (SafetensorError, OSError):  # killed while it was written: the training begins anew
            continue
        if any(seen[row] for seen in marks for row in rows.get(len(seen), ())) or _start(file) in starts:
            found.append(file.parent)
    return found


def _start(state: Path) -> str | None:
    """The md5 of the checkpoint that an interrupted training has gone on from; None: it began with random weights."""
    try:
        found = Header(state).inputs.get("start", UNKNOWN)
    except InputError:
        return UNKNOWN
    return str(found) if found else None
