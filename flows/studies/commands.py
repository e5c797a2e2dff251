"""What `palimpsest study` prepares, and what it says; the runs themselves are a flow (`flows/study.py`)."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.checkout.git import Git
from flows.lineage import dvc_lock
from flows.process import file_lock
from flows.process.command import Say
from flows.studies import arms, estimate, idle, results, runs, study, tables
from flows.studies.arms import Base, Planned
from flows.studies.estimate import Estimate, Stage
from flows.studies.outcome import Results
from flows.studies.study import Scale, Study
from stages.runs.errors import InputError

RESULTS = Path("data/studies")
OUTSIDE = {"ingest": "root", "align": "detector_model"}  # paths that may lead out of the repository, by their stage
WRITING = Path(".palimpsest/studies.lock")  # for one process at a time


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A study as it was asked for, and what of it is there."""

    root: Path
    study: Study
    scale_name: str
    scale: Scale
    commit: str
    base: Base
    pipeline: Mapping[str, Any]  # what dvc.yaml says
    runs: Sequence[Planned]  # of all arms
    chosen: Sequence[Planned]  # of those that were asked for
    kept: dict[str, str]  # experiment -> its commit, of those runs that are there
    jobs: int  # runs at a time

    @property
    def missing(self) -> list[Planned]:
        """The runs that were asked for and are not there."""
        return [run for run in self.chosen if run.experiment not in self.kept]


def prepared(
    root: Path,
    name: str,
    scale_name: str,
    *,
    seeds: int | None = None,
    only: str | None = None,
    data: Sequence[str] = (),
    jobs: int | None = None,
    say: Say,
) -> Prepared:
    """The study `name` with the options of the command. Raises InputError for what cannot be run as it stands."""
    found = study.load(root, name)
    scale = study.scale(found, scale_name, seeds)
    folders = arms.data_folders(data)
    git = Git(root)
    commit = git.commit("HEAD")
    if commit is None:
        raise InputError("there is no commit yet: `git commit`")
    if changed := git.changed(*runs.SOURCES, scale.base):
        say(f"not committed, so without what has changed in: {', '.join(changed)}")
    base = arms.base(git, commit, found, scale)
    every = arms.plan(found, scale_name, scale, base, folders)
    pipeline = dvc_lock.parse(git.file(commit, "dvc.yaml"), f"dvc.yaml of commit {commit[:10]}")
    chosen = arms.chosen(found, every, only)
    at_once = jobs or max(1, len(os.sched_getaffinity(0)) // every[0].values.get("runtime", {}).get("threads", 1))
    return Prepared(
        root, found, scale_name, scale, commit, base, pipeline, every, chosen, runs.there(root, commit, every), at_once
    )


def refuse_idle(asked: Prepared) -> None:
    """Raise InputError for what the study sets in vain."""
    idle.refuse(asked.study, asked.scale_name, asked.scale, asked.base, asked.pipeline)


def ready(asked: Prepared) -> None:
    """Raise InputError where no run could be made or kept: pictures are not there, or Git does not know who commits."""
    for run in asked.missing:
        for stage in estimate.stages(run.values, run.systems, asked.pipeline):
            _require_files(asked, stage)
    Git(asked.root).require_author()


def _require_files(asked: Prepared, stage: Stage) -> None:
    """Raise InputError where a dataset's folder, or its detector's file, is outside the repository and not there."""
    kind, _, dataset = stage.name.partition("@")
    if kind not in OUTSIDE:
        return
    key = f"datasets.{dataset}.{kind}"
    path = Path(stage.params[key][OUTSIDE[kind]])
    if (path.is_absolute() or ".." in path.parts) and not (asked.root / path).exists():
        remedy = f"give --data {dataset}=FOLDER" if kind == "ingest" else "put it there"
        where = f"{asked.study.path}: scale {asked.scale_name}, {asked.base.name}"
        raise InputError(f"{where}: {key}.{OUTSIDE[kind]}: {path} is not there; {remedy}, or set another path")


def dry(asked: Prepared, expected: Estimate) -> str:
    """What would run, and how long that takes."""
    lines = [f"{run.label}: {'there' if run.experiment in asked.kept else 'would run'}" for run in asked.chosen]
    return "\n".join([*lines, first(asked), *expected.lines()])


def first(asked: Prepared) -> str:
    """How many runs there are, and how many are to be made."""
    runs = f"{len(asked.chosen)} run{'' if len(asked.chosen) == 1 else 's'}"
    return f"{runs} of {asked.study.name} at scale {asked.scale_name}; {len(asked.missing)} to make"


def listed(root: Path, machine: bool, say: Say) -> str:
    """The studies that there are, for people or as JSON; `say` gets what is wrong with a file that cannot be read."""
    found = []
    for name in study.names(root):
        try:
            found.append(study.load(root, name))
        except InputError as error:
            say(f"study: {error}")
    if machine:
        rows = [
            {
                "name": one.name,
                "question": one.question,
                "report": one.report,
                "arms": [*one.arms],
                "scales": {name: {"base": scale.base, "seeds": scale.seeds} for name, scale in one.scales.items()},
                "findings": [finding.claim for finding in one.findings],
            }
            for one in found
        ]
        return json.dumps(rows, indent=1)
    lines = []
    for one in found:
        seeds = ", ".join(f"{scale.seeds} seeds at scale {name}" for name, scale in one.scales.items())
        about = [*filter(None, [one.report]), f"{len(one.arms)} arms", seeds]
        lines += [f"{one.name}: {one.question}", f"    {'; '.join(about)}"]
    return "\n".join(lines) or "there are no studies; docs/studies.md says how to write one"


def outcome(asked: Prepared, failed: dict[str, str]) -> Results:
    """What the runs that are there amount to; `failed` says what went wrong with others, by experiment."""
    kept = runs.there(asked.root, asked.commit, asked.runs)
    return results.collect(asked.root, asked.study, asked.scale_name, runs.outcomes(asked.runs, kept, failed))


def shown(found: Results, machine: bool) -> str:
    """Verdicts, numbers and runs, for people or as JSON."""
    return json.dumps(tables.as_json(found), indent=1) if machine else tables.as_text(found)


def write(asked: Prepared, found: Results) -> Path:
    """Write the page and the tables: the page's path, from the current folder."""
    folder = asked.root / RESULTS / asked.study.name
    with file_lock.lock(asked.root / WRITING):
        for left in folder.parent.glob(f".{folder.name}.*"):  # by a killed study
            shutil.rmtree(left, ignore_errors=True)
        results.write(found, folder)
    return Path(os.path.relpath(folder / "index.html"))
