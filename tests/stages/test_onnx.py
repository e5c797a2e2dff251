"""Networks from elsewhere, in ONNX files: what they are given, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from onnx_made import grey

from stages.models.onnx import SIDE, Onnx
from stages.runs.errors import InputError


def batch(side: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    hole = rng.random((2, side, side)) < 0.3
    known = rng.integers(0, 256, (2, side, side, 3), np.uint8)
    known[hole] = 0
    return known, hole


@pytest.mark.parametrize("scale", [1, 255])
def test_pictures_come_back_as_they_were_given_and_the_hole_as_it_was_painted(tmp_path: Path, scale: float) -> None:
    known, hole = batch(32)
    found = Onnx(grey(tmp_path / "grey.onnx", 32, scale))
    assert (found.side, found.open) == (32, False)
    made = found.complete(known, hole)
    np.testing.assert_array_equal(made[~hole], known[~hole])
    assert (made[hole] == 128).all()


@pytest.mark.parametrize("scale", [1, 255])
def test_a_dark_picture_stays_dark(tmp_path: Path, scale: float) -> None:
    """In levels its largest number is 1: of one in shares that would be white."""
    known, hole = batch(32)
    known[:] = ~hole[..., None]
    made = Onnx(grey(tmp_path / "grey.onnx", 32, scale, shade=1 / 255)).complete(known, hole)
    assert (made == 1).all()


def test_a_file_that_takes_any_size(tmp_path: Path) -> None:
    found = Onnx(grey(tmp_path / "grey.onnx"))
    assert (found.side, found.open) == (SIDE, True)
    for side in (8, 40):
        assert found.complete(*batch(side)).shape == (2, side, side, 3)


def test_other_files_are_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "a.onnx"
    with pytest.raises(InputError, match=r"a\.onnx: No such file or directory"):
        Onnx(file)
    file.write_bytes(b"no network")
    with pytest.raises(InputError, match=r"a\.onnx: not a usable ONNX file"):
        Onnx(file)
    with pytest.raises(InputError, match=r"a\.onnx: takes image .*; it must take a picture"):
        Onnx(grey(file, inputs=1))


def test_numbers_that_are_not_finite_and_other_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not finite"):
        Onnx(grey(tmp_path / "a.onnx", 32, shade=float("nan"))).complete(*batch(32))
    with pytest.raises(InputError, match="cannot complete"):
        Onnx(grey(tmp_path / "b.onnx", 32)).complete(*batch(40))
