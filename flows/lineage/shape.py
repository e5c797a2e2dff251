"""The shape of what JSON holds, and that of a record. Both may be a stranger's, and what reads them relies on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Check = Callable[[Any], bool]


def kind(*kinds: type) -> Check:
    return lambda value: isinstance(value, kinds)


def maybe(check: Check) -> Check:
    return lambda value: value is None or check(value)


def many(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def named(check: Check) -> Check:
    """Of a mapping all of whose values are such."""
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


def having(**checks: Check) -> Check:
    """Of a mapping in which these keys, where it has them, are such."""
    return lambda value: (
        isinstance(value, dict) and all(check(value[key]) for key, check in checks.items() if key in value)
    )


text, number = kind(str), kind(int, float)
TERMS = having(licence=maybe(text), consent=maybe(text), pictures=kind(int))

of_record = having(
    stage=text,
    started=text,
    inputs=named(text),
    outputs=named(text),
    sha256=named(text),
    sources=maybe(named(text)),
    weights=named(text),
    params=kind(dict),
    seconds=number,
    peak_memory_mib=number,
    git=maybe(having(commit=maybe(text), dirty=many(text), diff=maybe(text))),
    packages=maybe(having(imported=named(text), installed=maybe(text))),
    environment=having(
        libraries=maybe(named(maybe(text))), kernels=maybe(kind(dict)), driver=maybe(kind(dict)),
        variables=maybe(kind(dict)),
    ),
    notes=maybe(having(
        rejected=named(kind(int)),
        terms=many(lambda one: TERMS(one) and {"licence", "consent", "pictures"} <= one.keys()),
        moved=kind(dict),
        scores=named(text),
        changed=named(text),
        pictures=many(kind(dict)),
        checkpoints=many(kind(dict)),
        gone=many(text),
    )),
)  # fmt: skip
