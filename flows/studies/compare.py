"""Scores of several runs side by side: as a table of seeds and pictures, and as the difference of two arms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from flows.studies.verdict import Estimate, estimate, unpaired
from stages.images.table import Key

Scores = Mapping[Key, float]  # of one run, by (image_id, path, kind of hole)


def common(tables: Sequence[Scores]) -> list[Key]:
    """The completions that all tables of scores have, sorted."""
    first, *others = tables
    return sorted(set(first).intersection(*others))


def left_out(tables: Sequence[Scores]) -> int:
    """How many completions some tables of scores have, and not all."""
    return len(set[Key]().union(*tables)) - len(common(tables))


def by_picture(tables: Sequence[Scores], keys: Sequence[Key]) -> np.ndarray:
    """Seeds x pictures, float64: of each seed's table, the mean over the holes of each picture among `keys`."""
    _, picture = np.unique(["\0".join(key[:2]) for key in keys], return_inverse=True)
    holes = np.bincount(picture)
    return np.stack([np.bincount(picture, [scores[key] for key in keys]) / holes for scores in tables])


def favoured(scores: np.ndarray, best: str) -> np.ndarray:
    """Scores of which more is better, where `best` (high, low, one) says what is.

    Where a mean near 1 is the best, it is minus the mean's distance from 1 as a logarithm, |ln|. Each score is put on
    that line's tangent at the mean (the delta method): so the mean is exact, and the scatter that of small changes.
    """
    if best != "one":
        return scores if best == "high" else -scores
    mean = max(float(scores.mean()), 1e-9)
    return -abs(math.log(mean)) - np.sign(math.log(mean)) * (scores - scores.mean()) / mean


class Difference(NamedTuple):
    """How much better one arm is than another."""

    estimate: Estimate | None  # None: they cannot be compared
    obstacle: str  # why not, as half a sentence; else empty
    remarks: list[str]  # on what was compared, each a sentence


def difference(better: Mapping[int, Scores], worse: Mapping[int, Scores], best: str) -> Difference:
    """How much better the arm `better` is; both are tables of scores by seed.

    The same seeds and completions of both are compared. Where there are none in common, as the arms have different
    kinds of hole, it is the same pictures; and where those differ too, it is the difference of the arms' means.
    """
    seeds = [seed for seed in better if seed in worse]
    if not seeds:
        return Difference(None, "no seed has run in both arms", [])
    remarks = []
    if lone := sorted({*better, *worse} - {*seeds}):
        remarks.append(f"Seed {', '.join(map(str, lone))} has run in one of the arms alone, and is left out.")
    arms = [[arm[seed] for seed in seeds] for arm in (better, worse)]
    every = [*arms[0], *arms[1]]
    if keys := common(every):
        if alone := left_out(every):
            remarks.append(f"{alone} completions that not both arms have in every seed are left out.")
        one, other = (favoured(by_picture(arm, keys), best) for arm in arms)
        return Difference(estimate(one - other), "", remarks)
    if not all(common(arm) for arm in arms):
        return Difference(None, "the seeds of an arm have completed no picture in common", remarks)
    pictures = {key[:2] for key in common(arms[0])} & {key[:2] for key in common(arms[1])}
    if pictures:
        remarks.append("The arms complete the same pictures with different kinds of hole.")
        keys_of = [[key for key in common(arm) if key[:2] in pictures] for arm in arms]
        one, other = (favoured(by_picture(arm, keys), best) for arm, keys in zip(arms, keys_of, strict=True))
        return Difference(estimate(one - other), "", remarks)
    remarks.append("The arms complete different pictures, so the difference is that of two means.")
    means = [estimate(favoured(by_picture(arm, common(arm)), best)) for arm in arms]
    return Difference(unpaired(*means), "", remarks)
