"""A training's history: no step is lost, and whatever the loss, it has the columns that dvc.yaml plots."""

import csv
import os
import signal
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import small_training
import torch
from pretend import NO_CHECKPOINT, NO_TABLE
from ruamel.yaml import YAML

from stages.images import table
from stages.runs import params
from stages.runs.params import Runtime
from stages.training.distributed import DistributedContext
from stages.training.examples import Examples
from stages.training.params import Training
from stages.training.run import STATE, Inputs, Run
from stages.training.training_set import training_set

PIPELINE = YAML(typ="safe").load(Path(__file__).parents[2] / "dvc.yaml")
TRAININGS = [stage for stage in PIPELINE["stages"] if stage.startswith("train_")]
SIZE = 64  # a context encoder takes no less


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("aligned")
    pixels = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8)
    with table.writing_pictures(folder / "train.arrow", (SIZE, SIZE), table.ALIGNED) as writer:
        for i, picture in enumerate(pixels):
            writer.append(picture, f"id{i}", f"{i}.png", None, None)
    return folder


def plotted(stage: str) -> set[str]:
    """The columns of a training's history that dvc.yaml plots, for each entry or for one."""
    names: set[str] = set()
    for plot in PIPELINE["stages"][stage]["do"]["plots"]:
        for how in plot.values():
            names |= {how["x"], *np.atleast_1d(how["y"]).tolist()}
    for plot in PIPELINE["plots"]:
        for how in plot.values():
            for file, columns in how["y"].items():
                if file == f"data/histories/{stage.removeprefix('train_')}.csv":
                    names |= {how["x"], *columns}
    return names


# What a loss needs beside its name.
ALSO: dict[tuple[str, str], dict[str, object]] = {
    ("objective", "hinge"): {"r1": 1.0, "d_norm": "none"},
    ("loss", "liu"): {"terms": {"perceptual": 0, "style": 0}},
}
SMALL: dict[str, dict[str, object]] = {
    "train_dcgan": {"kernel": 4},
    "train_context_encoder": {"bottleneck": 4, "encoder": "alexnet"},
    "train_dmfn": {"blocks": 1, "d_width": 1, "holes": {"centre": {}}},
    "train_autoencoder": {"holes": {"centre": {}}},
    "train_partial_conv": {"holes": {"centre": {}}},
}


def losses() -> list[tuple[str, dict[str, object]]]:
    """Every choice of every training's `loss` and `objective`, and each term of DMFN's alone."""
    found: list[tuple[str, dict[str, object]]] = []
    for stage in TRAININGS:
        module = import_module(f"stages.{stage}")
        chosen = [field for field in fields(module.Params) if field.name in ("loss", "objective")]
        for field in chosen:
            options = get_args(get_type_hints(module.Params)[field.name])
            assert len(options) > 1
            found += [(stage, {field.name: option} | ALSO.get((field.name, option), {})) for option in options]
        if stage == "train_dmfn":
            terms = sorted(set(module.TERMS) - set(module.OF_VGG))
            found += [(stage, dict.fromkeys(terms, 0) | {term: 1.0}) for term in terms]
    return found


@pytest.mark.parametrize(("stage", "changes"), losses(), ids=str)
def test_history_has_what_dvc_plots_whatever_the_loss(
    stage: str, changes: dict[str, object], aligned: Path, tmp_path: Path
) -> None:
    """Two steps, fewer than `log_every`, are one row."""
    section = {"dataset": "x", "steps": 2, "batch": 2, "width": 1, **SMALL[stage], **changes}
    history = small_training.run(stage, aligned, tmp_path, section).history
    with history.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2"]
    wanted = plotted(stage)
    assert len(wanted) > 1
    assert wanted <= set(rows[0])
    assert all(np.isfinite(float(value)) for value in rows[0].values())


def run(aligned: Path, steps: int, log_every: int, stop: int | None = None) -> str:
    """The history of a run whose loss is the number of the step, stopped before step `stop` is over."""
    given = params.build(Training, {"dataset": "x", "steps": steps, "batch": 2, "log_every": log_every}, "t")
    inputs = Inputs(aligned / "train.arrow", NO_TABLE, NO_CHECKPOINT)
    examples = Examples(training_set(inputs, given, "t"), 2, {}, False, 0)
    with Run("a", "x", {}, given, inputs, {}, examples, DistributedContext(Runtime(threads=1))) as one:
        for step in one.steps():
            one.log({"loss": torch.tensor(float(step))})
            if step == stop:
                os.kill(os.getpid(), signal.SIGTERM)
        return one.history_csv()


@pytest.mark.parametrize(
    ("steps", "log_every", "rows"),
    [
        (25, 10, ["10,4.5", "20,14.5", "25,22"]),  # lost the last five
        (5, 10, ["5,2"]),  # was empty
        (20, 10, ["10,4.5", "20,14.5"]),  # as ever
        (1, 10, ["1,0"]),
        (3, 1, ["1,0", "2,1", "3,2"]),
    ],
)
def test_every_step_is_in_a_row(
    steps: int, log_every: int, rows: list[str], aligned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STATE, str(tmp_path))
    assert run(aligned, steps, log_every).splitlines() == ["step,loss", *rows]


@pytest.mark.parametrize("stop", [3, 19, 21, 23, 24])
def test_a_run_that_was_stopped_has_the_same_rows(
    stop: int, aligned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a window, at its end, within the last one that is not full, and after the last step."""
    monkeypatch.setenv(STATE, str(tmp_path))
    with pytest.raises(SystemExit):
        run(aligned, 25, 10, stop)
    assert run(aligned, 25, 10).splitlines() == ["step,loss", "10,4.5", "20,14.5", "25,22"]
