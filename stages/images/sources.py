"""What a source's folder holds, with what its lists say of each picture; nothing is decoded."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
import pickle
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stages.images.table import SPLITS
from stages.runs.errors import InputError

# A file with such a name is an input; others (lists, notes) are not.
SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".tif", ".tiff", ".bmp", ".gif"}
SUFFIXES |= {".ppm", ".pgm", ".pbm", ".pnm"}
SUFFIXES |= {".heic", ".heif", ".hif", ".avif"}

TRAIN_OR_VAL = "train or val"  # an official training set without a validation set of its own

LANDMARKS = tuple(
    f"{point}_{axis}" for point in ("lefteye", "righteye", "nose", "leftmouth", "rightmouth") for axis in "xy"
)
PICTURES = "pictures.csv"  # optional, in any source's root: what is known of single pictures
COLUMNS = ("licence", "consent", "origin", "identity", "split", "group", "purpose", "collected")
DATE = re.compile(r"\d{4}(-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01]))?)?")  # ISO 8601: a day, a month or a year


@dataclass(frozen=True, slots=True)
class Item:
    """One input, not yet read. `path` is relative to the source's root, with slashes."""

    path: str
    content: Path | np.ndarray  # a file, or uint8 RGB pixels, H x W x 3
    split: str | None = None  # the official one, or TRAIN_OR_VAL
    identity: str | None = None  # who is shown
    landmarks: tuple[float, ...] | None = None  # in the order of LANDMARKS, in upright pixels
    licence: str | None = None  # these three where they differ from the dataset's
    consent: str | None = None
    origin: str | None = None
    group: str | None = None  # by which scores are compared
    purpose: str | None = None  # why it was collected
    collected: str | None = None  # when, as DATE
    reason: str | None = None  # why it is refused unread


def find(source: str, root: Path) -> list[Item]:
    """Every input of the source below `root`, sorted by path.

    Raises InputError where the folder is missing or empty, or a list in it cannot be read.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; set this dataset's `root`")
    items = sorted(SOURCES[source](root), key=lambda item: item.path)
    if not items:
        raise InputError(f"{root}: no pictures found for source '{source}'")
    return [replace(item, identity=_one_spelling(item.identity)) for item in _annotated(root, items)]


def _one_spelling(name: str | None) -> str | None:
    """A person's name without the differences that nobody sees: macOS decomposes letters, lists hold stray spaces."""
    return unicodedata.normalize("NFC", name).strip() or None if name else None


def folder(root: Path) -> list[Item]:
    """All pictures below `root`; landmarks from `landmarks.csv`, where there is one (as CelebA's csv has it)."""
    points = _landmarks(root, "landmarks.csv")
    return [replace(item, landmarks=points.get(item.path)) for item in files(root)]


def celeba(root: Path) -> list[Item]:
    """CelebA (Liu et al. 2015): `img_align_celeba/` and its lists, in `root` or, as shipped, in Img, Anno and Eval."""
    home = next((home for home in (root, root / "Img") if (home / "img_align_celeba").is_dir()), None)
    if home is None:
        raise InputError(f"{root / 'img_align_celeba'}: no such folder; unpack img_align_celeba.zip there")
    splits, people = _partition(root), _identities(root)
    points = _landmarks(root, "list_landmarks_align_celeba*")

    def known(item: Item) -> Item:
        name = Path(item.path).name
        return replace(item, split=splits.get(name), identity=people.get(name), landmarks=points.get(name))

    return [known(item) for item in files(root, home / "img_align_celeba")]


def celeba_hq(root: Path) -> list[Item]:
    """CelebA-HQ (Karras et al. 2018): pictures named by index, in `root` or, as CelebAMask-HQ has it, `CelebA-HQ-img/`.

    `CelebA-HQ-to-CelebA-mapping.txt` (idx orig_idx orig_file), where present, leads to CelebA's partition and people.
    """
    home = root / "CelebA-HQ-img"
    originals = {
        int(row[0]): row[2]
        for file in _lists(root, "CelebA-HQ-to-CelebA-mapping.txt")
        for row in _rows(file, 3)
        if row[0].isdecimal()  # not the header
    }
    splits, people = _partition(root), _identities(root)

    def known(item: Item) -> Item:
        index = re.search(r"\d+$", Path(item.path).stem)
        name = originals.get(int(index[0]), "") if index else ""
        return replace(item, split=splits.get(name), identity=people.get(name))

    return [known(item) for item in files(root, home if home.is_dir() else root)]


