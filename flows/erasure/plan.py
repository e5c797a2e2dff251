"""What an erasure would do: the pictures, where they are held, which checkpoints go and what stands in their place."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from flows.erasure import checkpoints, frames, pictures
from flows.erasure.checkpoints import Trained
from flows.erasure.contents import Search
from flows.erasure.needles import Needles
from flows.erasure.pictures import Person, Picture, Row
from flows.erasure.scan import Held, Scan, Scanner
from flows.lineage import locks, tables
from flows.lineage.digests import Digests
from flows.registry.history import Promoted
from stages.runs.errors import InputError

CROP_SIDES = (2, 4, 8)  # by which people enlarge small crops
TILE = 128  # pixels: sheets enlarge a crop as often as it goes into that (`stages/pages/sheets.py`)
PLAIN = (
    "has few details, is damaged, or its file is not here, so it cannot be found inside of other pictures (sheets, "
    "pages): look at those yourself"
)
SHEET = 256  # pixels: larger crops are shown smaller on sheets


@dataclasses.dataclass
class Sought:
    """All that is needed to look for pictures, also when they are gone: an interrupted erasure keeps it."""

    pictures: list[Picture]
    needles: Needles
    scales: tuple[int, ...]
    trained: list[Trained]
    rows: dict[int, set[int]]  # of tables of training pictures, by their number of rows: those of the pictures
    untold: list[str]  # what could not be read and might tell more, a line each
    person: Person | None = None  # who was named
    datasets: dict[str, int] = dataclasses.field(default_factory=dict)  # that have the person: how many pictures

    @property
    def ids(self) -> list[str]:
        """The image_ids, in the order of the numbers."""
        return [picture.image_id for picture in self.pictures]

    def scan(self, root: Path, shared: bool, before: Collection[str] = ()) -> Scan:
        """Search everything. `before` is the md5 of what was removed or rewritten already."""
        trained = {each.md5: each.pictures for each in self.trained}
        return Scanner(root, self.search(), self.pictures, trained, shared, before).run()

    def search(self) -> Search:
        """What looks for the pictures in anything."""
        pixels = {one.pixel_sha256: number for number, one in enumerate(self.pictures) if one.pixel_sha256}
        return Search(self.needles, self.ids, self.scales, pixels)

    @property
    def plain(self) -> list[str]:
        """The image_ids of pictures that cannot be found inside of other pictures: they are flat, or damaged."""
        known = self.needles.found_in_others()
        return [one for number, one in enumerate(self.ids) if number not in known]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is held, and what would become of it."""

    pictures: list[Picture]
    datasets: dict[str, int]  # of a person that was named: how many pictures each dataset has under that name
    held: list[Held]
    checkpoints: list[Trained]
    states: list[str]  # folders of interrupted trainings that have read a picture, or gone on from one of `checkpoints`
    promoted: Promoted | None  # that is withdrawn
    instead: dict[str, Any] | None  # the promotion that stands then: `commit`, `path`, `md5`; None: none, or no change
    seconds: float | None  # that the trainings of the next `dvc repro` will take about; None: not known
    files: int  # that were read
    objects: int  # on remotes
    blobs: int  # of Git
    bytes: int
    unread: list[str]
    plain: list[str]  # image_ids of pictures that cannot be found inside of other pictures

    @property
    def removed(self) -> list[Held]:
        """What would be removed, cleaned or written anew."""
        return [one for one in self.held if one.action != "keep"]

    @property
    def kept(self) -> list[Held]:
        """What would stay, each with its remedy."""
        return [one for one in self.held if one.action == "keep"]


def sought(root: Path, asked: Sequence[str], person: Person | None, exact: bool) -> Sought:
    """What to look for. Raises InputError as `pictures.find` does, and for a file that is nowhere."""
    digest = Digests(root)
    known = pictures.rows(root, digest)
    found = pictures.find(root, asked, person, exact, known)
    needles, scales, rows = _needles(root, found, known, [name for name in asked if Path(name).is_file()], digest)
    trained, untold = checkpoints.find(root, [picture.image_id for picture in found], digest)
    digest.save()
    datasets = {name: len(ids) for name, ids in pictures.of_person(person, known).items()} if person else {}
    wanted = Sought(found, needles, scales, trained, rows, untold, person, datasets)
    if not pictures.met(root, found, known) and not wanted.scan(root, False).held:
        raise InputError(f"{', '.join(asked)}: never taken in, nor a copy of it, and nowhere here; {pictures.LOOK}")
    return wanted


