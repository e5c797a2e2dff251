"""The studies that come with the project: each can be planned, at each scale, with what its stages take."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.lineage import dvc_lock
from flows.studies import arms, estimate, idle, study
from flows.studies.arms import Base, Planned
from stages.runs import params

ROOT = Path(__file__).parents[2]
SCALES = [(name, scale) for name in study.names(ROOT) for scale in study.load(ROOT, name).scales]


def planned(name: str, scale: str) -> tuple[study.Study, list[Planned]]:
    """The runs of the first seed."""
    found = study.load(ROOT, name)
    chosen = study.scale(found, scale, 1)
    text = (ROOT / chosen.base).read_text(encoding="utf-8")
    begun = Base(chosen.base, text, params.load(ROOT / chosen.base))
    idle.refuse(found, scale, chosen, begun, dvc_lock.read(ROOT / "dvc.yaml"))
    return found, arms.plan(found, scale, chosen, begun, {})


def trainings(run: Planned) -> Iterator[tuple[str, str]]:
    pipeline = dvc_lock.read(ROOT / "dvc.yaml")
    for stage in estimate.stages(run.values, run.systems, pipeline):
        section, _, name = stage.name.partition("@")
        if section in params.TRAININGS:
            yield section, name


def test_every_experiment_of_the_reports_has_a_study_of_two_scales() -> None:
    by_report = {f"report{number}" for number in range(1, 6)}
    assert {name.partition("-")[0] for name in study.names(ROOT)} == by_report
    assert all((name, scale) in SCALES for name in study.names(ROOT) for scale in ("small", "report"))
    for name, scale in SCALES:
        assert study.load(ROOT, name).scales[scale].seeds >= (5 if scale == "report" else 3)


@pytest.mark.parametrize(("name", "scale"), SCALES)
def test_every_training_of_a_run_has_a_seed_and_what_dvc_asks_for(name: str, scale: str) -> None:
    """`start` and `also` have a default for the stage, and none for dvc.yaml, which makes dependencies of them."""
    found, runs = planned(name, scale)
    assert {arm for run in runs for arm in run.arms} == set(found.arms)
    seeded = set()
    for run in runs:
        for section, entry in trainings(run):
            seeded.add(f"{section}.{entry}.seed")
            assert {"start", "also"} <= run.values[section][entry].keys()
    assert seeded == set(found.seed)


@pytest.mark.parametrize(("name", "scale"), SCALES)
def test_what_is_measured_of_training_pictures_is_completed(name: str, scale: str) -> None:
    found, runs = planned(name, scale)
    for run in runs:
        for arm in (found.arms[arm] for arm in run.arms):
            splits = [arm.split or measure.split for measure in found.measures.values()]
            system = run.values["blend"][arm.system]["system"]
            entry = run.values["search"].get(system) or run.values["infer"][system]
            assert "train" not in splits or entry.get("train_count", 0) > 0
