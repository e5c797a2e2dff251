"""Tables of scores: means with their intervals, the best of a column marked, and what blending changes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from stages.metrics.means import OVERALL, Interval, Means


class Metric(NamedTuple):
    """How a metric is shown: heading, number format, and what is best (high, low, or nearest to 1)."""

    heading: str
    form: str
    best: str


METRICS = {
    "psnr_hole": Metric("PSNR, hole (dB)", ".2f", "high"),
    "ssim_hole": Metric("SSIM, hole", ".3f", "high"),
    "l1_hole": Metric("L1, hole", ".4f", "low"),
    "patch_sse": Metric("patch SSE", ".1f", "low"),
    "sharpness": Metric("sharpness, hole", ".2f", "one"),
    "texture": Metric("texture off by, hole", ".2f", "low"),
    "psnr": Metric("PSNR, whole (dB)", ".2f", "high"),
    "ssim": Metric("SSIM, whole", ".3f", "high"),
    "l1": Metric("L1, whole", ".4f", "low"),
    "lpips": Metric("LPIPS, whole", ".4f", "low"),
    "mse_hole": Metric("MSE, hole", ".4f", "low"),
    "mse": Metric("MSE, whole", ".4f", "low"),
}


class Bar(NamedTuple):
    """An interval as a bar: per cent of the cell's width, from the left."""

    low: float
    mean: float
    high: float
    zero: float | None = None  # of gains: where neither better nor worse is


class Cell(NamedTuple):
    """A mean and the ends of its interval, as text."""

    mean: str
    low: str
    high: str
    bar: Bar
    best: bool = False  # of its column
    tone: str | None = None  # of a gain: "up" for a better score, "down" for a worse one, "" where 0 is in the interval


class Row(NamedTuple):
    """A row of a table; a cell is None where the system has no such score."""

    system: str
    blending: str  # raw or blended; empty in a table of gains
    cells: list[Cell | None]
    n: int | None = None  # completed pictures, in a table that says it


class Scores(NamedTuple):
    """A table of scores."""

    head: list[str]
    rows: list[Row]
    caption: str = ""


class Tables(NamedTuple):
    """The tables of one dataset's systems."""

    overall: Scores | None  # None where no system completes every kind of hole
    partial: list[str]  # systems that do not complete every kind
    tables: list[Scores]  # one metric each
    gains: Scores | None  # None where blending changes no system
    unchanged: list[str]  # systems of which blending changes no pixel
    kinds: dict[str, Scores]  # every metric of one kind of hole


class Line(NamedTuple):
    """A system, raw or blended, with its means."""

    system: str
    blending: str
    means: Means

    def group(self, group: str, label: str) -> dict[str, Interval]:
        """Metric -> mean; nothing where the system has completed no such hole."""
        return self.means.get((self.blending, group, label), {})


def blendings(means: Means) -> tuple[str, ...]:
    """How a system's results are shown: raw and blended; raw alone where blending changes no pixel of them."""
    changed = any(blending == "blended" for blending, *_ in means)
    return ("raw", "blended") if changed or not means else ("raw",)


def best(values: Sequence[float | None], rule: str) -> float | None:
    """The best of the values, those missing aside: the one that `rule` (high, low, one) prefers."""
    given = [value for value in values if value is not None]
    if not given:
        return None
    return {"high": max(given), "low": min(given), "one": min(given, key=lambda v: abs(math.log(max(v, 1e-9))))}[rule]


def ends(entries: Iterable[Interval | None], *more: float) -> tuple[float, float]:
    """The least and the most of the intervals' ends, and of `more`."""
    values = [*more, *(end for entry in entries if entry for end in (entry.low, entry.high))]
    return min(values, default=0.0), max(values, default=0.0)


def along(value: float, least: float, most: float) -> float:
    """How far along from `least` to `most`, in per cent."""
    return round(100 * (value - least) / (most - least), 1) if most > least else 50.0


