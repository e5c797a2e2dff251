"""The bill of materials of a checkpoint: all that it was made of, with digests, as plain values.

What is None is not recorded, or what would tell is not here; nothing is guessed. Digests of the name `md5` are those
that `dvc.lock` has (that of a folder ends with `.dir`). A `sha256` is that of the bytes that lie here, hashed now and
held against the md5; or, where they are not here, that of the record of the run.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from flows.audit import checkpoint, evidence, statements
from flows.audit.facts import read_scores
from flows.checkout.git import Git
from flows.exports import datasets
from flows.exports.datasets import Dataset
from flows.exports.pieces import Bytes, Piece
from flows.lineage import entries, locks
from flows.lineage.dvc_lock import INGESTED
from flows.lineage.entries import Entry
from flows.lineage.owner import Owner
from flows.lineage.records import Found, Records
from flows.lineage.signatures import Vouchers
from flows.lineage.upstream import Upstream, as_of_now
from stages.metrics.blends import of_systems
from stages.metrics.means import OVERALL, read_means
from stages.runs.errors import InputError
from stages.runs.header import Header

INPAINTED = "data/inpainted/"
BLENDINGS = ("raw", "blended")


@dataclasses.dataclass(frozen=True)
class Model:
    """A checkpoint."""

    name: str
    file: Piece
    network: str | None  # as its own metadata claim
    parameters: dict[str, int] | None  # numbers in its tensors, by part (`generator`, `ema`, ...); None: not here
    stage: str | None  # that made it
    record: str | None  # where the record of that run is


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of a stage on the way to the checkpoint, or from it to its scores."""

    stage: str
    commit: str | None  # whose `dvc.lock` has it first
    inputs: dict[str, str]  # md5 by path, as `dvc.lock` has them
    outputs: dict[str, str]
    params: dict[str, Any]  # with all defaults where there is a record
    found: Found | None  # its record, and where that is

    @property
    def record(self) -> dict[str, Any]:
        """The record; empty where it is not here."""
        return self.found.body if self.found else {}

    def section(self, name: str) -> Mapping[str, Any]:
        """A section of its parameters; empty where there is none."""
        found = self.params.get(name)
        return found if isinstance(found, Mapping) else {}


@dataclasses.dataclass(frozen=True)
class Code:
    """The code that trained the checkpoint."""

    commit: str | None
    dirty: list[str]  # paths that were not committed
    sources: dict[str, str] | None  # sha256 by path in `stages/`
    digest: str | None  # one sha256 of them all


@dataclasses.dataclass(frozen=True)
class Packages:
    """What the training imported."""

    imported: dict[str, str]  # version by distribution
    installed: str | None  # sha256 of the list of all that were installed


@dataclasses.dataclass(frozen=True)
class Score:
    """A mean over all completed pictures, with its interval of 95 %."""

    blending: str
    metric: str
    mean: float
    low: float
    high: float
    count: int  # completions: a picture with one hole each


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A system that has completed pictures with the checkpoint, and what came of it."""

    system: str  # or, where it has several, the entry of `blend`
    dataset: str | None  # whose test pictures were completed
    aligned: Piece | None  # the file of these pictures
    table: Piece  # of scores, a row per picture and hole
    means: Piece | None
    pictures: int | None
    scores: list[Score] | None  # of test pictures; raw ones once for a system; None: the table of means is not here
    record: str | None


@dataclasses.dataclass(frozen=True)
class Materials:
    """What a checkpoint was made of."""

    answer: checkpoint.Checkpoint  # of `audit checkpoint`: every fact with its word
    model: Model
    before: list[Model]  # that it has gone on from, the nearest first
    datasets: list[Dataset] | None  # None: it is not known what it comes from
    weights: dict[str, str] | None  # foreign ones: sha256 by file name; None: a record is missing or too old to say
    code: Code | None
    packages: Packages | None
    environment: dict[str, Any] | None  # as the record has it
    runs: list[Run]  # the training's, then what it comes from now (the nearest first)
    evaluations: list[Evaluation]
    after: list[Run]  # from the checkpoint to its scores
    unknown: dict[str, str]  # inputs of which it is not known which run made them: md5 by path

    @property
    def trained(self) -> datetime | None:
        """When its training ended, as the record says."""
        ended = self.runs[0].record.get("ended") if self.runs else None
        return datetime.fromisoformat(ended) if ended else None

    def said_by(self, owner: Owner) -> dict[str, str]:
        """What the owner of this project's checkpoints says of this one, by key; nothing where it is none of these."""
        return owner.of(self.model.name) if self.runs else {}


def of(root: Path, asked: str) -> Materials:
    """The materials of a checkpoint, named as for `audit checkpoint`.

    Raises InputError where there is no such checkpoint, and where the file is none.
    """
    answer = checkpoint.ask(root, asked)
    every, records, here, damaged = locks.every(root), Records(root), Bytes(root), list[str]()
    file = Path(asked).absolute() if Path(asked).is_file() else None
    models = [
        _model(here, one.checkpoint, one.md5, one.stage, one.run, file if one.md5 == answer.md5 else None)
        for one in answer.trainings
    ] or [_model(here, asked, answer.md5, None, None, file)]
    before = _before(root, every, answer, damaged)
    found: list[Entry] = []
    for made, upstream in before:
        found += [entry for entry in (made, *upstream.entries) if entry not in found]
    runs = [_run(records, entry) for entry in found]
    after = checkpoint.following(every, answer.md5, damaged)
    own = runs[0].record if runs else {}
    git = own.get("git") or {}
    packages = own.get("packages") or {}
    sources = own.get("sources")
    return Materials(
        answer,
        models[0],
        models[1:],
        _datasets(root, here, records, answer, [upstream for _, upstream in before], found) if found else None,
        _weights(runs),
        Code(git.get("commit"), git.get("dirty", []), sources, own.get("code")) if sources is not None else None,
        Packages(packages["imported"], packages.get("installed")) if packages.get("imported") else None,
        own.get("environment"),
        runs,
        _evaluations(here, records, after),
        [_run(records, entry) for entry in after],
        {path: md5 for training in answer.trainings for path, md5 in training.unknown.items()},
    )


