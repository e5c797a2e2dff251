"""The parameters of each run of a study: the base's, and over them what the scale, the arm and the seed say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
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
            digest = sha256(canonical(values).encode()).hexdigest()
            if digest not in found:
                check(values, where)
                experiment = experiment_name(study.name, name, arm.name, seed, digest)
                found[digest] = Planned(experiment, (), seed, (), values, changed)
            if arm.system not in (values.get("blend") or {}):
                there = ", ".join(values.get("blend") or {})
                raise InputError(f"{where}: {begun.name}: blend: there is no '{arm.system}'; there is: {there}")
            run = found[digest]
            systems = dict.fromkeys([*run.systems, arm.system])
            found[digest] = run._replace(arms=(*run.arms, arm.name), systems=tuple(systems))
    _check_measures(study, found.values())
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
        if not place.is_dir():
            said = "is a file, and no folder" if place.exists() else "is not there"
            raise InputError(f"--data {one}: {place} {said}; mend the path")
        found[name] = place
    return found


def _values(
    study: Study, scale: Scale, arm: Arm, seed: int, begun: Base, data: Mapping[str, Path], where: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters of a run, and what of them was set."""
    changed = {**scale.set, **arm.set, **scale.arms.get(arm.name, {}), **dict.fromkeys(study.seed, seed)}
    values: dict[str, Any] = json.loads(json.dumps(begun.values))  # no part of it is another part, as aliases are
    for key, value in changed.items():
        put(values, key, value, where, begun.name)
    datasets = values.get("datasets") or {}
    for name, folder in data.items():  # the study may have a dataset that the base does not have
        if name not in datasets:
            raise InputError(f"--data {name}={folder}: there is no dataset '{name}'; there is: {', '.join(datasets)}")
        changed[key := f"datasets.{name}.ingest.root"] = str(folder)
        put(values, key, str(folder), where, begun.name)
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
    """Raise InputError, which begins with `where`, for parameters that their stages would refuse.

    So it does where an entry names one that is not there, and where trainings go on from each other in a circle.
    """
    for section in params.SECTIONS:
        if section not in values or section == "retrain":  # no stage reads that one
            continue
        if section == "datasets":
            for name, stages in _entries(values, section, where).items():
                if not isinstance(stages, dict) or stages.keys() - {*params.DATASET}:
                    raise InputError(f"{where}: {section}.{name}: must have {', '.join(params.DATASET)}, and no more")
                for stage in params.DATASET:
                    _fits(stage, f"{section}.{name}.{stage}", canonical(stages.get(stage)), where)
        elif section in params.NAMED:
            for name, entry in _entries(values, section, where).items():
                _fits(section, f"{section}.{name}", canonical(entry), where)
        else:
            _fits(section, section, canonical(values[section]), where)
    _check_names(values, where)


def _entries(values: Mapping[str, Any], section: str, where: str) -> dict[str, Any]:
    entries = values.get(section) or {}
    if not isinstance(entries, dict):
        raise InputError(f"{where}: {section}: must be a mapping of entries (got {entries!r})")
    return entries


def _check_names(values: Mapping[str, Any], where: str) -> None:
    def known(way: str, name: str, there: Iterable[str]) -> None:
        if name not in there:
            raise InputError(f"{where}: {way}: there is no '{name}'; there is: {', '.join(there)}")

    datasets = values.get("datasets") or {}
    systems = {**(values.get("search") or {}), **(values.get("infer") or {})}
    trainings: dict[str, tuple[str, Any]] = {}
    for section in (*params.TRAININGS, "search", "infer", "blend"):
        for name, entry in (values.get(section) or {}).items():
            known(f"{section}.{name}.dataset", entry["dataset"], datasets)
            if section == "blend":
                known(f"blend.{name}.system", entry["system"], systems)
            if section in params.TRAININGS:
                trainings[name] = f"{section}.{name}", entry
                if second := re.fullmatch("data/aligned/([^/]+)/train.arrow", str(entry.get("also"))):
                    known(f"{section}.{name}.also", second[1], datasets)
    for name in trainings:
        passed: list[str] = []
        while name in trainings:
            way, entry = trainings[name]
            if way in passed:
                raise InputError(f"{where}: {way}.start: goes on from itself ({', '.join(passed)}); name another")
            passed.append(way)
            start = re.fullmatch(r"data/models/([^/]+)\.safetensors", str(entry.get("start")))
            name = start[1] if start else ""


@lru_cache(maxsize=4096)
def _fits(stage: str, dotted: str, content: str, where: str) -> None:
    kind = params.Runtime if stage == "runtime" else import_module(f"stages.{stage}").Params
    params.build(kind, json.loads(content), dotted, where)


def _check_measures(study: Study, runs: Iterable[Planned]) -> None:
    """Raise InputError for a measure of a kind of hole, or of training pictures, that none of its arms completes."""
    kinds: dict[str, dict[str, None]] = {}  # of hole, by arm
    trained: set[str] = set()  # the arms that complete training pictures too
    for run in runs:
        for arm in run.arms:
            blend = run.values["blend"][study.arms[arm].system]
            system = {**(run.values.get("search") or {}), **(run.values.get("infer") or {})}[blend["system"]]
            drawn = run.values["datasets"][blend["dataset"]]["mask"]["kinds"]
            kinds.setdefault(arm, {}).update(dict.fromkeys(system.get("kinds") or drawn))
            trained |= {arm} if system.get("train_count") else set()
    arms = study.arms.values()

    def asked(what: str) -> Iterator[tuple[str, Any, list[str]]]:
        """Where the study names a `what`, which, and the arms of which it is taken."""
        for name, measure in study.measures.items():
            yield f"measures.{name}", getattr(measure, what), [arm.name for arm in arms if getattr(arm, what) is None]
        for arm in arms:
            yield f"arm '{arm.name}'", getattr(arm, what), [arm.name]

    for where, kind, names in asked("kind"):
        there = dict.fromkeys(each for arm in names for each in kinds[arm])
        if kind is not None and names and kind not in there:
            raise InputError(f"{study.path}: {where}: no hole '{kind}' is drawn; there is: {', '.join(there)}")
    for where, split, names in asked("split"):
        if split == "train" and names and trained.isdisjoint(names):
            raise InputError(
                f"{study.path}: {where}: no training pictures are completed; set the system's train_count in `search` "
                "or `infer`, or leave out `split: train`"
            )


def experiment_name(study: str, scale: str, arm: str, seed: int, digest: str) -> str:
    """The name of the experiment of a run whose parameters have this digest, as Git takes it."""
    told = re.sub(r"-{2,}", "-", re.sub(r"[^A-Za-z0-9_.=]+|\.(?=\.)", "-", arm)).strip("-.")
    return f"{study}-{scale}-{told[:SHOWN].rstrip('.') or 'arm'}-s{seed}-{digest[:6]}"
