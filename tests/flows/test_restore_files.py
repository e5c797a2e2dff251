"""A restored photo as a file: outside the hole the photo's own samples, and its colours, metadata and mark."""

import io
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import profiles_made as icc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from flows.restoration.encode import encode, merged
from flows.restoration.marking import VALUE, marked
from flows.restoration.photo import exif as exif_of
from flows.restoration.photo import read_photo, xmp
from stages.images.decode import png
from stages.runs.errors import InputError

HEIGHT, WIDTH = 40, 56


def samples(channels: int, kind: type = np.uint8, seed: int = 0) -> np.ndarray:
    shape = (HEIGHT, WIDTH, channels) if channels > 1 else (HEIGHT, WIDTH)
    return np.random.default_rng(seed).integers(0, np.iinfo(kind).max, shape, dtype=kind, endpoint=True)


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def by_opencv(pixels: np.ndarray, ending: str = ".png") -> bytes:
    return cv2.imencode(ending, pixels)[1].tobytes()


def palette() -> Image.Image:
    picture = Image.fromarray(samples(1) // 8, "P")
    picture.putpalette(samples(3).reshape(-1)[:96].tobytes())
    return picture


PHOTOS: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: saved(Image.fromarray(samples(3)), "JPEG", quality=80),
    "grey jpeg": lambda: saved(Image.fromarray(samples(1)), "JPEG"),
    "png": lambda: saved(Image.fromarray(samples(3)), "PNG"),
    "grey png": lambda: saved(Image.fromarray(samples(1)), "PNG"),
    "grey png with alpha": lambda: saved(Image.fromarray(samples(2), "LA"), "PNG"),
    "png with alpha": lambda: saved(Image.fromarray(samples(4)), "PNG"),
    "palette": lambda: saved(palette(), "PNG"),
    "palette, transparent": lambda: saved(palette(), "PNG", transparency=3),
    "black and white": lambda: saved(Image.fromarray(samples(1)).convert("1"), "PNG"),
    "16-bit grey": lambda: by_opencv(samples(1, np.uint16)),
    "16-bit": lambda: by_opencv(samples(3, np.uint16)),
    "16-bit with alpha": lambda: by_opencv(samples(4, np.uint16)),
    "16-bit tiff": lambda: by_opencv(samples(3, np.uint16), ".tiff"),
    "tiff": lambda: saved(Image.fromarray(samples(3)), "TIFF"),
    "webp": lambda: saved(Image.fromarray(samples(3)), "WEBP", lossless=True),
    "other colours": lambda: saved(Image.fromarray(samples(3)), "PNG", icc_profile=icc.DISPLAY_P3),
}


def own(data: bytes) -> np.ndarray:
    """A file's samples, with all their bits, by readers that are not ours."""
    whole = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if whole is not None and whole.dtype == np.uint16:
        return whole
    with Image.open(io.BytesIO(data)) as picture:
        mode = "RGBA" if picture.has_transparency_data else "L" if picture.mode in ("1", "L") else "RGB"
        return np.asarray(picture.convert(mode))


def a_hole() -> np.ndarray:
    hole = np.zeros((HEIGHT, WIDTH), bool)
    hole[10:25, 8:40] = True
    return hole


@pytest.mark.parametrize("kind", PHOTOS)
def test_outside_the_hole_every_bit_is_the_photos_and_inside_it_the_new_pixels(kind: str) -> None:
    data, hole = PHOTOS[kind](), a_hole()
    photo = read_photo(data, "photo")
    new = samples(3, seed=1)
    before, after = own(data), own(encode(photo, new, hole))
    assert after.dtype == before.dtype
    assert after.shape == before.shape
    np.testing.assert_array_equal(after[~hole], before[~hole])
    seen = read_photo(encode(photo, new, hole), "restored").view[hole].astype(int)
    wanted = new[hole].astype(int)
    if "grey" in kind or kind == "black and white":
        luma = np.asarray(Image.fromarray(new).convert("L"))[hole].astype(int)
        wanted = np.repeat(luma[:, None], 3, axis=1)
    tolerance = 3 if kind == "other colours" else 0  # two conversions of colours, each rounded
    assert np.percentile(np.abs(seen - wanted), 99) <= tolerance


