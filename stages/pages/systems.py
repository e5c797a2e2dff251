"""What each system is, and what its runs took on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from stages.images.table import Table
from stages.metrics.blends import of_systems
from stages.pages.checkpoints import parameters, read_checkpoint
from stages.pages.results import Folders
from stages.runs import record

COSTS = ".palimpsest/costs.html"  # measured on this machine, so no part of what DVC hashes
NONE = "–"


class Costs(NamedTuple):
    """What the runs of a system took, as text; `NONE` where no record of such a run is here."""

    system: str
    pictures: int
    training: str  # seconds
    training_memory: str  # MiB, the most
    completion: str  # seconds
    completion_memory: str  # MiB, the most


class System(NamedTuple):
    """What a system is, as text."""

    name: str
    completes_by: str
    parameters: str  # how many; `NONE` without a network
    dataset: str
    blending: str


def model_of(system: str, search: Mapping[str, Any], infer: Mapping[str, Any]) -> str | None:
    """The trained model that a system completes with; None for a baseline."""
    if system in search:
        return search[system].get("model")
    path = Path(infer.get(system, {}).get("checkpoint", ""))
    return path.stem if path.suffix == ".safetensors" else None


def describe_systems(
    folders: Folders, blend: Mapping[str, Any], search: Mapping[str, Any], infer: Mapping[str, Any]
) -> list[System]:
    """What each system is, its parameters, dataset and blending; where it has several, each by its entry's name."""
    found = []
    for name, entries in of_systems(blend).items():
        given, model = infer.get(name, {}), model_of(name, search, infer)
        how = f"latent search through {model}" if name in search else given.get("method") or given.get("network", NONE)
        how += f" {model}" if model and name in infer and model != how else ""
        blending = "; ".join(f"{'' if one == name else f'{one}: '}{_blending(blend[one])}" for one in entries)
        path = folders.models / f"{model}.safetensors"
        weights = f"{parameters(read_checkpoint(path)[0]):,}" if model and path.exists() else NONE
        found.append(System(name, how, weights, str(blend[entries[0]].get("dataset")), blending))
    return found


def _blending(entry: Mapping[str, Any]) -> str:
    """An entry of `blend` in words."""
    options = ", ".join(f"{key} {value}" for key, value in entry.items() if key not in ("system", "dataset", "method"))
    return f"{entry.get('method', '')}{f' ({options})' if options else ''}"


def read_costs(
    folders: Folders, trainings: Mapping[str, Any], search: Mapping[str, Any], infer: Mapping[str, Any]
) -> list[Costs]:
    """Seconds and peak memory of each system, from the records of its runs."""
    found = []
    for name in (*search, *infer):
        model = model_of(name, search, infer)
        stage = next((stage for stage, entries in trainings.items() if model in entries), "")
        trained = (
            record.made(record.home(), f"{stage}@{model}", folders.models / f"{model}.safetensors") if stage else None
        )
        by = "search" if name in search else "infer"
        ran = record.made(record.home(), f"{by}@{name}", folders.inpainted / name)
        pictures = len(Table(folders.inpainted / name / "completed.arrow"))
        found.append(Costs(name, pictures, *took(trained), *took(ran)))
    return found


def took(made: Mapping[str, Any] | None) -> tuple[str, str]:
    """Seconds and peak memory in MiB, as text, from a run's record; None for no record."""
    return (f"{made['seconds']:.1f}", f"{made['peak_memory_mib']:,}") if made else (NONE, NONE)
