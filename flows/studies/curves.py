"""The losses over the steps of a study's trainings: a figure for those with the same losses, of all arms and seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flows.studies.outcome import Results
from stages.pages.curves import panels, read_history
from stages.pages.figures import filename

COLOURS = ("#2f6f9f", "#c0742b", "#1b7a43", "#8a4f9e", "#1f2933", "#b3372f")
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
        for start in range(0, len(trainings), ARMS):
            number += 1
            some, file = trainings[start : start + ARMS], filename("training", str(number))

            def draw(axes: Any, loss: str, some: Sequence[_Training] = some) -> None:
                _draw(axes, loss, some)

            panels(losses, folder / file, draw, "step", dict(zip(map(_short, some), COLOURS, strict=False)))
            yield Curves(file, [", ".join(training.arms) for training in some])


def _by_losses(results: Results) -> list[tuple[tuple[str, ...], list[_Training]]]:
    """The trainings behind each arm, by the names of the losses that they kept."""
    every: dict[tuple[Path, ...], _Training] = {}  # one that several arms share is drawn once
    for arm, sources in results.sources.items():
        for path in dict.fromkeys(path for source in sources for path in source.histories):
            files = tuple(source.histories[path] for source in sources if path in source.histories)
            training = every.setdefault(files, _Training([], []))
            training.arms.append(arm)
            if not training.runs:
                training.runs.extend(read_history(file) for file in files)
    groups: dict[tuple[str, ...], list[_Training]] = {}
    for training in every.values():
        losses = tuple(sorted(set.intersection(*map(set, training.runs)) - {"step"}))
        if losses and all("step" in run for run in training.runs):
            groups.setdefault(losses, []).append(training)
    return [*groups.items()]


def _short(training: _Training) -> str:
    first, *others = training.arms
    return f"{first} and {len(others)} more" if len(others) > MORE else ", ".join(training.arms)


def _draw(axes: Any, loss: str, trainings: Sequence[_Training]) -> None:
    values = np.concatenate([run[loss] for training in trainings for run in training.runs])
    values = values[np.isfinite(values)]
    for training, colour in zip(trainings, COLOURS, strict=False):
        for run in training.runs:
            axes.plot(run["step"], run[loss], color=colour, linewidth=0.7, alpha=0.8)
    if len(values) and values.min() > 0 and values.max() > CLEAR * values.min():
        axes.set_yscale("log")
