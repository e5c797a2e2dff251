"""Numbers, times and lists in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any


def count(number: int, noun: str) -> str:
    """As `1 picture`, `1,200 pictures`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def time(text: str | datetime | None) -> str:
    """A time of a record in UTC, to the minute; as it is where it is none."""
    if isinstance(text, str):
        try:
            text = datetime.fromisoformat(text)
        except ValueError:
            return str(text)
    return f"{text.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if text else "not recorded"


def size(number: int) -> str:
    """Bytes, as `9.9 MB` (a million bytes each)."""
    return f"{number / 1e6:,.1f} MB" if number >= 1e5 else f"{number:,} bytes"


def span(seconds: Any) -> str:
    """As `49 s`, `12 min` or `3.4 h`; what is no number is not recorded."""
    if not isinstance(seconds, int | float):
        return "not recorded"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def several(words: Iterable[str], most: int = 12) -> str:
    """As `a, b and c`; of many, the first ones and how many more."""
    found = list(words)
    if len(found) > most:
        return f"{', '.join(found[:most])} and {len(found) - most:,} more"
    return " and ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)


def shares(counts: Mapping[str, int | None]) -> str:
    """As `3 too small, 1 truncated`."""
    return several([f"{number:,} {name}" if number is not None else name for name, number in counts.items()])


def value(found: Any) -> str:
    """A parameter's value."""
    if isinstance(found, Mapping):
        return "{" + ", ".join(f"{key}: {value(each)}" for key, each in found.items()) + "}"
    if isinstance(found, list):
        return "[" + ", ".join(map(value, found)) + "]"
    return "null" if found is None else str(found).lower() if isinstance(found, bool) else str(found)


def interval(mean: float, low: float | None, high: float | None) -> str:
    """A mean and the ends of its interval, if it has one."""
    return f"{mean:.4g}" if low is None or high is None else f"{mean:.4g}  [{low:.4g}, {high:.4g}]"
