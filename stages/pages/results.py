"""What other stages wrote, and which of it params.yaml names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from stages.metrics.means import SUFFIX
from stages.runs.errors import InputError


class Folders(NamedTuple):
    """The folders of what other stages wrote."""

    ingested: Path
    aligned: Path
    masks: Path
    models: Path
    histories: Path
    samples: Path
    inpainted: Path
    blended: Path
    scores: Path


def read(path: Path, columns: list[str]) -> pa.Table:
    """Columns of a Parquet file, or of a folder of them. Raises InputError where they are not there."""
    try:
        return pq.read_table(path, columns=columns)
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        said = str(error).splitlines()[0]
        raise InputError(f"{path}: not the expected table ({said}); remove it and run `dvc repro`") from None


def refuse_unjoined(systems: Mapping[str, Mapping[str, Any]], blend: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise InputError for a system that is completed and never scored, and for an entry of `blend` that fits none."""
    for name, entry in blend.items():
        if (system := entry.get("system", "")) not in systems:
            raise InputError(f"params.yaml: blend.{name}.system: no '{system}' in search or infer")
        if name in systems and name != system:
            raise InputError(f"params.yaml: blend.{name}: has the name of another system than '{system}'; rename it")
        own, its = entry.get("dataset"), systems[system].get("dataset")
        if own != its:
            raise InputError(f"params.yaml: blend.{name}.dataset: '{own}', but '{system}' completes '{its}': name that")
    for name in sorted(systems.keys() - {entry["system"] for entry in blend.values()}):
        raise InputError(f"params.yaml: blend: no entry of system '{name}'; every system is blended and scored")


def leftovers(
    folders: Folders,
    datasets: Iterable[str],
    models: Iterable[str],
    systems: Iterable[str],
    blends: Iterable[str],
) -> list[str]:
    """Results that no entry of params.yaml makes, as another profile's: the page leaves them out."""
    datasets, models, systems, blends = set(datasets), set(models), set(systems), set(blends)
    expected = {
        **dict.fromkeys((folders.ingested, folders.aligned, folders.masks), datasets),
        folders.inpainted: systems,
        folders.blended: blends,
        folders.scores: {f"{name}{end}" for name in blends for end in (".json", ".parquet", SUFFIX)},
        folders.models: {f"{name}{end}" for name in models for end in (".safetensors", ".members.arrow")},
        folders.histories: {f"{name}.csv" for name in models},
        folders.samples: models,
    }
    return [
        path.as_posix()
        for folder, names in expected.items()
        for path in sorted(folder.glob("*"))
        if path.name not in names and not path.name.startswith(".")
    ]