def _needles(
    root: Path, found: Sequence[Picture], known: Sequence[Row], files: Sequence[str], digest: Digests
) -> tuple[Needles, tuple[int, ...], dict[int, set[int]]]:
    """Pieces of the pictures' files, of their pixels and of their crops in aligned tables."""
    from hashlib import sha256

    ids = {picture.image_id: number for number, picture in enumerate(found)}
    needles = Needles()
    given = [(sha256(data).hexdigest(), data) for data in (Path(name).read_bytes() for name in files)]
    for image_id, data in [*pictures.contents(root, [*ids], known), *given]:
        if image_id in ids:
            needles.add_file(ids[image_id], data)
            for pixels in frames.of(data):  # of one that was rejected as damaged, the file alone is looked for
                needles.add_pixels(ids[image_id], "pixels", pixels)
    crops = _aligned(root, digest)
    rows: dict[int, set[int]] = {}
    scales = {1}
    for table, split in crops:
        mine = [(row, ids[one]) for row, one in enumerate(table.column("image_id")) if one in ids]
        if mine and split == "train":
            rows.setdefault(len(table), set()).update(row for row, _ in mine)
        for (_, number), crop in zip(mine, table.pictures([row for row, _ in mine]), strict=True):
            needles.add_pixels(number, "crop", crop)
            if (small := _on_sheets(crop)) is not None:
                needles.add_pixels(number, "crop", small)
            side = max(crop.shape[:2])
            scales |= {scale for scale in (*CROP_SIDES, TILE // side) if scale > 0 and scale * side <= SHEET}
    needles.ready()
    for table, _ in crops:
        others = [row for row, one in enumerate(table.column("image_id")) if one not in ids]
        for start in range(0, len(others), 1024):
            needles.drop(table.pictures(others[start : start + 1024]).reshape(-1))
    return needles, tuple(sorted(scales)), rows


def _aligned(root: Path, digest: Digests) -> list[tuple[Any, str]]:
    """The aligned tables that any `dvc.lock` names and that are here, and the split of each."""
    from stages.images.table import Table

    every = [tables.among(lock.files(), tables.ALIGNED) for lock in locks.every(root)]
    parts, _ = tables.parts(root, {table: None for named in every for table in named.items()}, digest)
    found = []
    for part in parts:
        try:
            found.append((Table(part.file), Path(part.path).stem))
        except InputError:
            continue
    return found


def _on_sheets(crop: Any) -> Any:
    """A large crop as contact sheets show it (`stages/pages/sheets.py`); None for one that is not made smaller."""
    import numpy as np
    from PIL import Image

    height, width = crop.shape[:2]
    if max(height, width) <= SHEET:
        return None
    shrink = SHEET / max(height, width)
    size = round(width * shrink), round(height * shrink)
    return np.asarray(Image.fromarray(crop).resize(size, Image.Resampling.BOX))


def make(root: Path, wanted: Sought, shared: bool, before: Collection[str] = ()) -> Plan:
    """Search everything, and say what would be done. `before` is the md5 of what was removed or rewritten already."""
    scan = wanted.scan(root, shared, before)
    withdrawn, instead = checkpoints.promoted(root, [each.md5 for each in wanted.trained])
    stands = None
    if withdrawn and instead:
        stands = {"commit": instead.commit, "path": instead.decision.path, "md5": instead.decision.md5}
    again = [each.seconds for each in wanted.trained if each.current]
    seconds = sum(one for one in again if one) if all(one is not None for one in again) else None
    states = [str(folder) for folder in checkpoints.states(root, wanted.rows, scan.trained, before)]
    unread = [*wanted.untold, *scan.unread]
    return Plan(wanted.pictures, wanted.datasets, scan.held, wanted.trained, states, withdrawn, stands, seconds,
                scan.files, scan.objects, scan.blobs, scan.bytes, unread, wanted.plain)  # fmt: skip
