"""Mean scores of a blend of a system with their 95 % bootstrap intervals: data/scores/<entry>.means.parquet.

Means of test pictures and of training pictures are never mixed. They are over all completed pictures, by kind of hole,
and by the missing part of the picture in the steps of Liu et al. 2018 (table 1); of raw results, of blended ones, and
of the difference, blended minus raw, hole by hole. Of what blending does not change there are raw ones alone.
Intervals are percentiles over resampled pictures, not rows: the holes of one picture are no independent witnesses
(Efron and Tibshirani 1993, chapter 13). The differences are resampled as pairs.

Scores are multiples of powers of two (`stages/metrics/fidelity.py`), so their sums are exact in whatever order BLAS
adds them, and a mean is one division: the same on every CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stages.images.table import KEY
from stages.runs.errors import InputError

# Bins of the missing part of the picture, in percent; each takes in its upper end, as Liu et al.'s do.
BINS = ("00-01", "01-10", "10-20", "20-30", "30-40", "40-50", "50-60", "60-100")
ENDS = (0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 1.0)
BLOCK = 100  # resamples drawn at once: bounds memory
KEYS = (*KEY, "split", "blending", "ratio")  # columns of a table of scores before the metrics
DIGITS = 6  # significant digits in the file

COLUMNS = {
    "split": pa.string(),  # test, or train
    "blending": pa.string(),  # raw, blended, or difference
    "group": pa.string(),  # overall, kind, or ratio
    "label": pa.string(),  # all, the kind of hole, or one of BINS
    "metric": pa.string(),
    "n": pa.int64(),  # completions in the group: a picture with one hole each
    "mean": pa.float64(),
    "low": pa.float64(),
    "high": pa.float64(),
}
SCHEMA = pa.schema([pa.field(name, kind, nullable=False) for name, kind in COLUMNS.items()])
SUFFIX = ".means.parquet"  # behind the name of the entry of `blend`, in data/scores
OVERALL = ("overall", "all")  # group and label of everything
WHOLE = ("diversity", "diversity_lpips")  # of all pictures with a kind of hole: not of those with so much missing


class Interval(NamedTuple):
    """A mean over `n` completions, and the ends of its 95 % interval."""

    n: int
    mean: float
    low: float
    high: float


Means = dict[tuple[str, str, str], dict[str, Interval]]  # (blending, group, label) -> metric -> its interval


def bootstrap(values: np.ndarray, pictures: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Mean and 95 % interval of every column: 3 x M of (mean, low, high), NaN where nothing counts.

    `values` is float rows x M, NaN where a row has no number; `pictures` tells the picture of
    each row, int N. Each draw takes as many pictures as there are, with replacement, each with all its rows.
    """
    _, picture = np.unique(pictures, return_inverse=True)
    count = int(picture.max()) + 1
    totals, numbers = np.zeros((2, count, values.shape[1]))
    np.add.at(totals, picture, np.nan_to_num(values, nan=0.0))
    np.add.at(numbers, picture, ~np.isnan(values))
    rng = np.random.default_rng(seed)
    means = []
    for start in range(0, draws, BLOCK):
        block = min(BLOCK, draws - start)
        drawn = rng.integers(count, size=(block, count)) + count * np.arange(block)[:, None]
        times = np.bincount(drawn.reshape(-1), minlength=block * count).reshape(block, count)
        means.append(_ratio(times @ totals, times @ numbers))
    resampled = np.ma.masked_invalid(np.concatenate(means))
    low, high = (_percentile(resampled, q) for q in (2.5, 97.5))
    return np.stack([_ratio(totals.sum(axis=0), numbers.sum(axis=0)), low, high])


def _ratio(total: np.ndarray, number: np.ndarray) -> np.ndarray:
    return np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0)


def _percentile(resampled: np.ma.MaskedArray, q: float) -> np.ndarray:
    """Percentile of each column's valid draws, NaN where there are none."""
    columns = [column.compressed() for column in resampled.T]
    return np.array([np.percentile(column, q) if len(column) else np.nan for column in columns])


def summarise(columns: Mapping[str, Any], draws: int, seed: int) -> Means:
    """The means of one split's scores: `KEYS` and then the metrics, every row raw, then every row blended or none.

    A metric without a number is left out, and a group without a row; so are `WHOLE` by the missing part.
    """
    metrics = [name for name in columns if name not in KEYS]
    rows = list(columns["blending"]).count("raw")
    if not rows:
        return {}
    scores = np.stack([np.asarray(columns[name]) for name in metrics], axis=1)
    values = {"raw": scores[:rows]}
    if len(scores) > rows:
        values |= {"blended": scores[rows:], "difference": scores[rows:] - scores[:rows]}
    keys = list(zip(columns["image_id"][:rows], columns["path"][:rows], strict=True))
    numbers = {key: number for number, key in enumerate(sorted(set(keys)))}
    pictures = np.array([numbers[key] for key in keys], np.int64)
    kinds = np.array(columns["kind"][:rows], object)
    bins = np.array(BINS, object)[np.searchsorted(ENDS, columns["ratio"][:rows], side="left")]

    groups = {OVERALL: np.ones(rows, bool)}
    groups |= {("kind", kind): kinds == kind for kind in sorted(set(kinds))}
    groups |= {("ratio", name): bins == name for name in sorted(set(bins))}
    found: Means = {}
    for blending, numbered in values.items():
        for group, members in groups.items():
            table = bootstrap(numbered[members], pictures[members], draws, seed)
            found[blending, *group] = {
                metric: Interval(int(members.sum()), *(float(f"{value:.{DIGITS}g}") for value in column))
                for metric, column in zip(metrics, table.T, strict=True)
                if not np.isnan(column).any() and not (group[0] == "ratio" and metric in WHOLE)
            }
    return found


def write_means(means: Mapping[str, Means], path: Path) -> None:
    """`means` are those of each split."""
    rows = [
        (split, *group, metric, *found)
        for split, groups in means.items()
        for group, metrics in groups.items()
        for metric, found in metrics.items()
    ]
    named = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    pq.write_table(pa.Table.from_pylist(named, SCHEMA), path, compression="none")


def read_means(path: Path, split: str = "test") -> Means:
    """What `write_means` wrote of a split. Raises InputError where the file is missing or no such table."""
    try:
        table = pq.read_table(path)
        if table.schema == SCHEMA.remove(0):  # of an older version, which completed test pictures alone
            table = table.add_column(0, SCHEMA.field(0), pa.array(["test"] * len(table), pa.string()))
        if table.schema != SCHEMA:
            raise pa.ArrowInvalid("other columns")
    except FileNotFoundError:
        raise InputError(f"{path}: not found; `dvc repro` makes it") from None
    except (OSError, pa.ArrowException):
        raise InputError(f"{path}: not a table of mean scores; remove it and run `dvc repro`") from None
    found: Means = {}
    for of, blending, group, label, metric, *numbers in zip(
        *(column.to_pylist() for column in table.columns), strict=True
    ):
        if of == split:
            found.setdefault((blending, group, label), {})[metric] = Interval(*numbers)
    return found
