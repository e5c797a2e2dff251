"""Means over seeds and pictures with their intervals, and what they say about a finding.

A run's scores are crossed: every seed completes the same pictures. Two things are uncertain, which seeds and which
pictures there happened to be; and the scores of one seed, or of one picture, are no independent witnesses. So seeds and
pictures are resampled apart from each other, by SciPy (Owen 2007, The pigeonhole bootstrap, Annals of Applied
Statistics 1(2)), runs with all their pictures as in rliable (Agarwal et al. 2021). All holes of a picture go together.

Five seeds are few. Percentiles of their bootstrap are too narrow (Hesterberg 2015, What teachers should know about the
bootstrap, section 3): where seeds scatter more than pictures, a "95 %" interval holds the truth in 83 % of cases. So
the interval is Student's, with the bootstrap's standard error: 95 % in the same cases. docs/studies.md has the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

Word = Literal["holds", "does not hold", "undecided"]

SEEDS = 5  # fewer never judge
RESAMPLES = 2000  # they tell the standard error within 2 %
BATCH = 500  # resamples at once: bounds memory
POWER = 0.8  # with which the smallest difference is seen


class Estimate(NamedTuple):
    """A mean over seeds and pictures. Of a single picture there is no interval."""

    mean: float
    low: float | None  # ends of the 95 % interval
    high: float | None
    error: float | None  # standard error
    freedom: float  # degrees of freedom of the interval
    seeds: int
    pictures: int

    @property
    def smallest(self) -> float | None:
        """The smallest difference that a study like this one sees in four cases of five.

        Its interval leaves out zero with a probability of `POWER` (Student's quantiles of 0.975 and of `POWER`, times
        the standard error).
        """
        return (
            None
            if self.error is None
            else (_quantile(0.975, self.freedom) + _quantile(POWER, self.freedom)) * self.error
        )


class Verdict(NamedTuple):
    """What the numbers say about a finding."""

    word: Word
    sentence: str
    difference: Estimate | None  # in the claim's favour where it is positive; None where an arm is missing


def estimate(scores: np.ndarray) -> Estimate:
    """The mean of `scores`, float64 seeds x pictures without NaN, with its interval.

    Of one seed, the interval is over pictures alone.
    """
    seeds, pictures = scores.shape
    mean = float(scores.mean())
    if pictures < 2:
        return Estimate(mean, None, None, None, 0, seeds, pictures)
    counts = [count for count in (seeds, pictures) if count > 1]
    means = [scores.mean(1), scores.mean(0)][-len(counts) :]
    variances = [float(part.var(ddof=1)) / len(part) for part in means]
    if not any(variances):
        return Estimate(mean, mean, mean, 0.0, pictures - 1, seeds, pictures)
    # Satterthwaite's degrees of freedom of the two variances' sum.
    freedom = sum(variances) ** 2 / sum(part**2 / (count - 1) for part, count in zip(variances, counts, strict=True))
    # Resampling n of n makes a variance too small by (n - 1) / n.
    shrunk = sum(part * (count - 1) / count for part, count in zip(variances, counts, strict=True))
    error = _resampled(scores, counts) * math.sqrt(sum(variances) / shrunk)
    half = _quantile(0.975, freedom) * error
    return Estimate(mean, mean - half, mean + half, error, freedom, seeds, pictures)


def _resampled(scores: np.ndarray, counts: Sequence[int]) -> float:
    """The bootstrap's standard error of the mean."""
    from scipy import stats

    def mean(*drawn: np.ndarray, axis: int) -> Any:  # indices, each resamples x count
        times = [_times(part, count) for part, count in zip(drawn, counts, strict=True)]
        by_picture = times[0] @ scores if len(counts) == 2 else scores
        return (by_picture * times[-1]).sum(-1) / math.prod(counts)

    found = stats.bootstrap(
        [np.arange(count) for count in counts],
        mean,
        n_resamples=RESAMPLES,
        batch=BATCH,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(found.standard_error)


def _times(drawn: np.ndarray, count: int) -> np.ndarray:
    """How often each index was drawn, resamples x count."""
    rows = len(drawn)
    return np.bincount((drawn + count * np.arange(rows)[:, None]).ravel(), minlength=rows * count).reshape(rows, count)


def _quantile(probability: float, freedom: float) -> float:
    from scipy import stats

    return float(stats.t.ppf(probability, freedom))


def unpaired(better: Estimate, worse: Estimate) -> Estimate:
    """The difference of two means over different pictures, `better` minus `worse`, by Welch's interval."""
    mean, seeds, pictures = (
        better.mean - worse.mean,
        min(better.seeds, worse.seeds),
        min(better.pictures, worse.pictures),
    )
    if better.error is None or worse.error is None:
        return Estimate(mean, None, None, None, 0, seeds, pictures)
    error = math.hypot(better.error, worse.error)
    parts = sum(each.error**4 / each.freedom for each in (better, worse) if each.error)
    freedom = error**4 / parts if parts else min(better.freedom, worse.freedom)
    half = _quantile(0.975, freedom) * error
    return Estimate(mean, mean - half, mean + half, error, freedom, seeds, pictures)


def judge(
    better: str, worse: str, difference: Estimate | None, obstacles: Sequence[str], unit: str, form: str
) -> Verdict:
    """The verdict on the claim that the arm `better` is better than the arm `worse`.

    `difference` is signed so that what is positive is in the claim's favour. `obstacles` say why there can be no
    verdict, each as half a sentence. `unit` stands behind a number ("dB PSNR, hole"), `form` is its least format.
    """
    if difference is None:
        return Verdict("undecided", f"Undecided: {_listed(obstacles)}.", None)
    reasons = [*obstacles]
    if difference.seeds < SEEDS:
        few = "one seed is" if difference.seeds == 1 else f"{_number(difference.seeds)} seeds are"
        reasons.append(f"{few} too few (a verdict needs {_number(SEEDS)})")
    if difference.low is None or difference.high is None:
        reasons.append("one picture has no interval")
    elif difference.low <= 0 <= difference.high:
        reasons.append("the interval contains zero")
    said = _compared(better, worse, difference, unit, form)
    if reasons:
        return Verdict("undecided", f"Undecided: {_listed(reasons)}; so far {said}.", difference)
    word: Word = "holds" if difference.mean > 0 else "does not hold"
    return Verdict(word, f"{word.capitalize()}: {said}.", difference)


def _compared(better: str, worse: str, difference: Estimate, unit: str, form: str) -> str:
    over = f"over {_counted(difference.seeds, 'seed')} and {_counted(difference.pictures, 'picture')}"
    if not difference.mean:
        return f"{better} and {worse} are equal, {over}"
    number = f"{{:.{digits(form, difference)}f}}".format
    word, sign = ("better", 1) if difference.mean > 0 else ("worse", -1)
    between = ""
    if difference.low is not None and difference.high is not None:
        low, high = sorted((sign * difference.low, sign * difference.high))
        between = f" (95 % interval {number(low)} to {number(high)})"
    return f"{better} is {word} than {worse} by {number(abs(difference.mean))} {unit}{between}, {over}"


def seen(difference: Estimate, unit: str, form: str) -> str:
    """A sentence about the smallest difference that could have been seen; empty where nothing is known of it."""
    if not difference.smallest:
        return ""
    smallest = f"{difference.smallest:.{digits(form, difference)}f} {unit}"
    return f"The smallest difference that runs like these see four times in five is {smallest}."


def digits(form: str, *of: Estimate | None) -> int:
    """Digits behind the point: so many that the largest standard error has two, and at least as `form` (".4f") has."""
    errors = [one.error for one in of if one and one.error]
    return min(9, max(int(form[1:-1]), 1 - math.floor(math.log10(max(errors))))) if errors else int(form[1:-1])


def _number(count: int) -> str:
    words = ("no", "one", "two", "three", "four", "five")
    return words[count] if count < len(words) else str(count)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _listed(reasons: Sequence[str]) -> str:
    *most, last = reasons
    return f"{', '.join(most)}, and {last}" if most else last
