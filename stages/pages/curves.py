"""Curves of trainings and of latent searches."""

from __future__ import annotations

import csv
import math
import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.images import png
from stages.pages.figures import FAINT, INK, filename
from stages.pages.results import Folders, read
from stages.runs.errors import InputError


class Training(NamedTuple):
    """A model's pictures, None where there is none."""

    model: str
    curves: str | None  # file name of its training curves
    samples: str | None  # file name of its last sheet of samples
    last: str  # what that sheet was called: the step


class Search(NamedTuple):
    """A system's curves of its latent searches."""

    system: str
    file: str


NAME = 36  # characters of a name in one line, about as wide as a plot
PLOT: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.titlecolor": INK,
    "axes.titlesize": 9,
    "font.size": 8,
    "text.parse_math": False,  # a name may have dollars in it
    "xtick.color": FAINT,
    "ytick.color": FAINT,
}


def panels(titles: Sequence[str], path: Path, draw: Any, label: str, colours: Mapping[str, str] | None = None) -> None:
    """Small plots, four a row: `draw(axes, title)` fills each. Same bytes from the same numbers.

    `label` stands below, and what each of the `colours` means (colour by name) above.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    across = min(4, len(titles))
    down = -(-len(titles) // across)
    named = {textwrap.fill(name, NAME): colour for name, colour in (colours or {}).items()}
    lines = sum(name.count("\n") + 1.5 for name in named) / across  # of the legend
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(PLOT)
        drawing = Figure(figsize=(2.7 * across, 2.0 * down + 0.2 * math.ceil(lines)), dpi=120, layout="constrained")
        grid = drawing.subplots(down, across, squeeze=False).reshape(-1)
        for axes, title in zip(grid, titles, strict=False):
            draw(axes, title)
            axes.set_title(title, loc="left")
            axes.margins(x=0.02)
        for axes in grid[len(titles) :]:
            axes.set_axis_off()
        drawing.supxlabel(label, fontsize=8, color=FAINT)
        if named:
            handles = [Line2D([], [], color=colour, label=name) for name, colour in named.items()]
            drawing.legend(handles=handles, loc="outside upper left", ncols=across, frameon=False)
        canvas = FigureCanvasAgg(drawing)
        canvas.draw()
        path.write_bytes(png.encode(np.asarray(canvas.buffer_rgba())[..., :3]))


def read_history(path: Path) -> dict[str, np.ndarray]:
    """The numeric columns of a training's history, NaN where a cell is empty."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error):
        raise InputError(f"{path}: not a training's history; remove it and run `dvc repro`") from None
    columns = {}
    for name in rows[0] if rows else ():
        try:
            columns[name] = np.array([float(row[name] or "nan") for row in rows])
        except ValueError:
            continue
    return columns


def draw_trainings(folders: Folders, models: Iterable[str], report: Path) -> list[Training]:
    """Draw each model's curves and copy its last sheet of samples into `report`, where there are any."""
    made = []
    for model in models:
        curves, samples, last = None, None, ""
        history = folders.histories / f"{model}.csv"
        columns = read_history(history) if history.exists() else {}
        steps = columns.pop("step", None)
        if columns:
            x = np.arange(len(next(iter(columns.values())))) if steps is None else steps

            def draw(axes: Any, name: str, x: np.ndarray = x, columns: dict[str, np.ndarray] = columns) -> None:
                axes.plot(x, columns[name], color="#2f6f9f", linewidth=1)

            curves = filename("training", model)
            panels(list(columns), report / curves, draw, "step" if steps is not None else "row")
        if drawn := sorted((folders.samples / model).glob("*.png")):
            samples, last = filename("samples", model), drawn[-1].stem
            shutil.copyfile(drawn[-1], report / samples)
        if curves or samples:
            made.append(Training(model, curves, samples, last))
    return made


def draw_searches(folders: Folders, systems: Iterable[str], report: Path) -> list[Search]:
    """Draw the loss over iteration of each latent search: median and quartiles over test pictures, by kind of hole."""
    made = []
    for system in systems:
        path = folders.inpainted / system / "curves.parquet"
        if not path.exists():
            continue
        table = read(path, ["kind", "losses", "context", "split"])
        table = table.filter(pc.equal(table["split"], "test"))
        if not table.num_rows:
            continue
        kinds = table["kind"].to_numpy(zero_copy_only=False)
        lines = {name: _padded(table[name]) for name in ("losses", "context")}

        def draw(axes: Any, kind: str, kinds: np.ndarray = kinds, lines: dict[str, np.ndarray] = lines) -> None:
            for name, colour in (("losses", "#2f6f9f"), ("context", "#c0742b")):
                low, middle, high = np.percentile(lines[name][kinds == kind], [25, 50, 75], axis=0)
                axes.plot(middle, color=colour, linewidth=1, label={"losses": "loss"}.get(name, name))
                axes.fill_between(np.arange(len(middle)), low, high, color=colour, alpha=0.2, linewidth=0)
            axes.legend(frameon=False)

        file = filename("search", system)
        panels(sorted(set(kinds)), report / file, draw, "iteration")
        made.append(Search(system, file))
    return made


def _padded(column: pa.ChunkedArray) -> np.ndarray:
    """Lists of numbers as one array, rows x longest; a search that ended early keeps its last value."""
    rows = [np.asarray(row, np.float64) for row in column.to_pylist()]
    longest = max(map(len, rows))
    return np.stack([np.pad(row, (0, longest - len(row)), "edge" if len(row) else "constant") for row in rows])
