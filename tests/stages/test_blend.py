"""Poisson blending against hand-worked values, a direct float64 solve, and the rules on leaks and known pixels."""

import os
import subprocess
import sys
from pathlib import Path

import forked
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.sparse import csc_array
from scipy.sparse.linalg import spsolve

from stages.blend import _levels, poisson_blend
from stages.images import table

ROOT = Path(__file__).parents[2]
METHODS = ("exact", "sobel", "coupled")


def batch(count: int, height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    known, guide = rng.random((2, count, height, width, 3), dtype=np.float32)
    return known, guide


def box(height: int, width: int, top: int, bottom: int, left: int, right: int) -> np.ndarray:
    hole = np.zeros((height, width), bool)
    hole[top:bottom, left:right] = True
    return hole


def direct(known: np.ndarray, guide: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Float64, one image, from the definition: differences D over every pair of neighbours, D'D x = D'D g."""
    height, width = hole.shape
    place = np.arange(hole.size).reshape(height, width)
    first = np.concatenate([place[:, :-1].ravel(), place[:-1].ravel()])
    second = np.concatenate([place[:, 1:].ravel(), place[1:].ravel()])
    pair = np.arange(len(first))
    ones = np.ones(len(first))
    d = csc_array((ones, (pair, second)), (len(pair), hole.size)) - csc_array(
        (ones, (pair, first)), (len(pair), hole.size)
    )
    x = known.reshape(-1, 3).astype(float)
    g, missing = guide.reshape(-1, 3).astype(float), hole.ravel()
    target = d @ g - d[:, ~missing] @ x[~missing]
    matrix = (d[:, missing].T @ d[:, missing]).tocsc()
    right = d[:, missing].T @ target
    if missing.all():  # free by a constant: hold the mean at the guide's
        return guide.astype(float)
    x[missing] = np.stack([spsolve(matrix, right[:, c]) for c in range(3)], axis=1).reshape(-1, 3)
    return x.reshape(height, width, 3)


def lines(size: int) -> np.ndarray:
    hole = np.zeros((size, size), bool)
    steps = np.arange(size)
    hole[steps, steps] = hole[steps, (steps * 3) // 4 + 2] = hole[size // 3] = hole[:, -2] = True
    hole[4:9, 10:16] = True
    return hole


HOLES = {
    "inside": box(20, 26, 4, 13, 5, 21),
    "one pixel": box(20, 26, 4, 5, 5, 6),
    "corner": box(20, 26, 0, 7, 0, 9),
    "other corner": box(20, 26, 11, 20, 9, 26),
    "left border": box(20, 26, 3, 17, 0, 9),
    "top half": box(20, 26, 0, 10, 0, 26),
    "lower half": box(20, 26, 10, 20, 0, 26),
    "middle band": box(20, 26, 0, 20, 8, 15),
    "all but one column": box(20, 26, 0, 20, 0, 25),
    "all but one pixel": ~box(20, 26, 7, 8, 9, 10),
    "frame": ~box(20, 26, 3, 16, 4, 20),
    "two boxes": box(20, 26, 1, 5, 2, 9) | box(20, 26, 8, 20, 14, 20),
    "lines": lines(24),
    "everything": np.ones((20, 26), bool),
    "nothing": np.zeros((20, 26), bool),
    "wide, by fast transforms": box(140, 310, 2, 139, 3, 308),
}


@pytest.mark.parametrize("name", HOLES)
@pytest.mark.parametrize("count", [1, 13])  # 13: the factor for many images
def test_exact_is_the_direct_solution(name: str, count: int) -> None:
    hole = HOLES[name]
    count = 1 if hole.size > 10_000 else count
    known, guide = batch(count, *hole.shape)
    x = poisson_blend(known, guide, np.repeat(hole[None], count, 0))
    for k in {0, count - 1}:
        assert np.abs(x[k] - direct(known[k], guide[k], hole)).max() <= 1e-5
        assert (x[k][~hole] == known[k][~hole]).all()


@pytest.mark.parametrize("name", HOLES)
def test_in_float64_it_is_exact_to_float64(name: str) -> None:
    hole = HOLES[name]
    known, guide = (pictures.astype(float) for pictures in batch(1, *hole.shape))
    x = poisson_blend(known, guide, hole[None])
    assert x.dtype == np.float64
    assert np.abs(x[0] - direct(known[0], guide[0], hole)).max() <= 1e-12
    assert (x[0][~hole] == known[0][~hole]).all()


@given(arrays.arrays(bool, st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_any_hole(hole: np.ndarray, seed: int) -> None:
    known, guide = batch(*hole.shape, seed=seed)
    unreadable = np.where(hole[..., None], np.float32(np.nan), known)
    x = poisson_blend(unreadable, guide, hole)
    assert x.dtype == np.float32
    assert (x[~hole] == known[~hole]).all()
    for k in range(len(hole)):
        assert np.abs(x[k] - direct(known[k], guide[k], hole[k])).max() <= 1e-5


def test_by_hand() -> None:
    # One missing pixel under a flat guide: the mean of its four neighbours; at the border of three.
    known = np.zeros((1, 3, 3, 3), np.float32)
    known[0, :, :, 0] = [[9, 0.1, 9], [0.2, 9, 0.3], [9, 0.6, 9]]
    flat = np.full_like(known, 0.7)
    assert poisson_blend(known, flat, box(3, 3, 1, 2, 1, 2)[None])[0, 1, 1, 0] == pytest.approx(0.3)
    assert poisson_blend(known, flat, box(3, 3, 0, 1, 1, 2)[None])[0, 0, 1, 0] == pytest.approx((9 + 9 + 9) / 3)
    # A row 0 ? ? 0.9 is a ramp; a guide that steps 0.3 between the two shares the other 0.6 among three.
    row = np.zeros((1, 1, 4, 3), np.float32)
    row[..., 3, :] = 0.9
    hole = box(1, 4, 0, 1, 1, 3)[None]
    assert poisson_blend(row, np.zeros_like(row), hole)[0, 0, :, 1] == pytest.approx([0, 0.3, 0.6, 0.9])
    guide = np.zeros_like(row)
    guide[..., 2:, :] = 0.3
    assert poisson_blend(row, guide, hole)[0, 0, :, 1] == pytest.approx([0, 0.2, 0.7, 0.9])
    # At the picture's end nothing pulls: the last known level goes on.
    assert poisson_blend(row + 0.5, np.zeros_like(row), box(1, 4, 0, 1, 1, 4)[None])[0, 0, :, 2] == pytest.approx(0.5)


@pytest.mark.parametrize("method", METHODS)
def test_an_offset_guide_changes_nothing_and_a_right_one_restores(method: str) -> None:
    truth, other = batch(2, 16, 16)
    hole = np.stack([box(16, 16, 4, 10, 3, 12), HOLES["inside"][:16, :16]])
    x = poisson_blend(truth, truth + np.float32(0.25), hole, method, iterations=300)
    if method == "exact":
        assert np.abs(x - truth).max() <= 1e-5
        shifted = poisson_blend(truth, other + np.float32(0.25), hole)
        assert np.abs(shifted - poisson_blend(truth, other, hole)).max() <= 1e-5
    assert (poisson_blend(truth, truth, hole, method, iterations=5) == truth).all()


def test_not_clipped() -> None:
    known, guide = batch(1, 12, 12)
    x = poisson_blend(known, 8 * guide, box(12, 12, 3, 9, 3, 9)[None])
    assert x.max() > 1.5


@pytest.mark.parametrize("method", METHODS)
def test_nothing_under_the_hole_is_read(method: str) -> None:
    known, guide = batch(4, 18, 18)
    hole = np.stack([lines(18), box(18, 18, 4, 9, 4, 18), np.ones((18, 18), bool), lines(18)])
    x = poisson_blend(known, guide, hole, method, iterations=20)
    for planted in (np.nan, np.inf, 1e30, 0):
        changed = np.where(hole[..., None], np.float32(planted), known)
        assert poisson_blend(changed, guide, hole, method, iterations=20).tobytes() == x.tobytes()
    assert (x[~hole] == known[~hole]).all()
    assert np.isfinite(x).all()


@pytest.mark.parametrize("method", METHODS)
def test_an_image_in_a_batch_is_as_alone(method: str) -> None:
    known, guide = batch(16, 24, 24)
    hole = np.repeat(lines(24)[None], 16, 0)
    hole[3], hole[5], hole[9] = box(24, 24, 2, 9, 2, 19), box(24, 24, 2, 9, 2, 19), False
    together = poisson_blend(known, guide, hole, method, iterations=30)
    for k in (0, 3, 9, 15):
        one = slice(k, k + 1)
        alone = poisson_blend(known[one], guide[one], hole[one], method, iterations=30)
        assert np.abs(alone - together[one]).max() <= 1e-6


@pytest.mark.parametrize("method", ["sobel", "coupled"])
def test_sobel_leaves_its_null_space_and_exact_does_not(method: str) -> None:
    """A grainy picture, as photos are: what the descent adds to the guide alternates from pixel to pixel."""
    grain, soft = batch(1, 32, 32)
    known, guide = 0.4 + 0.2 * grain, np.full_like(soft, 0.6)
    hole = box(32, 32, 8, 24, 8, 24)[None]

    def dots(picture: np.ndarray) -> float:
        """RMS of the part of u = x - g that alternates down or along; away from the rim, where u is rough anyway."""
        u = (picture - guide)[0, 11:21, 11:21]
        along, down = np.diff(u, 2, axis=1) / 4, np.diff(u, 2, axis=0) / 4
        return float(np.sqrt((along**2).mean() + (down**2).mean()))

    exact = poisson_blend(known, guide, hole)
    descended = poisson_blend(known, guide, hole, method)
    longer = poisson_blend(known, guide, hole, method, iterations=1500)
    assert dots(exact) < 0.002
    assert min(dots(descended), dots(longer)) > 5 * dots(exact)


def test_wrong_arguments_are_refused() -> None:
    known, guide = batch(2, 8, 8)
    hole = np.zeros((2, 8, 8), bool)
    with pytest.raises(ValueError, match="N x H x W"):
        poisson_blend(known, guide, hole[:1])
    with pytest.raises(ValueError, match="float32 or float64 twice"):
        poisson_blend(known.astype(np.float16), guide.astype(np.float16), hole)
    with pytest.raises(ValueError, match="float32"):
        poisson_blend(known, guide, hole.astype(np.uint8))
    with pytest.raises(ValueError, match="contiguous"):
        poisson_blend(known, guide, hole, out=np.empty((2, 8, 8, 6), np.float32)[..., ::2])
    with pytest.raises(ValueError, match="guide"):
        poisson_blend(known, guide, hole, out=guide)
    with pytest.raises(ValueError, match="method"):
        poisson_blend(known, guide, hole, "magic")  # type: ignore[arg-type]


# --- The stage, on tables of its own.

SIZE = (16, 16)
KINDS = ("lines", "centre", "half")


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Tables of five pictures, three holes each; the test split's three are completed, order mixed."""
    rng = np.random.default_rng(3)
    holes = {"lines": lines(16), "centre": box(16, 16, 4, 12, 4, 12), "half": box(16, 16, 0, 16, 8, 16)}
    for folder in ("aligned", "masks", "inpainted"):
        (tmp_path / folder).mkdir()
    for split, names in {"train": "a", "val": "b", "test": "cde"}.items():
        with (
            table.writing_pictures(tmp_path / "aligned" / f"{split}.arrow", SIZE, table.ALIGNED) as pictures,
            table.writing_holes(tmp_path / "masks" / f"{split}.arrow", SIZE) as masks,
        ):
            for name in names:
                pictures.append(
                    rng.integers(0, 256, (*SIZE, 3), np.uint8), name * 64, f"{name}.png", [1, 0, 0, 0, 1, 0], None
                )
                for kind in KINDS:
                    masks.append(table.pack(holes[kind]), name * 64, f"{name}.png", kind, float(holes[kind].mean()))
    write_guide(tmp_path, [(name, kind) for kind in KINDS for name in "ecd"])
    (tmp_path / "params.yaml").write_text("blend:\n  system: {system: system, dataset: portraits}\n")
    return tmp_path


def write_guide(folder: Path, rows: list[tuple[str, str]]) -> None:
    rng = np.random.default_rng(4)
    with table.writing_pictures(folder / "inpainted" / "guide.arrow", SIZE, table.COMPLETED) as guides:
        for name, kind in rows:
            guides.append(rng.integers(0, 256, (*SIZE, 3), np.uint8), name * 64, f"{name}.png", kind, "test")


def run(folder: Path, out: str = "blended") -> subprocess.CompletedProcess[str]:
    paths = {option: folder / option for option in ("params.yaml", "aligned", "masks", "inpainted")}
    options = [f"--{option.removesuffix('.yaml')}={path}" for option, path in paths.items()]
    words = ["system", *options, f"--blended={folder / out}"]
    return forked.run("stages.blend", words, ROOT, {**os.environ, "PALIMPSEST_RECORDS": str(folder / "records")})


def test_the_stage(made: Path) -> None:
    done = run(made)
    assert done.returncode == 0, done.stderr
    blended, guides = table.Table(made / "blended" / "blended.arrow"), table.Table(made / "inpainted" / "guide.arrow")
    assert blended.keys() == guides.keys()
    pictures, masks = (table.Table(made / folder / "test.arrow") for folder in ("aligned", "masks"))
    for row, (image, _, kind) in enumerate(guides.keys()):
        picture = pictures.pictures([pictures.column("image_id").index(image)])[0]
        hole = masks.holes(
            [list(zip(masks.column("image_id"), masks.column("kind"), strict=True)).index((image, kind))]
        )[0]
        result, guide = blended.pictures([row])[0], guides.pictures([row])[0]
        assert (result[~hole] == picture[~hole]).all()
        expected = direct(picture / 255, guide / 255, hole).clip(0, 1) * 255
        assert np.abs(result - expected).max() <= 0.502

    # The truth under the holes does not matter, and the same inputs give the same bytes.
    one = table.Table(made / "aligned" / "test.arrow")
    keys, pixels = one.keys(), one.pictures()
    under = lines(16) & box(16, 16, 4, 12, 8, 12)  # missing in all three holes
    pixels[:, under] = 255 - pixels[:, under]
    with table.writing_pictures(made / "aligned" / "test.arrow", SIZE, table.ALIGNED) as pictures_again:
        for picture, key in zip(pixels, keys, strict=True):
            pictures_again.append(picture, *key, [1, 0, 0, 0, 1, 0], None)
    assert run(made, "again").returncode == 0
    assert (made / "again" / "blended.arrow").read_bytes() == (made / "blended" / "blended.arrow").read_bytes()


def test_a_row_of_another_dataset_is_one_line(made: Path) -> None:
    write_guide(made, [("c", "centre"), ("z", "centre")])
    done = run(made)
    assert done.returncode == 2
    assert "blend.system.dataset" in done.stderr
    assert "z.png" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (made / "blended").exists()


def test_a_mistyped_method_is_one_line(made: Path) -> None:
    (made / "params.yaml").write_text("blend:\n  system: {system: system, dataset: portraits, method: exakt}\n")
    done = run(made)
    assert done.returncode == 2
    assert "blend.system.method" in done.stderr
    assert done.stderr.count("\n") == 1


def test_no_torch() -> None:
    code = "import sys, stages.blend; sys.exit('torch' in sys.modules or 'cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_halves_go_up_whatever_the_last_bit_and_nothing_else_does() -> None:
    picture, hole = np.zeros((1, 1, 5, 3), np.uint8), np.ones((1, 1, 5), bool)
    levels = np.array([10.5 - 1e-10, 10.5 + 1e-10, 10.499, -4, 300])[None, None, :, None].repeat(3, 3)
    assert _levels(levels / 255, picture, hole)[0, 0, :, 0].tolist() == [11, 11, 10, 0, 255]
