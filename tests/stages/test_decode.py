"""Decoding any bytes: what is damaged is refused, what is merely odd is kept with a remark, colours become sRGB."""

import contextlib
import io
import re
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import profiles_made as icc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps, ImageSequence, TiffImagePlugin

from stages.images.decode import jpeg, pillow
from stages.images.decode.picture import MAX_FRAMES, ORIENTATION, BadPicture
from stages.images.decode.read import decode, read

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

import soak_pictures

try:
    import pillow_heif as heif
except ImportError:  # an extra
    heif = None
with_heif = pytest.mark.skipif(heif is None, reason="pillow-heif is not installed")
HEIC = pytest.param("HEIC", marks=with_heif)


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def refused(*reasons: str) -> contextlib.AbstractContextManager:
    return pytest.raises(BadPicture, match=f"^({'|'.join(map(re.escape, reasons))})$")


def photo(height: int = 120, width: int = 160, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(cv2.GaussianBlur(noise, (0, 0), 2))


def one_colour(mode: str, colour: object, kind: str, **options: object) -> bytes:
    return encoded(Image.new(mode, (16, 12), colour), kind, **options)


def palette(**options: object) -> bytes:
    picture = Image.new("P", (16, 12), 1)
    picture.putpalette([0, 0, 0, 10, 200, 30])
    return encoded(picture, "PNG", **options)


def sixteen(*colour: int) -> bytes:
    pixels = np.full((12, 16, len(colour)), colour, np.uint16)
    return cv2.imencode(".png", pixels)[1].tobytes()


@pytest.mark.parametrize(
    ("data", "colour"),
    [
        (one_colour("RGB", (10, 200, 30), "PNG"), (10, 200, 30)),
        (one_colour("RGB", (10, 200, 30), "BMP"), (10, 200, 30)),
        (one_colour("RGB", (10, 200, 30), "TIFF"), (10, 200, 30)),
        (one_colour("RGB", (10, 200, 30), "WEBP", lossless=True), (10, 200, 30)),
        (one_colour("L", 77, "PNG"), (77, 77, 77)),
        (one_colour("L", 77, "JPEG"), (77, 77, 77)),
        (one_colour("1", 1, "PNG"), (255, 255, 255)),
        (palette(), (10, 200, 30)),
        (palette(transparency=1), (255, 255, 255)),
        (palette(transparency=bytes([255, 0])), (255, 255, 255)),
        (one_colour("RGB", (10, 200, 30), "PNG", transparency=(10, 200, 30)), (255, 255, 255)),
        (one_colour("RGBA", (100, 200, 0, 0), "PNG"), (255, 255, 255)),
        (one_colour("RGBA", (100, 200, 0, 51), "PNG"), (224, 244, 204)),  # 0.2 of the colour, 0.8 of white
        (one_colour("LA", (0, 51), "PNG"), (204, 204, 204)),
        (sixteen(0x4DFF), (0x4D, 0x4D, 0x4D)),
        (sixteen(0x10AA, 0x20BB, 0x30CC), (0x30, 0x20, 0x10)),  # cv2 writes BGR
        (one_colour("I;16", 0x4DFF, "TIFF"), (0x4D, 0x4D, 0x4D)),
        (one_colour("CMYK", (0, 255, 255, 0), "JPEG", quality=100), (255, 0, 0)),
        (one_colour("CMYK", (0, 0, 0, 255), "TIFF"), (0, 0, 0)),
    ],
)
def test_every_kind_of_pixels_becomes_rgb(data: bytes, colour: tuple[int, int, int]) -> None:
    pixels = decode(data)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (12, 16, 3)
    assert np.abs(pixels.astype(int) - colour).max() <= 1


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, [[1, 2, 3], [4, 5, 6]]),
        (2, [[3, 2, 1], [6, 5, 4]]),
        (3, [[6, 5, 4], [3, 2, 1]]),
        (4, [[4, 5, 6], [1, 2, 3]]),
        (5, [[1, 4], [2, 5], [3, 6]]),
        (6, [[4, 1], [5, 2], [6, 3]]),
        (7, [[6, 3], [5, 2], [4, 1]]),
        (8, [[3, 6], [2, 5], [1, 4]]),
        (9, [[1, 2, 3], [4, 5, 6]]),  # there is no 9
    ],
)
def test_exif_orientation(orientation: int, upright: list[list[int]]) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = Image.fromarray(np.array([[1, 2, 3], [4, 5, 6]], np.uint8))
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(decode(encoded(stored, kind, exif=exif))[..., 0], upright)
    jpeg = encoded(photo(), "JPEG", exif=exif)
    with Image.open(io.BytesIO(jpeg)) as opened:
        np.testing.assert_array_equal(decode(jpeg), np.asarray(ImageOps.exif_transpose(opened)))


def with_thumbnail(jpeg: bytes) -> bytes:
    """`jpeg` with a whole small JPEG, end marker and all, in a segment of its header."""
    small = encoded(photo(8, 8), "JPEG")
    return jpeg[:2] + b"\xff\xe2" + struct.pack(">H", len(small) + 2) + small + jpeg[2:]


WHOLE = {
    "jpeg": encoded(photo(), "JPEG"),
    "progressive": encoded(photo(), "JPEG", progressive=True),
    "restarts": encoded(photo(), "JPEG", restart_marker_blocks=2),
    "thumbnail": with_thumbnail(encoded(photo(), "JPEG")),
    "grey": encoded(photo().convert("L"), "JPEG"),
    "cmyk": encoded(photo().convert("CMYK"), "JPEG"),
    "png": encoded(photo(), "PNG"),
    "webp": encoded(photo(), "WEBP"),
    "bmp": encoded(photo(), "BMP"),
    "ppm": encoded(photo(), "PPM"),
}


