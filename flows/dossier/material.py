"""All that a dossier's sentences are made of, gathered once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows.audit import checkpoint, splits, statements
from flows.audit.checkpoint import CHECKPOINT
from flows.audit.facts import Fact
from flows.audit.statements import Statement
from flows.dossier import evaluations, exports, pictures
from flows.dossier.evaluations import Scored
from flows.dossier.exports import Export
from flows.dossier.shelf import Shelf
from flows.dossier.sources import Rests, Source
from flows.exports import materials
from flows.exports.datasets import Dataset
from flows.exports.materials import Materials
from flows.lineage import entries, locks, owner
from flows.lineage.records import REBUILT, Found
from flows.process.command import Say
from flows.registry import gto, history
from stages.runs.errors import InputError

LARGE = 200 << 20  # bytes of tables: to read more takes seconds, and is announced


@dataclasses.dataclass(frozen=True)
class Data:
    """A dataset that the checkpoint was trained on, and what was counted in its table."""

    dataset: Dataset
    source: Source
    made: Source | None  # the record of its ingestion; None: not here
    erased: list[tuple[Statement, Source]]  # that pictures were taken out of it since
    counted: dict[str, Any] | None  # as `pictures.counted` has it; None: the table is not here, or altered

    @property
    def word(self) -> Rests:
        """What numbers rest on that were counted in its table."""
        return "recorded" if self.erased else "verified"


@dataclasses.dataclass(frozen=True)
class Descendant:
    """A checkpoint that has gone on from this one, or from one that has."""

    path: str
    md5: str
    stage: str
    source: Source  # what dvc.lock says of it


@dataclasses.dataclass(frozen=True)
class Material:
    """What there is to say of a checkpoint, and the records that say it."""

    root: Path
    shelf: Shelf
    of: Materials
    answer: Source  # what the audit has answered now
    name: str | None  # in `data/models/`; None: it is not known to be any
    said: dict[str, str]  # by the owner, by key of `audit.yaml`
    about_data: dict[str, owner.Dataset]  # by the owner, by dataset
    owner: Source | None
    data: list[Data]
    scored: list[Scored]
    other_scores: list[Source]  # files of scores of evaluations that have no table of means
    decisions: list[tuple[dict[str, Any], Source]]
    promoted: history.Promoted | None  # if it is this one
    descendants: list[Descendant]
    erased: list[Statement]  # what was erased of it, and of what it comes from
    handovers: list[Statement]
    tests: list[Statement]
    rebuilt: list[Found]
    splits: list[Source]  # what its datasets' splits have in common, one each
    exports: list[Export]


def gather(root: Path, asked: str, say: Say) -> Material:
    """All of a checkpoint, named as for `audit checkpoint`. `say` gets a line before what takes long.

    Raises InputError where there is no such checkpoint, where the file is none, or where `audit.yaml` is wrong.
    """
    said = owner.read(root)
    of = materials.of(root, asked)
    shelf, every = Shelf(root), locks.every(root)
    damaged: list[str] = []
    md5 = of.answer.md5
    name = of.model.name if of.answer.trainings else None
    files = checkpoint.score_files(every, md5, damaged)
    behind = [*checkpoint.files_behind(of.answer.trainings), *files.items()]
    now = history.current(root)
    return Material(
        root, shelf, of, _answer(shelf, of), name, of.said_by(said), said.datasets, shelf.owner(said, of),
        [_data(root, shelf, of, each, say) for each in of.datasets or []],
        [*evaluations.of(root, shelf, of, every, damaged)],
        [*evaluations.others(root, shelf, of, files)],
        [(one, _decision(shelf, one)) for one in of.answer.decisions],
        now if now and now.md5 == md5 else None,
        [*_descendants(shelf, every, md5, damaged)],
        [*statements.erased(root, shelf.records, shelf.vouchers, md5, behind)],
        [*statements.handovers(shelf.records, shelf.vouchers, md5)],
        [*statements.tests(root, every, shelf.records, shelf.vouchers, md5, files)],
        statements.of(shelf.records, REBUILT, md5),
        [_splits(root, shelf, each) for each in of.datasets or []],
        [*exports.of(shelf, of, said)],
    )  # fmt: skip


def _answer(shelf: Shelf, of: Materials) -> Source:
    """What `audit checkpoint` says now, without the names of pictures: a dossier is for others, and a name may tell who
    is shown."""
    named = ("trained on", "selected on")  # but not where it cannot be told: that names none
    facts = [fact for fact in of.answer.facts if fact.about not in named or fact.word in DOUBTS]
    own = of.answer.trainings[0] if of.answer.trainings else None
    values = {
        "checkpoint": of.model.file.path,
        "md5": of.answer.md5,
        "sha256": of.model.file.sha256,
        "size": of.model.file.size,
        "made_by": own and own.stage,
        "commit": own and own.commit,
        "network": of.model.network,
        "parameters": of.model.parameters,
        "members": {each.checkpoint: each.members for each in of.answer.trainings},
        "pictures": {each.checkpoint: len(each.pictures) for each in of.answer.trainings if each.pictures is not None},
        "gone_on_from": {one.file.path: one.file.md5 for one in of.before},
        "unknown": of.unknown,
        "facts": [dataclasses.asdict(fact) for fact in facts],
    }
    title = "what `palimpsest audit checkpoint` says now, without the names of pictures"
    return shelf.values("answers", "audit-checkpoint", title, values)


def _data(root: Path, shelf: Shelf, of: Materials, dataset: Dataset, say: Say) -> Data:
    read = None
    if all(training.pictures is not None for training in of.answer.trainings):
        read = {row["image_id"] for training in of.answer.trainings for row in training.pictures or []}
    counted, why = None, "the table is not here, or it is altered"
    if dataset.files is not None and all(piece.here for piece in dataset.files):
        size = sum(piece.size or 0 for piece in dataset.files)
        if size > LARGE:
            say(f"dossier: counting the pictures of {dataset.table.path} ({size >> 20:,} MB)")
        try:
            counted = pictures.counted([piece.here for piece in dataset.files if piece.here], read)
        except InputError as error:
            why = str(error)
    values = {
        "table": dataset.table.path,
        "md5": dataset.table.md5,
        "source": dataset.source,
        "use": dataset.use,
        "kept": dataset.pictures,
        "splits": dataset.splits,
        "rejected": dataset.rejected,
        "terms": [dataclasses.asdict(one) for one in dataset.terms],
        "origins": dataset.origins,
        "identified": dataset.identified,
        "faces": dataset.faces,
        "sensitivity": {"is": dataset.sensitivity, "why": dataset.why},
        "trained": counted or {"why": why},
        **{key: (counted or {}).get(key) for key in ("group", "purpose", "collected")},
    }
    run = next((run for run in of.runs if run.found and dataset.table.path in run.outputs), None)
    made = shelf.record(run.found) if run and run.found else None
    table = (dataset.table.path, dataset.table.md5)
    lost = statements.erased(root, shelf.records, shelf.vouchers, None, [table])
    erased = [(each, shelf.record(each.found)) for each in lost]
    title = f"what was counted now in {dataset.table.path}, whose digest is the recorded one"
    if erased:
        title = f"what was counted now in {dataset.table.path}, in what is left of it since pictures were erased"
    return Data(dataset, shelf.values("tables", dataset.name, title, values), made, erased, counted)


def _splits(root: Path, shelf: Shelf, dataset: Dataset) -> Source:
    found = splits.of_table(root, dataset.name, dataset.table.md5)
    values = {
        "name": found.name,
        "md5": found.md5,
        "pictures": found.pictures,
        "table": next((fact.word for fact in found.facts if fact.about == "table"), "cannot tell"),
        "shared": {kind: len(shared) for kind, shared in found.shared.items()},
        "not_told": [dataclasses.asdict(fact) for fact in found.facts if fact.word == "cannot tell"],
    }
    return shelf.values("answers", f"audit-splits-{dataset.name}", "what `palimpsest audit splits` says now", values)


def _decision(shelf: Shelf, one: dict[str, Any]) -> Source:
    versions = gto.versions(shelf.git, one["artifact"], one["commit"])
    title = f"decision of retrain: commit {one['commit'][:10]} of branch 'candidates'"
    return shelf.values("decisions", one["outcome"], title, {**one, "versions": versions})


def _descendants(shelf: Shelf, every: list[locks.Lock], md5: str, damaged: list[str]) -> Iterator[Descendant]:
    """The nearest first; each once."""
    todo, seen = [md5], {md5}
    while todo:
        for entry in entries.reading(every, todo.pop(0), damaged):
            for path, digest in entry.outs.items():
                if path.endswith(CHECKPOINT) and digest not in seen:
                    seen.add(digest)
                    todo.append(digest)
                    run = materials.Run(entry.stage, entry.lock.commit, entry.deps, entry.outs, entry.params, None)
                    yield Descendant(path, digest, entry.stage, shelf.entry(run))


DOUBTS = ("cannot tell", "DIFFERS")


def doubts(material: Material) -> list[Fact]:
    """What cannot be told, and what is not as it is recorded."""
    return [fact for fact in material.of.answer.facts if fact.word in DOUBTS]