def lfw(root: Path) -> list[Item]:
    """Labeled Faces in the Wild (Huang et al. 2007): `<Name>/<Name>_NNNN.jpg`; the folder names the person."""
    return [replace(item, identity=Path(item.path).parent.name or None) for item in files(root)]


def scenes(root: Path) -> list[Item]:
    """Places and SUN: `<class>/.../*.jpg`; nobody is meant."""
    return list(files(root))


def cifar10(root: Path) -> list[Item]:
    """CIFAR-10 (Krizhevsky 2009), the python batches: data_batch_1 to 5 are for training, test_batch is for testing."""
    files = [*sorted(root.rglob("data_batch_[0-9]")), *sorted(root.rglob("test_batch"))]
    if not files:
        raise InputError(f"{root}: no data_batch_1 or test_batch; unpack cifar-10-python.tar.gz there")
    return [
        Item(
            path=f"{file.relative_to(root).as_posix()}/{index:05d}",
            content=pixels,
            split="test" if file.name == "test_batch" else TRAIN_OR_VAL,
        )
        for file in files
        for index, pixels in enumerate(_batch(file))
    ]


SOURCES: dict[str, Callable[[Path], list[Item]]] = {
    "portraits": folder,
    "folder": folder,
    "celeba": celeba,
    "celeba_hq": celeba_hq,
    "lfw": lfw,
    "cifar10": cifar10,
    "places": scenes,
    "scenes": scenes,
}


def files(root: Path, start: Path | None = None) -> Iterator[Item]:
    """The pictures below `start`, itself below `root`. Hidden names are skipped, linked folders not entered.

    A link out of the root is refused: what it leads to is no part of the dataset. One into DVC's cache is, as
    `dvc config cache.type symlink` makes them.
    """
    home = Path(os.path.realpath(root))
    for place, folders, names in os.walk(start or root, onerror=_unlistable):
        linked = [name for name in folders if Path(place, name).is_symlink()]
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in [*linked, *names]:
            file = Path(place, name)
            if name.startswith(".") or (name not in linked and file.suffix.lower() not in SUFFIXES):
                continue
            reason = None
            target = Path(os.path.realpath(file)) if file.is_symlink() else file
            if target is not file and home not in target.parents and not _in_a_cache(target):
                reason = "outside the root (symlink)"
            elif name in linked:
                continue  # what it leads to is met in its own place
            elif not file.is_file():
                reason = "not a file"
            path = file.relative_to(root).as_posix()
            try:
                path.encode()
            except UnicodeEncodeError:
                path, reason = os.fsencode(path).decode("utf-8", "backslashreplace"), "name is not UTF-8"
            yield Item(path, file, reason=reason)


def _in_a_cache(file: Path) -> bool:
    """Whether a file is an object in a DVC cache: `files/md5/` and the md5 of its bytes, parted after two digits."""
    *_, files, md5, first, rest = ["", "", "", *file.parts]
    if (files, md5) != ("files", "md5") or not file.is_file():
        return False
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "md5").hexdigest() == first + rest


