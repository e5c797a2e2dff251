"""Tables of scores: means with their intervals, the best of a column marked, and what blending changes.

The best is marked among systems alone that were scored on the same pictures and holes: others are no competitors.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc

from stages.images.table import KEY, Key
from stages.metrics.means import OVERALL, SUFFIX, Interval, Means, read_means
from stages.pages.results import Folders, read

ALL = ""  # stands for all kinds of hole
BESIDE = ("psnr_hole", "patch_sse")  # of training pictures beside test ones, as report 4 has it


class Metric(NamedTuple):
    """How a metric is shown: heading, number format, and what is best (high, low, nearest to 1, or nothing)."""

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
    "unnatural": Metric("unnatural, hole", ".2f", "low"),
    "unnatural_truth": Metric("unnatural, truth", ".2f", ""),
    "diversity": Metric("diversity, hole", ".2f", "one"),
    "diversity_lpips": Metric("diversity by LPIPS, hole", ".2f", "one"),
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

    system: str  # or, of blended pictures, the entry of `blend`
    blending: str  # raw or blended; empty in a table of gains
    cells: list[Cell | None]
    n: tuple[int, ...] = ()  # completed pictures, in a table that says it; of test pictures, then of training ones


class Scores(NamedTuple):
    """A table of scores."""

    head: list[str]
    rows: list[Row]
    caption: str = ""


class Tables(NamedTuple):
    """The tables of one dataset's systems."""

    overall: Scores | None  # None where no system completes every kind of hole
    partial: list[str]  # systems that do not complete every kind
    others: list[str]  # systems that were scored on other pictures or holes than most
    tables: list[Scores]  # one metric each
    gains: Scores | None  # None where blending changes no system
    unchanged: list[str]  # entries of `blend` that change no pixel
    kinds: dict[str, Scores]  # every metric of one kind of hole


class Memorised(NamedTuple):
    """The scores of one dataset's training pictures beside those of its test pictures."""

    overall: Scores | None  # None where no system completes the same kinds of hole in both
    kinds: dict[str, Scores]


class Entry(NamedTuple):
    """An entry of `blend`: its means, and which test pictures and holes they are of."""

    means: Means
    keys: Mapping[str, frozenset[Key]]  # of each kind of hole, and under `ALL` of all
    train: Means  # of training pictures; empty where none were completed


class Line(NamedTuple):
    """A system's pictures, raw or as an entry of `blend` has blended them, with their means."""

    system: str
    name: str  # the system's, or the entry's
    blending: str
    entry: Entry

    @property
    def means(self) -> Means:
        return self.entry.means

    def group(self, group: str, label: str) -> dict[str, Interval]:
        """Metric -> mean; nothing where the system has completed no such hole."""
        return self.means.get((self.blending, group, label), {})


def shown_of(system: str, means: Mapping[str, Means]) -> list[tuple[str, str]]:
    """How a system's results are shown: its name and "raw", then of each entry of `blend` its name and "blended".

    Entries that change no pixel are left out. `means` are those of the entries.
    """
    changed = [name for name, found in means.items() if not found or _changes(found)]
    return [(system, "raw"), *((name, "blended") for name in changed)]


def _changes(means: Means) -> bool:
    return any(blending == "blended" for blending, *_ in means)


def read_entry(folders: Folders, name: str) -> Entry:
    """An entry of `blend`. Raises InputError where its scores are not there."""
    means, train = (read_means(folders.scores / f"{name}{SUFFIX}", split) for split in ("test", "train"))
    table = read(folders.scores / f"{name}.parquet", [*KEY, "split"])
    table = table.filter(pc.equal(table["split"], "test"))
    every = set(zip(*(table[column].to_pylist() for column in KEY), strict=True))
    kinds: dict[str, set[Key]] = {}
    for key in every:
        kinds.setdefault(key[2], set()).add(key)
    return Entry(means, {kind: frozenset(keys) for kind, keys in kinds.items()} | {ALL: frozenset(every)}, train)


