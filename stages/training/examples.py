"""What a network learns from: training pictures, each with a hole drawn afresh.

Everything random is keyed by (seed, step, place in the batch), and the order of pictures by
(seed, epoch): nothing has to be saved, and several processes that share a batch draw what one would.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stages.images import holes
from stages.images.tensors import to_tensor
from stages.runs.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from stages.training.distributed import DistributedContext
    from stages.training.training_set import TrainingSet


class Sampler:
    """Batches of row numbers: every picture once an epoch, in an order keyed by (seed, epoch).

    A last batch that would be short takes its missing rows from the next epoch. `seen` marks every
    row ever handed out.
    """

    def __init__(self, count: int, batch: int, seed: int):
        self.count, self.batch, self.seed = count, batch, seed
        self.seen = np.zeros(count, bool)
        self._orders: dict[int, np.ndarray] = {}

    def rows(self, step: int) -> np.ndarray:
        """The row numbers (int64, `batch` of them) of a step, counted from 0."""
        places = np.arange(step * self.batch, (step + 1) * self.batch)
        epochs, offsets = np.divmod(places, self.count)
        known, self._orders = self._orders, {}
        for epoch in map(int, np.unique(epochs)):  # several where they are shorter than the batch
            order = known.get(epoch)
            self._orders[epoch] = self._order(epoch) if order is None else order
        rows = np.array([self._orders[int(epoch)][offset] for epoch, offset in zip(epochs, offsets, strict=True)])
        self.seen[rows] = True
        return rows

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(self.count)


class Examples:
    """`pictures` in batches; with `kinds` each gets a hole.

    One of their labels is drawn for each picture, all as likely; where it cannot be placed (`eye_bar`
    without landmarks), another. `hflip` flips half of the pictures, drawn at random, left to right, with their holes.
    """

    def __init__(self, pictures: TrainingSet, batch: int, kinds: holes.Kinds, hflip: bool, seed: int):
        self.pictures, self.hflip, self.seed = pictures, hflip, seed
        self.labels = list(kinds)
        self.kinds = [holes.kind_of(label, options) for label, options in kinds.items()]
        self.sampler = Sampler(len(pictures), batch, seed)
        placed = [kind in holes.PLACED for kind, _ in self.kinds]
        self._landmarks = pictures.landmarks() if any(placed) else None
        if self._landmarks is not None and all(placed):  # now, not when such a picture comes
            for row in np.flatnonzero(np.isnan(self._landmarks[:, :2]).any(axis=(1, 2)))[:1]:
                raise self._without_landmarks(int(row))
        self._buffer: np.ndarray | None = None  # reused: new memory costs more than the reading

    def batch(self, step: int, context: DistributedContext) -> tuple[Tensor, Tensor]:
        """The process's part of a step's batch: image float32 N x 3 x H x W in [-1, 1], hole bool N x 1 x H x W."""
        rows = self.sampler.rows(step)
        part = range(context.rank, len(rows), context.size)
        return self._load(rows[part.start :: part.step], [(2, step, place) for place in part], context)

    def shown(self, count: int, context: DistributedContext) -> tuple[Tensor, Tensor]:
        """The first `count` pictures with fixed holes, for sheets; as `batch` gives them."""
        rows = np.arange(min(count, len(self.pictures)))
        return self._load(rows, [(3, 0, int(row)) for row in rows], context, hflip=False)

    def _load(
        self, rows: np.ndarray, keys: list[tuple[int, int, int]], context: DistributedContext, hflip: bool = True
    ) -> tuple[Tensor, Tensor]:
        import torch

        if self._buffer is None or len(self._buffer) != len(rows):
            self._buffer = np.empty((len(rows), *self.pictures.size, 3), np.uint8)
        image = to_tensor(self.pictures.read(rows, self._buffer), context.device)
        rngs = [np.random.default_rng([self.seed, *key]) for key in keys]
        flip = torch.tensor([rng.random() < 0.5 and self.hflip and hflip for rng in rngs], device=context.device)
        hole = torch.zeros(len(rows), 1, *self.pictures.size, dtype=torch.bool)
        if self.kinds:
            drawn = [self._draw(int(row), rng) for row, rng in zip(rows, rngs, strict=True)]
            hole = torch.from_numpy(np.stack(drawn)).unsqueeze(1)
        hole, flip = hole.to(context.device), flip[:, None, None, None]
        image = torch.where(flip, image.flip(3), image).contiguous(memory_format=torch.channels_last)
        return image, torch.where(flip, hole.flip(3), hole)

    def _draw(self, row: int, rng: np.random.Generator) -> np.ndarray:
        points = None if self._landmarks is None else self._landmarks[row]
        for number in rng.permutation(len(self.kinds)):
            kind, options = self.kinds[number]
            try:
                return holes.draw(kind, self.pictures.size, rng, points, **options)
            except holes.Unplaceable:
                continue
        raise self._without_landmarks(row)

    def _without_landmarks(self, row: int) -> InputError:
        return InputError(
            f"{self.pictures.title(row)} has no landmarks for {', '.join(self.labels)}: "
            "add a kind of hole that needs none to `holes`"
        )