def _before(
    root: Path, every: list[locks.Lock], answer: checkpoint.Checkpoint, damaged: list[str]
) -> list[tuple[Entry, Upstream]]:
    """The entries of its training and of those that it has gone on from, each with what it comes from now."""
    made = [next(entries.making(every, each.md5, each.checkpoint, damaged)) for each in answer.trainings]
    return [(entry, as_of_now(root, every, entry, damaged)) for entry in made]


def _run(records: Records, entry: Entry) -> Run:
    out = next(iter(entry.outs.items()), None)
    found = records.of(*out, entry.deps) if out else None
    params = found.body.get("params", {}) if found else entry.params
    return Run(entry.stage, entry.lock.commit, entry.deps, entry.outs, params, found)


def _model(here: Bytes, path: str, md5: str, stage: str | None, run: evidence.Run | None, known: Path | None) -> Model:
    file = here.piece(path, md5, run.record if run else None, known)
    network: str | None = None
    parameters: dict[str, int] | None = None
    if file.here:
        header = Header(file.here)
        network = header.inputs.get("network")
        parameters = {}
        for name, spec in header.specs.items():
            part = name.partition(".")[0]
            parameters[part] = parameters.get(part, 0) + math.prod(spec.shape)
    return Model(Path(path).stem, file, network, parameters, stage, run.where if run else None)


def _datasets(
    root: Path, here: Bytes, records: Records, answer: checkpoint.Checkpoint, before: list[Upstream], found: list[Entry]
) -> list[Dataset]:
    known = {(each.name, each.md5): each for one in before for each in evidence.datasets(records, one)}
    read = {row["image_id"] for training in answer.trainings for row in training.pictures or []}
    complete = all(training.pictures is not None for training in answer.trainings)
    vouchers = Vouchers(Git(root))

    def erased(one: evidence.Dataset) -> list[str]:
        lost = statements.erased(root, records, vouchers, None, [(f"{INGESTED}{one.name}", one.md5)])
        return [each.found.body["ended"][:10] for each in lost if each.fact.word == "recorded"]

    return [datasets.of(here, one, found, read if complete else None, erased(one)) for one in known.values()]


def _weights(runs: Sequence[Run]) -> dict[str, str] | None:
    if not runs:
        return None
    found: dict[str, str] = {}
    for run in runs:
        if (read := run.record.get("weights")) is None:
            return None
        found |= read
    return found


def _evaluations(here: Bytes, records: Records, after: Sequence[Entry]) -> list[Evaluation]:
    scored = {entry.stage.partition("@")[2]: entry for entry in after if entry.stage.startswith(checkpoint.EVALUATION)}
    systems = {name: {"system": _system(entry) or name} for name, entry in scored.items()}
    own = {names[0] for names in of_systems(systems).values()}
    return [
        _evaluation(here, records, entry, path, md5, BLENDINGS if name in own else BLENDINGS[1:])
        for name, entry in scored.items()
        for path, md5 in entry.outs.items()
        if path.endswith(checkpoint.TABLE) and not path.endswith(checkpoint.MEANS)
    ]


def _system(entry: Entry) -> str | None:
    """The system that an evaluation is of, by what it has read."""
    return next((path.removeprefix(INPAINTED) for path in entry.deps if path.startswith(INPAINTED)), None)


def _evaluation(
    here: Bytes, records: Records, entry: Entry, path: str, md5: str, blendings: Sequence[str]
) -> Evaluation:
    run = _run(records, entry)
    means = next(((path, md5) for path, md5 in entry.outs.items() if path.endswith(checkpoint.MEANS)), None)
    aligned = next(((path, md5) for path, md5 in entry.deps.items() if path.startswith(datasets.ALIGNED)), None)
    table = here.piece(path, md5, run.record)
    summary = here.piece(*means, run.record) if means else None
    name = Path(aligned[0]).parts[2] if aligned else None
    return Evaluation(
        entry.stage.partition("@")[2],
        name,
        _made(here, records, *aligned) if aligned else None,
        table,
        summary,
        _count(table),
        _scores(summary, blendings),
        run.found.where if run.found else None,
    )


def _made(here: Bytes, records: Records, path: str, md5: str) -> Piece:
    found = records.of(path, md5, {})
    return here.piece(path, md5, found.body if found else None)


def _count(table: Piece) -> int | None:
    if table.here is None:
        return None
    try:
        return len(set(read_scores(table.here, ["image_id"])["image_id"].to_pylist()))
    except InputError:
        return None


def _scores(means: Piece | None, blendings: Sequence[str]) -> list[Score] | None:
    if means is None or means.here is None:
        return None
    try:
        found = read_means(means.here)
    except InputError:
        return None
    return [
        Score(blending, metric, one.mean, one.low, one.high, one.n)
        for (blending, *group), metrics in found.items()
        if (*group,) == OVERALL and blending in blendings
        for metric, one in metrics.items()
    ]
