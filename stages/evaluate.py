"""Score completed pictures against the truth, raw and blended, with 95 % bootstrap intervals.

One row a picture, kind of hole and blending goes to the table; means go to the score file: over all
holes, by kind of hole, and by the missing part of the picture in the steps of Liu et al. 2018
(table 1). Intervals are percentiles over resampled pictures, not rows: the holes of one
picture are no independent witnesses (Efron and Tibshirani 1993, chapter 13). `difference` is
blended minus raw, hole by hole, resampled as pairs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field
from pydantic.dataclasses import dataclass
from tqdm import tqdm

from stages.images.table import KEY, Table
from stages.metrics import fidelity
from stages.runs import command
from stages.runs.errors import InputError
from stages.runs.params import STRICT, Runtime

# Bins of the missing part of the picture, in percent; each takes in its upper end, as Liu et al.'s do.
BINS = ("00-01", "01-10", "10-20", "20-30", "30-40", "40-50", "50-60", "60-100")
ENDS = (0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 1.0)
CHUNK = 256  # rows scored at once: bounds memory
BLOCK = 100  # resamples drawn at once: bounds memory
KEYS = (*KEY, "blending", "ratio")  # columns before the metrics
DIGITS = 6  # significant digits in the score file


@dataclass(frozen=True, config=STRICT)
class Params:
    lpips: Literal["none", "alex", "squeeze", "vgg"]  # LPIPS's backbone, or none
    perceptual_weights: Literal["none", "imagenet", "random"]  # LPIPS takes imagenet alone
    bootstrap: Annotated[int, Field(ge=1)]  # resamples an interval
    seed: Annotated[int, Field(ge=0)]  # of the resampling

    def __post_init__(self) -> None:
        if self.lpips != "none" and self.perceptual_weights != "imagenet":
            raise ValueError(f"lpips: {self.lpips} needs perceptual_weights: imagenet (never random ones)")


def measure(
    raw: Table, blended: Table, truth: Table, holes: Table, lpips: Callable[..., np.ndarray] | None = None
) -> dict[str, Any]:
    """The table of scores as columns, `KEYS` and then the metrics: every row raw, then every row blended.

    Raises InputError where tables do not fit each other, and where a completed picture differs from
    the truth outside its hole: it was not composited, and its whole-picture scores would mean something else.
    """
    for table in (blended, truth, holes):
        if table.size != raw.size:
            raise InputError(f"{table.path}: {table.size} pixels, but {raw.path} has {raw.size}; run `dvc repro`")
    keys = raw.keys()
    if len(set(keys)) != len(keys) or len(blended) != len(keys):
        raise InputError(f"{blended.path}: not the rows of {raw.path}; remove both and run `dvc repro`")
    pictures, masks, mixed = truth.find([key[:2] for key in keys]), holes.find(keys), blended.find(keys)

    ratio = np.empty(len(keys))
    parts: dict[str, list[dict[str, np.ndarray]]] = {"raw": [], "blended": []}
    for start in tqdm(range(0, max(len(keys), 1), CHUNK), desc="score", mininterval=1, disable=None):
        rows = np.arange(start, min(start + CHUNK, len(keys)))
        target, hole = truth.pictures(pictures[rows]), holes.holes(masks[rows])
        ratio[rows] = hole.mean(axis=(1, 2), dtype=np.float64)
        for blending, table, where in (("raw", raw, rows), ("blended", blended, mixed[rows])):
            output = table.pictures(where)
            if ((output != target).any(axis=3) & ~hole).any():
                raise InputError(f"{table.path}: known pixels were changed; remove it and run `dvc repro`")
            perceptual = {"lpips": lpips(output, target)} if lpips else {}
            parts[blending].append(fidelity.score(output, target, hole) | perceptual)

    columns: dict[str, Any] = {name: [key[i] for key in keys] * 2 for i, name in enumerate(KEY)}
    columns |= {"blending": ["raw"] * len(keys) + ["blended"] * len(keys), "ratio": np.tile(ratio, 2)}
    both = parts["raw"] + parts["blended"]
    return columns | {name: np.concatenate([part[name] for part in both]) for name in both[0]}


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


def summarise(columns: Mapping[str, Any], draws: int, seed: int) -> dict[str, Any]:
    """The score file: raw, blended or difference -> overall, each kind, or ratio -> bin -> metric -> mean, low, high.

    `n` beside the metrics counts completed pictures. A metric without a number is left out.
    """
    metrics = [name for name in columns if name not in KEYS]
    rows = len(columns["kind"]) // 2
    scores = np.stack([np.asarray(columns[name]) for name in metrics], axis=1)
    values = {"raw": scores[:rows], "blended": scores[rows:], "difference": scores[rows:] - scores[:rows]}
    keys = list(zip(columns["image_id"][:rows], columns["path"][:rows], strict=True))
    numbers = {key: number for number, key in enumerate(sorted(set(keys)))}
    pictures = np.array([numbers[key] for key in keys], np.int64)
    kinds = np.array(columns["kind"][:rows], object)
    bins = np.searchsorted(ENDS, columns["ratio"][:rows], side="left")

    def group(blending: str, rows: np.ndarray) -> dict[str, Any]:
        if not rows.any():
            return {"n": 0}
        table = bootstrap(values[blending][rows], pictures[rows], draws, seed)
        named = {name: dict(zip(("mean", "low", "high"), map(_rounded, column), strict=True))
                 for name, column in zip(metrics, table.T, strict=True) if not np.isnan(column).any()}  # fmt: skip
        return {"n": int(rows.sum()), **named}

    return {
        blending: {
            "overall": group(blending, np.ones(rows, bool)),
            **{kind: group(blending, kinds == kind) for kind in sorted(set(kinds))},
            "ratio": {name: group(blending, bins == i) for i, name in enumerate(BINS) if (bins == i).any()},
        }
        for blending in values
    }


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def evaluate(
    aligned: Path,
    masks: Path,
    inpainted: Path,
    blended: Path,
    scores: Path,
    table: Path,
    params: Params,
    runtime: Runtime,
    name: str,
) -> None:
    """Score inpainted/completed.arrow and blended/blended.arrow; write the summary (JSON) and the table (Parquet)."""
    lpips = None
    if params.lpips != "none":  # torch is imported for LPIPS alone
        from stages.metrics.perceptual import Lpips
        from stages.runs import training

        lpips = Lpips(params.lpips, training.prepare(runtime))
    raw, mixed = Table(inpainted / "completed.arrow"), Table(blended / "blended.arrow")
    columns = measure(raw, mixed, Table(aligned / "test.arrow"), Table(masks / "test.arrow"), lpips)
    summary = summarise(columns, params.bootstrap, params.seed)
    scores.write_text(json.dumps(summary, indent=1, sort_keys=True, allow_nan=False) + "\n")
    arrays = {
        key: pa.array(list(values), pa.string() if key in KEYS[:4] else pa.float64(), from_pandas=True)
        for key, values in columns.items()
    }
    pq.write_table(pa.table(arrays), table)  # NaN became null


if __name__ == "__main__":
    command.run(
        evaluate,
        sections={"params": "evaluate", "runtime": "runtime"},
        inputs=("aligned", "masks", "inpainted", "blended"),
        outputs=("scores", "table"),
    )
