"""The losses over the steps of a study's trainings: those that have a loss in common share a figure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flows.studies.outcome import Results
from stages.pages.curves import panels, read_history
from stages.pages.figures import filename

COLOURS = ("#2f6f9f", "#c0742b", "#1b7a43", "#8a4f9e", "#1f2933", "#b3372f", "#2aa198", "#7b8794")
ARMS = len(COLOURS)  # in one figure; more go to a second
MORE = 3  # other arms that share a training: so many are named beside their colour, and all below the figure
CLEAR = 10  # a loss whose least value is less than a tenth of its greatest is drawn on a logarithmic axis


class Curves(NamedTuple):
    """A figure that lies beside the page."""

    file: str
    arms: Sequence[str]  # in the order of their colours; those that share their trainings as one, joined by commas


class _Training(NamedTuple):
    """The trainings of one model, a history for each seed: the steps, and a loss at each, by its name."""

    arms: list[str]
    runs: list[dict[str, np.ndarray]]


def drawn(results: Results, folder: Path) -> Iterator[Curves]:
    """Draw the figures into `folder`."""
    number = 0
    for losses, trainings in _by_losses(results):
        parts = -(-len(trainings) // ARMS)
        for part in range(parts):
            number += 1
            some = trainings[part * len(trainings) // parts : (part + 1) * len(trainings) // parts]
            file = filename("training", str(number))

            def draw(axes: Any, loss: str, some: Sequence[_Training] = some) -> None:
                _draw(axes, loss, some)

            panels(losses, folder / file, draw, "step", dict(zip(map(_short, some), COLOURS, strict=False)))
            yield Curves(file, [", ".join(training.arms) for training in some])


def _by_losses(results: Results) -> list[tuple[list[str], list[_Training]]]:
    """The trainings behind the arms, grouped by losses that they share: all losses of a group, and the group."""
    every: dict[tuple[Path, ...], _Training] = {}  # one that several arms share is drawn once
    for arm, sources in results.sources.items():
        for path in dict.fromkeys(path for source in sources for path in source.histories):
            files = tuple(source.histories[path] for source in sources if path in source.histories)
            training = every.setdefault(files, _Training([], []))
            training.arms.append(arm)
            if not training.runs:
                training.runs.extend(read_history(file) for file in files)
    groups: list[tuple[list[str], list[_Training]]] = []
    for training in every.values():
        losses = {loss for run in training.runs if "step" in run for loss in run} - {"step"}
        alike = [group for group in groups if not losses.isdisjoint(group[0])]
        groups = [group for group in groups if losses.isdisjoint(group[0])]
        if losses:
            every_loss = sorted(losses.union(*(group[0] for group in alike)))
            groups.append((every_loss, [*(one for group in alike for one in group[1]), training]))
    return groups


def _short(training: _Training) -> str:
    first, *others = training.arms
    return f"{first} and {len(others)} more" if len(others) > MORE else ", ".join(training.arms)


def _draw(axes: Any, loss: str, trainings: Sequence[_Training]) -> None:
    drawn = [np.empty(0)]
    for training, colour in zip(trainings, COLOURS, strict=False):
        for run in training.runs:
            if {"step", loss} <= run.keys():
                axes.plot(run["step"], run[loss], color=colour, linewidth=0.7, alpha=0.8)
                drawn.append(run[loss])
    values = np.concatenate(drawn)
    values = values[np.isfinite(values)]
    if len(values) and values.min() > 0 and values.max() > CLEAR * values.min():
        axes.set_yscale("log")
