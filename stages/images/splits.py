"""Splits: which side of train, val and test each picture lies on, so that nothing is on two of them.

Pictures with equal pixels belong together, and so do all pictures of one person: both make groups (connected
components over the two). A group lies on one side as a whole, the strictest that any of its members has: test before
val before train. A member has a side if the official partition gives it one, or if it shows a known person: then it is
the strictest that the partition gives that person, else one by the person's hash. Only where no member has any does the
hash of the pixels decide. A side therefore depends on a picture's own group alone, and strangers move nobody.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass as checked

from stages.images.sources import TRAIN_OR_VAL
from stages.images.table import SPLITS
from stages.runs.params import STRICT

Share = Annotated[float, Field(ge=0, lt=1)]


@checked(frozen=True, config=STRICT)
class Split:
    """Shares of pictures (or people), used where the source has no official partition; the rest trains."""

    val: Share
    test: Share

    def __post_init__(self) -> None:
        if self.val + self.test >= 1:
            raise ValueError("val and test together must be below 1")


@dataclass(frozen=True, slots=True)
class Member:
    """What a picture's side depends on."""

    path: str
    pixel_sha256: str
    identity: str | None = None
    official: str | None = None  # train, val or test, TRAIN_OR_VAL, or None where no partition names the picture


@dataclass(frozen=True, slots=True)
class Place:
    """What `assign` decides of one picture."""

    side: str  # train, val or test
    kept: str  # the path of the picture that stays of those with these pixels: its own, or another's
    alone: str  # the side that its own label, person or pixels would give it
    because: str | None = None  # the path of a member that alone is where the group is; None where this one is, too


def split_of(key: str, shares: Split) -> str:
    """The side that a key (a person, or a picture's pixels) falls on: by its hash alone, so for ever the same."""
    place = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    if place < shares.test:
        return "test"
    return "val" if place < shares.test + shares.val else "train"


def assign(members: Sequence[Member], shares: Split) -> list[Place]:
    """Each member's place, in their order; it depends neither on that order nor on members of other groups.

    Of equal pixels the picture that has the strictest side stays, of several the first by path.
    """
    people = _people(members, shares)
    sides = [_side(member, people, shares) for member in members]
    groups: dict[int, list[int]] = defaultdict(list)
    equal: dict[str, list[int]] = defaultdict(list)
    for index, (number, member) in enumerate(zip(_components(members), members, strict=True)):
        groups[number].append(index)
        equal[member.pixel_sha256].append(index)

    def strictest(index: int) -> tuple[int, str]:
        return -_rank(sides[index]), members[index].path

    kept = {pixels: members[min(copies, key=strictest)].path for pixels, copies in equal.items()}
    places: dict[int, Place] = {}
    for group in groups.values():
        first = min(group, key=strictest)
        side = sides[first] or split_of(members[first].pixel_sha256, shares)
        alone = {index: _alone(members[index], sides[index], shares) for index in group}
        _, cause = min((not sides[index], members[index].path) for index in group if alone[index] == side)
        for index in group:
            because = None if alone[index] == side else cause
            places[index] = Place(side, kept[members[index].pixel_sha256], alone[index], because)
    return [places[index] for index in range(len(members))]


def _people(members: Sequence[Member], shares: Split) -> dict[str, str]:
    """Each known person's side: the strictest that the official partition gives them, else by their hash."""
    labels: dict[str, list[str | None]] = defaultdict(list)
    for member in members:
        if member.identity:
            labels[member.identity].append(member.official)
    return {
        person: _official(labels[person]) or _hashed(f"identity {person}", labels[person], shares) for person in labels
    }


def _side(member: Member, people: dict[str, str], shares: Split) -> str | None:
    """The side that a member has: by its person, or by the official partition; None if by neither."""
    if member.identity:
        return people[member.identity]
    if member.official == TRAIN_OR_VAL:
        return _hashed(member.pixel_sha256, [member.official], shares)
    return member.official


def _alone(member: Member, side: str | None, shares: Split) -> str:
    return _official([member.official]) or side or split_of(member.pixel_sha256, shares)


def _official(labels: Sequence[str | None]) -> str | None:
    return max((label for label in labels if label in SPLITS), key=SPLITS.index, default=None)


def _hashed(key: str, labels: Sequence[str | None], shares: Split) -> str:
    side = split_of(key, shares)
    # An official training set gives no picture to the test.
    return "train" if side == "test" and TRAIN_OR_VAL in labels else side


def _rank(side: str | None) -> int:
    return SPLITS.index(side) if side else -1


def _components(members: Sequence[Member]) -> list[int]:
    """The number of each member's group."""
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    numbers: dict[tuple[str, str], int] = {}  # every picture and every person is a node of the graph

    def node(kind: str, key: str) -> int:
        return numbers.setdefault((kind, key), len(numbers))

    pictures = [node("pixels", member.pixel_sha256) for member in members]
    edges = [
        (picture, node("person", member.identity))
        for picture, member in zip(pictures, members, strict=True)
        if member.identity
    ]
    ends = np.array(edges, np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(edges), bool), tuple(ends)), shape=(len(numbers), len(numbers)))
    _, labels = connected_components(graph, directed=False)
    return labels[pictures].tolist()
