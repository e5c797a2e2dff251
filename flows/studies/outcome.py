"""What a study has found out so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from flows.studies.study import Arm, Finding, Measure, Published, Study
from flows.studies.verdict import Estimate, Verdict
from stages.pages.scores import METRICS, Metric

MISSING = "missing"  # in place of a number that there is not


class Source(NamedTuple):
    """A run behind an arm's numbers."""

    seed: int
    experiment: str
    commit: str | None  # None while it is missing
    failure: str | None  # why there is no number of it, in one line
    checkpoints: Mapping[str, str]  # md5 by path
    histories: Mapping[str, Path]  # the losses of their trainings: files in DVC's cache, by their paths
    parameters: Mapping[str, object]  # that have had a part in its scores, by their ways


class Number(NamedTuple):
    """An arm's number in a measure."""

    arm: str
    measure: str
    estimate: Estimate | None  # None: missing
    by_seed: Mapping[int, float]  # the mean over pictures of each seed that is there
    gaps: Mapping[int, str]  # the seeds that are not, and why
    remark: str  # what is to be known of it, as a sentence; else empty
    published: Sequence[Published]


class Judged(NamedTuple):
    """A finding, and what the numbers say about it."""

    finding: Finding
    verdict: Verdict
    seen: str  # the sentence about the smallest difference
    remarks: Sequence[str]  # on what was compared, each a sentence


class Pictures(NamedTuple):
    """Files with an arm's pictures of a split, their holes and completions, of one run. They lie in DVC's cache."""

    seed: int
    split: str
    truth: Path
    holes: Path
    raw: Path
    blended: Path
    same: tuple[str, str]  # digests of truth and holes: arms that have them in common completed the same


class Results(NamedTuple):
    """The numbers of a study at one scale."""

    study: Study
    scale: str
    base: str | None  # the commit that all runs are of
    sources: Mapping[str, Sequence[Source]]  # by arm, each seed once
    numbers: Sequence[Number]  # arm by arm, measure by measure
    findings: Sequence[Judged]
    pictures: Mapping[str, Pictures]  # by arm, where there are any

    def number(self, arm: str, measure: str) -> Number:
        return next(each for each in self.numbers if (each.arm, each.measure) == (arm, measure))


def gaps(number: Number) -> list[tuple[str, str]]:
    """The seeds of which there is no number ("seeds 2, 3"), and why."""
    seeds: dict[str, list[str]] = {}
    for seed, why in number.gaps.items():
        seeds.setdefault(why, []).append(str(seed))
    return [(f"seed{'' if len(some) == 1 else 's'} {', '.join(some)}", why) for why, some in seeds.items()]


def notes(results: Results) -> str:
    """What differs from the report at this scale, in one line."""
    return " ".join(results.study.scales[results.scale].notes.split())


def metric(measure: Measure) -> Metric:
    return METRICS[measure.metric]


def unit(measure: Measure) -> str:
    """The unit of a measure's numbers; empty where they have none."""
    heading = metric(measure).heading
    return heading.partition("(")[2].rstrip(")")


def unit_of_difference(name: str, measure: Measure) -> str:
    """What stands behind a difference in the measure `name`, as "dB in psnr"."""
    # Of a ratio it is how far it lies from 1, as a logarithm.
    return f"in |ln {name}|" if metric(measure).best == "one" else f"{unit(measure)} in {name}".strip()


def heading(measure: Measure) -> str:
    """What is measured, without the unit: "PSNR, hole"."""
    return metric(measure).heading.partition(" (")[0]


def described(measure: Measure) -> str:
    """What a measure is the mean of, in words."""
    holes = f"{measure.kind} holes" if measure.kind else "all kinds of hole"
    return f"{heading(measure)}; {holes}, {measure.split} pictures, {measure.blending}"


def taken(measure: Measure, arm: Arm) -> Measure:
    """The measure as it is taken of an arm, whose own kind of hole, split and blending stand in place of its."""
    kind, split, blending = arm.kind or measure.kind, arm.split or measure.split, arm.blending or measure.blending
    return Measure(measure.metric, kind, split, blending)
