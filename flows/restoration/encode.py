"""A completed photo as a file: in the hole the new pixels, elsewhere the photo's own samples."""

from __future__ import annotations

import struct
import zlib

import numpy as np

from flows.restoration import marking
from flows.restoration.photo import XMP, Photo, exif, own_chunks, xmp
from stages.images.decode.colour import from_srgb
from stages.images.decode.png import SIGNATURE
from stages.images.opencv import cv2
from stages.runs.errors import InputError

# At 24 megapixels zlib's usual level takes five times as long as its first, for a tenth less; and this one filter half
# as long as the choice of one for each row.
FAST = [cv2.IMWRITE_PNG_COMPRESSION, 1]
if hasattr(cv2, "IMWRITE_PNG_FILTER"):  # not in older versions
    FAST += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]
FORMATS = ("png", "jpg")


def encode(photo: Photo, pixels: np.ndarray, hole: np.ndarray, kind: str = "png") -> bytes:
    """A file of the photo with `pixels` (uint8 H x W x 3, sRGB) in the hole (bool H x W), marked as such.

    A PNG has the photo's own samples elsewhere, bit for bit. A JPEG is compressed anew, by the tables of the photo's
    own file where that is a JPEG: pixels outside the hole may change a little. Size, bit depth (a JPEG: 8 bits), ICC
    profile, EXIF and XMP stay; the orientation has been applied.

    Raises InputError where the photo has what the format has not.
    """
    samples = merged(photo, pixels, hole)
    if kind == "jpg":
        return _jpeg(photo, samples)
    chunks = own_chunks(photo)
    if photo.profile:
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(photo.profile, 9)))
    if block := exif(photo):
        chunks.append((b"eXIf", block))
    chunks.append((b"iTXt", XMP + bytes(4) + marking.marked(xmp(photo))))
    return _with_chunks(_png(samples), chunks)


def merged(photo: Photo, pixels: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """The photo's own samples with `pixels` in the hole, in the photo's own colours and depth; opaque there."""
    samples = photo.own.copy()
    if not hole.any():
        return samples
    colours = "L" if photo.mode in ("L", "LA") else "RGB"
    new = from_srgb(pixels[hole][None], colours, photo.profile)[0].astype(samples.dtype)
    if photo.bits == 16:
        new *= 257
    if samples.ndim == 2:
        samples[hole] = new
        return samples
    if photo.mode in ("LA", "RGBA"):
        new = np.column_stack([new, np.full(len(new), np.iinfo(samples.dtype).max, samples.dtype)])
    samples[hole] = new
    return samples


def _png(samples: np.ndarray) -> bytes:
    if samples.ndim == 3:
        # BGR; grey with alpha, which OpenCV does not write, as colours.
        samples = samples[..., [0, 0, 0, 1] if samples.shape[2] == 2 else [2, 1, 0, 3][: samples.shape[2]]]
    return cv2.imencode(".png", samples, FAST)[1].tobytes()


def _with_chunks(data: bytes, chunks: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG with more chunks behind its header (PNG 3rd edition, 5.3)."""
    start = len(SIGNATURE) + 25  # the header's chunk is the first, and has 13 bytes
    more = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    ]
    return b"".join([data[:start], *more, data[start:]])


def _jpeg(photo: Photo, samples: np.ndarray) -> bytes:
    import io
    from typing import Any

    from PIL import Image, JpegImagePlugin

    if photo.bits == 16 or photo.mode in ("LA", "RGBA"):
        raise InputError(f"{photo.name}: a JPEG has neither 16 bits nor transparency; leave out --format jpg")
    options: dict[str, Any] = {"quality": 95, "subsampling": 0}
    if photo.data.startswith(b"\xff\xd8"):
        with Image.open(io.BytesIO(photo.data)) as own:
            tables, sampling = own.quantization, JpegImagePlugin.get_sampling(own)  # type: ignore[attr-defined]
        if photo.mode == "L" or len(tables) > 1:
            options = {"qtables": tables, "subsampling": sampling if sampling >= 0 else 0}
    if block := exif(photo):
        options["exif"] = b"Exif\0\0" + block
    out = io.BytesIO()
    try:
        Image.fromarray(samples).save(
            out, "JPEG", icc_profile=photo.profile or None, xmp=marking.marked(xmp(photo)), **options
        )
    except ValueError as error:  # of EXIF and XMP a JPEG takes 64 KiB each
        raise InputError(f"{photo.name}: {error} for a JPEG; leave out --format jpg") from None
    return out.getvalue()
