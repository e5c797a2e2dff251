"""Refuse what a study sets in vain: parameters that no stage reads, and seeds that change nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from flows.studies import arms
from flows.studies.arms import Base
from flows.studies.estimate import Stage, stages
from flows.studies.study import Scale, Study
from stages.runs import params
from stages.runs.errors import InputError

RANDOM = (*params.TRAININGS, "search")  # stages whose outputs depend on a seed
SCORES = "evaluate"  # whose seed draws intervals, and changes no picture


def refuse(study: Study, name: str, scale: Scale, begun: Base, pipeline: Mapping[str, Any]) -> None:
    """Raise InputError for a key of the study at the scale `name` that does nothing where it stands.

    So it does for an arm whose runs would all be the same: they would count as several, and be one. `pipeline` is what
    dvc.yaml says. The folders of `--data` do not matter: what a study sets for its own pictures may stay.
    """
    runs: dict[str, list[Stage]] = {}  # the stages of the run that an arm takes part in
    for run in arms.plan(study, name, replace(scale, seeds=1), begun, {}):
        runs |= dict.fromkeys(run.arms, stages(run.values, run.systems, pipeline))
        for arm in run.arms:
            _refuse_equal_runs(study, arm, stages(run.values, [study.arms[arm].system], pipeline))
    every = [stage for own in runs.values() for stage in own]
    given = [("seed", key, every) for key in study.seed]
    given += [(f"scales.{name}.set", key, every) for key in scale.set]
    given += [(f"scales.{name}.arms.{arm}", key, runs[arm]) for arm, of in scale.arms.items() for key in of]
    given += [(f"arm '{arm.name}'", key, runs[arm.name]) for arm in study.arms.values() for key in arm.set]
    for where, key, own in given:
        if not _reads(own, key):
            who = "no stage" if own is every else "no stage of its run"
            raise InputError(f"{study.path}: {where}: {key} does nothing: {who} reads it; leave it out")


def _refuse_equal_runs(study: Study, arm: str, own: Sequence[Stage]) -> None:
    """Raise InputError where the arm has stages that depend on a seed, and the study varies nothing that it reads."""
    random = [stage.name for stage in own if stage.name.partition("@")[0] in RANDOM]
    varied = [stage for stage in own if stage.name.partition("@")[0] != SCORES]
    if random and not any(_reads(varied, key) for key in study.seed):
        raise InputError(
            f"{study.path}: arm '{arm}': `seed` names no seed of a stage that this arm runs, so all its runs would be "
            f"the same; add {random[0].replace('@', '.')}.seed"
        )


def _reads(own: Iterable[Stage], key: str) -> bool:
    """Whether a stage reads the parameter at this key, or one above or below it."""
    return any(f"{way}.".startswith(f"{key}.") or f"{key}.".startswith(f"{way}.") for one in own for way in one.params)