def _unlistable(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot be listed: {error.strerror}")


# ---------------------------------------------------------------------------------------------------------------------
# The lists beside the pictures.


def _lists(root: Path, pattern: str) -> list[Path]:
    """The txt and csv files of that name in `root` and in the folders that CelebA ships its lists in."""
    places = (root, root / "Anno", root / "Eval")
    return [file for place in places for file in sorted(place.glob(pattern)) if file.suffix in (".txt", ".csv")]


def _table(file: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a list. A csv has a header; a txt, as CelebA ships it, has one below a count, or none."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix == ".csv":
            header, *rows = csv.reader(io.StringIO(text, newline="")) if text else [[]]
        else:
            header, *rows = [[], *map(str.split, text.splitlines())]
            if rows and len(rows[0]) == 1:
                header, *rows = rows[1:] or [[]]
    except (OSError, UnicodeDecodeError, csv.Error):
        raise InputError(f"{file}: cannot be read as UTF-8 text") from None
    return header, [row for row in rows if row]


def _rows(file: Path, width: int) -> list[list[str]]:
    """The rows of a list, each of which must have `width` fields."""
    _, rows = _table(file)
    for row in rows:
        if len(row) != width:
            raise InputError(f"{file}: {width} fields expected, {len(row)} found in the row {' '.join(row)[:60]!r}")
    return rows


def _partition(root: Path) -> dict[str, str]:
    splits = {}
    for file in _lists(root, "list_eval_partition.*"):
        for name, number in _rows(file, 2):
            if number not in ("0", "1", "2"):
                raise InputError(f"{file}: {name!r}: the partition must be 0, 1 or 2 (got {number!r})")
            splits[name] = SPLITS[int(number)]
    return splits


def _identities(root: Path) -> dict[str, str]:
    return {name: person for file in _lists(root, "identity_CelebA.*") for name, person in _rows(file, 2)}


def _landmarks(root: Path, pattern: str) -> dict[str, tuple[float, ...]]:
    points = {}
    for file in _lists(root, pattern):
        if tuple(_table(file)[0][-len(LANDMARKS) :]) != LANDMARKS:
            raise InputError(f"{file}: its header must end in {','.join(LANDMARKS)}")
        for name, *numbers in _rows(file, 1 + len(LANDMARKS)):
            try:
                points[name] = tuple(float(number) for number in numbers)
            except ValueError:
                raise InputError(f"{file}: {name!r}: ten numbers expected") from None
            if not all(map(math.isfinite, points[name])):
                raise InputError(f"{file}: {name!r}: ten finite numbers expected")
    return points


def _annotated(root: Path, items: list[Item]) -> list[Item]:
    """`items` with what `pictures.csv` says of them: `path` and any of COLUMNS; an empty field says nothing."""
    file = root / PICTURES
    if not file.is_file():
        return items
    header, _ = _table(file)
    unknown = sorted(set(header) - {"path", *COLUMNS})
    if "path" not in header or unknown:
        wrong = f"unknown column {unknown[0]!r}" if unknown else "no column 'path'"
        raise InputError(f"{file}: {wrong}; columns: path, {', '.join(COLUMNS)}")
    notes: dict[str, dict[str, Any]] = {}
    for row in _rows(file, len(header)):
        note = {column: value for column, value in zip(header, row, strict=True) if value}
        path = note.pop("path", "")
        if note.get("split", "test") not in SPLITS:
            raise InputError(f"{file}: {path!r}: split must be one of {', '.join(SPLITS)} (got {note['split']!r})")
        if not DATE.fullmatch(note.get("collected", "2026")):
            raise InputError(
                f"{file}: {path!r}: collected must be a date as 2026-11-27, 2026-11 or 2026 (got {note['collected']!r})"
            )
        notes[path] = note
    strangers = sorted(notes.keys() - {item.path for item in items})
    if strangers:
        raise InputError(f"{file}: no picture {strangers[0]!r} in {root}; mend its path or remove its row")
    return [replace(item, **notes.get(item.path, {})) for item in items]


# ---------------------------------------------------------------------------------------------------------------------
# CIFAR-10's pickles, without running what they may hold.


class _Arrays(pickle.Unpickler):
    """An unpickler that knows numpy arrays and nothing else."""

    ALLOWED = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def _batch(file: Path) -> np.ndarray:
    """A batch file's pictures, uint8 N x 32 x 32 x 3."""
    try:
        with file.open("rb") as stream:
            data = _Arrays(stream, encoding="bytes").load()[b"data"]
        if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3 * 32 * 32:
            raise ValueError("its data are not N x 3072 bytes")
    except Exception as error:  # a foreign pickle raises nearly anything
        raise InputError(f"{file}: no CIFAR-10 batch ({error}); unpack cifar-10-python.tar.gz again") from None
    return data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
