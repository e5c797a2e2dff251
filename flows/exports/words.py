"""What is recorded of a dataset, in words."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

from flows.exports.datasets import Dataset

SHOWN = 20  # texts of a kind: pictures.csv may give every picture its own


def describe(dataset: Dataset) -> str:
    """A dataset in words that say what is recorded, and nothing else."""
    many = "Pictures" if dataset.pictures is None else f"{dataset.pictures} pictures"
    how = f" from a folder that was read as '{dataset.source}'" if dataset.source else ""
    splits = ", ".join(f"{count} {split}" for split, count in (dataset.splits or {}).items())
    return " ".join(
        [
            f"{many}, ingested by Palimpsest{how}{': ' if splits else ''}{splits}.",
            *(f"{words}." for words in (*origins(dataset), *consents(dataset), *rejected(dataset), *erased(dataset))),
        ]
    )


def origins(dataset: Dataset) -> list[str]:
    """Where the pictures come from, as recorded, with how many do."""
    return [f"Origin: {_counted(origin, count)}" for origin, count in dataset.origins.items()]


def consents(dataset: Dataset) -> list[str]:
    """What is recorded of the consent of those who are shown, with of how many pictures; SHOWN at most."""
    known = together((one.consent, one.pictures) for one in dataset.terms)
    lines = [f"Consent: {_counted(consent, count)}" for consent, count in known.items()]
    more = len(lines) - SHOWN
    return lines[:SHOWN] + [f"Consent: {more} other texts, of single pictures"] * (more > 0)


def licences(dataset: Dataset) -> str | None:
    """The licences of its pictures, with how many are under each; None where none is recorded."""
    known = together((one.licence, one.pictures) for one in dataset.terms)
    return "; ".join(_counted(licence, count) for licence, count in known.items()) or None


NONE = "none recorded"


def together(counts: Iterable[tuple[str | None, int | None]]) -> dict[str, int | None]:
    """What is counted several times, once; None where one of its counts is."""
    found: dict[str, int | None] = {}
    for name, count in counts:
        name = name or NONE
        before = found.get(name, 0)
        found[name] = None if count is None or before is None else before + count
    return found


def rejected(dataset: Dataset) -> list[str]:
    """How many pictures were rejected, and why."""
    if dataset.rejected is None:
        return []
    reasons = ", ".join(_counted(reason, count) for reason, count in dataset.rejected.items())
    return [f"Rejected: {reasons or 'none'}"]


def erased(dataset: Dataset) -> list[str]:
    """That what is told is what is left of it."""
    days = " and ".join(dataset.erased)
    return [f"Pictures were erased from it on {days}: what is said here is of what is left"] * bool(days)


def _counted(words: str, count: int | None) -> str:
    return words if count is None else f"{words} ({count})"


def place(path: str) -> str:
    """A path for strangers: of one outside of the project only its name, as the rest tells of a machine."""
    return PurePosixPath(path).name if path.startswith(("/", "..")) else path
