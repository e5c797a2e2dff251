"""What there is to complete: frozen holes joined to their pictures, in batches.

The one place that hands pictures with holes to a system. **Leak rule**: the truth under a hole is
zeroed here, before anything else sees the picture. And the one place that writes what systems
make of them: results are composited here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from stages.images.sampling import sample
from stages.images.table import COMPLETED, Key, Table, Writer, writing_pictures
from stages.runs.errors import InputError


@dataclass(frozen=True)
class Batch:
    """Some rows of the work, in its order."""

    known: np.ndarray  # uint8 N x H x W x 3, zero under the hole
    hole: np.ndarray  # bool N x H x W, True = missing
    keys: list[Key]  # image_id, path
    kinds: list[str]

    def title(self, row: int) -> str:
        """A row as a person knows it: `'000123.jpg', hole 'centre'`."""
        return f"'{self.keys[row][1]}', hole '{self.kinds[row]}'"


@dataclass(frozen=True)
class Work:
    """Rows of a table of holes, each with the row of its picture; in the order of the holes."""

    aligned: Table
    holes: Table
    split: str  # of the pictures
    picture_rows: np.ndarray  # int64, rows of `aligned`
    hole_rows: np.ndarray  # int64, rows of `holes`, rising
    keys: list[Key]
    kinds: list[str]

    def __len__(self) -> int:
        return len(self.hole_rows)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.aligned.size

    def only(self, rows: np.ndarray) -> Work:
        """These rows of the work (int64, rising)."""
        return replace(
            self,
            picture_rows=self.picture_rows[rows],
            hole_rows=self.hole_rows[rows],
            keys=[self.keys[row] for row in rows],
            kinds=[self.kinds[row] for row in rows],
        )

    def count_batches(self, rows: int) -> int:
        """How many batches of `rows` rows there are."""
        return -(-len(self) // rows)

    def batches(self, rows: int) -> Iterator[Batch]:
        """The work in batches of at most `rows` rows."""
        for start in range(0, len(self), rows):
            part = slice(start, start + rows)
            hole = self.holes.holes(self.hole_rows[part])
            known = self.aligned.pictures(self.picture_rows[part])
            known[hole] = 0  # the leak rule
            yield Batch(known, hole, self.keys[part], self.kinds[part])


def select(
    aligned: Path,
    masks: Path,
    count: int | None = None,
    kinds: Sequence[str] | None = None,
    split: str = "test",
) -> Work:
    """The frozen holes of `masks`/<split>.arrow with their pictures of `aligned`/<split>.arrow.

    `count` limits the pictures that have holes to those of the smallest keyed hash (the same for every
    system; a picture added or withdrawn moves at most one other); `kinds` names the kinds to keep.
    None means all. Raises InputError where the folders do not fit each other, where a kind is unknown,
    and where nothing is left to do.
    """
    pictures, holes = Table(aligned / f"{split}.arrow"), Table(masks / f"{split}.arrow")
    keys, labels = holes.keys(), holes.column("kind")
    if keys and pictures.size != holes.size:
        raise InputError(f"{holes.path}: holes of {holes.size}, pictures of {pictures.size}; run `dvc repro`")
    if unknown := sorted(set(kinds or ()) - set(labels)):
        raise InputError(f"kinds: no '{unknown[0]}' in {holes.path}; it has: {', '.join(sorted(set(labels)))}")
    homes = pictures.find([key[:2] for key in keys])
    chosen = set(sample(list(dict.fromkeys(key[:2] for key in keys)), count))
    rows = [row for row, key in enumerate(keys) if key[:2] in chosen and (kinds is None or labels[row] in kinds)]
    if not rows:
        raise InputError(f"{holes.path}: no holes to complete; add pictures or kinds")
    return Work(
        aligned=pictures,
        holes=holes,
        split=split,
        picture_rows=homes[rows],
        hole_rows=np.array(rows, np.int64),
        keys=[keys[row][:2] for row in rows],
        kinds=[labels[row] for row in rows],
    )


def to_complete(
    aligned: Path, masks: Path, count: int | None, train_count: int, kinds: Sequence[str] | None
) -> list[Work]:
    """What a system completes: test pictures, and then `train_count` training pictures, if any; as `select` has them.

    Raises InputError as `select` does, and where fewer training pictures have frozen holes.
    """
    works = [select(aligned, masks, count, kinds)]
    if train_count:
        holes = Table(masks / "train.arrow")
        if (there := len(set(zip(holes.column("image_id"), holes.column("path"), strict=True)))) < train_count:
            raise InputError(
                f"train_count: {train_count}, but {holes.path} has holes for {there} training pictures: lower it, or "
                "raise the dataset's mask.train_sample"
            )
        works.append(select(aligned, masks, train_count, kinds, split="train"))
    return works


def composite(known: np.ndarray, guide: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """The result: `guide` in the hole, elsewhere the input's own bytes. uint8 N x H x W x 3 both, bool N x H x W."""
    return np.where(hole[..., None], guide, known)


@dataclass(frozen=True)
class Results:
    """A system's two tables, row by row as the work has them, split by split; use `writing_results`."""

    completed: Writer
    guide: Writer

    def append(self, batch: Batch, guide: np.ndarray, split: str) -> None:
        """`guide`: the system's own whole pictures for `batch`, uint8 N x H x W x 3; written with their composites.

        `split` is that of the pictures.
        """
        results = composite(batch.known, guide, batch.hole)
        for result, whole, key, kind in zip(results, guide, batch.keys, batch.kinds, strict=True):
            self.completed.append(result, *key, kind, split)
            self.guide.append(whole, *key, kind, split)


@contextmanager
def writing_results(folder: Path, size: tuple[int, int]) -> Iterator[Results]:
    """Makes `folder` and writes its completed.arrow (composited) and guide.arrow (before compositing)."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        writing_pictures(folder / "completed.arrow", size, COMPLETED) as completed,
        writing_pictures(folder / "guide.arrow", size, COMPLETED) as guide,
    ):
        yield Results(completed, guide)
