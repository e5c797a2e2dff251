"""Decoding any bytes, and finding what a source's folder holds."""

import contextlib
import io
import os
import pickle
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from stages.images import sources
from stages.images.sources import BadPicture, decode
from stages.runs.errors import InputError


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


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
        (one_colour("I", 0x4DFF, "TIFF"), (0x4D, 0x4D, 0x4D)),
        (one_colour("CMYK", (0, 255, 255, 0), "JPEG", quality=100), (255, 0, 0)),
        (one_colour("CMYK", (0, 0, 0, 255), "TIFF"), (0, 0, 0)),
    ],
)
def test_every_kind_of_pixels_becomes_rgb(data: bytes, colour: tuple[int, int, int]) -> None:
    pixels = decode(data)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (12, 16, 3)
    assert np.abs(pixels.astype(int) - colour).max() <= 1


def test_floats_are_refused() -> None:
    with pytest.raises(BadPicture, match="unsupported pixels: F"):
        decode(one_colour("F", 0.5, "TIFF"))


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
    exif[sources.ORIENTATION] = orientation
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
def test_no_truncated_picture_is_accepted(kind: str, part: float) -> None:
    data = WHOLE[kind]
    with pytest.raises(BadPicture, match=r"^(empty file|not a picture|truncated|corrupt)$"):
        decode(data[: int(len(data) * part)])


@pytest.mark.parametrize("kind", [kind for kind in WHOLE if kind != "webp"])
def test_half_a_picture_is_truncated_and_bytes_behind_a_whole_one_do_not_matter(kind: str) -> None:
    data = WHOLE[kind]
    with pytest.raises(BadPicture, match=r"^truncated$"):
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
    with pytest.raises(BadPicture, match=f"^{reason}$"):
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
from stages.images.sources import BadPicture, decode
data, small = (pathlib.Path(name).read_bytes() for name in sys.argv[1:])
decode(small)  # the readers are loaded at the first picture
start = time.perf_counter()
try:
    decode(data)
except BadPicture as bad:
    reason = bad
seconds = time.perf_counter() - start
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


def test_real_photos_decode_as_pillow_does(shared: Path) -> None:
    for file in sorted((shared / "data/celeba/img_align_celeba").glob("*.jpg"))[:20]:
        with Image.open(file) as opened:
            np.testing.assert_array_equal(decode(file.read_bytes()), np.asarray(opened.convert("RGB")))


# What a folder holds.