def test_a_hole_in_what_is_transparent_becomes_opaque() -> None:
    pixels = samples(4)
    pixels[..., 3] = 0
    photo = read_photo(saved(Image.fromarray(pixels), "PNG"), "photo")
    result = merged(photo, samples(3, seed=1), a_hole())
    assert (result[a_hole()][:, 3] == 255).all()
    assert (result[~a_hole()][:, 3] == 0).all()


@given(st.integers(0, 2**32 - 1), st.sampled_from(["jpeg", "png with alpha", "16-bit", "other colours"]))
def test_no_edit_reaches_outside_its_hole(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    photo = read_photo(PHOTOS[kind](), "photo")
    hole = rng.random((HEIGHT, WIDTH)) < rng.random()
    result = merged(photo, samples(3, seed=seed), hole)
    np.testing.assert_array_equal(result[~hole], photo.own[~hole])


def test_an_orientation_is_applied_once() -> None:
    """Orientation 6: the stored picture's left side is the upright one's top."""
    pixels = samples(3)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    data = saved(Image.fromarray(pixels), "PNG", exif=exif)
    photo = read_photo(data, "photo")
    assert photo.view.shape == (WIDTH, HEIGHT, 3)
    hole = np.zeros((WIDTH, HEIGHT), bool)
    hole[5:9, 3:7] = True
    result = encode(photo, np.zeros_like(photo.view), hole)
    with Image.open(io.BytesIO(result)) as picture:
        assert picture.size == (HEIGHT, WIDTH)
        assert picture.getexif()[0x0112] == 1
        assert picture.getexif()[0x010F] == "a camera"
        np.testing.assert_array_equal(np.asarray(picture)[~hole], np.rot90(pixels, -1)[~hole])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_profile_and_exif_stay_and_the_picture_is_marked(kind: str) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0132] = "a camera", "2026:11:27 12:00:00"
    data = saved(Image.fromarray(samples(3)), kind, exif=exif, icc_profile=icc.DISPLAY_P3)
    for ending in ("png", "jpg"):
        result = encode(read_photo(data, "photo"), samples(3, seed=1), a_hole(), ending)
        with Image.open(io.BytesIO(result)) as picture:
            assert picture.info["icc_profile"] == icc.DISPLAY_P3
            assert picture.getexif()[0x010F] == "a camera"
            assert picture.getexif()[0x0132] == "2026:11:27 12:00:00"
            packet = picture.info.get("xmp") or picture.info["XML:com.adobe.xmp"]
        packet = packet if isinstance(packet, str) else packet.decode()
        assert f'DigitalSourceType="{VALUE}"' in packet


def test_the_photos_own_xmp_stays() -> None:
    packet = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" dc:format="image/jpeg">'
        b"<dc:rights>hers</dc:rights></rdf:Description></rdf:RDF></x:xmpmeta>"
    )
    text = marked(packet).decode()
    assert "<dc:rights>hers</dc:rights>" in text
    assert text.count(VALUE) == 1
    assert marked(text.encode()).decode().count(VALUE) == 1, "a picture that is restored twice is marked once"


