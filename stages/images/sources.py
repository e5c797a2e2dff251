"""Pictures of any kind and from any source: one decoder for the whole project, and one list of inputs.

`decode`: the size is read from the header by Pillow before anything is decoded, so that a bomb costs
nothing. Plain JPEG (8-bit, three channels or grey) is decoded by `cv2.imdecode`, the fastest;
every other form by Pillow, which converts them and raises where bytes are missing.

`find`: what a source's folder holds, with what its lists say of each picture; nothing is decoded.
"""

from __future__ import annotations

import csv
import io
import math
import os
import pickle
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stages.images.opencv import cv2
from stages.images.table import SPLITS
from stages.runs.errors import InputError

MAX_PIXELS = 100_000_000
MAX_SIDE = 32_767  # cv2's warps cannot read a longer side

# Not Pillow's whole list: some of its readers start other programs (EPS runs Ghostscript).
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM")

# How files of these formats begin: what starts so and cannot be read is a damaged picture, not another thing.
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"RIFF", b"II*\0", b"MM\0*", b"GIF8")

PNG_END = b"IEND\xaeB`\x82"

ORIENTATION = 0x0112  # the EXIF tag

# In entropy-coded JPEG data, 0xFF before 0x00 is a byte and before 0xD0..0xD7 a restart; else it is a marker.
JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


class BadPicture(Exception):
    """Bytes that are no usable picture; the message is the reason, a short stable phrase."""


def decode(data: bytes) -> np.ndarray:
    """A picture file's bytes as uint8 RGB, H x W x 3, upright.

    EXIF orientation is applied; grey, palette, CMYK and 16-bit pictures are converted (16 bits
    lose the lower eight), alpha and transparent colours lie over white. Of several frames the
    first counts. Raises BadPicture: "empty file", "not a picture", "too large: W x H",
    "truncated", "corrupt", "unsupported pixels: MODE".
    """
    if not data:
        raise BadPicture("empty file")
    # Pillow's own limit warns or raises without the size; `_refuse_large` says it.
    Image.MAX_IMAGE_PIXELS = None
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception:  # on foreign bytes Pillow's readers raise nearly anything
        raise BadPicture("corrupt" if data.startswith(SIGNATURES) else "not a picture") from None
    with picture:
        _refuse_large(*picture.size)
        if picture.format in ("JPEG", "MPO") and picture.mode in ("RGB", "L"):
            pixels = _jpeg(data)
        elif picture.format == "PNG" and PNG_END not in data:
            raise BadPicture("truncated")
        else:
            pixels = _converted(picture)
        return np.ascontiguousarray(_upright(pixels, _orientation(picture)))


def _refuse_large(width: int, height: int) -> None:
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise BadPicture(f"too large: {width} x {height}")


def _jpeg(data: bytes) -> np.ndarray:
    # cv2 fills the missing part of a truncated JPEG with grey and says nothing.
    if not _ends(data):
        raise BadPicture("truncated")
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        bgr = None
    if bgr is None:
        raise BadPicture("corrupt")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def _ends(data: bytes) -> bool:
    """Whether a JPEG's own end marker is there, not that of a thumbnail in its header; bytes behind it do not count."""
    position = 2
    while match := JPEG_MARKER.search(data, position):
        marker, position = data[match.end() - 1], match.end()
        if marker == 0xD9:
            return True
        if marker == 0x01:  # the one other marker without a length
            continue
        if position + 2 > len(data):
            return False
        position += struct.unpack_from(">H", data, position)[0]
    return False


def _converted(picture: Image.Image) -> np.ndarray:
    try:
        picture.load()
        mode = picture.mode
        if mode.startswith("I"):  # 16-bit grey, for which some formats have 32 bits
            grey = (np.clip(np.asarray(picture).astype(np.int64), 0, 0xFFFF) >> 8).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            white = Image.new("RGBA", picture.size, "white")
            return np.asarray(Image.alpha_composite(white, picture).convert("RGB"))
        if mode != "F":
            return np.asarray(picture.convert("RGB"))
    except Exception as error:  # on corrupt bytes Pillow's decoders raise nearly anything
        raise BadPicture("truncated" if "truncated" in str(error).lower() else "corrupt") from None
    raise BadPicture(f"unsupported pixels: {mode}")


def _orientation(picture: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 where there is none or none can be read."""
    try:
        value = picture.getexif().get(ORIENTATION, 1)
    except Exception:  # Pillow's EXIF reader raises nearly anything; the pixels are still good
        return 1
    return value if value in range(1, 9) else 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo the camera's orientation (EXIF 2.32, tag 0x0112): orientations above 4 swap the axes first."""
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    # Where row 0 and column 0 of the stored picture lie when it stands upright.
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


# ---------------------------------------------------------------------------------------------------------------------
# What a source's folder holds.

# A file with such a name is an input; others (lists, notes) are not.
SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"}
SUFFIXES |= {".ppm", ".pgm", ".pbm", ".pnm"}
SUFFIXES |= {".heic", ".heif", ".avif"}  # cannot be read, but should be seen among the rejected

TRAIN_OR_VAL = "train or val"  # an official training set without a validation set of its own

LANDMARKS = tuple(
    f"{point}_{axis}" for point in ("lefteye", "righteye", "nose", "leftmouth", "rightmouth") for axis in "xy"
)
PICTURES = "pictures.csv"  # optional, in any source's root: what is known of single pictures
COLUMNS = ("licence", "consent", "origin", "identity", "split")


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
    return _annotated(root, items)


def folder(root: Path) -> list[Item]:
    """All pictures below `root`; landmarks from `landmarks.csv`, where there is one (as CelebA's csv has it)."""
    points = _landmarks(root, "landmarks.csv")
    return [replace(item, landmarks=points.get(item.path)) for item in _files(root)]


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

    return [known(item) for item in _files(root, home / "img_align_celeba")]


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

    return [known(item) for item in _files(root, home if home.is_dir() else root)]


def lfw(root: Path) -> list[Item]:
    """Labeled Faces in the Wild (Huang et al. 2007): `<Name>/<Name>_NNNN.jpg`; the folder names the person."""
    return [replace(item, identity=Path(item.path).parent.name or None) for item in _files(root)]


def scenes(root: Path) -> list[Item]:
    """Places and SUN: `<class>/.../*.jpg`; nobody is meant."""
    return list(_files(root))


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


def _files(root: Path, start: Path | None = None) -> Iterator[Item]:
    """The pictures below `start`, itself below `root`. Hidden names are skipped, linked folders not entered."""
    home = Path(os.path.realpath(root))
    for place, folders, names in os.walk(start or root, onerror=_unlistable):
        linked = [name for name in folders if Path(place, name).is_symlink()]
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in [*linked, *names]:
            file = Path(place, name)
            if name.startswith(".") or (name not in linked and file.suffix.lower() not in SUFFIXES):
                continue
            reason = None
            if file.is_symlink() and home not in Path(os.path.realpath(file)).parents:
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
