"""From the experiments of a study to its numbers, verdicts and page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flows.checkout.git import Git
from flows.process import atomic_folder
from flows.studies import figure, outcome, page, tables
from flows.studies.experiment import Experiment, Scores
from flows.studies.outcome import Judged, Number, Pictures, Results, Source
from flows.studies.study import Arm, Finding, Measure, Run, Study
from flows.studies.verdict import Estimate, estimate, judge, seen, unpaired
from stages.images.table import Key
from stages.runs.errors import InputError

SMALL = "small"  # the scale that never judges


def collect(root: Path, study: Study, scale: str, runs: Sequence[Run]) -> Results:
    """The results of these runs, of the study at a scale, from the repository at `root`.

    What cannot be read counts as missing, with the reason. Arms of which there is no run are left out of the numbers,
    and are missing in the findings.
    """
    read = _Reader(root, study, runs)
    arms = [arm for arm in study.arms.values() if any(run.arm == arm.name for run in runs)]
    sources = {arm.name: [read.source(arm, run) for run in runs if run.arm == arm.name] for arm in arms}
    numbers = [_number(study, read, arm, name, sources[arm.name]) for arm in arms for name in study.measures]
    pictures = {arm.name: found for arm in arms if (found := read.pictures(arm, sources[arm.name]))}
    findings = [_judged(study, scale, read, finding, sources, pictures) for finding in study.findings]
    commits = [source.commit for each in sources.values() for source in each if source.commit]
    base = Git(root).commit(f"{commits[0]}^") if commits else None
    return Results(study, scale, base, sources, numbers, findings, pictures)


def write(results: Results, folder: Path) -> None:
    """Write table.csv, table.tex, figure.png, index.html and its pictures into `folder`, all or none.

    Raises InputError where the folder cannot be written.
    """
    try:
        with atomic_folder.replacing(folder) as draft:
            (draft / "table.csv").write_text(tables.as_csv(results), encoding="utf-8", newline="")
            (draft / "table.tex").write_text(tables.as_tex(results), encoding="utf-8")
            (draft / "figure.png").write_bytes(figure.drawn(results))
            (draft / "index.html").write_text(page.written(results, draft), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}; make room or mend its permissions") from None


class _Reader:
    """The experiments of a study's runs, each read once."""

    def __init__(self, root: Path, study: Study, runs: Sequence[Run]):
        self.runs = runs
        self._opened: Callable[[str], Experiment] = cache(lambda commit: Experiment(root, commit))
        self._study = study

    def source(self, arm: Arm, run: Run) -> Source:
        if run.commit is None:
            return Source(run.seed, run.experiment, None, run.failure or "it has not run", {}, {})
        try:
            made = self._opened(run.commit)
            checkpoints, parameters = made.checkpoints(arm.system), made.parameters(arm.system)
        except InputError as error:
            return Source(run.seed, run.experiment, run.commit, str(error), {}, {})
        return Source(run.seed, run.experiment, run.commit, None, checkpoints, parameters)

    def scores(self, arm: Arm, measure: Measure, sources: Sequence[Source]) -> tuple[dict[int, Scores], dict[int, str]]:
        """The arm's scores by seed, and why there are none of the other seeds."""
        found: dict[int, Scores] = {}
        gaps: dict[int, str] = {}
        for source in sources:
            try:
                if source.commit is None or source.failure:
                    raise InputError(source.failure or "it has not run")
                blending = outcome.blending(arm, measure)
                made = self._opened(source.commit)
                found[source.seed] = made.scores(arm.system, measure.metric, measure.kind, measure.split, blending)
            except InputError as error:
                gaps[source.seed] = str(error)
        return found, gaps

    def pictures(self, arm: Arm, sources: Sequence[Source]) -> Pictures | None:
        """Those of the first seed that has them."""
        for source in sources:
            try:
                if source.commit and not source.failure:
                    return self._opened(source.commit).pictures(arm.system, source.seed)
            except InputError:
                continue
        return None


class _Matrix(NamedTuple):
    """Scores of the pictures that all seeds have."""

    scores: np.ndarray  # float64, seeds x pictures: the mean over each picture's holes
    left_out: int  # completions that some seed has, and not every one


def _matrix(by_seed: Sequence[Scores]) -> _Matrix | None:
    """None where the seeds have no completion in common."""
    common = sorted(_common(by_seed))
    if not common:
        return None
    _, picture = np.unique(["\0".join(key[:2]) for key in common], return_inverse=True)
    holes = np.bincount(picture)
    rows = [np.bincount(picture, [scores[key] for key in common]) / holes for scores in by_seed]
    return _Matrix(np.stack(rows), _alone(*by_seed))