@pytest.mark.parametrize("packet", [b"", b"<x", b"\xff\xfe", b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", b"<a/>"])
def test_a_broken_xmp_packet_is_replaced(packet: bytes) -> None:
    assert marked(packet).decode().count(VALUE) == 1


def test_a_pngs_own_chunks_stay() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "she")
    info.add_itxt("XML:com.adobe.xmp", "<x/>")
    data = saved(Image.fromarray(samples(3)), "PNG", pnginfo=info, dpi=(300, 300))
    result = encode(read_photo(data, "photo"), samples(3, seed=1), a_hole())
    with Image.open(io.BytesIO(result)) as picture:
        picture.load()
        assert picture.info["Author"] == "she"
        assert picture.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        assert result.count(b"XML:com.adobe.xmp") == 1


@pytest.mark.parametrize("packed", [False, True])
def test_a_pngs_metadata_stays_wherever_it_lies_and_however_long_its_texts_are(packed: bool) -> None:
    """Pillow, by itself, opens no PNG with this text, and sees nothing behind the pixels."""
    exif, info = Image.Exif(), PngImagePlugin.PngInfo()
    exif[0x010F], exif[0x0112] = "a camera", 6
    packet = marked(b"").replace(VALUE.encode(), b"hers").decode().replace("rdf:about", 'xmlns:u="u" u:a="b" rdf:about')
    info.add_itxt("XML:com.adobe.xmp", packet, zip=packed)
    info.add_text("long", "y" * (2 << 20), zip=True)
    data = saved(Image.fromarray(samples(3)), "PNG", exif=exif, pnginfo=info)
    whole = {name: body for name, body, _ in png.chunks(data)}
    later = b"".join(
        len(whole[name]).to_bytes(4, "big") + name + whole[name] + zlib.crc32(name + whole[name]).to_bytes(4, "big")
        for name in (b"IHDR", b"zTXt", b"IDAT", b"iTXt", b"eXIf", b"IEND")
    )
    photo = read_photo(png.SIGNATURE + later, "photo")
    assert photo.view.shape == (WIDTH, HEIGHT, 3)
    assert exif_of(photo) == exif_of(read_photo(saved(Image.fromarray(samples(3)), "PNG", exif=exif), "photo")) != b""
    kept = encode(photo, photo.view, a_hole().T)
    assert b'u:a="b"' in xmp(read_photo(kept, "restored"))
    assert whole[b"zTXt"] in kept


@pytest.mark.parametrize("what", ["EXIF", "XMP"])
def test_metadata_too_long_for_a_jpeg_is_refused(what: str) -> None:
    info, exif = PngImagePlugin.PngInfo(), Image.Exif()
    if what == "EXIF":
        exif[0x010E] = "x" * 70_000
    else:
        info.add_itxt("XML:com.adobe.xmp", marked(b"").decode().replace("rdf:about=", f'rdf:about="{"x" * 70_000}" a='))
    photo = read_photo(saved(Image.fromarray(samples(3)), "PNG", exif=exif, pnginfo=info), "a.png")
    with pytest.raises(InputError, match=rf"a\.png: {what} data is too long for a JPEG; leave out --format jpg"):
        encode(photo, photo.view, a_hole(), "jpg")


def test_a_jpeg_keeps_its_own_tables(tmp_path: Path) -> None:
    data = saved(Image.fromarray(cv2.GaussianBlur(samples(3), (0, 0), 4)), "JPEG", quality=71, subsampling=2)
    photo, hole = read_photo(data, "photo"), a_hole()
    result = encode(photo, photo.view, hole, "jpg")
    with Image.open(io.BytesIO(result)) as after, Image.open(io.BytesIO(data)) as before:
        assert after.quantization == before.quantization
        near = np.abs(np.asarray(after).astype(int) - np.asarray(before)) <= 2
    assert near.mean() > 0.95


@pytest.mark.parametrize("kind", ["16-bit", "png with alpha"])
def test_a_jpeg_that_would_lose_depth_or_transparency_is_refused(kind: str) -> None:
    photo = read_photo(PHOTOS[kind](), "a.png")
    with pytest.raises(InputError, match=r"a\.png: a JPEG has neither 16 bits nor transparency"):
        encode(photo, photo.view, a_hole(), "jpg")


@pytest.mark.parametrize("data", [b"", b"text", PHOTOS["jpeg"]()[:300], PHOTOS["png"]()[:-60]])
def test_what_is_no_usable_photo_is_refused(data: bytes) -> None:
    with pytest.raises(InputError, match=r"^a\.jpg: "):
        read_photo(data, "a.jpg")


def test_cmyk_becomes_srgb_and_the_record_says_so() -> None:
    photo = read_photo(saved(Image.fromarray(samples(4), "CMYK"), "JPEG"), "photo")
    assert photo.mode == "RGB"
    assert "CMYK became sRGB" in photo.remarks
