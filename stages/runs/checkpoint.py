"""Checkpoints: safetensors with exactly one metadata key, the canonical JSON of what made them.

Nothing is pickled, and two trainings with the same inputs write the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.runs.errors import InputError
from stages.runs.record import canonical

if TYPE_CHECKING:
    from torch import Tensor

KEY = "palimpsest"  # the one metadata key: several are written in no fixed order


def save(path: Path, tensors: Mapping[str, Tensor], inputs: Mapping[str, Any]) -> None:
    """Write `tensors` with `inputs` (network, arguments, params, digests) as their metadata, atomically."""
    from safetensors.torch import save_file

    draft = path.with_name(path.name + ".draft")
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(ready, draft, metadata={KEY: canonical(inputs)})
    draft.replace(path)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors (on the CPU) and the metadata of a checkpoint.

    Raises InputError for a file that is missing, empty, cut short, a pickle or not the project's.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            inputs = json.loads((file.metadata() or {})[KEY])
            if not isinstance(inputs, dict):
                raise ValueError("its metadata are no mapping")
            return {name: file.get_tensor(name) for name in file.keys()}, inputs  # noqa: SIM118
    except FileNotFoundError:
        raise InputError(f"{path}: no such checkpoint; `dvc repro` or `dvc pull` makes it") from None
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a checkpoint of Palimpsest ({said}); remove it and run `dvc repro`") from None


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under `prefix.`, without it: a module's state dict."""
    return {name[len(prefix) + 1 :]: t for name, t in tensors.items() if name.startswith(prefix + ".")}
