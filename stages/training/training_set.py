"""What a training learns from: the pictures of one dataset or of two as one, all of them or the first of each."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stages.images.sampling import sample
from stages.images.table import Key, Table
from stages.runs import record
from stages.runs.errors import InputError
from stages.training.params import NO_TABLE

if TYPE_CHECKING:
    from stages.training.params import Training
    from stages.training.run import Inputs


class TrainingSet:
    """Some rows of one table of training pictures or of two, which count as one table.

    The first table's come first, each table's in its own order.
    """

    def __init__(self, tables: Mapping[str, Table], rows: Mapping[str, np.ndarray]):
        """`tables` and their `rows` (int64, rising), by the names that checkpoints and states have for them."""
        self.tables = dict(tables)
        self.size = next(iter(tables.values())).size  # (height, width)
        self._homes = np.repeat(np.arange(len(tables)), [len(rows[name]) for name in tables])
        self._rows = np.concatenate([rows[name] for name in tables])

    def __len__(self) -> int:
        return len(self._rows)

    @functools.cached_property
    def digests(self) -> dict[str, str]:
        """md5 of each table."""
        return {name: record.digest(table.path) for name, table in self.tables.items()}

    def read(self, rows: np.ndarray, out: np.ndarray) -> np.ndarray:
        """uint8 N x H x W x 3, those of the given rows, written into `out` (contiguous)."""
        for number, table in enumerate(self.tables.values()):
            here = self._homes[rows] == number
            if here.all():
                return table.pictures(self._rows[rows], out)
            out[here] = table.pictures(self._rows[rows[here]])
        return out

    def landmarks(self) -> np.ndarray:
        """float32 N x 5 x 2 of every row, as `Table.landmarks`."""
        return np.concatenate([table.landmarks() for table in self.tables.values()])[self._places()]

    def keys(self) -> list[Key]:
        """(image_id, path) of every row."""
        every = [*chain.from_iterable(map(Table.keys, self.tables.values()))]
        return [every[place] for place in self._places()]

    def title(self, row: int) -> str:
        """A row's picture as a person knows it, with the table that has it."""
        table = [*self.tables.values()][self._homes[row]]
        return f"{table.path}: {table.keys()[self._rows[row]][1]}"

    def by_table(self, seen: np.ndarray) -> dict[str, np.ndarray]:
        """Of a mark (bool) for each row, the marks of all rows of each table; those left out have none."""
        found = {}
        for number, (name, table) in enumerate(self.tables.items()):
            here = self._homes == number
            found[name] = np.zeros(len(table), bool)
            found[name][self._rows[here]] = seen[here]
        return found

    def joined(self, marks: Mapping[str, np.ndarray]) -> np.ndarray:
        """The inverse of `by_table`: a mark (bool) for each row."""
        return np.concatenate([marks[name] for name in self.tables])[self._places()]

    def _places(self) -> np.ndarray:
        """Where each row is in the tables laid one behind the other."""
        starts = np.cumsum([0, *(len(table) for table in self.tables.values())])
        return starts[self._homes] + self._rows


def training_set(inputs: Inputs, params: Training, section: str) -> TrainingSet:
    """The pictures that a training learns: of the table `inputs.train`, and of `inputs.also`, which may be NO_TABLE.

    With `params.pictures`, of each table the first by `sample`: the same in every training, and part of what
    a training of more pictures learns. `section` names the training's parameters in `params.yaml`.

    Raises InputError for a table without pictures or with fewer than are asked for, for two tables of pictures of
    different sizes, and for one table given twice.
    """
    train, also = inputs.train, inputs.also
    tables = {"data": Table(train)}
    if also.name != Path(NO_TABLE).name:
        tables["also"] = Table(also)
    for key, table in zip(("dataset", "also"), tables.values(), strict=False):
        if not len(table):
            raise InputError(
                f"{table.path}: holds no training pictures; name a dataset with use: train in {section}.{key}"
            )
    sizes = ["{} x {}".format(*table.size) for table in tables.values()]
    if len(set(sizes)) > 1:
        raise InputError(
            f"{also}: pictures of {sizes[1]}, and those of {train} are {sizes[0]}: give both datasets one align.side"
        )
    found = TrainingSet(tables, {name: _first(table, params.pictures, section) for name, table in tables.items()})
    if len(set(found.digests.values())) < len(tables):
        raise InputError(
            f"params.yaml: {section}.also: {also} has the pictures of {train}: name another dataset, or {NO_TABLE}"
        )
    return found


def _first(table: Table, count: int | None, section: str) -> np.ndarray:
    if count is None:
        return np.arange(len(table))
    if count > len(table):
        raise InputError(
            f"params.yaml: {section}.pictures: {count}, and {table.path} has {len(table)}: ask for no more"
        )
    keys = table.keys()
    chosen = set(sample(keys, count))
    return np.array([row for row, key in enumerate(keys) if key in chosen], np.int64)
