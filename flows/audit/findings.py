"""What a verification gathers: faults, what cannot be told, remarks, and how much was checked."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping


@dataclasses.dataclass(frozen=True)
class Fault:
    """Something that is not as it is promised."""

    file: str  # from the project's folder
    said: str  # what is wrong, and what to do
    should: str | None = None  # the digest that is promised
    found: str | None = None  # the digest that the file has; None: it is missing, or no digest shows the fault
    remote: str | None = None  # what the DVC remotes have of it; None: they were not asked


@dataclasses.dataclass
class Findings:
    """What has been found so far."""

    faults: list[Fault] = dataclasses.field(default_factory=list)
    unknown: list[tuple[str, str]] = dataclasses.field(default_factory=list)  # about what, and why it cannot be told
    remarks: list[tuple[str, str]] = dataclasses.field(default_factory=list)  # about what; no fault
    checked: Counter[str] = dataclasses.field(default_factory=Counter)  # how many of each kind
    unsigned: list[str] = dataclasses.field(default_factory=list)  # records that nobody has signed

    wanted: set[str] = dataclasses.field(default_factory=set)  # objects of DVC's that a remote may have whole
    replaced: Mapping[str, str] = dataclasses.field(default_factory=dict)  # digests that erasures have made others of
    removed: Collection[str] = ()  # digests of what erasures have removed

    def fault(self, file: str, said: str, should: str | None = None, found: str | None = None) -> None:
        """Something is not as it is promised; the same file with the same words is named once."""
        if not any((each.file, each.said) == (file, said) for each in self.faults):
            self.faults.append(Fault(file, said, should, found))

    def altered(self, file: str, said: str, should: str, found: str | None = None) -> None:
        """A fault of bytes that DVC keeps; none where an erasure has altered them."""
        if found is not None and self.replaced.get(should) == found:
            self.cannot_tell(file, "a picture that it had was erased; `dvc repro` makes it anew")
            return
        self.fault(file, said, should, found)
        self.wanted.add(should)

    def cannot_tell(self, about: str, why: str) -> None:
        """Something could not be checked; `why` names the remedy."""
        self.unknown.append((about, why))

    def erased(self, md5: str) -> bool:
        """Whether an erasure has removed this, or made something else of it."""
        return md5 in self.replaced or md5 in self.removed

    def gone(self, about: str, what: list[str], why: str) -> None:
        """Several things of one kind are missing: one line with their number and an example."""
        if what:
            example = what[0] if len(what) == 1 else f"{len(what)}, {what[0]} for example"
            self.cannot_tell(about, f"{example}: {why}")
