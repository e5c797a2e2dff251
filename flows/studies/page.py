"""The page of a study's results, to be read offline; its templates lie beside this file and in `stages/pages/`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import FileSystemLoader

from flows.studies import curves, outcome, tables
from flows.studies.outcome import MISSING, Number, Pictures, Results
from stages.images.table import Key, Table
from stages.pages import html, scores, sheets
from stages.pages.figures import filename
from stages.pages.scores import Bar, Cell

TEMPLATES = html.TEMPLATES.overlay(loader=FileSystemLoader([Path(__file__).parent, Path(html.__file__).parent]))
ROWS = 6  # pictures on a contact sheet


class Shown(NamedTuple):
    """A number as the page shows it."""

    cell: Cell | None  # None where there is no interval
    mean: str  # or "missing"
    number: Number
    gaps: Sequence[tuple[str, str]]  # the seeds that are missing ("seeds 2, 3"), and why


class Sheet(NamedTuple):
    """A contact sheet that lies beside the page."""

    file: str
    kind: str
    split: str  # of the pictures
    names: Sequence[str]  # of the pictures, from the top
    seeds: Sequence[str]  # of which runs: "d_matching=0, seed 1"


def written(results: Results, folder: Path) -> str:
    """The page; its contact sheets and curves are written into `folder`."""
    study = results.study
    arms, parameters = tables.differing(results)
    return TEMPLATES.get_template("study.html.j2").render(
        results=results,
        study=study,
        notes=outcome.notes(results),
        policy=html.POLICY,
        missing=MISSING,
        rows=[
            *zip(results.sources, zip(*(_column(results, name) for name in study.measures), strict=True), strict=True)
        ],
        described={name: _described(results, name) for name in study.measures},
        sheets=[*_sheets(results, folder)],
        curves=[*curves.drawn(results, folder)],
        without=[arm for arm in results.sources if arm not in results.pictures],
        arms=arms,
        parameters=parameters,
    )


def _described(results: Results, name: str) -> str:
    measure = results.study.measures[name]
    best = {"high": "more is better", "low": "less is better", "one": "1 is best"}[outcome.metric(measure).best]
    unit = outcome.unit(measure)
    return f"{outcome.described(measure)}{f', in {unit}' if unit else ''}; {best}"


def _column(results: Results, name: str) -> list[Shown]:
    """The numbers of a measure, arm by arm."""
    shown = tables.formatter(results, name)
    numbers = [results.number(arm, name) for arm in results.sources]
    ends = [end for n in numbers if n.estimate for end in (n.estimate.low, n.estimate.high) if end is not None]
    found = []
    for number in numbers:
        one = number.estimate
        mean = shown(one.mean) if one else MISSING
        cell = None
        if one and one.low is not None and one.high is not None:
            bar = Bar(*(scores.along(value, min(ends), max(ends)) for value in (one.low, one.mean, one.high)))
            cell = Cell(mean, shown(one.low), shown(one.high), bar)
        found.append(Shown(cell, mean, number, outcome.gaps(number)))
    return found


def _sheets(results: Results, folder: Path) -> Iterator[Sheet]:
    """A sheet for each kind of hole that is measured, of the arms that have completed the same pictures."""
    groups: dict[tuple[str, str], list[str]] = {}
    for arm, pictures in results.pictures.items():
        groups.setdefault(pictures.same, []).append(arm)
    number = 0
    for arms in groups.values():
        drawing = _Drawing(results, arms)
        for kind in drawing.kinds:
            parts = -(-len(arms) // sheets.SYSTEMS)
            for part in range(parts):
                some = arms[part * len(arms) // parts : (part + 1) * len(arms) // parts]
                if keys := drawing.chosen(kind, arms):
                    number += 1
                    file = filename("sheet", str(number), kind)
                    sheets.save_sheet(drawing.groups(some, keys), folder / file)
                    seeds = [f"{arm}, seed {results.pictures[arm].seed}" for arm in some]
                    yield Sheet(file, kind, results.pictures[arms[0]].split, [key[1] for key in keys], seeds)


class _Drawing:
    """The tables of arms that have completed the same pictures with the same holes."""

    def __init__(self, results: Results, arms: Sequence[str]):
        first = results.pictures[arms[0]]
        self._truth, self._holes = Table(first.truth), Table(first.holes)
        self._pictures = {key: row for row, key in enumerate(self._truth.keys())}
        self._masks = {key: row for row, key in enumerate(self._holes.keys())}
        self._completed: dict[str, tuple[Table, dict[Key, int], str]] = {}
        measures = [*results.study.measures.values()]
        for arm in arms:
            blending = outcome.taken(measures[0], results.study.arms[arm]).blending
            table = Table(_file(results.pictures[arm], blending))
            self._completed[arm] = (table, {key: row for row, key in enumerate(table.keys())}, blending)
        taken = [outcome.taken(measure, results.study.arms[arm]) for measure in measures for arm in arms]
        measured = {measure.kind for measure in taken if measure.kind}
        there = dict.fromkeys(key[2] for _, rows, _ in self._completed.values() for key in rows)
        self.kinds = [kind for kind in there if not measured or kind in measured]

    def chosen(self, kind: str, arms: Sequence[str]) -> list[Key]:
        """The first pictures, by image_id, whose hole of this kind all arms have filled."""
        filled = set.intersection(*({key for key in self._completed[arm][1] if key[2] == kind} for arm in arms))
        return sorted(key for key in filled & self._masks.keys() if key[:2] in self._pictures)[:ROWS]

    def groups(self, arms: Sequence[str], keys: Sequence[Key]) -> list[tuple[str, list[tuple[str, np.ndarray]]]]:
        """What `save_sheet` draws."""
        truth = self._truth.pictures([self._pictures[key[:2]] for key in keys])
        holes = self._holes.holes([self._masks[key] for key in keys])
        hole = np.where(holes[..., None], np.uint8(255), truth)
        found: list[tuple[str, list[tuple[str, Any]]]] = [("truth", [("original", truth), ("hole", hole)])]
        for arm in arms:
            table, rows, blending = self._completed[arm]
            found.append((arm, [(blending, table.pictures([rows[key] for key in keys]))]))
        return found


def _file(pictures: Pictures, blending: str) -> Path:
    return pictures.blended if blending == "blended" else pictures.raw