def test_names_of_every_kind_and_links(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for folder in (root / "deep/er", root / ".hidden", elsewhere):
        folder.mkdir(parents=True)
    names = ["a b.jpg", "line\nbreak.png", "Žofie 日本.JPEG", "deep/er/x.webp", "UPPER.PNG"]
    for name in [*names, ".hidden/no.jpg", ".no.jpg", "notes.txt", "list.csv", "no_suffix", "../elsewhere/out.jpg"]:
        (root / name).write_bytes(b"x")
    (root / "out.jpg").symlink_to(elsewhere / "out.jpg")
    (root / "out_folder").symlink_to(elsewhere)
    (root / "in.jpg").symlink_to(root / "a b.jpg")
    (root / "in_folder").symlink_to(root / "deep")
    (root / "nowhere.jpg").symlink_to(root / "gone.jpg")
    (root / "folder.jpg").mkdir()
    (root / "folder.jpg/inside.png").write_bytes(b"x")
    os.mkfifo(root / "pipe.jpg")

    found = {item.path: item.reason for item in sources.find("folder", root)}

    assert found == {
        **dict.fromkeys(names),
        "in.jpg": None,
        "folder.jpg/inside.png": None,
        "out.jpg": "outside the root (symlink)",
        "out_folder": "outside the root (symlink)",
        "nowhere.jpg": "not a file",
        "pipe.jpg": "not a file",
    }
    assert list(found) == sorted(found)


def test_a_name_that_is_no_utf8_is_named_and_refused(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).write_bytes(b"x")
    (item,) = sources.find("folder", tmp_path)
    assert (item.path, item.reason) == (r"caf\xe9.jpg", "name is not UTF-8")


def test_a_root_that_is_itself_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/a.png").write_bytes(b"x")
    (tmp_path / "real/b.png").symlink_to("a.png")
    (tmp_path / "root").symlink_to("real")
    assert [(item.path, item.reason) for item in sources.find("scenes", tmp_path / "root")] == [
        ("a.png", None),
        ("b.png", None),
    ]


POINTS = ",".join(sources.LANDMARKS)


def test_landmarks_and_notes_of_single_pictures(tmp_path: Path) -> None:
    for name in ("a.png", "with, comma.png"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "landmarks.csv").write_text(f"path,{POINTS}\na.png,1,2,3,4,5,6,7,8,9,10.5\n")
    (tmp_path / "pictures.csv").write_text('path,consent,identity,split\n"with, comma.png",signed,Ada,val\na.png,,,\n')
    first, second = sources.find("portraits", tmp_path)
    assert first.landmarks == (1, 2, 3, 4, 5, 6, 7, 8, 9, 10.5)
    assert (first.consent, first.identity, first.split) == (None, None, None)
    assert (second.landmarks, second.consent, second.identity, second.split) == (None, "signed", "Ada", "val")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("landmarks.csv", f"path,{POINTS}\na.png,1,2,3\n", "11 fields expected, 4 found"),
        ("landmarks.csv", f"path,{POINTS}\na.png,1,2,3,4,5,6,7,8,9,x\n", "'a.png': ten numbers"),
        ("landmarks.csv", f"path,{POINTS}\na.png,1,2,3,4,5,6,7,8,9,nan\n", "finite"),
        ("landmarks.csv", "path,x,y\n", "header must end in lefteye_x"),
        ("pictures.csv", "path,license\na.png,MIT\n", "unknown column 'license'"),
        ("pictures.csv", "name\na.png\n", "unknown column 'name'"),
        ("pictures.csv", "licence\nMIT\n", "no column 'path'"),
        ("pictures.csv", "path,licence\nb.png,MIT\n", "no picture 'b.png'"),
        ("pictures.csv", "path,origin\na.png,Rome, Italy\n", "2 fields expected, 3 found"),
        ("pictures.csv", "path,split\na.png,tset\n", "must be one of train, val, test"),
        ("pictures.csv", "path\n\udcff\n", "cannot be read as UTF-8"),
        ("pictures.csv", "", "no column 'path'"),
    ],
)
def test_a_faulty_list_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / name).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=message) as caught:
        sources.find("folder", tmp_path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shipped", [False, True], ids=["flat", "as shipped"])
def test_celeba_with_its_lists(tmp_path: Path, shipped: bool) -> None:
    pictures, lists, partition = (tmp_path / name if shipped else tmp_path for name in ("Img", "Anno", "Eval"))
    for folder in (pictures / "img_align_celeba", lists, partition):
        folder.mkdir(parents=True, exist_ok=True)
    for number in (1, 2, 3):
        (pictures / f"img_align_celeba/00000{number}.jpg").write_bytes(b"x")
    (partition / "list_eval_partition.txt").write_text("000001.jpg 0\n000002.jpg 2\n")
    (lists / "identity_CelebA.txt").write_text("000001.jpg 2880\n000003.jpg 17\n")
    header = " ".join(sources.LANDMARKS)
    (lists / "list_landmarks_align_celeba.txt").write_text(
        f"2\n{header}\n000001.jpg 69  109  106  113   77  142   73  152  108  154\n000002.jpg 1 2 3 4 5 6 7 8 9 10\n"
    )
    first, second, third = sources.find("celeba", tmp_path)
    assert (first.split, first.identity) == ("train", "2880")
    assert first.landmarks == (69, 109, 106, 113, 77, 142, 73, 152, 108, 154)
    assert (second.split, second.identity) == ("test", None)
    assert (third.split, third.identity, third.landmarks) == (None, "17", None)


def test_celeba_without_its_folder_or_with_a_strange_partition(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="img_align_celeba: no such folder"):
        sources.find("celeba", tmp_path)
    (tmp_path / "img_align_celeba").mkdir()
    (tmp_path / "list_eval_partition.txt").write_text("000001.jpg 3\n")
    with pytest.raises(InputError, match=r"'000001\.jpg': the partition must be 0, 1 or 2"):
        sources.find("celeba", tmp_path)


def test_celeba_hq_follows_its_mapping(tmp_path: Path) -> None:
    (tmp_path / "CelebA-HQ-img").mkdir()
    (tmp_path / "CelebA-HQ-mask").mkdir()
    for name in ("CelebA-HQ-img/0.jpg", "CelebA-HQ-img/00007.png", "CelebA-HQ-mask/0_hair.png"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "CelebA-HQ-to-CelebA-mapping.txt").write_text(
        "idx     orig_idx     orig_file\n0       119612       119613.jpg\n7       99094        099095.jpg\n"
    )
    (tmp_path / "list_eval_partition.txt").write_text("119613.jpg 0\n099095.jpg 1\n")
    (tmp_path / "identity_CelebA.txt").write_text("099095.jpg 8\n")
    assert [(item.path, item.split, item.identity) for item in sources.find("celeba_hq", tmp_path)] == [
        ("CelebA-HQ-img/0.jpg", "train", None),
        ("CelebA-HQ-img/00007.png", "val", "8"),
    ]


def write_batch(file: Path, pixels: np.ndarray) -> None:
    """A batch as the official archive has it: pickled by Python 2, keys as bytes."""
    rows = pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(pickle.dumps({b"data": rows, b"labels": [0] * len(rows)}, protocol=2))


def test_cifar10_batches(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    write_batch(tmp_path / "cifar-10-batches-py/data_batch_2", pixels[:2])
    write_batch(tmp_path / "cifar-10-batches-py/test_batch", pixels[2:])
    found = sources.find("cifar10", tmp_path)
    assert [(item.path, item.split) for item in found] == [
        ("cifar-10-batches-py/data_batch_2/00000", sources.TRAIN_OR_VAL),
        ("cifar-10-batches-py/data_batch_2/00001", sources.TRAIN_OR_VAL),
        ("cifar-10-batches-py/test_batch/00000", "test"),
    ]
    np.testing.assert_array_equal([item.content for item in found], pixels)


class Planted:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "batch",
    [b"", b"not a pickle", pickle.dumps([1, 2]), pickle.dumps({b"data": np.zeros((2, 5), np.uint8)}), "planted"],
    ids=["empty", "text", "list", "shape", "planted"],
)
def test_a_foreign_or_planted_batch_is_named_and_runs_nothing(tmp_path: Path, batch: bytes | str) -> None:
    trap = tmp_path / "sprung"
    data = pickle.dumps({b"data": Planted(trap)}) if isinstance(batch, str) else batch
    (tmp_path / "data_batch_1").write_bytes(data)
    with pytest.raises(InputError, match="data_batch_1: no CIFAR-10 batch"):
        sources.find("cifar10", tmp_path)
    assert not trap.exists()
    if isinstance(batch, str):  # the trap does work
        pickle.loads(data)
        assert trap.exists()


@pytest.mark.parametrize("source", sources.SOURCES)
def test_a_missing_or_empty_folder_is_named(tmp_path: Path, source: str) -> None:
    with pytest.raises(InputError, match="gone: no such folder"):
        sources.find(source, tmp_path / "gone")
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(InputError) as caught:
        sources.find(source, tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_the_real_folders_are_read_as_their_authors_meant(shared: Path) -> None:
    data = shared / "data"
    faces = sources.find("celeba", data / "celeba")
    assert len(faces) == 5430
    assert {split: sum(item.split == split for item in faces) for split in sources.SPLITS} == {
        "train": 4140,
        "val": 750,
        "test": 540,
    }
    assert len({item.identity for item in faces}) == 181
    assert sum(item.landmarks is not None for item in faces) == 12
    assert len(sources.find("cifar10", data / "cifar10")) == 5 * 1017 + 900
    assert len(sources.find("scenes", data / "scenes")) == 1400
    people = sources.find("lfw", data / "lfw")
    assert len(people) == 1002
    assert all(Path(item.path).name.startswith(f"{item.identity}_") for item in people)
