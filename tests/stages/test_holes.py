"""Every kind of hole: hand-worked shapes, ranges, determinism, options refused by name."""

import hashlib

import cv2
import numpy as np
import pytest
from dvc.stage.cache import _get_cache_hash
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.images import holes, table
from stages.images.landmarks import template
from stages.runs.errors import InputError

SEEDED = [kind for kind in holes.KINDS if kind != "file"]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def points(size: tuple[int, int], turn: float = 0) -> np.ndarray:
    """Landmarks with the eyes a third of the width apart, turned about their midpoint by `turn` degrees."""
    height, width = size
    half = width / 6 * np.array([np.cos(np.radians(turn)), np.sin(np.radians(turn))])
    middle = np.array([width / 2, height * 0.4])
    return np.array([middle - half, middle + half, middle, middle, middle])


@settings(max_examples=40, deadline=None)
@given(kind=st.sampled_from(SEEDED), height=st.integers(32, 256), width=st.integers(32, 256), seed=st.integers(0))
def test_any_size_has_missing_and_known_pixels(kind, height, width, seed):
    size = (height, width)
    hole = holes.draw(kind, size, rng(seed), points(size))
    assert hole.dtype == bool
    assert hole.shape == size
    assert hole.any()
    assert not hole.all()
    assert np.array_equal(hole, holes.draw(kind, size, rng(seed), points(size)))
    assert set(np.unique(hole.view(np.uint8))) == {0, 1}  # a bool over cv2's canvas is a true bool


def test_centre_is_the_middle_32_of_64():
    expected = np.zeros((64, 64), bool)
    expected[16:48, 16:48] = True
    assert np.array_equal(holes.draw("centre", 64, rng()), expected)
    assert holes.draw("centre", 64, rng(), fraction=12 / 64).sum() == 144
    assert holes.draw("centre", 64, rng(), fraction=1.0).all()
    assert holes.draw("pixels", 64, rng(), fraction=1.0).all()


def test_report_2s_centre_box_is_of_random_size_and_centred():
    sides = set()
    for seed in range(300):
        hole = holes.draw("centre", 64, rng(seed), fraction=12 / 64, smallest=1 / 12)
        rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
        assert hole.sum() == len(rows) * len(columns)
        for found in (rows, columns):  # as many pixels before it as behind it, or one fewer
            assert 63 - found[-1] - found[0] in (0, 1)
        sides.add((len(rows), len(columns)))
    assert {side for pair in sides for side in pair} == set(range(1, 13))
    assert any(tall != wide for tall, wide in sides)


def test_half_is_one_of_four_sides():
    columns = np.arange(8) < 4
    left = np.tile(columns, (6, 1))
    assert np.array_equal(holes.draw("half", (6, 8), rng(), side="left"), left)
    assert np.array_equal(holes.draw("half", (6, 8), rng(), side="right"), ~left)
    top = np.tile((np.arange(6) < 3)[:, None], (1, 8))
    assert np.array_equal(holes.draw("half", (6, 8), rng(), side="top"), top)
    assert np.array_equal(holes.draw("half", (6, 8), rng(), side="bottom"), ~top)
    drawn = {holes.draw("half", (6, 8), rng(seed)).tobytes() for seed in range(40)}
    assert len(drawn) == 4


def test_random_box_is_a_filled_box_within_its_limits():
    for seed in range(50):
        hole = holes.draw("random_box", (64, 32), rng(seed), max_fraction=0.5, smallest=0.25)
        rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
        assert hole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert 8 <= len(rows) <= 32
        assert 4 <= len(columns) <= 16


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [("lines", 0.16, 0.24), ("strokes", 0.13, 0.22), ("random_box", 0.07, 0.13), ("pixels", 0.799, 0.801)],
)
@pytest.mark.parametrize("size", [32, 64, 256])
def test_mean_ratio_hardly_depends_on_the_size(kind, low, high, size):
    ratios = [holes.draw(kind, size, rng(seed)).mean() for seed in range(60)]
    assert low < np.mean(ratios) < high


def test_level_eye_bar_by_hand():
    # Eyes 20 px apart about (32, 28): a bar 40 long and 10 high covers x 12..52, y 23..33, borders included.
    eyes = np.array([[22, 28], [42, 28], [0, 0], [0, 0], [0, 0]], float)
    hole = holes.draw("eye_bar", 64, rng(), eyes, length=2.0, height=0.5)
    expected = np.zeros((64, 64), bool)
    expected[23:34, 12:53] = True
    assert np.array_equal(hole, expected)


def test_upright_eye_bar_is_the_level_one_turned():
    eyes = np.array([[22, 32], [42, 32], [0, 0], [0, 0], [0, 0]], float)
    upright = eyes[:, ::-1]
    level = holes.draw("eye_bar", 64, rng(), eyes)
    assert np.array_equal(holes.draw("eye_bar", 64, rng(), upright), level.T)


@pytest.mark.parametrize("turn", [-40, -15, 10, 30])
def test_eye_bar_turns_with_the_eyes(turn):
    eyes = points((128, 128), turn)
    hole = holes.draw("eye_bar", 128, rng(), eyes)
    y, x = np.nonzero(hole)
    assert np.allclose([x.mean(), y.mean()], eyes[:2].mean(0), atol=0.5)
    main = np.linalg.eigh(np.cov(x, y))[1][:, -1]
    assert abs(np.degrees(np.arctan(main[1] / main[0])) - turn) < 1
    for eye in np.rint(eyes[:2]).astype(int):
        assert hole[eye[1] - 2 : eye[1] + 3, eye[0] - 2 : eye[0] + 3].all()