@pytest.mark.parametrize("kind", WHOLE)
@settings(max_examples=15, deadline=None)
@given(part=st.floats(0, 1, exclude_max=True))
def test_a_truncated_picture_is_refused_unless_every_pixel_is_there(kind: str, part: float) -> None:
    data = WHOLE[kind]
    whole = decode(data)
    with contextlib.suppress(BadPicture):
        np.testing.assert_array_equal(decode(data[: int(len(data) * part)]), whole)


@pytest.mark.parametrize("kind", [kind for kind in WHOLE if kind != "webp"])
def test_half_a_picture_is_truncated_and_bytes_behind_a_whole_one_do_not_matter(kind: str) -> None:
    data = WHOLE[kind]
    with refused("truncated"):
        decode(data[: len(data) // 2])
    np.testing.assert_array_equal(decode(data + b"\xff\xd8 more \xff"), decode(data))


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(sorted(WHOLE)), data=st.data())
def test_damaged_bytes_give_a_picture_or_a_reason(kind: str, data: st.DataObject) -> None:
    damaged = bytearray(WHOLE[kind])
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BadPicture):
        pixels = decode(bytes(damaged))
        assert (pixels.dtype, pixels.ndim, pixels.shape[2]) == (np.uint8, 3, 3)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"Dear diary, ...", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),  # Pillow would start Ghostscript
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "corrupt"),
        (b"\xff\xd8\xff\xe0", "corrupt"),
    ],
)
def test_bytes_that_are_no_picture(data: bytes, reason: str) -> None:
    with refused(reason):
        decode(data)


def bomb() -> bytes:
    """A 1-bit grey PNG of 30,000 x 30,000: 109 kB that would be 2.7 GB of RGB."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(30_000 * (1 + 30_000 // 8)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_bomb_is_refused_in_no_time_and_little_memory(tmp_path: Path) -> None:
    file, small = tmp_path / "bomb.png", tmp_path / "small.png"
    file.write_bytes(bomb())
    small.write_bytes(one_colour("L", 0, "PNG"))
    assert 100_000 < file.stat().st_size < 120_000
    code = """
import pathlib, re, sys, time
from stages.images.decode.picture import BadPicture
from stages.images.decode.read import decode
data, small = (pathlib.Path(name).read_bytes() for name in sys.argv[1:])
decode(small)  # the readers are loaded at the first picture
start = time.process_time()
try:
    decode(data)
except BadPicture as bad:
    reason = bad
