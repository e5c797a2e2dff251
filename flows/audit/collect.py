"""Bringing records to the branch by which they travel, and those of other clones together with them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from flows.lineage import record_branch


@dataclasses.dataclass(frozen=True)
class Collection:
    """What `palimpsest audit collect` has done."""

    branch: str
    commit: str | None  # where the branch points at now; None: there are no records
    records: int  # on it
    new: int  # records that it did not have before
    merged: list[str]  # branches of other clones that had some of them


def collect(root: Path) -> Collection:
    """Add the records of the project at `root`, and of fetched branches, to its branch.

    Raises InputError where that cannot be written.
    """
    return Collection(**record_branch.collect(root)._asdict())


def show(done: Collection) -> None:
    """What was done, in one line."""
    if done.commit is None:
        print("collect: there are no records yet; a stage that runs leaves one")
        return
    of = f" (some of {', '.join(done.merged)})" if done.merged else ""
    print(f"collect: {done.new} new{of}, {done.records} records on branch '{done.branch}'")
