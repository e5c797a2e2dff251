"""Pictures that Pillow decodes: TIFF, WebP, AVIF, GIF, BMP, PPM, PNG's pixels, and HEIC through `pillow-heif`.

Pillow raises where bytes are missing. BMP, PPM and uncompressed TIFF have no checksum, and in WebP and
HEIC most changed bytes give another valid picture: there damage cannot be told. Pillow's decoder of
AVIF makes up what it cannot read; OpenCV's, where it has one, refuses that.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, TiffImagePlugin, features

from stages.images.decode import gif, tiff
from stages.images.decode.picture import BadPicture, Stored, first_of, orientation_in, refuse_large
from stages.images.opencv import cv2

# Not Pillow's whole list: some of its readers start other programs (EPS runs Ghostscript).
FORMATS = ("WEBP", "BMP", "GIF", "PPM")

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SIGNATURES = (b"RIFF", b"GIF8")  # what starts so and cannot be read is a damaged picture, not another thing

# Pillow's warnings on odd tags name no file; what they tell of is in the reason or does not matter.
warnings.filterwarnings("ignore", module=r"PIL\.")

AVIF = {b"avif", b"avis"}
HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}


def read(data: bytes) -> Stored:
    """The pixels of any file that is neither JPEG nor PNG.

    Raises BadPicture: "not a picture", "corrupt", "truncated", "too large: W x H", "unsupported pixels: ...",
    or what to install.
    """
    brands = _brands(data)
    if brands & AVIF:
        if not features.check("avif"):
            raise BadPicture("AVIF needs Pillow's codec: pip install 'pillow>=11.3'")
        result = _read(opened(io.BytesIO(data), ("AVIF",)))
        if not _opencv_agrees(data):
            raise BadPicture("corrupt")
        return result
    if brands & HEIC:
        return _heic(data)
    if data.startswith(TIFF):
        return _tiff(data)
    picture = opened(io.BytesIO(data), FORMATS, "corrupt" if data.startswith(SIGNATURES) else "not a picture")
    return _read(picture, gif.frames(data) if picture.format == "GIF" else 0)


def opened(stream: io.BytesIO, formats: tuple[str, ...], reason: str = "corrupt") -> Image.Image:
    """The picture in `stream`, not yet decoded and not too large; raises BadPicture with `reason` if there is none."""
    try:
        picture = Image.open(stream, formats=formats)
    except Exception:  # on foreign bytes Pillow's readers raise nearly anything
        raise BadPicture(reason) from None
    refuse_large(*picture.size)
    return picture


def stored(picture: Image.Image) -> Stored:
    """The pixels of an opened picture; raises BadPicture ("truncated", "corrupt", "unsupported pixels: ...")."""
    try:
        picture.load()
        mode = picture.mode
        if mode == "LAB":
            raise BadPicture("unsupported pixels: LAB")
        if mode == "F" or mode.startswith("I"):
            values = np.asarray(picture)
            if isinstance(picture, TiffImagePlugin.TiffImageFile):
                grey, remark = tiff.to_8_bits(values, picture.tag_v2)
                return Stored(grey, "L", [remark])
            if mode == "F":
                raise BadPicture("unsupported pixels: 32-bit float")
            # 16-bit grey, for which some formats have 32 bits.
            return Stored((np.clip(values, 0, 0xFFFF).astype(np.uint16) >> 8).astype(np.uint8), "L", [])
        if picture.has_transparency_data:
            mode = "LA" if mode in ("L", "LA", "La") else "RGBA"
        elif mode not in ("L", "CMYK"):
            mode = "L" if mode == "1" else "RGB"
        return Stored(np.asarray(picture if picture.mode == mode else picture.convert(mode)), mode, [])
    except BadPicture:
        raise
    except Exception as error:  # on corrupt bytes Pillow's decoders raise nearly anything
        raise BadPicture("truncated" if "truncated" in str(error).lower() else "corrupt") from None


def _read(picture: Image.Image, frames: int = 0) -> Stored:
    with picture:
        result = stored(picture)
        frames = frames or getattr(picture, "n_frames", 1)
        result.remarks += first_of(frames)
        profile = picture.info.get("icc_profile")
        result.profile = profile if isinstance(profile, bytes) else None
        try:
            result.orientation = orientation_in(picture.getexif())
        except Exception:  # as in `orientation_in`
            result.orientation = 1
        return result


def _tiff(data: bytes) -> Stored:
    try:
        picture = TiffImagePlugin.TiffImageFile(io.BytesIO(data))
    except Exception as error:
        raise BadPicture("unsupported pixels" if "unknown pixel mode" in str(error) else "corrupt") from None
    refuse_large(*picture.size)
    tiff.check_strips(picture, data)
    bits, kinds = picture.tag_v2.get(tiff.BITS, (1,)), picture.tag_v2.get(tiff.FORMAT, (1,))
    if tiff.SIGNED in kinds and picture.mode not in ("I", "F"):
        raise BadPicture(f"unsupported pixels: signed {bits[0]}-bit")
    result = _read(picture, tiff.pages(data))
    if len(bits) > 1 and max(bits) == 16:
        result.remarks.append("16-bit samples cut to 8 bits")
    return result


def _opencv_agrees(data: bytes) -> bool:
    """Whether OpenCV can read an AVIF; true where it has no codec for it."""
    if not cv2.haveImageWriter("of.avif"):
        return True
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # the reason is said in the table
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is not None
    except cv2.error:
        return False
    finally:
        cv2.utils.logging.setLogLevel(level)


def _heic(data: bytes) -> Stored:
    try:
        import pillow_heif  # an extra, and its codec is loaded for those who need it
    except ImportError:
        raise BadPicture("HEIC needs another package: pip install pillow-heif") from None
    try:
        file = pillow_heif.open_heif(io.BytesIO(data))
        refuse_large(*file.size)
        result = stored(file.to_pillow())
    except BadPicture:
        raise
    except Exception:  # on corrupt bytes it raises nearly anything
        raise BadPicture("corrupt") from None
    result.remarks += first_of(len(file))
    result.profile = file.info.get("icc_profile")  # libheif has turned the picture upright
    return result


def _brands(data: bytes) -> set[bytes]:
    """What kinds of the ISO base media file format a file says it is; the first box of such a file has the list."""
    if data[4:8] != b"ftyp":
        return set()
    size = min(int.from_bytes(data[:4], "big"), 1024)
    return {data[8:12], *(data[place : place + 4] for place in range(16, size - 3, 4))}
