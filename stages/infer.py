"""Completion in one pass: the classical baselines that every learned system must beat.

Each (test picture, kind of hole) of the frozen holes is completed, in their order. The truth under
a hole is gone before a system sees the picture (`stages/images/batches.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from stages.images import batches
from stages.images.table import Table
from stages.models import classical
from stages.runs import command
from stages.runs.errors import InputError
from stages.runs.params import STRICT


@dataclass(frozen=True, config=STRICT)
class Params:
    """One system: a network, or a baseline, and what it completes."""

    network: str  # one of NETWORKS
    dataset: str  # a key of `datasets`; wired in dvc.yaml
    count: Annotated[int, Field(ge=1)] | None = None  # test pictures, those of the smallest keyed hash; null: all
    kinds: tuple[str, ...] | None = None  # labels of the dataset's mask.kinds; null: all
    radius: Annotated[float, Field(gt=0)] = 3.0  # pixels; telea and navier_stokes alone

    def __post_init__(self) -> None:
        if self.network not in NETWORKS:
            raise ValueError(f"network must be one of {', '.join(NETWORKS)}")


# known uint8 N x H x W x 3 (zeros under the hole), hole bool N x H x W -> whole pictures as known.
Complete = Callable[[np.ndarray, np.ndarray], np.ndarray]


def telea(params: Params, aligned: Path) -> Complete:
    return partial(classical.telea, radius=params.radius)


def navier_stokes(params: Params, aligned: Path) -> Complete:
    return partial(classical.navier_stokes, radius=params.radius)


def mean(params: Params, aligned: Path) -> Complete:
    picture = classical.mean_picture(training_pictures(params, aligned))
    return lambda known, hole: np.broadcast_to(picture, known.shape)


def nearest(params: Params, aligned: Path) -> Complete:
    return partial(classical.nearest, train=training_pictures(params, aligned))


# What makes a system ready, by name; each loads what it needs, and nothing before.
NETWORKS: dict[str, Callable[[Params, Path], Complete]] = {
    "telea": telea,
    "navier_stokes": navier_stokes,
    "mean": mean,
    "nearest": nearest,
}


def training_pictures(params: Params, aligned: Path) -> Table:
    """The dataset's training split; InputError where it is empty."""
    train = Table(aligned / "train.arrow")
    if not len(train):
        raise InputError(
            f"network '{params.network}' needs training pictures and dataset '{params.dataset}' has none: "
            "choose telea or navier_stokes, or a dataset with use: train"
        )
    return train


def infer(aligned: Path, masks: Path, inpainted: Path, params: Params, name: str) -> None:
    """Complete the test pictures: `inpainted` gets completed.arrow and guide.arrow, row by row as the holes are."""
    from tqdm import tqdm

    work = batches.select(aligned, masks, count=params.count, kinds=params.kinds)
    complete = NETWORKS[params.network](params, aligned)
    rows = classical.batch_rows(work.size)
    with batches.writing_results(inpainted, work.size) as results:
        for batch in tqdm(work.batches(rows), total=work.count_batches(rows), desc=name, unit="batch", disable=None):
            results.append(batch, complete(batch.known, batch.hole))


if __name__ == "__main__":
    command.run(
        infer,
        sections={"params": "infer.{name}"},
        inputs=("aligned", "masks"),
        outputs=("inpainted",),
    )