seconds = time.process_time() - start
# Not ru_maxrss: a child begins with its parent's.
peak = re.search(r"VmHWM:\\s*(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]
print(reason, seconds, peak, sep="|")
"""
    done = subprocess.run([sys.executable, "-c", code, file, small], capture_output=True, text=True, check=True)
    reason, seconds, kibibytes = done.stdout.split("|")
    assert reason == "too large: 30000 x 30000"
    assert float(seconds) < 0.1
    assert int(kibibytes) < 200 * 1024


def test_a_side_longer_than_cv2_can_warp_is_refused() -> None:
    with pytest.raises(BadPicture, match="too large: 32768 x 1"):
        decode(encoded(Image.new("1", (32_768, 1)), "PNG"))


# JPEG.


def photos(shared: Path, count: int) -> list[Path]:
    """That many real photos, of each kind that is at hand."""
    folders = ("celeba/img_align_celeba", "lfw", "scenes", "dogs")
    found = [sorted((shared / "data" / folder).rglob("*.jpg")) for folder in folders]
    return [file for files in found for file in files[:: max(1, len(files) * len(folders) // count)]]


def as_opencv(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)[..., ::-1]


def test_good_photos_are_kept_pixel_by_pixel_as_opencv_has_them(shared: Path) -> None:
    files = photos(shared, 400)
    assert len(files) >= 300
    for file in files:
        data = file.read_bytes()
        picture = read(data)
        assert picture.remarks == (), file
        np.testing.assert_array_equal(picture.pixels, as_opencv(data))


@pytest.mark.parametrize(
    "options",
    [
        *({"subsampling": name} for name in ("4:4:4", "4:2:2", "4:2:0")),
        {"progressive": True},
        {"optimize": True, "quality": 30},
        {"restart_marker_rows": 1},
    ],
    ids=str,
)
def test_each_coding_of_jpeg_gives_opencvs_pixels(options: dict[str, object]) -> None:
    for mode in ("RGB", "L"):
        data = encoded(photo(121, 163).convert(mode), "JPEG", **options)
        np.testing.assert_array_equal(decode(data), as_opencv(data))


def test_unusual_sampling_factors_give_opencvs_pixels() -> None:
    grey = encoded(photo().convert("L"), "JPEG")
    odd = grey.replace(b"\x08\x00\x78\x00\xa0\x01\x01\x11", b"\x08\x00\x78\x00\xa0\x01\x01\x22")
    assert odd != grey
    np.testing.assert_array_equal(decode(odd), decode(grey))
    tall = cv2.imencode(".jpg", np.asarray(photo()), [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x121111])[1].tobytes()
    np.testing.assert_array_equal(decode(tall), as_opencv(tall))


def zeros_in_the_middle(data: bytes) -> bytes:
    count = min(2000, len(data) // 4)
    return data[: len(data) // 2] + bytes(count) + data[len(data) // 2 + count :]


def test_zero_bytes_in_the_middle_of_real_photos_are_refused(shared: Path) -> None:
    for file in photos(shared, 60):
        with refused("corrupt"):
            decode(zeros_in_the_middle(file.read_bytes()))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}], ids=str)
def test_half_a_jpeg_with_an_end_marker_pasted_on_is_refused(shared: Path, options: dict[str, object]) -> None:
    file = photos(shared, 4)[0]
    with Image.open(file) as opened:
        data = encoded(opened, "JPEG", **options)
    for part in (0.5, 0.75, 0.95):
        with refused("corrupt", "truncated"):
            decode(data[: int(len(data) * part)] + jpeg.END)


def test_a_progressive_jpeg_that_lacks_whole_scans_is_refused() -> None:
    data = encoded(photo(), "JPEG", progressive=True)
    scans = [match.start() for match in re.finditer(rb"\xff\xda", data)]
    assert len(scans) > 4
    for start in scans[1:]:
        # Up to the last scan's own tables, which lie before it.
        cut = data[: data.rindex(b"\xff\xc4", 0, start)] + jpeg.END
        assert as_opencv(cut).shape == (120, 160, 3)
        with refused("truncated"):
            decode(cut)


def test_a_jpeg_lacks_its_end_marker_or_a_byte_of_pixels(shared: Path) -> None:
    for file in photos(shared, 40):
        data = file.read_bytes()
        whole = data[: data.rindex(jpeg.END)]
        picture = read(whole)
        np.testing.assert_array_equal(picture.pixels, decode(data))
        assert picture.remarks == ("end marker missing",)
        np.testing.assert_array_equal(decode(whole + b"\xff"), decode(data))
        for missing in (1, 2, 5):
            with refused("truncated"):
                decode(whole[:-missing])


def test_flipped_bits_that_libjpeg_notices_are_refused(shared: Path) -> None:
    """It cannot notice all: most single flips leave a valid stream (the soak in tests/bench has the shares)."""
    rng = np.random.default_rng(0)
    kept, files = 0, photos(shared, 60)
    for file in files:
        data = bytearray(file.read_bytes())
        for _ in range(20):
            place = int(rng.integers(data.index(jpeg.END[:1] + b"\xda") + 14, len(data) - 2))
            data[place] ^= 1 << int(rng.integers(8))
        with contextlib.suppress(BadPicture):
            decode(bytes(data))
            kept += 1
    assert kept < 0.2 * len(files)


def test_faults_in_segments_that_no_pixel_depends_on_do_not_matter() -> None:
    data = encoded(photo(), "JPEG", comment=b"hello", exif=bytes(Image.Exif()), icc_profile=icc.S_RGB)
    for segment in (b"\xff\xe2\x00\x20ICC_PROFILE\0\x05\x02" + bytes(16), b"\xff\xe1\x00\x10Exif\0\0damaged!"):
        np.testing.assert_array_equal(decode(data[:20] + segment + data[20:]), decode(data))
    strange = bytearray(data)
    strange[11] = 9  # JFIF version 9: libjpeg warns
    np.testing.assert_array_equal(decode(bytes(strange)), decode(data))


def test_a_jpeg_of_a_thousand_scans_is_refused_at_once() -> None:
    data = encoded(photo(2000, 2000).resize((4000, 4000)), "JPEG", progressive=True, quality=5)
    start = data.rindex(b"\xff\xda")
    many = data[:start] + data[start:-2] * 1000 + jpeg.END
    begun = time.process_time()
    with refused("corrupt"):
        decode(many)
    assert time.process_time() - begun < 1


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0, "quality": 92}], ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_blocks_brighter_than_white_are_refused(mode: str, options: dict[str, object]) -> None:
    """As after a flipped bit, but by hand: a step twice as large puts each block's mean twice as far from grey."""
    pixels = np.zeros((64, 256), np.uint8)
    pixels[:, 128:] = 255
    grey = Image.fromarray(pixels).convert(mode)
    assert decode(encoded(grey, "JPEG", **options)).shape == (64, 256, 3)
    data = bytearray(encoded(grey, "JPEG", **options))
    for match in list(re.finditer(rb"\xff\xdb\0\x43.", data, re.DOTALL)):
        data[match.end()] *= 2
    assert as_opencv(bytes(data)).shape == (64, 256, 3)
    with refused("corrupt"):
        decode(bytes(data))


def test_a_step_of_one_is_left_alone_and_large_ones_are_not_refused() -> None:
    checks = Image.fromarray(np.kron([[0, 255] * 8, [255, 0] * 8], np.ones((16, 16), np.uint8)).astype(np.uint8))
    for quality in (1, 5, 20, 50, 75, 90, 95, 97, 100):
        for mode in ("L", "RGB", "CMYK"):
            assert read(encoded(checks.convert(mode), "JPEG", quality=quality)).pixels.shape == (32, 256, 3)
        saturated = encoded(Image.new("RGB", (64, 64), (255, 0, 255)), "JPEG", quality=quality)
        assert read(saturated).pixels.shape == (64, 64, 3)


# PNG.


def chunk(name: bytes, body: bytes, checksum: int | None = None) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum or zlib.crc32(name + body))


END = chunk(b"IEND", b"")


def with_chunk(data: bytes, *chunks: bytes) -> bytes:
    """A PNG with chunks behind its header."""
    return data[:33] + b"".join(chunks) + data[33:]


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"tEXt", b"Comment\0hello", 7),
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2 << 20))),
        chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(bytes(2 << 20))),
        chunk(b"iCCP", b"broken"),
        chunk(b"eXIf", b"broken"),
        chunk(b"gAMA", b"no"),
        chunk(b"acTL", b""),
        chunk(b"tIME", b"\1"),
    ],
    ids=["checksum", "zTXt", "iTXt", "iCCP", "eXIf", "gAMA", "acTL", "tIME"],
)
@pytest.mark.parametrize("behind", [False, True])
def test_a_faulty_chunk_that_no_pixel_depends_on_does_not_matter(extra: bytes, behind: bool) -> None:
    data = encoded(photo(), "PNG")
    odd = data[:-12] + extra + data[-12:] if behind else with_chunk(data, extra)
    np.testing.assert_array_equal(decode(odd), decode(data))


