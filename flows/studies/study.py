"""A study file: the question, what varies, what is measured, and the finding as a comparison between two arms."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field
from pydantic.dataclasses import dataclass

from stages.pages.scores import METRICS
from stages.runs import params
from stages.runs.errors import InputError
from stages.runs.params import STRICT

FOLDER = Path("studies")  # of the project's own studies
MOST = 500  # arms of a study
MOST_SEEDS = 1000  # of a scale
KEY = r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+"  # the way to a parameter

Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=f"^{params.NAME}$")]
ArmName = Annotated[str, Field(pattern=r"^\S(.{0,62}\S)?$")]  # in one line, without spaces around it
Key = Annotated[str, Field(pattern=f"^{KEY}$")]
Split = Literal["test", "train"]
Blending = Literal["raw", "blended"]


@dataclass(frozen=True, config=STRICT)
class Measure:
    """What is measured: the mean of a metric over all completions of a kind of hole."""

    metric: str  # one of `stages.pages.scores.METRICS`
    kind: str | None = None  # of hole; None: all kinds
    split: Split = "test"  # of the pictures
    blending: Blending = "raw"

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(f"metric: there is no '{self.metric}'; one of: {', '.join(METRICS)}")
        if not METRICS[self.metric].best:
            raise ValueError(f"metric: {self.metric} is of the true pictures, and of no arm; name another")


@dataclass(frozen=True, config=STRICT)
class Published:
    """A number of the report, to be held against an arm's."""

    arm: ArmName
    measure: Name
    value: float
    source: Text
    comparable: Annotated[str, Field(pattern=r"^(yes|no: .+)$")]  # "yes", or "no: " and why


@dataclass(frozen=True, config=STRICT)
class Finding:
    """What the report claims: that one arm is better than another by a measure."""

    claim: Text
    better: ArmName
    worse: ArmName
    measure: Name


@dataclass(frozen=True, config=STRICT)
class Scale:
    """How large a study is run."""

    base: Text  # a file of parameters in the commit, from the project's root
    seeds: Annotated[int, Field(ge=1, le=MOST_SEEDS)]  # 1, 2, ... up to this
    set: dict[Key, Any] = field(default_factory=dict)  # parameters that differ from the base
    arms: dict[str, dict[Key, Any]] = field(default_factory=dict)  # what an arm sets at this scale alone, by its name
    notes: str = ""  # what differs from the report at this scale alone


@dataclass(frozen=True, config=STRICT)
class _Arm:
    """An arm as the file has it."""

    set: dict[Key, Any] = field(default_factory=dict)
    system: Name | None = None
    kind: str | None = None
    split: Split | None = None
    blending: Blending | None = None


@dataclass(frozen=True, config=STRICT)
class _File:
    """A study as the file has it."""

    question: Text
    scales: dict[Name, Scale]
    seed: Annotated[tuple[Key, ...], Field(min_length=1)]
    measures: dict[Name, Measure]
    findings: Annotated[tuple[Finding, ...], Field(min_length=1)]
    report: str = ""
    notes: str = ""
    system: Name | None = None
    grid: dict[Key, Annotated[list[str | int | float | bool | None], Field(min_length=1)]] = field(default_factory=dict)
    arms: dict[ArmName, _Arm] = field(default_factory=dict)
    published: tuple[Published, ...] = ()


class Arm(NamedTuple):
    """One of the things that are compared."""

    name: str
    set: Mapping[str, Any]  # parameters that differ from the scale's, by their ways
    system: str  # the entry of `blend` whose scores count
    kind: str | None  # of hole, split and blending: where given, they stand in place of a measure's
    split: Split | None
    blending: Blending | None


class Study(NamedTuple):
    """A study file that has been read and makes sense."""

    name: str
    path: Path
    question: str
    report: str  # the report's section
    notes: str  # what differs from the report
    scales: Mapping[str, Scale]
    arms: Mapping[str, Arm]  # those of the grid first
    seed: tuple[str, ...]  # the parameters that take a run's seed
    measures: Mapping[str, Measure]
    published: tuple[Published, ...]
    findings: tuple[Finding, ...]


class Run(NamedTuple):
    """A run that an arm takes part in, and what has become of it. Arms with the same parameters share a run."""

    arm: str
    seed: int
    experiment: str  # its name
    commit: str | None  # of the experiment; None while it is missing
    failure: str | None  # what went wrong, in one line


def names(root: Path) -> list[str]:
    """The studies in `studies/` of the project at `root`."""
    return sorted(file.stem for file in (root / FOLDER).glob("*.yaml"))


def load(root: Path, name: str) -> Study:
    """The study `name`: of `studies/` of the project at `root`, or a path that ends in .yaml.

    Raises InputError for a study that there is not, and as `read` does.
    """
    if name.endswith((".yaml", ".yml")):
        return read(Path(name))
    if name not in names(root):
        raise InputError(f"no study '{name}'; there is: {', '.join(names(root))}; or name a file, as ./mine.yaml")
    return read(root / FOLDER / f"{name}.yaml")


