"""The records of stage runs, which `stages/runs/record.py` writes: a JSON file each, under `STAGE/`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from flows.process import atomic_file
from stages.runs import record
from stages.runs.errors import InputError


def of_outputs(folder: Path, outputs: Mapping[str, str]) -> dict[str, str]:
    """The records of the runs that made these outputs (md5 by path): their text by their path in the folder."""
    return {
        file.relative_to(folder).as_posix(): file.read_text(encoding="utf-8")
        for file in sorted(folder.glob("*/*.json"))
        if record.read(file)["outputs"].items() >= outputs.items()
    }


def add(folder: Path, records: Mapping[str, str]) -> None:
    """Write records that the folder does not have: text by path."""
    for name, text in records.items():
        if not (folder / name).exists():
            atomic_file.write(folder / name, text)


# What a record says beside the facts that name it, in the form that has no `format`.
CIRCUMSTANCES = ("digest", "started", "ended", "seconds", "peak_memory_mib")


def folder(root: Path) -> Path:
    """Where the records of a working copy lie."""
    return root / record.home()


def every(root: Path) -> dict[str, dict[str, Any] | None]:
    """All records of the working copy at `root`, by their path in its folder of records; None for one that is damaged.

    A record's path ends with the digest of its facts. So records of other sources can be added: equal paths are equal
    records.
    """
    found: dict[str, dict[str, Any] | None] = {}
    for file in sorted(folder(root).glob("*/*.json")):
        name = file.relative_to(folder(root)).as_posix()
        try:
            found[name] = record.read(file)
        except InputError:
            found[name] = None
    return found


def digest(about: Mapping[str, Any]) -> str | None:
    """What a record should be named, by its facts; None for a record of a newer format, which is named otherwise."""
    if "format" in about:
        return None
    facts = {key: value for key, value in about.items() if key not in CIRCUMSTANCES}
    try:
        return sha256(record.canonical(facts).encode()).hexdigest()[:32]
    except (ValueError, RecursionError):
        return ""


def text(about: Mapping[str, Any]) -> bytes:
    """A record as its file has it."""
    return (json.dumps(about, indent=1, sort_keys=True) + "\n").encode()
