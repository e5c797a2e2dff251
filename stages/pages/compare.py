"""Test pictures to compare one by one: a file of tiles for each picture and hole, and what the page's script is told.

The tiles of a file lie from left to right: the truth, the hole, and what each system made of it. So the browser asks
for one file a picture and hole, and has everything that it may be asked to show of it.
"""

from __future__ import annotations

import hashlib
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc

from stages.images import png
from stages.images.table import KEY, Key
from stages.pages.checkpoints import Checkpoint, read_members
from stages.pages.figures import filename
from stages.pages.pictures import Tried
from stages.pages.results import Folders, read
from stages.pages.scores import METRICS
from stages.pages.systems import System

FOLDER = "pictures"  # of the files, beside the page
BEFORE = ("truth", "hole")  # what the first tiles show
CHUNK = 16  # holes read at once: bounds memory
SHOWN = ("psnr_hole", "ssim_hole", "l1_hole", "sharpness", "lpips")  # metrics to sort pictures by


class Strip(NamedTuple):
    """A file of tiles, of one picture and hole."""

    file: str
    dataset: str
    key: Key  # image_id, path, kind of hole
    shown: tuple[str, ...]  # what each tile shows: `BEFORE`, then what systems made, as "telea raw"
    scores: dict[str, list[float | None]]  # metric -> of each tile; None where there is no score


class Comparison(NamedTuple):
    """What the page offers to compare."""

    shown: list[str]  # everything that a tile may show
    made: list[str]  # what of it systems have made
    datasets: list[str]
    kinds: list[str]
    metrics: dict[str, str]  # name -> heading
    limited: dict[str, tuple[int, int]]  # dataset -> pictures shown and completed, where not all are shown
    script: dict[str, Any]  # the same and more, as the page's script reads it


def draw_strips(folders: Folders, tried: Tried, kinds: Sequence[str], count: int, report: Path) -> list[Strip]:
    """Write the files of the `count` pictures that come first by image_id, each with all of its kinds of hole."""
    done = {kind: tried.completed(kind) for kind in kinds}
    every = {kind: set().union(*systems.values()) for kind, systems in done.items()}
    chosen = set(sorted({key[:2] for keys in every.values() for key in keys})[:count])
    scores: dict[tuple[str, str], dict[Key, dict[str, float | None]]] = {}
    for system in tried.systems.values() if chosen else ():
        there = [metric for metric in SHOWN if metric in system.metrics]
        for shown, entry in system.scores.items():
            scores[shown] = read_scores(folders, entry, shown[1], there, chosen)
    made = []
    for kind, systems in done.items():
        keys = sorted(key for key in every[kind] if key[:2] in chosen)
        groups: dict[tuple[str, ...], list[Key]] = {}  # by the systems that have completed them
        for key in keys:
            groups.setdefault(tuple(name for name in systems if key in systems[name]), []).append(key)
        for names, members in groups.items():
            for start in range(0, len(members), CHUNK):
                made += _draw(tried, names, members[start : start + CHUNK], scores, report)
    return sorted(made, key=lambda strip: (*strip.key[:2], kinds.index(strip.key[2])))


def _draw(
    tried: Tried,
    names: Sequence[str],
    keys: Sequence[Key],
    scores: Mapping[tuple[str, str], Mapping[Key, Mapping[str, float | None]]],
    report: Path,
) -> list[Strip]:
    """The files of holes that the same systems have completed."""
    (report / FOLDER).mkdir(exist_ok=True)
    tiles = [*zip(BEFORE, tried.before(keys), strict=True)]
    of: list[tuple[str, str]] = []
    for system in names:
        for shown, pictures in tried.systems[system].pictures(keys):
            of.append(shown)
            tiles.append((" ".join(shown), pictures))
    made = []
    for number, key in enumerate(keys):
        # Names of datasets and kinds may be alike once they are file names: the digest is of the whole key.
        digest = hashlib.sha256("\0".join((tried.name, *key)).encode()).hexdigest()[:16]
        file = f"{FOLDER}/{filename(tried.name, key[2], digest)}"
        (report / file).write_bytes(png.encode(np.concatenate([pictures[number] for _, pictures in tiles], axis=1)))
        found = [scores[shown].get(key, {}) for shown in of]
        metrics = {m: [*([None] * len(BEFORE)), *(one.get(m) for one in found)] for m in SHOWN}
        made.append(Strip(file, tried.name, key, tuple(label for label, _ in tiles), metrics))
    return made


