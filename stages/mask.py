"""The frozen evaluation holes: every model meets the same ones.

For each picture of val and test, and for a fixed sample of train, one hole of each kind. Each is
drawn from (seed, image_id, kind's label) alone, and the sample is that of the smallest hashes:
adding a picture moves no hole of another.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from stages.images import holes, sampling, table
from stages.runs import command
from stages.runs.errors import InputError
from stages.runs.params import STRICT


@dataclass(frozen=True, config=STRICT)
class Params:
    seed: int  # of every draw
    # training pictures that get frozen holes: the first in the order of a training's `pictures`
    train_sample: Annotated[int, Field(ge=0)]
    kinds: holes.Kinds  # kind, or a label -> options

    def __post_init__(self) -> None:
        holes.validate_kinds(self.kinds)


Row = tuple[np.ndarray, table.Key, str]  # hole, picture, label


def draw_holes(pictures: table.Table, chosen: set[table.Key], params: Params, skipped: Counter[str]) -> Iterator[Row]:
    """The holes of the chosen pictures, in the table's order, kinds in the parameters' order.

    `skipped` counts, by label, the pictures that a kind cannot be drawn on (`eye_bar` without landmarks).
    """
    kinds = {label: holes.kind_of(label, options) for label, options in params.kinds.items()}
    for key, points in zip(pictures.keys(), pictures.landmarks(), strict=True):
        if key not in chosen:
            continue
        for label, (kind, options) in kinds.items():
            rng = holes.keyed_rng(params.seed, key[0], label)
            try:
                yield holes.draw(kind, pictures.size, rng, points, **options), key, label
            except holes.Unplaceable:
                skipped[label] += 1


def mask(aligned: Path, masks: Path, params: Params, name: str) -> dict[str, Any]:
    """Draw and freeze the holes of a dataset: train.arrow, val.arrow and test.arrow of `masks`.

    Returns the record's notes: how many pictures a kind of hole could not be drawn on, by its label.
    """
    masks.mkdir()
    skipped: Counter[str] = Counter()
    for split in table.SPLITS:
        pictures = table.Table(aligned / f"{split}.arrow")
        count = params.train_sample if split == "train" else None
        chosen = set(sampling.sample(pictures.keys(), count))
        with table.writing_holes(masks / f"{split}.arrow", pictures.size) as writer:
            try:
                for hole, key, label in draw_holes(pictures, chosen, params, skipped):
                    writer.append(table.pack(hole), *key, label, float(hole.mean()))
            except holes.BadHole as error:
                raise InputError(f"params.yaml: datasets.{name}.mask.kinds: {error}") from None
    for label, count in sorted(skipped.items()):
        print(f"mask@{name}: {label}: no hole for {count} pictures without usable landmarks", file=sys.stderr)
    return {"skipped": dict(skipped)}


if __name__ == "__main__":
    command.run(
        mask,
        sections={"params": "datasets.{name}.mask"},
        inputs=("aligned",),
        outputs=("masks",),
    )
