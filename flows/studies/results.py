"""From the experiments of a study to its numbers, verdicts and page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

from flows.checkout.git import Git
from flows.process import atomic_folder
from flows.studies import figure, outcome, page, tables
from flows.studies.compare import Scores, by_picture, common, difference, left_out
from flows.studies.experiment import Experiment
from flows.studies.outcome import Judged, Number, Pictures, Results, Source
from flows.studies.study import Arm, Finding, Measure, Run, Study
from flows.studies.verdict import estimate, judge, seen
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
            return Source(
                run.seed, run.experiment, None, run.failure or "it has not been run at this commit", {}, {}, {}
            )
        try:
            made = self._opened(run.commit)
            of = made.checkpoints(arm.system), made.histories(arm.system), made.parameters(arm.system)
        except InputError as error:
            return Source(run.seed, run.experiment, run.commit, str(error), {}, {}, {})
        return Source(run.seed, run.experiment, run.commit, None, *of)

    def scores(self, arm: Arm, measure: Measure, sources: Sequence[Source]) -> tuple[dict[int, Scores], dict[int, str]]:
        """The arm's scores by seed, and why there are none of the other seeds."""
        found: dict[int, Scores] = {}
        gaps: dict[int, str] = {}
        for source in sources:
            try:
                if source.commit is None or source.failure:
                    raise InputError(str(source.failure))
                own = outcome.taken(measure, arm)
                made = self._opened(source.commit)
                found[source.seed] = made.scores(arm.system, own.metric, own.kind, own.split, own.blending)
            except InputError as error:
                gaps[source.seed] = str(error)
        return found, gaps

    def pictures(self, arm: Arm, sources: Sequence[Source]) -> Pictures | None:
        """Those of the first seed that has them, of the split that the first measure takes of the arm."""
        split = outcome.taken(next(iter(self._study.measures.values())), arm).split
        for source in sources:
            try:
                if source.commit and not source.failure:
                    return self._opened(source.commit).pictures(arm.system, source.seed, split)
            except InputError:
                continue
        return None


def _number(study: Study, read: _Reader, arm: Arm, name: str, sources: Sequence[Source]) -> Number:
    found, gaps = read.scores(arm, study.measures[name], sources)
    published = [each for each in study.published if (each.arm, each.measure) == (arm.name, name)]
    runs = [*found.values()]
    keys = common(runs) if runs else []
    if not keys:
        remark = "The seeds have completed no picture in common." if runs else ""
        return Number(arm.name, name, None, {}, gaps, remark, published)
    scores = by_picture(runs, keys)
    by_seed = {seed: float(row.mean()) for seed, row in zip(found, scores, strict=True)}
    less = left_out(runs)
    remark = f"{less} completions that not every seed has are left out." if less else ""
    return Number(arm.name, name, estimate(scores), by_seed, gaps, remark, published)


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
    compared = difference(found[0], found[1], outcome.metric(measure).best)
    remarks = compared.remarks
    (truth, holes), (others_truth, others_holes) = (
        pictures[name].same if name in pictures else ("", "") for name in (finding.better, finding.worse)
    )
    if truth == others_truth and holes != others_holes and measure.split == "test":
        remarks.append("The arms complete the same pictures with different holes.")
    if compared.obstacle:
        obstacles.append(compared.obstacle)
    if scale == SMALL:
        obstacles.append(f"the scale {SMALL} never judges")
    if any(_random(source) for name in (finding.better, finding.worse) for source in sources[name]):
        obstacles.append("perceptual weights are random in these runs")
    verdict = judge(finding.better, finding.worse, compared.estimate, obstacles, unit, form)
    return Judged(finding, verdict, seen(compared.estimate, unit, form) if compared.estimate else "", remarks)


def _random(source: Source) -> bool:
    return any(key.endswith("perceptual_weights") and value == "random" for key, value in source.parameters.items())