def alike(lines: Iterable[Line], group: str, label: str) -> bool:
    """Whether all lines that have scores of a group were scored on the same pictures and holes."""
    of = label if group == "kind" else ALL
    return len({line.entry.keys.get(of, frozenset()) for line in lines if line.group(group, label)}) < 2


def others(lines: Sequence[Line], kinds: Iterable[str]) -> list[str]:
    """The systems that were scored on other pictures or holes of a kind than most; of as many, than the first."""
    found: set[str] = set()
    for kind in kinds:
        keys = {line.system: line.entry.keys.get(kind, frozenset()) for line in lines if line.group("kind", kind)}
        usual, _ = Counter(keys.values()).most_common(1)[0]
        found |= {system for system, own in keys.items() if own != usual}
    return list(dict.fromkeys(line.system for line in lines if line.system in found))


def best(values: Sequence[float | None], rule: str) -> float | None:
    """The best of the values, those missing aside: the one that `rule` (high, low, one) prefers."""
    given = [value for value in values if value is not None]
    if not given or not rule:
        return None
    return {"high": max(given), "low": min(given), "one": min(given, key=lambda v: abs(math.log(max(v, 1e-9))))}[rule]


def ends(entries: Iterable[Interval | None], *more: float) -> tuple[float, float]:
    """The least and the most of the intervals' ends, and of `more`."""
    values = [*more, *(end for entry in entries if entry for end in (entry.low, entry.high))]
    return min(values, default=0.0), max(values, default=0.0)


def along(value: float, least: float, most: float) -> float:
    """How far along from `least` to `most`, in per cent."""
    return round(100 * (value - least) / (most - least), 1) if most > least else 50.0


def cells(entries: Sequence[Interval | None], metric: str, marked: bool) -> list[Cell | None]:
    """One column of a table: means with their intervals, the best marked where it is to be."""
    form, (least, most) = METRICS[metric].form, ends(entries)
    winner = best([entry.mean if entry else None for entry in entries], METRICS[metric].best) if marked else None
    made: list[Cell | None] = []
    for entry in entries:
        if entry is None:
            made.append(None)
            continue
        mean, low, high = (format(value, form) for value in (entry.mean, entry.low, entry.high))
        bar = Bar(*(along(value, least, most) for value in (entry.low, entry.mean, entry.high)))
        made.append(Cell(mean, low, high, bar, best=winner is not None and mean == format(winner, form)))
    return made


def count(group: Mapping[str, Interval]) -> int:
    """How many completions a group's means are of."""
    return max((found.n for found in group.values()), default=0)


def every_metric(lines: Sequence[Line], group: str, label: str) -> Scores:
    """Every metric of one kind of hole, or of all."""
    groups = [line.group(group, label) for line in lines]
    metrics = [m for m in METRICS if any(m in g for g in groups)]
    marked = alike(lines, group, label)
    columns = [cells([g.get(metric) for g in groups], metric, marked) for metric in metrics]
    rows = [
        Row(line.name, line.blending, values, (count(g),))
        for line, g, *values in zip(lines, groups, *columns, strict=True)
    ]
    return Scores(["system", "n", *(METRICS[m].heading for m in metrics)], rows)


def one_metric(lines: Sequence[Line], metric: str, group: str, labels: Mapping[str, str], by: str) -> Scores:
    """One metric: systems down; across the labels of a group, each under its heading."""
    columns = [
        cells([line.group(group, label).get(metric) for line in lines], metric, alike(lines, group, label))
        for label in labels
    ]
    rows = [Row(line.name, line.blending, values) for line, *values in zip(lines, *columns, strict=True)]
    return Scores(["system", *labels.values()], rows, f"{METRICS[metric].heading}, by {by}.")


