"""Bringing records to the branch by which they travel, and those of other clones together with them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from flows.lineage import signatures


@dataclasses.dataclass(frozen=True)
class Collection:
    """What `palimpsest audit collect` has done."""

    branch: str
    commit: str | None  # where the branch points at now; None: there are no records
    records: int  # on it
    new: int  # records that it did not have before
    merged: list[str]  # branches of other clones that had some of them
    signed: int = 0  # records, now, by the user


def collect(root: Path, passphrase: str | None = None) -> Collection:
    """Add the records of the project at `root`, and of fetched branches, to its branch.

    Where the user has a key, those of this clone that nobody has signed are signed.

    Raises InputError where that cannot be written, or where the key cannot be used.
    """
    done, signed = signatures.collect(root, passphrase)
    return Collection(**done._asdict(), signed=signed)


def show(done: Collection) -> None:
    """What was done, in one line."""
    if done.commit is None:
        print("collect: there are no records yet; a stage that runs leaves one")
        return
    of = f" (some of {', '.join(done.merged)})" if done.merged else ""
    signed = f"; {done.signed} signed" if done.signed else ""
    print(f"collect: {done.new} new{of}, {done.records} records on branch '{done.branch}'{signed}")