def cells(entries: Sequence[Interval | None], metric: str) -> list[Cell | None]:
    """One column of a table: means with their intervals, the best marked."""
    form, (least, most) = METRICS[metric].form, ends(entries)
    winner = best([entry.mean if entry else None for entry in entries], METRICS[metric].best)
    made: list[Cell | None] = []
    for entry in entries:
        if entry is None:
            made.append(None)
            continue
        mean, low, high = (format(value, form) for value in (entry.mean, entry.low, entry.high))
        bar = Bar(*(along(value, least, most) for value in (entry.low, entry.mean, entry.high)))
        made.append(Cell(mean, low, high, bar, best=winner is not None and mean == format(winner, form)))
    return made


def every_metric(lines: Sequence[Line], group: str, label: str) -> Scores:
    """Every metric of one kind of hole, or of all."""
    groups = [line.group(group, label) for line in lines]
    metrics = [m for m in METRICS if any(m in g for g in groups)]
    columns = [cells([g.get(metric) for g in groups], metric) for metric in metrics]
    counts = [max((found.n for found in g.values()), default=0) for g in groups]
    rows = [
        Row(line.system, line.blending, values, count)
        for line, count, *values in zip(lines, counts, *columns, strict=True)
    ]
    return Scores(["system", "n", *(METRICS[m].heading for m in metrics)], rows)


def one_metric(lines: Sequence[Line], metric: str, group: str, labels: Mapping[str, str], by: str) -> Scores:
    """One metric: systems down; across the labels of a group, each under its heading."""
    columns = [cells([line.group(group, label).get(metric) for line in lines], metric) for label in labels]
    rows = [Row(line.system, line.blending, values) for line, *values in zip(lines, *columns, strict=True)]
    return Scores(["system", *labels.values()], rows, f"{METRICS[metric].heading}, by {by}.")


def gains(systems: Mapping[str, Means], kinds: Sequence[str], metric: str) -> Scores:
    """Blended minus raw, per system and kind; with a tone where the interval leaves out 0."""
    rule, form = METRICS[metric].best, "+" + METRICS[metric].form
    groups = (OVERALL, *(("kind", kind) for kind in kinds))
    found = {
        system: [means.get(("difference", *group), {}).get(metric) for group in groups]
        for system, means in systems.items()
    }
    least, most = ends([gain for row in found.values() for gain in row], 0.0)
    rows = []
    for system, across in found.items():
        row: list[Cell | None] = []
        for gain in across:
            if gain is None:
                row.append(None)
                continue
            sign = np.sign(gain.low) if gain.low * gain.high > 0 else 0
            tone = {0: "", 1: "up" if rule == "high" else "down", -1: "down" if rule == "high" else "up"}[int(sign)]
            mean, low, high = (format(value, form) for value in (gain.mean, gain.low, gain.high))
            bar = Bar(*(along(value, least, most) for value in (gain.low, gain.mean, gain.high, 0.0)))
            row.append(Cell(mean, low, high, bar, tone=tone))
        rows.append(Row(system, "", row))
    caption = f"What blending changes: {METRICS[metric].heading}, blended minus raw, hole by hole."
    return Scores(["system", "all holes", *kinds], rows, caption)


def score_tables(systems: Mapping[str, Means], kinds: Sequence[str]) -> Tables:
    """The tables of one dataset's systems, from their means."""
    lines = [Line(system, blending, means) for system, means in systems.items() for blending in blendings(means)]
    present = [kind for kind in kinds if any(line.group("kind", kind) for line in lines)]
    # Only systems that complete every kind can be compared over all holes.
    able = [line for line in lines if all(line.group("kind", kind) for kind in present)]
    own = {kind: kind for kind in present}
    tables = [one_metric(lines, metric, "kind", own, "kind of hole") for metric in ("psnr_hole", "ssim_hole")]
    if able:
        bins = sorted({label for line in able for _, group, label in line.means if group == "ratio"})
        percent = {label: "–".join(str(int(end)) for end in label.split("-")) + " %" for label in bins}
        tables.append(one_metric(able, "psnr_hole", "ratio", percent, "the missing part of the picture"))
    changed = {system: means for system, means in systems.items() if "blended" in blendings(means)}
    return Tables(
        overall=every_metric(able, *OVERALL) if able else None,
        partial=sorted({line.system for line in lines} - {line.system for line in able}),
        tables=tables,
        gains=gains(changed, present, "psnr_hole") if changed else None,
        unchanged=[system for system in systems if system not in changed],
        kinds={kind: every_metric(lines, "kind", kind) for kind in present},
    )