def damaged_chunk(data: bytes, name: bytes) -> bytes:
    place = data.index(name) + 4
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize("name", [b"IHDR", b"PLTE", b"tRNS", b"IDAT"])
def test_a_faulty_chunk_that_pixels_depend_on_is_refused(name: bytes) -> None:
    with refused("corrupt"):
        decode(damaged_chunk(palette(transparency=1), name))


def test_a_png_whose_stream_ends_early_or_differs_from_its_checksum_is_refused() -> None:
    """All chunks have the right checksum: Pillow would fill the first with black, and not notice the second."""
    data = encoded(photo(), "PNG", compress_level=0)
    idat = data.index(b"IDAT")
    raw = zlib.decompress(b"".join(re.findall(rb"IDAT(.*?).{4}(?=.{4}(?:IDAT|IEND))", data, re.DOTALL)))
    start = data[: idat - 4]
    whole = zlib.compress(raw)
    np.testing.assert_array_equal(decode(start + chunk(b"IDAT", whole) + END), decode(data))
    wrong = whole[:-1] + bytes([whole[-1] ^ 1])
    for stream in (zlib.compress(raw[: len(raw) // 2]), wrong, whole[:-4]):
        with refused("corrupt"):
            decode(start + chunk(b"IDAT", stream) + END)


def test_a_png_that_lacks_only_its_end_is_kept() -> None:
    data = encoded(photo(), "PNG")
    for missing in (1, 12):
        picture = read(data[:-missing])
        np.testing.assert_array_equal(picture.pixels, decode(data))
        assert picture.remarks == ("end marker missing",)
    with refused("truncated"):
        decode(data[:-13])


def test_interlaced_png_and_every_depth() -> None:
    """Pillow reads Adam7 and does not write it: passes of one colour are the same as rows of it."""
    for depth, kind, channels in ((1, 0, 1), (4, 0, 1), (8, 2, 3), (16, 6, 4)):
        for width, height in ((1, 1), (5, 3), (9, 17)):
            header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 1)
            rows = 0
            for x, y, dx, dy in (
                (0, 0, 8, 8),
                (4, 0, 8, 8),
                (0, 4, 4, 8),
                (2, 0, 4, 4),
                (0, 2, 2, 4),
                (1, 0, 2, 2),
                (0, 1, 1, 2),
            ):
                columns, lines = len(range(x, width, dx)), len(range(y, height, dy))
                rows += lines * (1 + (columns * depth * channels + 7) // 8) if columns else 0
            data = (
                b"\x89PNG\r\n\x1a\n"
                + chunk(b"IHDR", header)
                + chunk(b"IDAT", zlib.compress(bytes(rows)))
                + chunk(b"IEND", b"")
            )
            assert decode(data).shape == (height, width, 3)
            with refused("corrupt"):
                decode(data.replace(zlib.compress(bytes(rows)), zlib.compress(bytes(rows - 1))))


# Colours.


def converted(picture: Image.Image, profile: bytes) -> np.ndarray:
    """As LittleCMS converts it, by Pillow's plainest call."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return np.asarray(ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB"))


def heic(picture: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    heif.from_pillow(picture).save(stream, **options)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF", HEIC])
@pytest.mark.parametrize("profile", [icc.DISPLAY_P3, icc.ADOBE_RGB], ids=["P3", "Adobe"])
def test_declared_colours_become_srgb_as_littlecms_has_them(kind: str, profile: bytes) -> None:
    def write(picture: Image.Image, **options: object) -> bytes:
        return heic(picture, **options) if kind == "HEIC" else encoded(picture, kind, **options)

    plain, declared = read(write(photo())), read(write(photo(), icc_profile=profile))
    expected = converted(Image.fromarray(plain.pixels), profile)
    assert np.abs(declared.pixels.astype(int) - expected).max() <= 2
    assert np.abs(declared.pixels.astype(int) - plain.pixels).max() > 10
    name = "Display P3" if profile == icc.DISPLAY_P3 else "Adobe RGB (1998)"
    assert (plain.remarks, declared.remarks) == ((), (f"colours from {name} to sRGB",))


@pytest.mark.parametrize(
    ("profile", "primaries", "curve"),
    [(icc.DISPLAY_P3, icc.P3, icc.SRGB_CURVE), (icc.ADOBE_RGB, icc.ADOBE, icc.ADOBE_CURVE)],
    ids=["P3", "Adobe"],
)
def test_declared_colours_by_hand(profile: bytes, primaries: tuple, curve: tuple | float) -> None:
    """Curve to linear light, that space's matrix to XYZ and sRGB's back, sRGB's curve. Both whites are D65."""
    colours = np.array([(0, 0, 0), (255, 255, 255), (128, 128, 128), (200, 100, 100), (100, 120, 90), (150, 140, 190)])
    light = colours / 255
    if isinstance(curve, tuple):
        linear = np.where(light < 0.04045, light / 12.92, ((light + 0.055) / 1.055) ** 2.4)
    else:
        linear = light**curve
    linear = linear @ (np.linalg.inv(icc.colorants(icc.SRGB)) @ icc.colorants(primaries)).T
    assert linear.min() >= -1e-9  # all within sRGB
    coded = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear.clip(0) ** (1 / 2.4) - 0.055)
    stored = Image.fromarray(colours[None].astype(np.uint8))
    pixels = decode(encoded(stored, "PNG", icc_profile=profile))[0]
    assert np.abs(pixels - 255 * coded).max() <= 1.5
    # Display P3's red is well known to be outside: sRGB's clipped (255, 0, 0).
    if primaries == icc.P3:
        red = decode(encoded(Image.new("RGB", (1, 1), (255, 0, 0)), "PNG", icc_profile=profile))
        assert red.tolist() == [[[255, 0, 0]]]


def test_a_profile_that_is_srgb_changes_no_pixel() -> None:
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (icc.S_RGB, own):
        picture = read(encoded(photo(), "PNG", icc_profile=profile))
        np.testing.assert_array_equal(picture.pixels, np.asarray(photo()))
        assert picture.remarks == ()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_declared_greys(kind: str) -> None:
    grey = Image.fromarray(np.arange(256, dtype=np.uint8)[None].repeat(8, 0))
    stored = decode(encoded(grey, kind))[..., 0]
    picture = read(encoded(grey, kind, icc_profile=icc.GREY_18))
    linear = (stored / 255) ** 1.8
    expected = 255 * np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(picture.pixels - expected[..., None]).max() <= 2
    assert picture.remarks == ("colours from Grey gamma 1.8 to sRGB",)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_declared_inks(kind: str) -> None:
    """The made profile's inks: paper, cyan, magenta, yellow and black have Lab colours that are known."""
    inks = [(0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 0, 0), (0, 0, 255, 0), (0, 0, 0, 255)]
    for ink in inks:
        data = one_colour("CMYK", ink, kind, icc_profile=icc.PRINTER, **({"quality": 100} if kind == "JPEG" else {}))
        picture = read(data)
        expected = converted(Image.new("CMYK", (1, 1), ink), icc.PRINTER)
        assert np.abs(picture.pixels.astype(int) - expected).max() <= 2
        assert picture.remarks == ("colours from Test printer to sRGB",)
    # By hand: Lab (55, -37, -50) of cyan, its white at L 95 made paper, is about (0, 150, 218) in sRGB.
    cyan = decode(one_colour("CMYK", inks[1], "TIFF", icc_profile=icc.PRINTER))[0, 0]
    assert np.abs(cyan.astype(int) - (0, 150, 218)).max() <= 3
    assert read(one_colour("CMYK", inks[1], kind)).remarks == ("CMYK converted without a profile",)


def test_transparency_lies_over_white_after_colours_are_converted() -> None:
    picture = Image.new("RGBA", (4, 4), (200, 100, 50, 51))
    opaque = converted(Image.new("RGB", (1, 1), (200, 100, 50)), icc.DISPLAY_P3)[0, 0]
    pixels = decode(encoded(picture, "PNG", icc_profile=icc.DISPLAY_P3))
    assert np.abs(pixels - (0.2 * opaque + 0.8 * 255)).max() <= 1
    grey = decode(encoded(Image.new("LA", (4, 4), (100, 51)), "PNG", icc_profile=icc.GREY_18))
    assert np.abs(grey.astype(int) - (0.2 * 119 + 0.8 * 255)).max() <= 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize(
    "profile", [b"nonsense" * 30, icc.DISPLAY_P3[:300], icc.GREY_18, icc.PRINTER], ids=["text", "cut", "grey", "inks"]
)
def test_a_broken_or_foreign_profile_is_ignored(kind: str, profile: bytes) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    picture = read(encoded(photo(), kind, icc_profile=profile, **options))
    np.testing.assert_array_equal(picture.pixels, decode(encoded(photo(), kind, **options)))
    assert picture.remarks == ("broken colour profile ignored",)


def test_a_profile_of_which_a_part_is_missing_is_ignored() -> None:
    data = encoded(photo(), "JPEG", icc_profile=icc.DISPLAY_P3)
    assert data.count(b"ICC_PROFILE\0\1\1") == 1
    picture = read(data.replace(b"ICC_PROFILE\0\1\1", b"ICC_PROFILE\0\1\2"))
    np.testing.assert_array_equal(picture.pixels, decode(encoded(photo(), "JPEG")))
    assert picture.remarks == ("broken colour profile ignored",)


# Deep greys.


def tiff(values: np.ndarray, **tags: float) -> bytes:
    """An uncompressed one-strip TIFF of one channel, with any tags of numbers."""
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    height, width = values.shape
    entries = {256: width, 257: height, 258: 8 * values.itemsize, 259: 1, 262: 1, 277: 1, 278: height, 339: kind}
    entries |= {273: 8, 279: values.nbytes} | {getattr(TAGS, name): value for name, value in tags.items()}
    body, extra = b"", b""
    order = ">" if values.dtype.byteorder == ">" else "<"
    start = 8 + values.nbytes
    extra_at = start + 2 + 12 * len(entries) + 4
    for tag, value in sorted(entries.items()):
        if isinstance(value, float):
            body += struct.pack(order + "HHII", tag, 12, 1, extra_at + len(extra))
            extra += struct.pack(order + "d", value)
        else:
            body += struct.pack(order + "HHIi", tag, 4 if value >= 0 else 9, 1, value)
    head = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(order + "I", start)
    return head + values.tobytes() + struct.pack(order + "H", len(entries)) + body + bytes(4) + extra


class TAGS:
    photometric, lowest, highest, smallest, largest = 262, 280, 281, 340, 341


def steps(kind: str, *values: float) -> np.ndarray:
    return np.array([values], kind)


@pytest.mark.parametrize(
    ("data", "greys", "remark"),
    [
        (tiff(steps("<u2", 0, 257, 0x4DFF, 65535)), [0, 1, 0x4D, 255], "16-bit grey from 0 to 65535"),
        (tiff(steps(">u2", 0, 257, 0x4DFF, 65535)), [0, 1, 0x4D, 255], "16-bit grey from 0 to 65535"),
        (tiff(steps("<u2", 0, 257, 65535), photometric=0), [255, 254, 0], "16-bit grey from 0 to 65535"),
        (tiff(steps("<u2", 0, 819, 4095, 5000), highest=4095), [0, 51, 255, 255], "16-bit grey from 0 to 4095"),
        (tiff(steps("<u2", 100, 300, 600), smallest=100, largest=600), [0, 102, 255], "16-bit grey from 100 to 600"),
        (tiff(steps("<i2", -500, 0, 500), smallest=-500, largest=500), [0, 128, 255], "16-bit grey from -500 to 500"),
        (tiff(steps("<u4", 0, 10**9, 4 * 10**9), largest=4e9), [0, 64, 255], "32-bit grey from 0 to 4e+09"),
        (tiff(steps("<i4", -(2**31), 0), smallest=-(2**31), largest=0), [0, 255], "32-bit grey from -2.14748e+09 to 0"),
        (tiff(steps("<f4", 0, 0.2, 1, 7), smallest=0.0, largest=1.0), [0, 51, 255, 255], "32-bit float from 0 to 1"),
        (tiff(steps(">f4", -1, 0.5, 1), smallest=-1.0, largest=1.0), [0, 191, 255], "32-bit float from -1 to 1"),
        (
            tiff(steps("<f4", 0, 0.2, 1), photometric=0, smallest=0.0, largest=1.0),
            [255, 204, 0],
            "32-bit float from 0 to 1",
        ),
    ],
)
def test_deep_greys_are_scaled_by_the_range_that_the_file_states(data: bytes, greys: list[int], remark: str) -> None:
    picture = read(data)
    assert picture.pixels[0].tolist() == [[grey] * 3 for grey in greys]
    assert picture.remarks == (f"{remark} scaled to 8 bits",)


NO_RANGE = "without a range (write the tags SMinSampleValue and SMaxSampleValue)"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (tiff(steps("<f4", 0, 0.5, 1)), f"32-bit float {NO_RANGE}"),
        (tiff(steps("<f4", 0, 1), largest=1.0), f"32-bit float {NO_RANGE}"),
        (tiff(steps("<u4", 0, 255)), f"32-bit grey {NO_RANGE}"),
        (tiff(steps("<i4", 0, 255)), f"32-bit grey {NO_RANGE}"),
        (tiff(steps("<i2", 0, 255)), f"16-bit grey {NO_RANGE}"),
        (tiff(steps("<f4", 0, 1), smallest=1.0, largest=0.0), "32-bit float of range 1 to 0"),
        (tiff(steps("<f4", 0, np.nan), smallest=0.0, largest=1.0), "32-bit float with values that are not finite"),
        (tiff(steps("<f4", 0, np.inf), smallest=0.0, largest=1.0), "32-bit float with values that are not finite"),
        (tiff(steps("<f4", 0, 1), smallest=0.0, largest=np.inf), f"32-bit float {NO_RANGE}"),
        (tiff(steps("<i1", 0, 1)), "signed 8-bit"),
    ],
)
def test_greys_of_unknown_range_are_refused_with_the_remedy(data: bytes, reason: str) -> None:
    with refused(f"unsupported pixels: {reason}"):
        decode(data)


