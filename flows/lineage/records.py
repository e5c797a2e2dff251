"""The records of stage runs, which `stages/runs/record.py` writes: a JSON file each, under `STAGE/`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flows.process import atomic_file
from stages.runs import record


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
