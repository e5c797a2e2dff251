"""Tables of pictures and holes: what was written is read, and a row is found by its key."""

from pathlib import Path

import numpy as np
import pytest

from stages.images import table
from stages.runs.errors import InputError

SIZE = (3, 5)  # 15 pixels: a hole ends inside a byte


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "ROWS", 4)


def test_pictures_come_back_in_any_order_over_batches(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (10, *SIZE, 3), np.uint8)
    with table.writing_pictures(tmp_path / "a.arrow", SIZE, table.ALIGNED) as writer:
        for i, picture in enumerate(pixels):
            writer.append(picture, f"id{i}", f"{i}.png", [1, 0, 0, 0, 1, 0], None if i % 2 else range(10))
    read = table.Table(tmp_path / "a.arrow")
    assert (len(read), read.size) == (10, SIZE)
    assert np.array_equal(read.pictures(), pixels)
    assert np.array_equal(read.pictures([7, 0, 7]), pixels[[7, 0, 7]])
    assert read.keys()[8] == ("id8", "8.png")
    assert read.find([("id8", "8.png"), ("id0", "0.png")]).tolist() == [8, 0]
    assert np.isnan(read.landmarks()[1::2]).all()
    assert read.landmarks()[8].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    with pytest.raises(InputError, match=r"a\.arrow: no row for 0\.png \(image id1\)"):
        read.find([("id1", "0.png")])


def test_holes_come_back_and_have_their_kind_for_a_key(tmp_path: Path) -> None:
    holes = np.random.default_rng(0).random((6, *SIZE)) < 0.5
    with table.writing_holes(tmp_path / "a.arrow", SIZE) as writer:
        for i, hole in enumerate(holes):
            writer.append(table.pack(hole), f"id{i // 2}", "x.png", ("centre", "lines")[i % 2], float(hole.mean()))
    read = table.Table(tmp_path / "a.arrow")
    assert np.array_equal(read.holes([5, 1]), holes[[5, 1]])
    assert read.find([("id2", "x.png", "lines"), ("id0", "x.png", "centre")]).tolist() == [5, 0]


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        with table.writing_pictures(tmp_path / name, SIZE, table.COMPLETED) as writer:
            for i in range(6):
                writer.append(np.full((*SIZE, 3), i, np.uint8), f"id{i}", "x.png", "centre", "test")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