def test_other_deep_pixels_are_refused() -> None:
    with refused("unsupported pixels"):
        decode(tiff(steps("<f8", 0, 1), smallest=0.0, largest=1.0))
    with refused("unsupported pixels: 32-bit float"):
        decode(b"Pf\n2 1\n-1.0\n" + np.array([0, 1], "<f4").tobytes())


# Other kinds.


def kept_nearly_as_it_was(data: bytes) -> None:
    picture = read(data)
    assert np.abs(picture.pixels.astype(int) - np.asarray(photo())).mean() < 4
    assert picture.remarks == ()
    for part in (data[: len(data) // 2], data[:40]):
        with refused("corrupt", "truncated"):
            decode(part)


def test_avif_is_kept_where_pillow_has_its_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(photo(), "AVIF", quality=95)
    kept_nearly_as_it_was(data)
    monkeypatch.setattr(pillow.features, "check", lambda name: False)
    with refused("AVIF needs Pillow's codec: pip install 'pillow>=11.3'"):
        decode(data)


@with_heif
def test_heic_is_kept() -> None:
    kept_nearly_as_it_was(heic(photo(), quality=95))


def test_heic_without_its_package_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for brand in (b"heic", b"heix", b"mif1", b"msf1"):
        with refused("HEIC needs another package: pip install pillow-heif"):
            decode(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1heic" + bytes(100))


@with_heif
def test_pillow_stays_as_it_is_for_others() -> None:
    """HEIC is read without changing what `Image.open` takes."""
    decode(heic(photo()))
    with pytest.raises(Image.UnidentifiedImageError):
        Image.open(io.BytesIO(heic(photo())))


@pytest.mark.parametrize("kind", ["TIFF", "MPO", "GIF", "WEBP", "PNG", "AVIF", HEIC])
def test_of_several_pictures_the_first_counts_and_the_remark_says_so(kind: str) -> None:
    frames = [photo(seed=seed) for seed in range(3)]
    if kind == "HEIC":
        file = heif.from_pillow(frames[0])
        for frame in frames[1:]:
            file.add_from_pillow(frame)
        stream = io.BytesIO()
        file.save(stream)
        data, one = stream.getvalue(), heic(frames[0])
    else:
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        one = encoded(frames[0], "JPEG" if kind == "MPO" else kind, **options)
    picture = read(data)
    assert picture.remarks == ("first of 3",)
    assert np.abs(picture.pixels.astype(int) - decode(one)).mean() < 3
    assert read(one).remarks == ()
    with contextlib.suppress(BadPicture):  # of what is damaged behind the first
        np.testing.assert_array_equal(decode(data[: -len(data) // 6]), picture.pixels)


def test_an_apng_whose_default_image_is_not_in_its_animation_gives_that_image() -> None:
    default, *rest = (photo(seed=seed) for seed in range(3))
    data = encoded(default, "PNG", save_all=True, append_images=rest, default_image=True)
    picture = read(data)
    np.testing.assert_array_equal(picture.pixels, np.asarray(default))
    with Image.open(io.BytesIO(data)) as opened:
        assert len(list(ImageSequence.Iterator(opened))) == 3
    assert picture.remarks == ("first of 3",)


def test_a_first_frame_smaller_than_its_canvas_lies_over_white() -> None:
    gif = encoded(Image.new("RGB", (4, 4), (10, 200, 30)), "GIF")
    place = gif.index(b",\0\0\0\0\4\0\4\0")
    gif = gif[:6] + struct.pack("<HH", 8, 6) + gif[10 : place + 1] + struct.pack("<HH", 2, 1) + gif[place + 5 :]
    pixels = decode(gif)
    assert pixels.shape == (6, 8, 3)
    assert (pixels[1:5, 2:6] == (10, 200, 30)).all()


def test_counting_pages_and_frames_is_bounded() -> None:
    page = tiff(np.zeros((1, 1), np.uint8))
    start = struct.unpack_from("<I", page, 4)[0]
    circle = page[:-4] + struct.pack("<I", start)
    assert read(circle).remarks == ()
    astray = page[:-4] + struct.pack("<I", 1 << 30)
    assert read(astray).remarks == ()
    # A chain of directories without entries, of two bytes and an offset each.
    count = 200_000
    chain = b"".join(struct.pack("<HI", 0, len(page) + 6 * (n + 1)) for n in range(count)) + bytes(6)
    begun = time.process_time()
    assert read(page[:-4] + struct.pack("<I", len(page)) + chain).remarks == (f"first of {MAX_FRAMES} or more",)
    gif = encoded(Image.new("P", (1, 1)), "GIF")
    place = gif.index(b",\0\0\0\0")
    frame = gif[place:-1]
    assert read(gif[:place] + frame * 200_000 + b";").remarks == (f"first of {MAX_FRAMES} or more",)
    assert read(gif[:place] + frame * 2 + b";").remarks == ("first of 2",)
    assert time.process_time() - begun < 1


def test_a_tiff_page_of_damaged_jpeg_is_refused() -> None:
    data = encoded(photo(), "TIFF", compression="jpeg")
    with Image.open(io.BytesIO(data)) as opened:
        assert isinstance(opened, TiffImagePlugin.TiffImageFile)
        start, size = opened.tag_v2[273][0], opened.tag_v2[279][0]
        np.testing.assert_array_equal(decode(data), np.asarray(opened.convert("RGB")))
    middle = start + size // 2
    with refused("corrupt"):
        decode(data[:middle] + bytes(200) + data[middle + 200 :])


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"])
def test_tiff_of_each_compression(compression: str) -> None:
    data = encoded(photo(), "TIFF", compression=compression)
    with Image.open(io.BytesIO(data)) as opened:
        np.testing.assert_array_equal(decode(data), np.asarray(opened.convert("RGB")))


def test_a_tiff_of_damaged_deflate_is_refused(shared: Path) -> None:
    """libtiff stops at the last row, where it may not have come to the strip's checksum."""
    with Image.open(photos(shared, 4)[1]) as opened:
        data = encoded(opened.convert("RGB"), "TIFF", compression="tiff_adobe_deflate")
    for place in range(len(data) // 8, len(data) - 2000, len(data) // 30):
        with refused("corrupt", "truncated"):
            decode(data[:place] + bytes(1000) + data[place + 1000 :])
    with Image.open(io.BytesIO(data)) as opened:
        end = opened.tag_v2[273][-1] + opened.tag_v2[279][-1]
    with refused("corrupt"):
        decode(data[: end - 1] + bytes([data[end - 1] ^ 1]) + data[end:])


def test_gif_of_every_size_and_depth_is_kept_and_damaged_codes_are_refused() -> None:
    for colours in (2, 3, 16, 200, 256):
        for width, height in ((1, 1), (3, 2), (100, 90)):
            for interlace in (0, 1):
                picture = photo(height, width).quantize(colours, Image.Quantize.FASTOCTREE)
                data = encoded(picture, "GIF", interlace=interlace)
                np.testing.assert_array_equal(decode(data), np.asarray(picture.convert("RGB")))
    data = encoded(photo().quantize(16), "GIF")
    damaged = [data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :] for place in range(200, len(data) - 10, 97)]
    kept = 0
    for one in damaged:
        with contextlib.suppress(BadPicture):
            decode(one)
            kept += 1
    assert kept < len(damaged) / 3


def test_avif_of_every_kind_is_kept_and_a_damaged_one_refused() -> None:
    small = photo(16, 24)
    for mode, options in (
        ("RGB", {"subsampling": "4:4:4"}),
        ("L", {}),
        ("RGBA", {}),
        ("LA", {}),
        ("RGB", {"quality": 100}),
    ):
        assert decode(encoded(small.convert(mode), "AVIF", **options)).shape == (16, 24, 3)
    deep = cv2.imencode(".avif", np.asarray(small).astype(np.uint16) * 4, [cv2.IMWRITE_AVIF_DEPTH, 10])[1].tobytes()
    assert decode(deep).shape == (16, 24, 3)
    data = encoded(photo(), "AVIF")
    kept = 0
    for place in range(len(data) // 3, len(data) - 8, len(data) // 40):
        with contextlib.suppress(BadPicture):
            decode(data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :])
            kept += 1
    assert kept <= 2


def test_a_sample_of_the_soak() -> None:
    """Each format, damaged in each way, once; tests/bench/soak_pictures.py does so in other processes."""
    maker = soak_pictures.Maker(seed=3)
    count = len(soak_pictures.CODINGS) * len(soak_pictures.DAMAGES)
    verdicts = []
    for number in range(count):
        kind, damage, whole, data = maker.make(number)
        verdict, why = soak_pictures.verdict(kind, whole, data)
        assert verdict != "FAULT", f"{number}: {kind}, {damage}: {why}"
        verdicts.append(verdict)
    assert verdicts.count("rejected") > count / 2
    assert verdicts.count("kept") > count / 20


def test_broken_exif_keeps_the_picture() -> None:
    odd = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01"
    for kind in ("JPEG", "PNG", "WEBP"):
        np.testing.assert_array_equal(decode(encoded(photo(), kind, exif=odd)), decode(encoded(photo(), kind)))


# What a hostile reader of this decoder found.


def gif_of_alphabet(levels: np.ndarray, bits: int) -> bytes:
    """A GIF of grey `levels` (0 to 2^bits - 1), whose LZW codes have `bits` + 1 bits and more; Pillow's have 9."""
    count, clear, size = 1 << bits, 1 << bits, bits + 1
    table = {(n,): n for n in range(count)}
    following, window, held, coded = clear + 2, 0, 0, bytearray()

    def emit(code: int) -> None:
        nonlocal window, held
        window |= code << held
        held += size
        while held >= 8:
            coded.append(window & 255)
            window >>= 8
            held -= 8

    emit(clear)
    run: tuple[int, ...] = ()
    for level in levels.reshape(-1).tolist():
        longer = (*run, level)
        if longer in table:
            run = longer
            continue
        emit(table[run])
        if following < 4096:
            table[longer] = following
            following += 1
            size += following - 1 == 1 << size and size < 12
        run = (level,)
    emit(table[run])
    size += following == 1 << size and size < 12
    emit(clear + 1)
    coded.append(window & 255)
    height, width = levels.shape
    colours = bytes(n * 255 // (count - 1) for n in range(count) for _ in range(3))
    blocks = b"".join(
        bytes([len(part)]) + part for n in range(0, len(coded), 255) if (part := bytes(coded[n : n + 255]))
    )
    return b"".join(
        (
            b"GIF89a", struct.pack("<HHBBB", width, height, 0x80 | bits - 1, 0, 0), colours,
            b",", struct.pack("<HHHHB", 0, 0, width, height, 0), bytes([bits]), blocks, b"\0;",
        )
    )  # fmt: skip


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
def test_a_gif_of_few_colours_is_kept(bits: int) -> None:
    levels = np.random.default_rng(bits).integers(0, 1 << bits, (24, 24))
    for picture in (levels, np.zeros_like(levels)):
        data = gif_of_alphabet(picture, bits)
        np.testing.assert_array_equal(decode(data)[..., 0], picture * 255 // ((1 << bits) - 1))
    with refused("truncated", "corrupt"):
        decode(gif_of_alphabet(levels[:-1], bits).replace(struct.pack("<HH", 24, 23), struct.pack("<HH", 24, 24)))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_tags_of_odd_types_are_a_reason_or_do_not_matter() -> None:
    """Every tag of small TIFFs with every type: a picture or a reason, never another error."""
    for compression in ("jpeg", "tiff_deflate"):
        whole = encoded(photo(16, 16), "TIFF", compression=compression)
        (place,) = struct.unpack_from("<I", whole, 4)
        (count,) = struct.unpack_from("<H", whole, place)
        kept = 0
        for entry in range(place + 2, place + 2 + 12 * count, 12):
            for kind in range(1, 14):
                changed = bytearray(whole)
                struct.pack_into("<H", changed, entry + 2, kind)
                with contextlib.suppress(BadPicture):
                    kept += decode(bytes(changed)).shape == (16, 16, 3)
        assert kept > count


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("colours", [1, 3])
def test_a_transparent_colour_lies_over_white_at_every_depth(depth: int, colours: int) -> None:
    """Of two colours that differ in their last bit alone, one is transparent."""
    if colours == 3 and depth < 8:
        pytest.skip("PNG has no such colours")
    most = (1 << depth) - 1
    clear, other = most // 3 & ~1, most // 3 | 1
    bits = "".join(f"{value:0{depth}b}" * colours for value in [clear, other] * 4)
    row = b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    head = struct.pack(">IIBBBBB", 8, 8, depth, 0 if colours == 1 else 2, 0, 0, 0)
    key = struct.pack(">H", clear) * colours
    body = zlib.compress(row * 8)
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(name, content) for name, content in ((b"IHDR", head), (b"tRNS", key), (b"IDAT", body), (b"IEND", b""))
    )
    shown = other >> 8 if depth == 16 else other * (255 // most)
    np.testing.assert_array_equal(
        decode(data), np.tile(np.array([255, shown], np.uint8), (8, 4))[..., None].repeat(3, 2)
    )


def test_a_tiff_whose_range_is_empty_has_the_whole_of_its_bits() -> None:
    tags = {280: 0, 281: 0}
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "TIFF", tiffinfo=tags)
    np.testing.assert_array_equal(decode(stream.getvalue())[..., 0], values >> 8)