def gains(entries: Mapping[str, Means], kinds: Sequence[str], metric: str) -> Scores:
    """Blended minus raw, per entry of `blend` and kind; with a tone where the interval leaves out 0."""
    rule, form = METRICS[metric].best, "+" + METRICS[metric].form
    groups = (OVERALL, *(("kind", kind) for kind in kinds))
    found = {
        name: [means.get(("difference", *group), {}).get(metric) for group in groups] for name, means in entries.items()
    }
    least, most = ends([gain for row in found.values() for gain in row], 0.0)
    rows = []
    for name, across in found.items():
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
        rows.append(Row(name, "", row))
    caption = f"What blending changes: {METRICS[metric].heading}, blended minus raw, hole by hole."
    return Scores(["system", "all holes", *kinds], rows, caption)


Systems = Mapping[str, Mapping[str, Entry]]  # of each system the entries of `blend`, that of its own scores first


def lines_of(systems: Systems) -> list[Line]:
    """The lines of one dataset's systems."""
    found = []
    for system, entries in systems.items():
        own = next(iter(entries))
        for name, blending in shown_of(system, {name: entry.means for name, entry in entries.items()}):
            found.append(Line(system, name, blending, entries[own if blending == "raw" else name]))
    return found


def score_tables(systems: Systems, kinds: Sequence[str]) -> Tables:
    """The tables of one dataset's systems, of test pictures alone."""
    lines = lines_of(systems)
    present = [kind for kind in kinds if any(line.group("kind", kind) for line in lines)]
    # Only systems that complete every kind can be compared over all holes.
    able = [line for line in lines if all(line.group("kind", kind) for kind in present)]
    own = {kind: kind for kind in present}
    tables = [one_metric(lines, metric, "kind", own, "kind of hole") for metric in ("psnr_hole", "ssim_hole")]
    if able:
        bins = sorted({label for line in able for _, group, label in line.means if group == "ratio"})
        percent = {label: "–".join(str(int(end)) for end in label.split("-")) + " %" for label in bins}
        tables.append(one_metric(able, "psnr_hole", "ratio", percent, "the missing part of the picture"))
    changed = {line.name: line.means for line in lines if line.blending == "blended" and line.means}
    return Tables(
        overall=every_metric(able, *OVERALL) if able else None,
        partial=sorted({line.system for line in lines} - {line.system for line in able}),
        others=others(lines, present),
        tables=tables,
        gains=gains(changed, present, "psnr_hole") if changed else None,
        unchanged=[
            name
            for entries in systems.values()
            for name, entry in entries.items()
            if entry.means and not _changes(entry.means)
        ],
        kinds={kind: every_metric(lines, "kind", kind) for kind in present},
    )


def memorised(systems: Systems, kinds: Sequence[str]) -> Memorised | None:
    """Scores of training pictures beside those of test ones; None where no training picture was completed."""
    lines = [line for line in lines_of(systems) if line.entry.train]
    if not lines:
        return None

    def able(line: Line) -> bool:
        there = [{key[1:] for key in means if key[1] == "kind"} for means in (line.means, line.entry.train)]
        return there[0] == there[1]

    present = [kind for kind in kinds if any((line.blending, "kind", kind) in line.entry.train for line in lines)]
    whole = [line for line in lines if able(line)]
    overall = beside(whole, *OVERALL) if whole else None
    return Memorised(overall, {kind: beside(lines, "kind", kind) for kind in present})


def beside(lines: Sequence[Line], group: str, label: str) -> Scores:
    """`BESIDE`, each of test pictures and of training pictures; bars of the two are on one scale, and none is best."""
    both = [
        [means.get((line.blending, group, label), {}) for means in (line.means, line.entry.train)] for line in lines
    ]
    metrics = [m for m in BESIDE if any(m in one for pair in both for one in pair)]
    columns = []
    for metric in metrics:
        made = cells([pair[split].get(metric) for split in (0, 1) for pair in both], metric, marked=False)
        columns += [made[: len(lines)], made[len(lines) :]]
    rows = [
        Row(line.name, line.blending, values, (count(pair[0]), count(pair[1])))
        for line, pair, *values in zip(lines, both, *columns, strict=True)
    ]
    head = [f"{METRICS[metric].heading}, {split}" for metric in metrics for split in ("test", "training")]
    return Scores(["system", "n, test", "n, training", *head], rows)
