"""Every checkpoint by its digest, and what it was made from."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from stages.pages.results import Folders
from stages.runs.errors import InputError
from stages.runs.header import Header


class Checkpoint(NamedTuple):
    """What the page says of a checkpoint, as text."""

    model: str
    sha256: str  # of the file
    numbers: str  # how many are in its tensors
    size: str  # bytes
    seen: str  # pictures read in training; a dash where the training has left no list of them
    made_from: str  # its metadata, as JSON


def read_checkpoint(path: Path) -> tuple[dict[str, int], dict[str, Any]]:
    """Numbers in each tensor, and what the metadata say. Raises InputError for a corrupt file."""
    found = Header(path)
    return {name: math.prod(spec.shape) for name, spec in found.specs.items()}, found.inputs


def list_checkpoints(folders: Folders, models: Iterable[str]) -> list[Checkpoint]:
    """The checkpoints of those models that have one. Raises InputError for a corrupt one."""
    found = []
    for model in models:
        path = folders.models / f"{model}.safetensors"
        if not path.exists():
            continue
        numbers, inputs = read_checkpoint(path)
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        members = folders.models / f"{model}.members.arrow"
        seen = str(len(read_members(members))) if members.exists() else "–"
        made_from = json.dumps(inputs, indent=1, sort_keys=True)
        count, size = f"{sum(numbers.values()):,}", f"{path.stat().st_size:,}"
        found.append(Checkpoint(model, digest, count, size, seen, made_from))
    return found


def read_members(path: Path) -> list[str]:
    """The image_ids of the pictures that a training has read. Raises InputError for a damaged file."""
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()["image_id"].to_pylist()
    except (OSError, pa.ArrowInvalid, KeyError):
        raise InputError(f"{path}: not a table of members; remove it and run `dvc repro`") from None


def parameters(numbers: Mapping[str, int]) -> int:
    """How many weights complete a picture: the network's or generator's, running statistics aside."""
    parts, statistics = ("network.", "generator."), ("running_mean", "running_var", "num_batches_tracked")
    return sum(n for name, n in numbers.items() if name.startswith(parts) and not name.endswith(statistics))
