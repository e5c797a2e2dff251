"""A user's photo: what systems see of it, and the file's own samples, colours and metadata, which a result keeps."""

from __future__ import annotations

import io
import warnings
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flows.restoration.marking import LONGEST
from stages.images.decode import png
from stages.images.decode.picture import BadPicture
from stages.images.decode.read import stored, to_picture, upright
from stages.images.opencv import cv2
from stages.runs.errors import InputError

DEEP = "16-bit samples cut to 8 bits"  # the decoder's remark
XMP = b"XML:com.adobe.xmp\0"  # the keyword of a PNG's text that is an XMP packet
BYTES = 512 << 20  # of a file; larger ones are refused before they are read


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo. Pictures are upright: EXIF's orientation has been applied."""

    name: str  # of its file, without folders
    data: bytes  # the file
    view: np.ndarray  # uint8 H x W x 3, sRGB: what systems see
    own: np.ndarray  # the file's own samples: uint8 or uint16, H x W (mode L) or H x W x channels
    mode: str  # L, LA, RGB or RGBA
    profile: bytes | None  # the ICC profile of `own`
    remarks: tuple[str, ...]  # what was odd about the file
    turned: bool = False  # by EXIF's orientation

    @property
    def bits(self) -> int:
        return self.own.dtype.itemsize * 8


def load(path: Path) -> Photo:
    """The photo in a file. Raises InputError where it cannot be read, or holds no usable picture."""
    try:
        if path.stat().st_size > BYTES:
            raise InputError(f"{path}: larger than {BYTES >> 20} MiB; give a smaller file")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give a photo's file") from None
    return read_photo(data, path.name, str(path))


def read_photo(data: bytes, name: str, where: str = "") -> Photo:
    """The photo in a file's bytes. Raises InputError, which begins with `where` (default: its name), for none."""
    try:
        held = stored(data)
        picture = to_picture(held)
    except BadPicture as error:
        raise InputError(f"{where or name}: {error}; give a photo that opens elsewhere") from None
    own, mode, profile, remarks = held.pixels, held.mode, held.profile, picture.remarks
    if mode == "CMYK":  # no PNG has it
        own, mode, profile = picture.pixels, "RGB", None
        remarks = (*remarks, "CMYK became sRGB")
    else:
        if DEEP in remarks or any(remark.startswith("16-bit grey") for remark in remarks):
            own = _deep(data, own, where or name)
            remarks = tuple(remark for remark in remarks if remark != DEEP)
        own = np.ascontiguousarray(upright(own, held.orientation))
    return Photo(name, data, picture.pixels, own, mode, profile, remarks, held.orientation != 1)


def _deep(data: bytes, cut: np.ndarray, where: str) -> np.ndarray:
    """All 16 bits of a picture of which `cut` has the upper eight. Raises InputError where they cannot be had."""
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    whole: Any = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if whole is not None and whole.dtype == np.uint16:
        if whole.ndim == 3:
            whole = whole[..., [2, 1, 0, 3][: whole.shape[2]]]
            if cut.ndim == 2:
                whole = whole[..., 0]
            elif cut.shape[2] == 2:  # grey with alpha, which OpenCV spreads over four channels
                whole = whole[..., [0, 3]]
        if whole.shape == cut.shape and np.array_equal(whole >> 8, cut):
            return np.asarray(whole)
    raise InputError(f"{where}: its 16-bit samples cannot be kept; save it as a 16-bit RGB or grey PNG first")


def exif(photo: Photo) -> bytes:
    """The file's EXIF data, byte for byte but for the orientation, which is 1 now; empty where it has none."""
    from PIL import ExifTags

    block = bytearray(_metadata(photo)[0].removeprefix(b"Exif\0\0"))
    order = {b"II": "little", b"MM": "big"}.get(bytes(block[:2]))
    if order is None or len(block) < 14:
        return b""
    number = lambda start, size: int.from_bytes(block[start : start + size], order)  # type: ignore[arg-type]  # noqa: E731
    first = number(4, 4)
    for entry in range(first + 2, min(first + 2 + 12 * number(first, 2), len(block) - 11), 12):
        if number(entry, 2) == ExifTags.Base.Orientation:
            block[entry + 8 : entry + 10] = (1).to_bytes(2, order)  # type: ignore[arg-type]
    return bytes(block)


def xmp(photo: Photo) -> bytes:
    """The file's XMP packet; empty where it has none."""
    return _metadata(photo)[1]


def _metadata(photo: Photo) -> tuple[bytes, bytes]:
    """The file's EXIF data and XMP packet, each empty where there is none that can be read."""
    if photo.data.startswith(png.SIGNATURE):
        return _of_png(photo.data)
    from PIL import Image

    with warnings.catch_warnings():  # on odd tags, which do not matter here
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(photo.data)) as picture:
                block, packet = picture.info.get("exif"), picture.info.get("xmp")
                if picture.format == "TIFF":
                    tags = picture.getexif()
                    block, packet = block or tags.tobytes(), packet or tags.get(700)
        except Exception:  # on broken metadata Pillow's reader raises nearly anything
            return b"", b""
    return block or b"", packet if isinstance(packet, bytes) else b""


def _of_png(data: bytes) -> tuple[bytes, bytes]:
    """The same of a PNG, by its chunks: Pillow opens none with a long text, and sees none behind the pixels."""
    block = packet = b""
    for name, body, intact in png.chunks(data):
        if intact and name == b"eXIf":
            block = block or body
        elif intact and name == b"iTXt" and body.startswith(XMP):
            # Behind the keyword: compressed or not, the method, two texts that end in a zero (PNG, 11.3.3).
            compressed, rest = body[len(XMP) :][:1], body[len(XMP) + 2 :].split(b"\0", 2)[2:]
            with suppress(zlib.error):
                packet = b"".join(rest) if compressed == b"\0" else _unpacked(b"".join(rest))
    return block, packet


def _unpacked(data: bytes) -> bytes:
    return zlib.decompressobj().decompress(data, LONGEST + 1)


def own_chunks(photo: Photo) -> list[tuple[bytes, bytes]]:
    """Of a PNG the chunks that say how it is shown, and its texts; without its XMP packet, EXIF and profile."""
    if not photo.data.startswith(png.SIGNATURE):
        return []
    kept = (b"sRGB", b"gAMA", b"cHRM", b"cICP", b"pHYs", b"tEXt", b"zTXt", b"iTXt", b"tIME")
    found = ((name, body) for name, body, intact in png.chunks(photo.data) if name in kept and intact)
    return [(name, body) for name, body in found if not body.startswith(XMP)]
