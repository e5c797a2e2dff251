"""The evaluations of a checkpoint: their files of scores, and the scores by group of pictures."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flows.audit import checkpoint
from flows.dossier import by_group, pictures
from flows.dossier.shelf import Shelf
from flows.dossier.sources import Source
from flows.exports.materials import Evaluation, Materials
from flows.exports.pieces import Bytes
from flows.lineage import entries, locks, tables
from flows.lineage.dvc_lock import INGESTED
from flows.lineage.upstream import upstream
from stages.metrics.means import OVERALL, Means, read_means
from stages.runs.errors import InputError


@dataclasses.dataclass(frozen=True)
class Scored:
    """An evaluation, its means as they are in their file, and its scores by group."""

    evaluation: Evaluation
    means: Means | None
    means_source: Source | None
    files: list[Source]  # of scores, as they are
    groups: list[dict[str, Any]] | None  # None: no group is recorded, or the tables are not here
    groups_source: Source
    why: str  # there are no scores by group


def of(root: Path, shelf: Shelf, found: Materials, every: list[locks.Lock], damaged: list[str]) -> Iterator[Scored]:
    """The evaluations of a checkpoint. What is wrong with locks that are damaged is added to `damaged`."""
    after = {entry.stage: entry for entry in checkpoint.following(every, found.answer.md5, damaged)}
    runs = {run.stage: run for run in found.after}
    for each in found.evaluations:
        stage = f"{checkpoint.EVALUATION}{each.system}"
        means, source = _means(shelf, each)
        summary = _summary(each)
        file = None
        if digest := after[stage].outs.get(summary):
            title = f"scores of {each.system}, as `evaluate` wrote them"
            file = shelf.copy(Bytes(root).piece(summary, digest, None), title, {})
        groups: list[dict[str, Any]] | None = None
        inside: dict[str, Any] = {}
        why = "the tables are not here, or they are altered"
        if each.table.here and each.dataset:
            try:
                groups, inside, why = _by_group(
                    root, found, every, after[stage], each, runs[stage].section("evaluate"), damaged
                )
            except InputError as error:
                why = str(error)
        values = {"scores": each.table.path, "md5": each.table.md5, **inside, "groups": groups, "why": why}
        title = f"scores of {each.system} by group, made now of tables whose digests are the recorded ones"
        counted = shelf.values("groups", each.system, title, values, "verified")
        yield Scored(each, means, source, [one for one in (source, file) if one], groups, counted, why)


def _summary(evaluation: Evaluation) -> str:
    """The path of the file that `dvc metrics show` reads, beside the table."""
    return f"{evaluation.table.path.removesuffix(checkpoint.TABLE)}.json"


def _means(shelf: Shelf, evaluation: Evaluation) -> tuple[Means | None, Source | None]:
    if not evaluation.means or not evaluation.means.here:
        return None, None
    try:
        means = read_means(evaluation.means.here)
    except InputError:  # of an older version
        return None, None
    overall = {
        " ".join(group): {name: one._asdict() for name, one in found.items()}
        for group, found in means.items()
        if group[1:] == OVERALL
    }
    title = f"means of {evaluation.system} with their intervals, as `evaluate` wrote them"
    return means, shelf.copy(evaluation.means, title, overall)


def others(root: Path, shelf: Shelf, found: Materials, files: Mapping[str, str]) -> Iterator[Source]:
    """Of files of scores (md5 by path) those that are JSON, and of an evaluation without a table."""
    known = {_summary(each) for each in found.evaluations}
    for path, md5 in files.items():
        if not path.endswith(".json") or path in known:
            continue
        piece = Bytes(root).piece(path, md5, None)
        try:
            values = json.loads(piece.here.read_bytes()) if piece.here else None
        except ValueError:
            continue
        if isinstance(values, dict) and (source := shelf.copy(piece, f"scores, {path}", {"scores": values})):
            yield source


def _by_group(
    root: Path,
    found: Materials,
    every: list[locks.Lock],
    entry: entries.Entry,
    evaluation: Evaluation,
    params: Mapping[str, Any],
    damaged: list[str],
) -> tuple[list[dict[str, Any]] | None, dict[str, Any], str]:
    path = f"{INGESTED}{evaluation.dataset}"
    made = (each.outs.get(path) for each in upstream(root, every, entry, damaged).entries)
    md5 = next((digest for digest in made if digest), None)
    if md5 is None:
        return None, {}, "which ingested table its pictures come from is not known"
    known = {one.table.md5: one.files for one in found.datasets or [] if one.files is not None}
    inside = {"ingested": path, "ingested_md5": md5}
    if md5 in known:
        shards = [piece.here for piece in known[md5] if piece.here]
    else:
        parts, gone = tables.parts(root, [(path, md5)])
        if gone:
            return None, inside, f"{path} is not here, or it is altered"
        shards = [part.file for part in parts]
    groups = pictures.groups(shards)
    if groups is None:
        return None, inside, f"{path} has no column `group`: it was ingested by an older version"
    if not any(groups.values()):
        return None, inside, f"{path} says of no picture to which group it belongs"
    assert evaluation.table.here
    return by_group.scores(evaluation.table.here, groups, params), inside, ""
