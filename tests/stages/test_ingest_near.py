"""Pictures that look the same: a hash that copies keep, and their finding across splits."""

import csv
import io
import random
from pathlib import Path

import imagehash
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from stages import ingest
from stages.images import phash
from stages.images.decode.picture import ORIENTATION
from stages.images.table import SPLITS
from stages.runs.params import build

PARAMS = build(
    ingest.Params,
    {
        "source": "folder", "root": "x", "use": "train", "licence": "CC0-1.0", "consent": "not a person",
        "origin": "a test", "split": {"val": 0, "test": 0},
    },
    "datasets.x.ingest",
)  # fmt: skip


def scene(seed: int, size: tuple[int, int] = (90, 110)) -> Image.Image:
    """A smooth picture that no other one looks like."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 10, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def jpeg(picture: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", **options)
    return stream.getvalue()


def bits(one: bytes, other: bytes) -> int:
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).bit_count()


@pytest.mark.parametrize("seed", range(20))
def test_a_hash_is_imagehashs_own(seed: int) -> None:
    picture = scene(seed, (40 + 7 * seed, 300 - 9 * seed))
    found = phash.hashes(np.asarray(picture))
    assert found is not None
    for each, of in zip(found, (picture, ImageOps.mirror(picture)), strict=True):
        assert each.hex() == str(imagehash.phash(of, hash_size=16))


def test_one_colour_has_no_hash() -> None:
    assert phash.hashes(np.full((20, 30, 3), 200, np.uint8)) is None


def family(seed: int) -> list[bytes]:
    """Hashes, and others that differ from them in any number of bits, up to all."""
    rng = random.Random(seed)
    found = [rng.randbytes(32) for _ in range(rng.randint(1, 4))]
    for _ in range(rng.randint(0, 12)):
        one = int.from_bytes(rng.choice(found), "big")
        for place in rng.sample(range(256), rng.choice([0, 1, 20, 39, 40, 41, 62, 63, 256])):
            one ^= 1 << place
        found.append(one.to_bytes(32, "big"))
    return found


families = st.integers(0, 2**32).map(family)


@given(families, families, st.sampled_from([phash.NEAR, phash.POSSIBLE]))
def test_exactly_the_pairs_within_a_distance_are_found(ours: list[bytes], theirs: list[bytes], most: int) -> None:
    theirs = theirs + ours
    found = [
        pair
        for block in phash.pairs(phash.stacked(ours), phash.stacked(theirs), most)
        for pair in zip(*(each.tolist() for each in block), strict=True)
    ]
    truth = {(i, k, bits(one, other)) for i, one in enumerate(ours) for k, other in enumerate(theirs)}
    assert sorted(found) == sorted(pair for pair in truth if pair[2] <= most)


@pytest.mark.parametrize("sizes", [(1, 2, 2), (3, 5, 10)])
def test_pairs_are_found_over_all_blocks(sizes: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in zip(("QUERIES", "HASHES", "TASK"), sizes, strict=True):
        monkeypatch.setattr(phash, name, size)
    same = phash.stacked([b"a" * 32] * 13)
    found = [pair for one, other, _ in phash.pairs(same, same[:11], 0) for pair in zip(one, other, strict=True)]
    assert sorted(found) == [(i, k) for i in range(13) for k in range(11)]


@given(families, st.integers(0, 999))
def test_the_nearest_of_another_side_is_the_nearest(found: list[bytes], seed: int) -> None:
    rng = random.Random(seed)
    mirrored = rng.sample(found, len(found))
    known = [
        None if rng.random() < 0.1 else phash.Hashes(one, other) for one, other in zip(found, mirrored, strict=True)
    ]
    sides = [rng.choice([*SPLITS, None]) for _ in known]

    def distance(one: int, other: int) -> int:
        strict, lax = sorted((one, other), key=lambda i: -SPLITS.index(str(sides[i])))
        ours, theirs = known[strict], known[lax]
        assert ours is not None
        assert theirs is not None
        return min(bits(ours.upright, theirs.upright), bits(ours.mirrored, theirs.upright))

    truth = []
    for i, each in enumerate(known):
        others = [
            (distance(i, k), k)
            for k, other in enumerate(known)
            if each and other and sides[i] and sides[k] and sides[i] != sides[k]
        ]
        truth.append(min(others)[1] if others and min(others)[0] <= phash.NEAR else None)
    assert phash.nearest(known, sides) == truth


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Pictures, and copies of them in other splits."""
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    pictures = {
        "a.jpg": ("train", jpeg(scene(1), quality=95)),
        "b.jpg": ("test", jpeg(scene(1).resize((60, 72)), quality=60)),
        "c.jpg": ("train", jpeg(scene(2), quality=95)),
        "d.jpg": ("val", jpeg(ImageOps.mirror(scene(2)).convert("L"), quality=95)),
        "e.jpg": ("train", jpeg(scene(3), quality=95)),
        "f.jpg": ("train", jpeg(scene(3), quality=70)),
        "g.jpg": ("test", jpeg(scene(4), quality=95)),
        "h.jpg": ("val", jpeg(scene(4).rotate(90, expand=True), quality=90, exif=turned)),  # upright as g
        "white.jpg": ("train", jpeg(Image.new("RGB", (30, 30), "white"))),
        "black.jpg": ("test", jpeg(Image.new("RGB", (30, 30)))),
        "same.jpg": ("test", jpeg(scene(5), quality=95)),
        "same2.jpg": ("test", jpeg(scene(5), quality=95)),
    }
    home = tmp_path / "pictures"
    home.mkdir()
    for name, (_, data) in pictures.items():
        (home / name).write_bytes(data)
    with (home / "pictures.csv").open("w") as file:
        csv.writer(file).writerows([("path", "split"), *((name, split) for name, (split, _) in pictures.items())])
    return home


def test_near_copies_in_other_splits_are_named_and_nobody_moves(root: Path, tmp_path: Path) -> None:
    (tmp_path / "tombstones.txt").touch()
    notes = ingest.ingest(root, tmp_path / "tombstones.txt", tmp_path / "out", PARAMS, "x")
    rows = {row["path"]: row for row in pq.read_table(tmp_path / "out").to_pylist()}
    names = {row["image_id"]: path for path, row in rows.items() if row["status"] == "kept"}
    assert {path: names[row["near"]] for path, row in rows.items() if row["near"]} == {
        "a.jpg": "b.jpg", "b.jpg": "a.jpg", "c.jpg": "d.jpg", "d.jpg": "c.jpg", "g.jpg": "h.jpg", "h.jpg": "g.jpg",
    }  # fmt: skip
    with (root / "pictures.csv").open() as file:
        assert {row["path"]: row["split"] for row in csv.DictReader(file)} == {
            path: row["split"] or "test" for path, row in rows.items()
        }
    assert notes["near"] == 6
    assert notes["moved"] == {}
    assert {path for path, row in rows.items() if row["phash"] is None} == {"white.jpg", "black.jpg", "same2.jpg"}
    for path, row in rows.items():
        if row["phash"]:
            upright = ImageOps.exif_transpose(Image.open(root / path))
            assert bits(row["phash"], bytes.fromhex(str(imagehash.phash(upright, hash_size=16)))) <= 2
