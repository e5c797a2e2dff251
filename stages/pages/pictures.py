"""A dataset's test pictures, their holes, and what each system made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from stages.images.table import Key, Table
from stages.metrics.means import Means
from stages.pages.results import Folders
from stages.pages.scores import blendings


class Completed:
    """What one system made. `rows` says where each (image_id, path, kind) lies in its raw and blended table."""

    def __init__(self, folders: Folders, system: str, means: Means):
        raw = Table(folders.inpainted / system / "completed.arrow")
        blended = Table(folders.blended / system / "blended.arrow")
        places = [{key: row for row, key in enumerate(table.keys())} for table in (raw, blended)]
        self.size = raw.size
        self.rows = {key: (row, places[1][key]) for key, row in places[0].items() if key in places[1]}
        self.metrics = {metric for found in means.values() for metric in found}
        self.tables = dict(zip(blendings(means), (raw, blended), strict=False))

    def pictures(self, keys: Sequence[Key]) -> Iterator[tuple[str, np.ndarray]]:
        """ "raw" and its pictures (uint8 N x H x W x 3), then "blended" and its, where blending changes any."""
        for number, (blending, table) in enumerate(self.tables.items()):
            yield blending, table.pictures([self.rows[key][number] for key in keys])


class Tried:
    """The test pictures of the dataset `name`, and the systems that were tried on them, by name."""

    def __init__(self, folders: Folders, name: str, means: Mapping[str, Means]):
        self.name = name
        self.systems = {system: Completed(folders, system, found) for system, found in means.items()}
        self._truth = Table(folders.aligned / name / "test.arrow")
        self._holes = Table(folders.masks / name / "test.arrow")
        self.size = self._truth.size  # height, width
        self._pictures = {key: row for row, key in enumerate(self._truth.keys())}
        self._masks = {key: row for row, key in enumerate(self._holes.keys())}

    def completed(self, kind: str) -> dict[str, set[Key]]:
        """The keys of this kind of hole that each system has completed; systems without any are left out."""
        done = {name: {key for key in made.rows if key[2] == kind} for name, made in self.systems.items()}
        return {name: keys & self._masks.keys() for name, keys in done.items() if keys}

    def before(self, keys: Sequence[Key]) -> tuple[np.ndarray, np.ndarray]:
        """The pictures as they were, and with the hole in white: each uint8 N x H x W x 3."""
        truth = self._truth.pictures([self._pictures[key[:2]] for key in keys])
        hole = self._holes.holes([self._masks[key] for key in keys])
        return truth, np.where(hole[..., None], np.uint8(255), truth)
