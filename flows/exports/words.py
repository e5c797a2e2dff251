"""What is recorded of a dataset, in words."""

from __future__ import annotations

from pathlib import PurePosixPath

from flows.exports.datasets import Dataset


def describe(dataset: Dataset) -> str:
    """A dataset in words that say what is recorded, and nothing else."""
    many = "Pictures" if dataset.pictures is None else f"{dataset.pictures} pictures"
    how = f" from a folder that was read as '{dataset.source}'" if dataset.source else ""
    splits = ", ".join(f"{count} {split}" for split, count in (dataset.splits or {}).items())
    return " ".join(
        [
            f"{many}, ingested by Palimpsest{how}{': ' if splits else ''}{splits}.",
            *(f"{words}." for words in (*origins(dataset), *consents(dataset), *rejected(dataset))),
        ]
    )


def origins(dataset: Dataset) -> list[str]:
    """Where the pictures come from, as recorded, with how many do."""
    return [f"Origin: {_counted(origin, count)}" for origin, count in dataset.origins.items()]


def consents(dataset: Dataset) -> list[str]:
    """What is recorded of the consent of those who are shown, with of how many pictures."""
    known: dict[str, int | None] = {}
    for one in dataset.terms:
        before = known.get(one.consent or "none recorded", 0)
        together = None if one.pictures is None or before is None else before + one.pictures
        known[one.consent or "none recorded"] = together
    return [f"Consent: {_counted(consent, count)}" for consent, count in known.items()]


def rejected(dataset: Dataset) -> list[str]:
    """How many pictures were rejected, and why."""
    if dataset.rejected is None:
        return []
    reasons = ", ".join(_counted(reason, count) for reason, count in dataset.rejected.items())
    return [f"Rejected: {reasons or 'none'}"]


def _counted(words: str, count: int | None) -> str:
    return words if count is None else f"{words} ({count})"


def place(path: str) -> str:
    """A path for strangers: of one outside of the project only its name, as the rest tells of a machine."""
    return PurePosixPath(path).name if path.startswith(("/", "..")) else path
