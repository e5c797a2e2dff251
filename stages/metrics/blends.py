"""Which entries of `blend` are of a system, and whose scores are the system's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def of_systems(blend: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """The names of the entries of each system, by the entries' `system`.

    The first is the one whose scores are the system's own: the entry of the system's name, or else the one that stands
    first. Scores of raw pictures are the same in all.
    """
    found: dict[str, list[str]] = {}
    for name, entry in blend.items():
        found.setdefault(entry["system"], []).append(name)
    return {system: sorted(names, key=lambda name: name != system) for system, names in found.items()}