def read(path: Path) -> Study:
    """The study in a file. Raises InputError for what is missing, unknown, or means nothing."""
    if not re.fullmatch(params.NAME, path.stem):
        raise InputError(f"{path}: '{path.stem}' is no name: take letters (a to z), digits, _ and -, 64 at the most")
    if not path.exists():
        raise InputError(f"{path}: not found; mend the path, or see `palimpsest study --list`")
    values = params.read(path)
    if not isinstance(values, dict):
        raise InputError(f"{path}: must be a mapping; docs/studies.md says what a study file has")
    file = params.build(_File, values, "", str(path))
    if not file.scales:
        raise InputError(f"{path}: scales: name one at least, as `small: {{base: params.yaml, seeds: 3}}`")
    if not file.measures:
        raise InputError(f"{path}: measures: name one at least, as `psnr: {{metric: psnr_hole}}`")
    arms = _arms(path, file)
    for number, published in enumerate(file.published):
        _known(path, f"published.{number}.arm", published.arm, arms)
        _known(path, f"published.{number}.measure", published.measure, file.measures)
    for number, finding in enumerate(file.findings):
        _known(path, f"findings.{number}.better", finding.better, arms)
        _known(path, f"findings.{number}.worse", finding.worse, arms)
        _known(path, f"findings.{number}.measure", finding.measure, file.measures)
        if finding.better == finding.worse:
            raise InputError(f"{path}: findings.{number}: compares '{finding.better}' with itself; name two arms")
    for name, scale in file.scales.items():
        base = PurePosixPath(scale.base)
        if base.is_absolute() or ".." in base.parts or str(base) != scale.base:
            said = "must be a file below the project's root, as profiles/report3.yaml"
            raise InputError(f"{path}: scales.{name}.base: {said} (got {scale.base!r})")
        for arm in scale.arms:
            _known(path, f"scales.{name}.arms", arm, arms)
    _refuse_seeds(path, file, arms)
    return Study(
        path.stem,
        path,
        " ".join(file.question.split()),
        file.report,
        " ".join(file.notes.split()),
        file.scales,
        arms,
        file.seed,
        file.measures,
        file.published,
        file.findings,
    )


def scale(study: Study, name: str, seeds: int | None = None) -> Scale:
    """A scale of the study, with another number of seeds if that is given. Raises InputError where there is none."""
    if name not in study.scales:
        raise InputError(f"{study.path}: no scale '{name}'; there is: {', '.join(study.scales)}")
    if seeds is not None and seeds < 1:
        raise InputError(f"--seeds {seeds}: a study needs one at least, and a verdict five")
    if seeds is not None and seeds > MOST_SEEDS:
        raise InputError(f"--seeds {seeds}: {MOST_SEEDS} at the most")
    found = study.scales[name]
    return found if seeds is None else replace(found, seeds=seeds)


def _arms(path: Path, file: _File) -> dict[str, Arm]:
    count = math.prod(len(values) for values in file.grid.values()) * bool(file.grid) + len(file.arms)
    if count < 2:
        raise InputError(f"{path}: a study compares two arms at least; name them under `arms`, or vary a `grid`")
    if count > MOST:
        raise InputError(f"{path}: {count} arms; {MOST} at the most: part the study")
    given = [*_of_grid(path, file.grid), *((name, arm) for name, arm in file.arms.items())]
    arms: dict[str, Arm] = {}
    for name, arm in given:
        if name in arms:
            raise InputError(f"{path}: two arms are named '{name}'; leave one out, or name it otherwise")
        system = arm.system or file.system
        if system is None:
            raise InputError(f"{path}: arms.{name}: no system; name the entry of `blend` whose scores count")
        arms[name] = Arm(name, arm.set, system, arm.kind, arm.split, arm.blending)
    return arms


def _of_grid(path: Path, grid: Mapping[str, Sequence[Any]]) -> Iterable[tuple[str, _Arm]]:
    """The arms of a grid, each named by its values: `d_matching=0`, `width=16, steps=100`."""
    if not grid:
        return
    labels = _labels([*grid])
    for key, values in grid.items():
        for value in values:
            if isinstance(value, str) and (value != value.strip() or not value.isprintable()):
                raise InputError(
                    f"{path}: grid.{key}: {value!r} is no part of an arm's name, which is one line; name it in `arms`"
                )
    for values in itertools.product(*grid.values()):
        named = ", ".join(f"{label}={_shown(value)}" for label, value in zip(labels, values, strict=True))
        yield named, _Arm(dict(zip(grid, values, strict=True)))


def _labels(keys: Sequence[str]) -> list[str]:
    """The shortest ends of dotted keys that tell them apart."""
    for length in itertools.count(1):
        labels = [".".join(key.split(".")[-length:]) for key in keys]
        if len(set(labels)) == len(keys):
            return labels
    raise AssertionError("unreachable")


def _shown(value: str | float | bool | None) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)


def _known(path: Path, where: str, name: str, there: Iterable[str]) -> None:
    if name not in there:
        raise InputError(f"{path}: {where}: there is no '{name}'; one of: {', '.join(there)}")


def _refuse_seeds(path: Path, file: _File, arms: Mapping[str, Arm]) -> None:
    """Raise InputError where an arm or a scale sets what a run's seed sets."""
    every = {
        **{f"scales.{name}.set": scale.set for name, scale in file.scales.items()},
        **{
            f"scales.{name}.arms.{arm}": given
            for name, scale in file.scales.items()
            for arm, given in scale.arms.items()
        },
        **{f"arm '{arm.name}'": arm.set for arm in arms.values()},
    }
    for where, given in every.items():
        for key in given:
            if key in file.seed:
                raise InputError(f"{path}: {where}: {key} is a seed, which each run sets; leave it out")