def _number(study: Study, read: _Reader, arm: Arm, name: str, sources: Sequence[Source]) -> Number:
    found, gaps = read.scores(arm, study.measures[name], sources)
    published = [each for each in study.published if (each.arm, each.measure) == (arm.name, name)]
    matrix = _matrix([*found.values()]) if found else None
    if matrix is None:
        remark = "The seeds have completed no picture in common." if found else ""
        return Number(arm.name, name, None, {}, gaps, remark, published)
    by_seed = {seed: float(row.mean()) for seed, row in zip(found, matrix.scores, strict=True)}
    remark = f"{matrix.left_out} completions that not every seed has are left out." if matrix.left_out else ""
    return Number(arm.name, name, estimate(matrix.scores), by_seed, gaps, remark, published)


def _judged(
    study: Study,
    scale: str,
    read: _Reader,
    finding: Finding,
    sources: Mapping[str, Sequence[Source]],
    pictures: Mapping[str, Pictures],
) -> Judged:
    measure = study.measures[finding.measure]
    unit, form = outcome.unit_of_difference(finding.measure, measure), outcome.metric(measure).form
    found, missing = [], {}
    for name in (finding.better, finding.worse):
        scores, gaps = read.scores(study.arms[name], measure, sources.get(name, ()))
        found.append(scores)
        if not scores:
            missing[name] = next(iter(gaps.values()), "it was not asked for")
    obstacles = [f"{name} is missing ({why})" for name, why in missing.items()]
    if len(missing) == 2 and len(set(missing.values())) == 1:
        obstacles = [f"both arms are missing ({missing[finding.better]})"]
    if obstacles:
        return Judged(finding, judge(finding.better, finding.worse, None, obstacles, unit, form), "", [])
    difference, remarks = _difference(found[0], found[1], outcome.metric(measure).best)
    (truth, holes), (others_truth, others_holes) = (
        pictures[name].same if name in pictures else ("", "") for name in (finding.better, finding.worse)
    )
    if truth == others_truth and holes != others_holes and measure.split == "test":
        remarks.append("The arms complete the same pictures with different holes.")
    if difference is None:
        obstacles.append("no seed has run in both arms")
    if scale == SMALL:
        obstacles.append(f"the scale {SMALL} never judges")
    if any(_random(source) for name in (finding.better, finding.worse) for source in sources[name]):
        obstacles.append("perceptual weights are random in these runs")
    verdict = judge(finding.better, finding.worse, difference, obstacles, unit, form)
    return Judged(finding, verdict, seen(difference, unit, form) if difference else "", remarks)


def _difference(
    better: Mapping[int, Scores], worse: Mapping[int, Scores], best: str
) -> tuple[Estimate | None, list[str]]:
    """How much better the one arm is, and what is to be known of the comparison.

    The same seeds and completions of both are compared. Where there are none in common, as the arms complete
    different pictures, it is the difference of their means.
    """
    seeds = [seed for seed in better if seed in worse]
    if not seeds:
        return None, []
    one, other = ([_favoured(arm[seed], best) for seed in seeds] for arm in (better, worse))
    paired = [
        {key: mine[key] - theirs[key] for key in mine.keys() & theirs.keys()}
        for mine, theirs in zip(one, other, strict=True)
    ]
    remarks = []
    if lone := sorted({*better, *worse} - {*seeds}):
        remarks.append(f"Seed {', '.join(map(str, lone))} has run in one of the arms alone, and is left out.")
    if matrix := _matrix(paired):
        if alone := _alone(*one, *other):
            remarks.append(f"{alone} completions that not both arms have in every seed are left out.")
        return estimate(matrix.scores), remarks
    matrices = [_matrix(arm) for arm in (one, other)]
    if not matrices[0] or not matrices[1]:
        return None, ["The seeds of an arm have completed no picture in common."]
    remarks.append("The arms complete different pictures, so the difference is that of two means.")
    return unpaired(estimate(matrices[0].scores), estimate(matrices[1].scores)), remarks


def _common(tables: Sequence[Scores]) -> set[Key]:
    """The completions that all tables of scores have."""
    first, *others = tables
    return set(first).intersection(*others)


def _alone(*tables: Scores) -> int:
    """How many completions some tables of scores have, and not all."""
    return len(set[Key]().union(*tables) - _common(tables))


def _favoured(scores: Scores, best: str) -> Scores:
    """Scores of which more is better: of a ratio, minus its distance from 1 as a logarithm."""
    signed: dict[str, Callable[[float], float]] = {
        "high": lambda value: value,
        "low": lambda value: -value,
        "one": lambda value: -abs(float(np.log(max(value, 1e-9)))),
    }
    return {key: signed[best](value) for key, value in scores.items()}


def _random(source: Source) -> bool:
    return any(key.endswith("perceptual_weights") and value == "random" for key, value in source.parameters.items())
