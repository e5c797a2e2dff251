"""The figure of a study: a plot for each measure, in which each arm is a dot with its interval.

In black and grey, so that nothing is lost in print: single seeds are small rings, a published number that can be
compared is a diamond.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flows.studies import outcome
from flows.studies.outcome import MISSING, Results
from stages.images import png
from stages.pages.curves import PLOT
from stages.pages.figures import FAINT, INK

WIDTH = 4.2  # inches: also to be read on a telephone
DPI = 160


def drawn(results: Results) -> bytes:
    """A PNG."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [*results.study.measures]
    high = 0.75 + 0.24 * max(len(results.sources), 1)
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(PLOT)
        drawing = Figure(figsize=(WIDTH, high * len(names)), dpi=DPI, layout="constrained")
        for part, name in zip(drawing.subfigures(len(names), 1, squeeze=False)[:, 0], names, strict=True):
            title = f"{name}: {outcome.described(results.study.measures[name])}"
            part.suptitle(title, x=0.02, ha="left", fontsize=8, color=INK)
            _plot(part.subplots(), results, name)
        canvas = FigureCanvasAgg(drawing)
        canvas.draw()
        return png.encode(np.asarray(canvas.buffer_rgba())[..., :3])


def _plot(axes: Any, results: Results, name: str) -> None:
    measure = results.study.measures[name]
    arms = [*results.sources]
    for row, arm in enumerate(arms):
        number = results.number(arm, name)
        found = number.estimate
        if found is None:
            axes.text(0.02, row, MISSING, color=FAINT, va="center", transform=axes.get_yaxis_transform())
            continue
        if found.low is not None and found.high is not None:
            axes.plot([found.low, found.high], [row, row], color=INK, linewidth=1.4, solid_capstyle="butt")
        axes.plot(found.mean, row, "o", color=INK, markersize=4.5)
        seeds = [*number.by_seed.values()]
        axes.plot(seeds, [row + 0.3] * len(seeds), "o", markersize=2.6, markerfacecolor="none", markeredgecolor=FAINT,
                  markeredgewidth=0.7)  # fmt: skip
        known = [each.value for each in number.published if each.comparable == "yes"]
        axes.plot(known, [row] * len(known), "D", markersize=4.5, markerfacecolor="none", markeredgecolor=INK)
    if all(results.number(arm, name).estimate is None for arm in arms):
        axes.set_xticks([])
    axes.set_yticks(range(len(arms)), arms)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.set_ylim(len(arms) - 0.4, -0.6)
    axes.grid(axis="x", color=FAINT, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.margins(x=0.06)
    unit = outcome.unit(measure)
    better = {"high": "more is better", "low": "less is better", "one": "1 is best"}[outcome.metric(measure).best]
    axes.set_xlabel(f"{unit}, {better}" if unit else better, fontsize=7.5, color=FAINT)
