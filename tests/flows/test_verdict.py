"""Studies: intervals over seeds and pictures, and verdicts."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from flows.studies import verdict
from flows.studies.verdict import Estimate, digits, estimate, judge, unpaired


def crossed(rng: np.random.Generator, seeds: int, pictures: int, of_seeds: float, of_pictures: float) -> np.ndarray:
    """Scores of mean 0: a part of each seed, a part of each picture, and noise."""
    parts = rng.standard_normal((seeds, 1)) * of_seeds + rng.standard_normal((1, pictures)) * of_pictures
    return parts + rng.standard_normal((seeds, pictures)) * 0.3


def test_by_hand_where_only_the_seeds_differ() -> None:
    found = estimate(np.repeat([[1.0], [2.0], [3.0], [4.0], [5.0]], 8, axis=1))
    # The seeds' means have the variance 2.5, so the standard error is sqrt(2.5 / 5), with 4 degrees of freedom.
    error = math.sqrt(0.5)
    assert found.mean == 3
    assert found.freedom == pytest.approx(4)
    assert found.error == pytest.approx(error, rel=0.03)  # resampled
    assert found.high - found.mean == pytest.approx(2.776 * error, rel=0.03)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)
    assert (found.seeds, found.pictures) == (5, 8)
    # t(0.975) + t(0.8) of 4 degrees of freedom
    assert found.smallest == pytest.approx((2.776 + 0.941) * error, rel=0.03)


def test_by_hand_where_only_the_pictures_differ_and_of_one_seed() -> None:
    several = estimate(np.tile(np.arange(10.0), (5, 1)))
    one = estimate(np.arange(10.0)[None])
    error = math.sqrt(np.var(np.arange(10), ddof=1) / 10)
    for found in (several, one):
        assert found.mean == 4.5
        assert found.freedom == pytest.approx(9)
        assert found.high - 4.5 == pytest.approx(2.262 * error, rel=0.03)
    assert (several.seeds, one.seeds) == (5, 1)


def test_what_does_not_scatter_has_no_width_and_one_picture_no_interval() -> None:
    assert estimate(np.full((5, 3), 0.25))[:4] == (0.25, 0.25, 0.25, 0)
    assert estimate(np.array([[1.0], [3.0]]))[:4] == (2, None, None, None)


def test_resampling_draws_seeds_and_pictures_apart() -> None:
    """The variance of the bootstrapped mean, in closed form: of all draws of rows and of columns (Owen 2007)."""
    scores = np.random.default_rng(3).standard_normal((3, 4))
    draws = np.array(np.meshgrid(*[range(3)] * 3)).reshape(3, -1).T
    columns = np.array(np.meshgrid(*[range(4)] * 4)).reshape(4, -1).T
    rows = np.stack([scores[draw].mean(0) for draw in draws])
    every = np.stack([rows[:, column].mean(1) for column in columns])
    assert verdict._resampled(scores, [3, 4]) == pytest.approx(every.std(), rel=0.03)


@pytest.mark.parametrize(
    ("seeds", "of_seeds", "of_pictures"), [(5, 1.0, 0.3), (5, 0.3, 1.0), (3, 1.0, 0.3), (10, 0.5, 0.5)]
)
def test_the_interval_holds_the_truth_as_often_as_it_says(
    seeds: int, of_seeds: float, of_pictures: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdict, "RESAMPLES", 399)  # for speed; it makes the interval no narrower
    rng = np.random.default_rng(0)
    found = [estimate(crossed(rng, seeds, 24, of_seeds, of_pictures)) for _ in range(400)]
    held = np.mean([one.low <= 0 <= one.high for one in found])
    # 400 tries of 95 %: four standard deviations are 4.4 %. More often is allowed: it is meant to be cautious.
    assert held >= 0.906


def test_a_difference_of_the_smallest_size_is_seen_four_times_in_five(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict, "RESAMPLES", 399)
    rng = np.random.default_rng(1)
    scatter = math.sqrt(0.5**2 / 6 + 0.8**2 / 40 + 0.3**2 / 240)
    there = (stats.t.ppf(0.975, 8) + stats.t.ppf(0.8, 8)) * scatter
    found = [estimate(crossed(rng, 6, 40, 0.5, 0.8) + there) for _ in range(300)]
    assert np.mean([one.low > 0 for one in found]) == pytest.approx(0.8, abs=0.1)
    assert np.median([one.smallest for one in found]) == pytest.approx(there, rel=0.15)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.floats(-1e3, 1e3), st.floats(1e-3, 1e3))
def test_moving_and_stretching_scores_moves_and_stretches_the_interval(seed: int, by: float, times: float) -> None:
    scores = crossed(np.random.default_rng(seed), 3, 5, 1, 1)
    plain, moved = estimate(scores), estimate(scores * times + by)
    assert moved.mean == pytest.approx(plain.mean * times + by, abs=1e-6)
    assert moved.error == pytest.approx(plain.error * times, rel=1e-4)
    assert moved.high - moved.low == pytest.approx((plain.high - plain.low) * times, rel=1e-4)
    turned = estimate(-scores)
    assert (turned.low, turned.high) == pytest.approx((-plain.high, -plain.low))


def test_welchs_interval_of_two_means_over_different_pictures() -> None:
    rng = np.random.default_rng(5)
    one, other = rng.normal(3, 1, (1, 12)), rng.normal(1, 4, (1, 30))
    found = unpaired(estimate(one), estimate(other))
    welch = stats.ttest_ind(one[0], other[0], equal_var=False).confidence_interval()
    assert (found.low, found.high) == pytest.approx((welch.low, welch.high), rel=0.03)
    assert found.pictures == 12


# --- verdicts ------------------------------------------------------------------------------------


def difference(mean: float, half: float = 0.2, seeds: int = 5) -> Estimate:
    return Estimate(mean, mean - half, mean + half, half / 2.5, 5.0, seeds, 40)


def said(of: Estimate | None, *obstacles: str) -> tuple[str, str]:
    return judge("A", "B", of, obstacles, "dB of PSNR", ".2f")[:2]


def test_a_finding_holds_where_the_whole_interval_is_in_its_favour() -> None:
    assert said(difference(0.5)) == (
        "holds",
        "Holds: A is better than B by 0.500 dB of PSNR (95 % interval 0.300 to 0.700), over 5 seeds and 40 pictures.",
    )


def test_a_finding_does_not_hold_where_the_whole_interval_is_against_it() -> None:
    assert said(difference(-0.5)) == (
        "does not hold",
        "Does not hold: A is worse than B by 0.500 dB of PSNR (95 % interval 0.300 to 0.700), "
        "over 5 seeds and 40 pictures.",
    )


@pytest.mark.parametrize(
    ("of", "obstacles", "reason"),
    [
        (difference(0.1), [], "the interval contains zero"),
        (difference(-0.2), [], "the interval contains zero"),
        (difference(0.5, seeds=4), [], "four seeds are too few (a verdict needs five)"),
        (difference(0.5, seeds=1), [], "one seed is too few (a verdict needs five)"),
        (difference(0.5), ["the scale small never judges"], "the scale small never judges"),
        (Estimate(0.5, None, None, None, 0, 5, 1), [], "one picture has no interval"),
    ],
)
def test_what_leaves_a_finding_undecided(of: Estimate, obstacles: list[str], reason: str) -> None:
    word, sentence = said(of, *obstacles)
    assert word == "undecided"
    assert sentence.startswith(f"Undecided: {reason}; so far A is ")


def test_every_reason_is_said_and_a_missing_arm_has_no_numbers() -> None:
    assert said(difference(0.1, seeds=3), "the scale small never judges")[1].startswith(
        "Undecided: the scale small never judges, three seeds are too few (a verdict needs five), and the interval "
        "contains zero; so far A is better than B by 0.100 dB"
    )
    assert said(None, "B is missing") == ("undecided", "Undecided: B is missing.")


@given(st.floats(-10, 10), st.floats(1e-6, 10), st.integers(5, 9))
def test_swapping_the_arms_turns_the_verdict(mean: float, half: float, seeds: int) -> None:
    one = judge("A", "B", Estimate(mean, mean - half, mean + half, half, 5, seeds, 9), [], "dB", ".2f").word
    other = judge("B", "A", Estimate(-mean, -mean - half, -mean + half, half, 5, seeds, 9), [], "dB", ".2f").word
    assert other == {"holds": "does not hold", "does not hold": "holds", "undecided": "undecided"}[one]


def test_numbers_have_two_digits_of_the_largest_error() -> None:
    fine, rough = difference(0, 0.0025), difference(0, 0.1)  # errors of 0.001 and 0.04
    assert digits(".2f", fine) == 4
    assert digits(".2f", fine, None, rough) == 3
    assert digits(".2f", difference(0, 250)) == 2
    assert digits(".2f", None) == 2
