"""Refuse what a study sets in vain: parameters and seeds that no stage of its runs reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flows.studies.arms import Planned
from flows.studies.estimate import Stage, stages
from flows.studies.study import Scale, Study
from stages.runs import params
from stages.runs.errors import InputError

RANDOM = (*params.TRAININGS, "search")  # sections of stages whose outputs depend on a seed


def refuse(study: Study, name: str, scale: Scale, runs: Sequence[Planned], pipeline: Mapping[str, Any]) -> None:
    """Raise InputError for a key of the study at the scale `name` that does nothing in any run.

    So it does for an arm whose seeds would all give the same: they would count as several runs, and be one.
    `pipeline` is what dvc.yaml says.
    """
    first = [run for run in runs if run.seed == 1]
    read = {run.experiment: stages(run.values, run.systems, pipeline) for run in first}
    for run in first:
        random = [stage for stage in read[run.experiment] if stage.name.partition("@")[0] in RANDOM]
        if random and not any(_reads(random, key) for key in study.seed):
            names = ", ".join(stage.name for stage in random)
            raise InputError(
                f"{study.path}: arm '{run.arms[0]}': all its seeds would give the same, as `seed` has none of {names}; "
                f"add {names.partition(',')[0].replace('@', '.')}.seed"
            )
    given = {
        **dict.fromkeys(study.seed, "seed"),
        **dict.fromkeys(scale.set, f"scales.{name}.set"),
        **{key: f"scales.{name}.arms.{arm}" for arm, of in scale.arms.items() for key in of},
        **{key: f"arm '{arm.name}'" for arm in study.arms.values() for key in arm.set},
    }
    every = [stage for own in read.values() for stage in own]
    for key, where in given.items():
        if not _reads(every, key):
            raise InputError(f"{study.path}: {where}: {key} does nothing: no stage of a run reads it; leave it out")


def _reads(own: Iterable[Stage], key: str) -> bool:
    """Whether a stage reads the parameter at this key, or one above or below it."""
    return any(f"{way}.".startswith(f"{key}.") or f"{key}.".startswith(f"{way}.") for one in own for way in one.params)
