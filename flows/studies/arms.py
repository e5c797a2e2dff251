"""The parameters of each run of a study: the base's, and over them what the scale, the arm and the seed say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from flows.checkout.git import Git
from flows.studies.study import Arm, Scale, Study
from stages.runs import params
from stages.runs.errors import InputError
from stages.runs.record import canonical

SHOWN = 60  # characters of an arm in an experiment's name


class Planned(NamedTuple):
    """A run: the parameters for one seed, which one arm or several share."""

    experiment: str  # its name
    arms: tuple[str, ...]
    seed: int
    systems: tuple[str, ...]  # the entries of `blend` that its arms name
    values: Mapping[str, Any]  # the whole of its params.yaml
    changed: Mapping[str, Any]  # what differs from the base, by its way

    @property
    def label(self) -> str:
        """The run in words."""
        return f"{'; '.join(self.arms)} (seed {self.seed})"


class Base(NamedTuple):
    """A file of parameters as a commit has it."""

    name: str
    text: str
    values: Mapping[str, Any]


def base(git: Git, commit: str, study: Study, scale: Scale) -> Base:
    """The parameters that a scale begins with. Raises InputError where the commit has none, or they cannot be read."""
    text = git.file(commit, scale.base)
    if text is None:
        raise InputError(f"{study.path}: base: commit {commit[:10]} has no {scale.base}; `git add` and commit it")
    return Base(scale.base, text, params.load(Path(scale.base), text.encode()))


def plan(study: Study, name: str, scale: Scale, begun: Base, data: Mapping[str, Path]) -> list[Planned]:
    """The runs of a scale, named `name`: all arms of the first seed, then all of the second, and so on.

    `data` are other folders of original pictures, by the dataset. Raises InputError for parameters that no stage takes.
    """
    found: dict[str, Planned] = {}
    for seed in range(1, scale.seeds + 1):
        for arm in study.arms.values():
            where = f"{study.path}: scale {name}, arm '{arm.name}'"
            values, changed = _values(study, scale, arm, seed, begun, data, where)
            if arm.system not in (values.get("blend") or {}):
                there = ", ".join(values.get("blend") or {})
                raise InputError(f"{where}: {begun.name}: blend: there is no '{arm.system}'; there is: {there}")
            digest = sha256(canonical(values).encode()).hexdigest()
            if digest not in found:
                check(values, where)
                experiment = experiment_name(study.name, name, arm.name, seed, digest)
                found[digest] = Planned(experiment, (), seed, (), values, changed)
            run = found[digest]
            systems = dict.fromkeys([*run.systems, arm.system])
            found[digest] = run._replace(arms=(*run.arms, arm.name), systems=tuple(systems))
    _check_kinds(study, found.values())
    return [*found.values()]


def chosen(study: Study, runs: Iterable[Planned], pattern: str | None) -> list[Planned]:
    """The runs of those arms whose name fits a pattern (`*`, `?`). Raises InputError where none does."""
    if pattern is None:
        return [*runs]
    wanted = {arm for arm in study.arms if arm == pattern or fnmatchcase(arm, pattern)}
    if not wanted:
        raise InputError(f"--only {pattern}: no such arm; there is: {', '.join(map(repr, study.arms))}")
    return [run for run in runs if wanted.intersection(run.arms)]


def data_folders(given: Iterable[str]) -> dict[str, Path]:
    """What `--data NAME=ROOT` says, each folder absolute. Raises InputError where it says nothing, or no folder."""
    found = {}
    for one in given:
        name, equals, folder = one.partition("=")
        if not equals or not name or not folder:
            raise InputError(f"--data {one}: must be NAME=ROOT, a dataset and the folder of its pictures")
        place = Path(folder).expanduser().resolve()
        if not place.exists():
            raise InputError(f"--data {one}: {place} is not there; mend the path")
        found[name] = place
    return found


def _values(
    study: Study, scale: Scale, arm: Arm, seed: int, begun: Base, data: Mapping[str, Path], where: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters of a run, and what of them was set."""
    changed = {**scale.set, **arm.set, **scale.arms.get(arm.name, {}), **dict.fromkeys(study.seed, seed)}
    for name, folder in data.items():
        if name not in (begun.values.get("datasets") or {}):
            there = ", ".join(begun.values.get("datasets") or {})
            raise InputError(f"--data {name}={folder}: {begun.name} has no dataset '{name}'; there is: {there}")
        changed[f"datasets.{name}.ingest.root"] = str(folder)
    values: dict[str, Any] = json.loads(json.dumps(begun.values))  # no part of it is another part, as aliases are
    for key, value in changed.items():
        put(values, key, value, where, begun.name)
    return values, changed


def put(values: dict[str, Any], key: str, value: Any, where: str, base: str) -> None:
    """Set the parameter at a dotted key. Raises InputError where `values`, of the file `base`, has nothing above it."""
    *above, last = key.split(".")
    node: Any = values
    for number, name in enumerate(above):
        if not isinstance(node, dict) or not isinstance(node.get(name), dict):
            way = ".".join(above[: number + 1])
            there = f"; there is: {', '.join(node)}" if isinstance(node, dict) else ""
            raise InputError(f"{where}: {key}: {base} has no '{way}'{there}")
        node = node[name]
    node[last] = json.loads(json.dumps(value))


def check(values: Mapping[str, Any], where: str) -> None:
    """Raise InputError, which begins with `where`, for parameters that their stages would refuse."""
    for section in params.SECTIONS:
        if section not in values or section == "retrain":  # no stage reads that one
            continue
        if section == "datasets":
            for name, stages in values[section].items():
                for stage in params.DATASET:
                    _fits(stage, f"{section}.{name}.{stage}", canonical(stages.get(stage)), where)
        elif section in params.NAMED:
            for name, entry in (values[section] or {}).items():
                _fits(section, f"{section}.{name}", canonical(entry), where)
        else:
            _fits(section, section, canonical(values[section]), where)


@lru_cache(maxsize=4096)
def _fits(stage: str, dotted: str, content: str, where: str) -> None:
    kind = params.Runtime if stage == "runtime" else import_module(f"stages.{stage}").Params
    params.build(kind, json.loads(content), dotted, where)


def _check_kinds(study: Study, runs: Iterable[Planned]) -> None:
    """Raise InputError for a measure of a kind of hole that no run draws."""
    drawn: dict[str, None] = {}
    for run in runs:
        for system in run.systems:
            dataset = run.values["blend"][system].get("dataset")
            mask = (run.values["datasets"].get(dataset) or {}).get("mask") or {}
            drawn |= dict.fromkeys(mask.get("kinds") or {})
    asked = {f"measures.{name}": measure.kind for name, measure in study.measures.items()}
    asked |= {f"arm '{arm.name}'": arm.kind for arm in study.arms.values()}
    for where, kind in asked.items():
        if kind is not None and kind not in drawn:
            raise InputError(f"{study.path}: {where}: no hole '{kind}' is drawn; there is: {', '.join(drawn)}")


def experiment_name(study: str, scale: str, arm: str, seed: int, digest: str) -> str:
    """The name of the experiment of a run whose parameters have this digest, as Git takes it."""
    told = re.sub(r"-{2,}", "-", re.sub(r"[^A-Za-z0-9_.=]+|\.(?=\.)", "-", arm)).strip("-.")
    return f"{study}-{scale}-{told[:SHOWN].rstrip('.') or 'arm'}-s{seed}-{digest[:6]}"