@pytest.mark.parametrize("size", [64, 128, 256])
def test_eye_bar_covers_a_tenth_of_an_aligned_face(size):
    assert 0.08 < holes.draw("eye_bar", size, rng(), template(size)).mean() < 0.12


@pytest.mark.parametrize(
    ("landmarks", "reason"),
    [
        (None, "no landmarks"),
        (np.full((5, 2), np.nan), "no landmarks"),
        (np.full((5, 2), 7.0), "one point"),
        (points((64, 64)) + 500, "outside the picture"),
    ],
)
def test_eye_bar_without_eyes_says_so(landmarks, reason):
    with pytest.raises(holes.Unplaceable, match=reason):
        holes.draw("eye_bar", 64, rng(), landmarks)


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        ("center", {}, "unknown kind of hole 'center'; one of: centre"),
        ("centre", {"fracton": 0.5}, "centre: unknown option 'fracton'; it has: fraction, smallest"),
        ("centre", {"smallest": 0.0}, "centre: smallest: .*greater than 0"),
        ("centre", {"fraction": 1.5}, "centre: fraction: .*less than or equal to 1"),
        ("centre", {"fraction": "0.5"}, "centre: fraction: .*valid number"),
        ("lines", {"count": 2.5}, "lines: count: "),
        ("half", {"side": "up"}, "half: side: "),
        ("file", {"path": "mask.png"}, "file: missing option 'sha256'"),
        ("eye_bar", {"width": 2.0}, "eye_bar: unknown option 'width'; it has: length, height"),
    ],
)
def test_options_are_refused_by_name(kind, options, named):
    with pytest.raises(InputError, match=named):
        holes.validate(kind, options)
    with pytest.raises(ValueError, match=named):  # so that pydantic reports it as a fault of its field
        holes.draw(kind, 64, rng(), **options)


@pytest.mark.parametrize("label", ["size", "nfiles"])
def test_a_label_that_dvc_overlooks_is_refused(label):
    changed = [{"kinds": {label: {"kind": "centre", "fraction": fraction}}} for fraction in (0.2, 0.5)]
    assert len({_get_cache_hash({"params": {"params.yaml": {"mask": each}}}, key=True) for each in changed}) == 1
    with pytest.raises(InputError, match=f"hole '{label}': take another name, as DVC's run-cache overlooks"):
        holes.validate_kinds(changed[0]["kinds"])


def test_options_that_leave_nothing_known_end_in_an_error():
    with pytest.raises(InputError, match="nothing of a 32 x 32 picture stays known"):
        holes.draw("random_box", 32, rng(), max_fraction=1.0, smallest=1.0)
    assert holes.draw("pixels", 32, rng(), fraction=0.9999).sum() == 32 * 32 - 1


def png(tmp_path, picture: np.ndarray) -> dict[str, str]:
    path = tmp_path / "mask.png"
    data = cv2.imencode(".png", picture)[1].tobytes()
    path.write_bytes(data)
    return {"path": str(path), "sha256": hashlib.sha256(data).hexdigest()}


def test_file_is_scaled_by_nearest_and_cut_at_127(tmp_path):
    picture = np.array([[127, 128], [0, 255]], np.uint8)
    hole = holes.draw("file", (4, 6), rng(), **png(tmp_path, picture))
    quarter = np.ones((2, 3), bool)
    assert np.array_equal(hole, np.block([[~quarter, quarter], [~quarter, quarter]]))
    hole[:] = False  # the caller's own copy
    assert holes.draw("file", (4, 6), rng(), **png(tmp_path, picture)).any()


def test_file_is_pinned_by_its_bytes(tmp_path):
    options = png(tmp_path, np.full((8, 8), 255, np.uint8))
    with pytest.raises(InputError, match=f"sha256: .*mask.png has {options['sha256']}"):
        holes.draw("file", 32, rng(), path=options["path"], sha256="0" * 64)
    with pytest.raises(InputError, match=r"path: .*none\.png: No such file"):
        holes.draw("file", 32, rng(), path=str(tmp_path / "none.png"), sha256="0" * 64)
    with pytest.raises(InputError, match="black everywhere"):
        holes.draw("file", 32, rng(), **png(tmp_path, np.zeros((8, 8), np.uint8)))


def test_a_keyed_draw_depends_on_its_key_alone():
    first = holes.draw("strokes", 64, holes.keyed_rng(7, "id", "strokes"))
    holes.draw("strokes", 64, holes.keyed_rng(7, "another", "strokes"))
    assert np.array_equal(first, holes.draw("strokes", 64, holes.keyed_rng(7, "id", "strokes")))
    others = [holes.keyed_rng(8, "id", "strokes"), holes.keyed_rng(7, "id", "strokes2"), holes.keyed_rng(7, "ids", "")]
    assert all(not np.array_equal(first, holes.draw("strokes", 64, other)) for other in others)
    assert holes.keyed_hash(1, "ab", "c") != holes.keyed_hash(1, "a", "bc")


@settings(max_examples=15, deadline=None)
@given(height=st.integers(32, 80), width=st.integers(32, 80), seed=st.integers(0))
def test_packed_holes_come_back(tmp_path_factory, height, width, seed):
    drawn = [holes.draw(kind, (height, width), rng(seed)) for kind in ("lines", "pixels", "half")]
    path = tmp_path_factory.mktemp("holes") / "test.arrow"
    with table.writing_holes(path, (height, width)) as writer:
        for hole in drawn:
            writer.append(table.pack(hole), "id", "path", "kind", float(hole.mean()))
    assert np.array_equal(table.Table(path).holes(), drawn)
