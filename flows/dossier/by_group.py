"""Scores per group of pictures, with the intervals that `evaluate` has for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.audit.facts import read_scores
from stages.images.table import KEY

METRICS = ("psnr_hole", "ssim", "l1", "lpips")  # those of `dvc metrics show`, of which a table may lack some
DRAWS, SEED = 1000, 0  # of the intervals, where no record says which `evaluate` took
DIGITS = 6  # significant digits, as evaluate's


def scores(table: Path, groups: Mapping[str, str | None], params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of each group: its name (None: no group is said), pictures, completions, and per blending and metric `mean`,
    `low` and `high`.

    `table` has a row per picture, hole and blending, of which those of test pictures count; `groups` are those of
    pictures by image_id. Intervals are of 95 %, by a bootstrap over pictures (`stages/metrics/means.py`) as `evaluate`
    makes them; a group of one picture has none.

    Raises InputError where the file is no table of scores.
    """
    import numpy as np

    from stages.metrics.means import bootstrap

    rows = read_scores(table, [*KEY, "blending"], METRICS)
    metrics = [name for name in METRICS if name in rows.column_names]
    ids = rows["image_id"].to_pylist()
    of = np.array([groups.get(image_id) or "" for image_id in ids], object)
    blending = np.array(rows["blending"].to_pylist(), object)
    pictures = np.unique(np.array(ids, object).astype(str), return_inverse=True)[1]
    values = np.stack([rows[name].to_numpy().astype(float) for name in metrics], axis=1)
    draws, seed = params.get("bootstrap"), params.get("seed")
    draws, seed = draws if isinstance(draws, int) else DRAWS, seed if isinstance(seed, int) else SEED
    found = []
    for group in sorted(set(of.tolist()), key=lambda name: (not name, name)):
        here = of == group
        one: dict[str, Any] = {
            "group": group or None,
            "pictures": len(set(pictures[here].tolist())),
            "completions": int((here & (blending == "raw")).sum()),
        }
        for kind in sorted(set(blending.tolist()), reverse=True):
            rows_of = here & (blending == kind)
            numbers = bootstrap(values[rows_of], pictures[rows_of], draws, seed).T.tolist() if rows_of.any() else []
            one[kind] = {
                name: {key: _rounded(number) for key, number in zip(("mean", "low", "high"), column, strict=True)}
                for name, column in zip(metrics, numbers, strict=False)
                if not np.isnan(column[0])
            }
            if one["pictures"] < 2:
                for interval in one[kind].values():
                    interval["low"] = interval["high"] = None
        found.append(one)
    return found


def _rounded(number: float) -> float:
    return float(f"{number:.{DIGITS}g}")
