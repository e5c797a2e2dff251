"""A dataset's test pictures, their holes, and what each system made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from stages.images.table import Key, Table
from stages.metrics.means import Means
from stages.pages.results import Folders
from stages.pages.scores import shown_of


class Completed:
    """What one system made of the test pictures: raw, and as its entries of `blend` have blended it.

    `keys` are the (image_id, path, kind) that it has completed. `tables` are those that are shown: the raw one under
    the system's name and "raw", a blended one under its entry's name and "blended". `scores` says of which entry each
    has its scores.
    """

    def __init__(self, folders: Folders, system: str, means: Mapping[str, Means]):
        def file(name: str, blending: str) -> Path:
            raw = blending == "raw"
            return folders.inpainted / name / "completed.arrow" if raw else folders.blended / name / "blended.arrow"

        self.tables = {shown: Table(file(*shown)) for shown in shown_of(system, means)}
        own, *_ = means
        self.scores = {(name, blending): own if blending == "raw" else name for name, blending in self.tables}
        self._rows = {shown: _test_rows(table) for shown, table in self.tables.items()}
        self.keys = set.intersection(*(set(rows) for rows in self._rows.values()))
        self.metrics = {metric for entry in means.values() for found in entry.values() for metric in found}

    def pictures(self, keys: Sequence[Key]) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
        """What is shown, as in `tables`, and its pictures (uint8 N x H x W x 3)."""
        for shown, table in self.tables.items():
            yield shown, table.pictures([self._rows[shown][key] for key in keys])


def _test_rows(table: Table) -> dict[Key, int]:
    keys = table.keys()
    return {keys[row]: row for row in table.splits().get("test", np.zeros(0, np.int64)).tolist()}


class Tried:
    """The test pictures of the dataset `name`, and the systems that were tried on them, by name.

    `means` are those of each system's entries of `blend`, the one with the system's own scores first.
    """

    def __init__(self, folders: Folders, name: str, means: Mapping[str, Mapping[str, Means]]):
        self.name = name
        self.systems = {system: Completed(folders, system, found) for system, found in means.items()}
        self._truth = Table(folders.aligned / name / "test.arrow")
        self._holes = Table(folders.masks / name / "test.arrow")
        self.size = self._truth.size  # height, width
        self._pictures = {key: row for row, key in enumerate(self._truth.keys())}
        self._masks = {key: row for row, key in enumerate(self._holes.keys())}

    def completed(self, kind: str) -> dict[str, set[Key]]:
        """The keys of this kind of hole that each system has completed; systems without any are left out."""
        done = {name: {key for key in made.keys if key[2] == kind} for name, made in self.systems.items()}
        return {name: keys & self._masks.keys() for name, keys in done.items() if keys}

    def before(self, keys: Sequence[Key]) -> tuple[np.ndarray, np.ndarray]:
        """The pictures as they were, and with the hole in white: each uint8 N x H x W x 3."""
        truth = self._truth.pictures([self._pictures[key[:2]] for key in keys])
        hole = self._holes.holes([self._masks[key] for key in keys])
        return truth, np.where(hole[..., None], np.uint8(255), truth)
