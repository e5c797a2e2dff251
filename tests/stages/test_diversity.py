"""Diversity of completions: by hand, what it is blind to, and an interval that holds what it promises."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.images import holes
from stages.metrics import diversity, fidelity, means


def noise(count: int, side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def same_hole(kind: str, count: int, side: int, **options: object) -> np.ndarray:
    hole = holes.draw(kind, side, np.random.default_rng(0), **options)
    return np.repeat(hole[None], count, axis=0)


def test_two_flat_pictures_by_hand() -> None:
    """Without structure SSIM is (2ab + C1) / (a^2 + b^2 + C1), here with a = 50, b = 100 and C1 = 2.55^2."""
    pictures = np.stack([np.full((16, 16, 3), level, np.uint8) for level in (50, 100)])
    found = diversity.by_ssim(pictures, same_hole("centre", 2, 16))
    expected = 1 - (2 * 50 * 100 + 6.5025) / (50**2 + 100**2 + 6.5025)
    assert found[0, 1] == found[1, 0] == pytest.approx(expected, abs=1e-6)
    assert np.isnan(np.diag(found)).all()


def test_it_is_ssim_with_windows_cut_down_to_the_shared_hole() -> None:
    """Against the equation, pixel by pixel, with the Gaussian itself; holes that overlap in part."""
    pictures = noise(2, 16)
    hole = np.zeros((2, 16, 16), bool)
    hole[0, 3:14, 2:11] = hole[1, 5:15, 2:12] = True
    shared = hole[0] & hole[1]
    rows, columns = np.nonzero(shared)
    values = []
    for row, column in zip(rows, columns, strict=True):
        near = (np.abs(rows - row) <= 5) & (np.abs(columns - column) <= 5)
        weight = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * 1.5**2)) * near
        weight /= weight.sum()
        for x, y in zip(*(picture[shared].astype(float).T for picture in pictures), strict=True):
            mean_x, mean_y = weight @ x, weight @ y
            across = weight @ ((x - mean_x) * (y - mean_y))
            within = weight @ ((x - mean_x) ** 2 + (y - mean_y) ** 2)
            brightness = (2 * mean_x * mean_y + fidelity.C1) / (mean_x**2 + mean_y**2 + fidelity.C1)
            values.append(brightness * (2 * across + fidelity.C2) / (within + fidelity.C2))
    assert diversity.by_ssim(pictures, hole)[0, 1] == pytest.approx(1 - np.mean(values), abs=1e-5)


def test_alike_is_nothing_and_the_truth_is_one() -> None:
    truth, hole = noise(5, 24), same_hole("centre", 5, 24)
    distances = diversity.by_ssim(truth, hole)
    assert np.array_equal(diversity.by_picture(distances, distances), np.ones(5))
    everywhere = np.where(hole[..., None], truth[:1], truth)  # one content in every hole
    assert np.array_equal(diversity.by_picture(diversity.by_ssim(everywhere, hole), distances), np.zeros(5))
    half = np.where((np.arange(5) < 3)[:, None, None, None], everywhere, truth)
    found = diversity.by_picture(diversity.by_ssim(half, hole), distances)
    assert 0 < found.mean() < 1
    assert (found[:3] < found.mean()).all()
    assert (found[3:] > found.mean()).all()


def test_known_pixels_have_no_influence() -> None:
    pictures, hole = noise(4, 24), same_hole("centre", 4, 24)
    others = np.where(hole[..., None], pictures, noise(4, 24, seed=1))
    assert np.array_equal(diversity.by_ssim(pictures, hole), diversity.by_ssim(others, hole), equal_nan=True)


def test_only_holes_that_overlap_by_half_are_compared() -> None:
    """12 columns against the same moved by 4 (8 of 16 shared: compared), by 5 (7 of 17: not), and an empty hole."""
    hole = np.zeros((4, 32, 32), bool)
    for i, start in enumerate((0, 4, 5)):
        hole[i, :, start : start + 12] = True
    found = ~np.isnan(diversity.by_ssim(noise(4, 32), hole))
    expected = np.zeros((4, 4), bool)
    expected[0, 1] = expected[1, 0] = expected[1, 2] = expected[2, 1] = True
    assert np.array_equal(found, expected)
    assert np.isnan(diversity.by_ssim(noise(2, 32), np.zeros((2, 32, 32), bool))).all()


def test_bars_that_turn_with_their_faces_are_compared() -> None:
    eyes = [np.array([[22, 26 - t], [42, 26 + t], [32, 36], [26, 46], [38, 46]], float) for t in (-1, 0, 1)]
    bars = np.stack([holes.draw("eye_bar", 64, np.random.default_rng(0), points) for points in eyes])
    assert len({bar.tobytes() for bar in bars}) == 3
    assert np.isfinite(diversity.by_ssim(noise(3, 64), bars)[~np.eye(3, dtype=bool)]).all()


def test_the_numbers_of_three_pictures_by_hand() -> None:
    """Made 2, 3 and 5 apart, truly 4, 4 and 8: 10/16 as varied. Their sums are 5, 7, 8, and truly 8, 12, 12."""
    nan = np.nan
    made = np.array([[nan, 2, 3, nan], [2, nan, 5, nan], [3, 5, nan, nan], [nan] * 4])
    true = np.array([[nan, 4, 4, nan], [4, nan, 8, nan], [4, 8, nan, nan], [nan] * 4])
    found = diversity.by_picture(made, true)
    # 10/16 + 2 x 3/32 x (sum - 10/16 x true sum); the fourth is compared with none.
    assert np.array_equal(found, [0.625 + 6 / 32 * d for d in (5 - 5, 7 - 7.5, 8 - 7.5)] + [nan], equal_nan=True)
    assert np.nanmean(found) == 0.625
    assert np.isnan(diversity.by_picture(made[:2, :2], true[:2, :2])).all()
    assert np.isnan(diversity.by_picture(made, np.where(np.isnan(true), nan, 0.0))).all()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), kind=st.sampled_from(["centre", "pixels", "random_box", "half"]))
def test_distances_are_symmetrical_and_move_with_their_pictures(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    pictures = noise(5, 16, seed)
    hole = np.stack([holes.draw(kind, 16, rng) for _ in range(5)])
    found = diversity.by_ssim(pictures, hole)
    assert np.array_equal(found, found.T, equal_nan=True)
    known = found[~np.isnan(found)]
    assert ((known >= 0) & (known <= 2)).all()
    order = rng.permutation(5)
    moved = diversity.by_ssim(pictures[order], hole[order])
    assert np.array_equal(moved, found[np.ix_(order, order)], equal_nan=True)


def test_by_lpips_sees_what_both_lack_and_grey_elsewhere() -> None:
    seen: list[tuple[np.ndarray, np.ndarray]] = []

    def lpips(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        seen.append((one, other))
        return np.abs(one.astype(float) - other).mean((1, 2, 3)) / 255

    pictures, hole = noise(12, 16), same_hole("centre", 12, 16)
    found = diversity.by_lpips(pictures, hole, lpips)
    assert [len(one) for one, _ in seen] == [64, 2]  # 66 pairs, in blocks
    for one, other in seen:
        assert (one[:, ~hole[0]] == 128).all()
        assert (other[:, ~hole[0]] == 128).all()
    inside = np.abs(pictures[3].astype(float) - pictures[7])[hole[0]].sum() / (16 * 16 * 3 * 255)
    assert found[3, 7] == found[7, 3] == pytest.approx(inside, abs=2**-16)


def test_the_interval_of_24_pictures_holds_the_true_value_nine_times_in_ten() -> None:
    """A thing's distance is |x - y|: the made things are half as wide as the true ones, so the diversity is 1/2.

    The mean distances of each picture to the others, resampled as they are, give an interval that is far too narrow.
    """
    rng = np.random.default_rng(0)
    count, trials = 24, 200
    held = {"by picture": 0, "mean distances": 0}
    for trial in range(trials):
        made, true = (np.abs(np.subtract.outer(*[rng.normal(scale=scale, size=count)] * 2)) for scale in (0.5, 1))
        for distances in (made, true):
            np.fill_diagonal(distances, np.nan)
        for name, values in {
            "by picture": diversity.by_picture(made, true),
            "mean distances": np.nanmean(made, axis=1) / np.nanmean(true),
        }.items():
            _, low, high = means.bootstrap(values[:, None], np.arange(count), draws=200, seed=trial)[:, 0]
            held[name] += low <= 0.5 <= high
    assert 0.87 * trials <= held["by picture"] <= 0.98 * trials
    assert held["mean distances"] < 0.7 * trials
