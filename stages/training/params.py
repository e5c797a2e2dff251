"""What every training stage is told, in its section of `params.yaml`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from stages.runs.params import NAME, STRICT, Name

NO_TABLE = "stages/images/no_table.txt"  # stands for no second dataset: DVC takes no empty dep


def _training_table(path: str) -> str:
    """`path`, if it is that of a dataset's training pictures: of its test pictures no network may learn."""
    if path != NO_TABLE and not re.fullmatch(f"data/aligned/{NAME}/train\\.arrow", path):
        raise ValueError(f"name data/aligned/DATASET/train.arrow, or {NO_TABLE} for none")
    return path


@dataclass(frozen=True, config=STRICT)
class Training:
    """What every training stage is told; each stage's `Params` adds its own."""

    dataset: Name  # the dataset whose training split it learns
    # the training pictures of a second dataset, learned with the first's: its data/aligned/DATASET/train.arrow;
    # that file: none
    also: Annotated[str, AfterValidator(_training_table)] = NO_TABLE
    pictures: Annotated[int, Field(ge=2)] | None = None  # of each dataset, the first of a fixed order; null: all
    start: str = "stages/models/no_checkpoint.txt"  # a checkpoint to go on from; that file: random weights
    steps: Annotated[int, Field(ge=1)] = 1000  # updates of the network
    batch: Annotated[int, Field(ge=2)] = 16  # pictures a step, over all devices
    lr: Annotated[float, Field(gt=0)] = 2e-4  # Adam's learning rate
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0  # decay of the averaged network that is saved; 0: the last weights
    hflip: bool = True  # half of the pictures, drawn at random, are flipped left to right
    seed: Annotated[int, Field(ge=0)] = 1  # of the first weights, the order of the pictures, and the holes
    log_every: Annotated[int, Field(ge=1)] = 10  # steps between two rows of history
    sample_every: Annotated[int, Field(ge=1)] = 200  # steps between two sample sheets
    save_every: Annotated[int, Field(ge=1)] = 100  # steps between two states from which a killed training goes on

    def shaping(self) -> Mapping[str, Sequence[str]]:
        """Of each part of a checkpoint, the parameters beside its network's arguments that its weights depend on."""
        return {}