def read_scores(
    folders: Folders, entry: str, blending: str, there: Sequence[str], chosen: set[Key]
) -> dict[Key, dict[str, float | None]]:
    """(image_id, path, kind) -> metric -> score as the page shows it, of the chosen (image_id, path).

    Scores are those of an entry of `blend`, raw or blended; `there` are the metrics that they have.
    """
    names = [*KEY, "blending"]
    table = read(folders.scores / f"{entry}.parquet", [*names, *there])
    table = table.filter(pc.equal(table["blending"], blending))
    forms = [METRICS[metric].form for metric in there]
    rows = zip(*(table[name].to_pylist() for name in (*names, *there)), strict=True)
    return {
        row[:3]: {m: _rounded(value, form) for m, value, form in zip(there, row[4:], forms, strict=True)}
        for row in rows
        if row[:2] in chosen
    }


def _rounded(value: float | None, form: str) -> float | None:
    return None if value is None or not math.isfinite(value) else float(format(value, form))


def comparison(
    folders: Folders,
    tried: Sequence[Tried],
    strips: Sequence[Strip],
    systems: Sequence[System],
    models: Mapping[str, str | None],
    checkpoints: Iterable[Checkpoint],
) -> Comparison | None:
    """What the page says of the strips; `models` are the systems' trained models. None without any strip."""
    if not strips:
        return None
    made = {" ".join(shown): name for one in tried for name, system in one.systems.items() for shown in system.tables}
    shown = [*BEFORE, *made]
    kinds = list(dict.fromkeys(strip.key[2] for strip in strips))
    metrics = [m for m in SHOWN if any(value is not None for strip in strips for value in strip.scores[m])]
    layouts = {layout: number for number, layout in enumerate(dict.fromkeys(strip.shown for strip in strips))}
    pictures = {key: number for number, key in enumerate(dict.fromkeys((s.dataset, *s.key[:2]) for s in strips))}
    script = {
        "shown": shown,
        "before": len(BEFORE),
        "made": made,
        "metrics": {m: METRICS[m]._asdict() | {"digits": int(METRICS[m].form[1])} for m in metrics},
        "datasets": {one.name: {"height": one.size[0], "width": one.size[1]} for one in tried},
        "systems": _sources(folders, systems, models, checkpoints, {key[1] for key in pictures}),
        "layouts": [[shown.index(label) for label in layout] for layout in layouts],
        "pictures": [{"dataset": dataset, "id": one, "path": path} for dataset, one, path in pictures],
        "holes": [
            {
                "picture": pictures[strip.dataset, *strip.key[:2]],
                "kind": strip.key[2],
                "file": strip.file,
                "layout": layouts[strip.shown],
                "scores": [strip.scores[m][len(BEFORE) :] for m in metrics],
            }
            for strip in strips
        ],
    }
    datasets = list(dict.fromkeys(strip.dataset for strip in strips))
    headings = {m: METRICS[m].heading for m in metrics}
    limited = {}
    for one in tried:
        every = {key[:2] for system in one.systems.values() for key in system.keys}
        some = sum(dataset == one.name for dataset, *_ in pictures)
        if some < len(every):
            limited[one.name] = (some, len(every))
    return Comparison(shown, list(made), datasets, kinds, headings, limited, script)


def _sources(
    folders: Folders,
    systems: Iterable[System],
    models: Mapping[str, str | None],
    checkpoints: Iterable[Checkpoint],
    pictures: set[str],
) -> dict[str, dict[str, Any]]:
    """Of each system what it completes by; where that is a checkpoint, which, and the `pictures` that it has read."""
    found = {checkpoint.model: checkpoint for checkpoint in checkpoints}
    told: dict[str, dict[str, Any]] = {}
    for system in systems:
        told[system.name] = {"by": system.completes_by}
        if checkpoint := found.get(models.get(system.name) or ""):
            path = folders.models / f"{checkpoint.model}.safetensors"
            members = folders.models / f"{checkpoint.model}.members.arrow"
            told[system.name] |= {
                "checkpoint": path.as_posix(),
                "sha256": checkpoint.sha256,
                "read": checkpoint.seen,
                "these": sorted(pictures.intersection(read_members(members))) if members.exists() else None,
                "audit": shlex.join(["palimpsest", "audit", "checkpoint", path.as_posix()]),
            }
    return told
