"""Completion in one pass: by a trained network, or by a classical baseline that it must beat.

Each (test picture, kind of hole) of the frozen holes is completed, in their order, and then those of
training pictures, if any are asked for. The truth under a hole is gone before a system sees the
picture (`stages/images/batches.py`).

`network` names a file of stages/models. Its class `Network` is built from the checkpoint; where a
network cannot complete every hole, its method `completes` says which.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from stages.images import batches
from stages.images.table import Table
from stages.runs import command
from stages.runs.errors import InputError
from stages.runs.params import STRICT, Name, Runtime, refuse_idle

if TYPE_CHECKING:
    from torch import Tensor, nn

BASELINES = ("telea", "navier_stokes", "mean", "nearest")


@dataclass(frozen=True, config=STRICT)
class Params:
    """One system: a network with its checkpoint, or a baseline, and what it completes."""

    network: Annotated[
        str, Field(pattern=r"^[a-z][a-z0-9_]*$")
    ]  # a file of stages/models; onnx: a network from elsewhere
    dataset: Name  # the dataset whose pictures are completed
    checkpoint: str  # its file, of network onnx an .onnx file; of network classical: stages/models/no_checkpoint.txt
    method: Literal["telea", "navier_stokes", "mean", "nearest"] | None = None  # classical alone: which baseline
    count: Annotated[int, Field(ge=1)] | None = None  # test pictures, those of the smallest keyed hash; null: all
    # training pictures beside them, so that memorising shows: chosen alike, of those that mask.train_sample gives holes
    train_count: Annotated[int, Field(ge=0)] = 0
    kinds: tuple[str, ...] | None = None  # labels of the dataset's mask.kinds; null: all that the network completes
    batch: Annotated[int, Field(ge=1)] = 32  # pictures at once; a network's alone
    radius: Annotated[float, Field(gt=0)] = 3.0  # pixels; telea and navier_stokes alone
    sample_seed: Annotated[int, Field(ge=0)] | None = None  # a seed: one completion drawn by a VAE; null: its mean

    def __post_init__(self) -> None:
        if (self.network == "classical") != (self.method is not None):
            raise ValueError(f"network classical, and no other, takes a method: one of {', '.join(BASELINES)}")
        if self.network == "classical" and self.sample_seed is not None:
            raise ValueError("sample_seed: a baseline draws no completions")
        if self.network == "onnx":
            if not self.checkpoint.endswith(".onnx"):
                raise ValueError("checkpoint: network 'onnx' needs the path of an .onnx file")
            if self.sample_seed is not None:
                raise ValueError("sample_seed: network 'onnx' draws no completions")
        elif self.network != "classical" and not self.checkpoint.endswith(".safetensors"):
            raise ValueError(f"checkpoint: network '{self.network}' needs one: data/models/<name>.safetensors")
        if self.network == "classical" and self.checkpoint.endswith(".safetensors"):
            raise ValueError("checkpoint: a baseline reads none: stages/models/no_checkpoint.txt")
        if self.network == "classical":
            refuse_idle(self, f"method: {self.method}", ["batch"])
        if self.method not in ("telea", "navier_stokes"):
            refuse_idle(self, f"method: {self.method}" if self.method else f"network: {self.network}", ["radius"])


# known uint8 N x H x W x 3 (zeros under the hole), hole bool N x H x W -> whole pictures as known.
Complete = Callable[[np.ndarray, np.ndarray], np.ndarray]


class System(NamedTuple):
    """What completes batches of `rows` pictures, and which holes it can."""

    complete: Callable[[batches.Batch], np.ndarray]
    completes: Callable[[np.ndarray], np.ndarray]  # holes N x H x W -> bool N
    rows: int


def every(hole: np.ndarray) -> np.ndarray:
    return np.ones(len(hole), bool)


# --- Baselines ---


def baseline(params: Params, aligned: Path, size: tuple[int, int]) -> System:
    from stages.models import classical

    if params.method in ("telea", "navier_stokes"):
        complete: Complete = partial(getattr(classical, params.method), radius=params.radius)
    elif params.method == "nearest":
        train = training_pictures(params, aligned)
        rows = {key: row for row, key in enumerate(train.keys())}

        def most_alike(batch: batches.Batch) -> np.ndarray:
            return classical.nearest(batch.known, batch.hole, train, [rows.get(key, -1) for key in batch.keys])

        return System(most_alike, every, classical.batch_rows(size))
    else:
        picture = classical.mean_picture(training_pictures(params, aligned))
        complete = lambda known, hole: np.broadcast_to(picture, known.shape)  # noqa: E731
    return System(lambda batch: complete(batch.known, batch.hole), every, classical.batch_rows(size))


def training_pictures(params: Params, aligned: Path) -> Table:
    """The dataset's training split; InputError where it is empty."""
    train = Table(aligned / "train.arrow")
    if not len(train):
        raise InputError(
            f"method '{params.method}' needs training pictures and dataset '{params.dataset}' has none: "
            "choose telea or navier_stokes, or a dataset with use: train"
        )
    return train


# --- Networks ---


def load_network(path: Path, network: str) -> tuple[nn.Module, int]:
    """The network of a checkpoint, frozen and in eval mode, and the side of the pictures that it learned.

    Raises InputError if it is no such network's.
    """
    from stages.runs.header import short
    from stages.training import checkpoint

    found = checkpoint.Checkpoint(path)
    if found.inputs.get("network") != network:
        said = short(found.inputs.get("network"))
        raise InputError(f"{path}: holds network {said}, not {network}: mend infer's `checkpoint` or `network`")
    try:
        build = import_module(f"stages.models.{network}").Network
    except (ImportError, AttributeError):
        raise InputError(
            f"{path}: holds network '{network}', and no stages/models/{network}.py has a Network: take the version of "
            "the code that made it"
        ) from None
    arguments = found.mapping("arguments")
    module = found.build("network", build, arguments)
    if "size" not in arguments:
        raise found.wrong("arguments: no size")
    return module.requires_grad_(False).eval(), arguments["size"]


def learned(
    params: Params,
    checkpoint: Path,
    size: tuple[int, int],
    runtime: Runtime,
    loaded: tuple[nn.Module, int] | None = None,
) -> System:
    """A trained network; `loaded` is what `load_network` has given for it, where that has been called."""
    import torch

    from stages.images import tensors
    from stages.training.device import autocast, prepare

    device = prepare(runtime)
    module, trained = loaded or load_network(checkpoint, params.network)
    network: Any = module.to(device).to(memory_format=torch.channels_last)
    if size != (trained, trained):
        raise InputError(
            f"{checkpoint}: completes {trained} x {trained} pictures, dataset '{params.dataset}' has "
            f"{size[1]} x {size[0]}: set its align.side"
        )
    if params.sample_seed is not None and not getattr(network, "latent", 0):
        raise InputError(
            f"params.yaml: infer: sample_seed: network '{params.network}' of {checkpoint} draws no completions"
        )

    def to_hole(hole: np.ndarray) -> Tensor:
        return torch.from_numpy(hole).unsqueeze(1).to(device)

    def complete(batch: batches.Batch) -> np.ndarray:
        given = [tensors.to_tensor(batch.known, device), to_hole(batch.hole)]
        if params.sample_seed is not None:
            given.append(noise(params.sample_seed, batch, network.latent).to(device))
        with torch.inference_mode(), autocast(runtime, device):
            made = network(*given)
        return tensors.to_pictures(made, lambda row: f"{batch.title(row)}: what {checkpoint} makes of it")

    def completes(hole: np.ndarray) -> np.ndarray:
        return network.completes(to_hole(hole)).cpu().numpy()

    return System(complete, completes if hasattr(network, "completes") else every, params.batch)


def foreign(params: Params, file: Path, size: tuple[int, int]) -> System:
    """A network from elsewhere. Raises InputError where it cannot be opened, or takes another size."""
    from stages.models.onnx import Onnx

    found = Onnx(file)
    if not found.open and size != (found.side, found.side):
        raise InputError(
            f"{file}: completes {found.side} x {found.side} pictures, dataset '{params.dataset}' has "
            f"{size[1]} x {size[0]}: set its align.side"
        )
    return System(lambda batch: found.complete(batch.known, batch.hole), every, params.batch)


def noise(seed: int, batch: batches.Batch, latent: int) -> Tensor:
    """Standard normal N x latent, keyed by picture and hole: what is drawn for one does not depend on the others."""
    import torch

    from stages.images.holes import keyed_hash

    rows = []
    for key, kind in zip(batch.keys, batch.kinds, strict=True):
        number = int.from_bytes(keyed_hash(seed, *key, kind)[:7], "big")
        rows.append(torch.randn(latent, generator=torch.Generator().manual_seed(number)))
    return torch.stack(rows)


# --- The stage ---


def within_reach(work: batches.Work, system: System) -> set[str]:
    """The kinds of hole of which the system can complete every one."""
    done: dict[str, bool] = dict.fromkeys(work.kinds, True)
    for batch in work.batches(system.rows):
        for kind, able in zip(batch.kinds, system.completes(batch.hole), strict=True):
            done[kind] &= bool(able)
    return {kind for kind, able in done.items() if able}


def completable(work: batches.Work, system: System, params: Params, name: str) -> batches.Work:
    """The work without the kinds of hole that the system cannot complete.

    Raises InputError where the parameters name such a kind, and where none is left.
    """
    kinds = within_reach(work, system)
    beyond = sorted(set(work.kinds) - kinds)
    if beyond and (params.kinds is not None or not kinds):
        raise InputError(
            f"params.yaml: infer.{name}.kinds: network '{params.network}' cannot complete {', '.join(beyond)}"
        )
    return work.only(np.array([row for row, kind in enumerate(work.kinds) if kind in kinds], np.int64))


def infer(
    checkpoint: Path, aligned: Path, masks: Path, inpainted: Path, params: Params, runtime: Runtime, name: str
) -> None:
    """Complete the pictures: `inpainted` gets completed.arrow and guide.arrow, row by row as the holes are: those of
    test pictures, then those of any training ones.

    Raises InputError for a checkpoint that is not the network's, for kinds of hole it cannot complete, and where what
    it makes of a picture is not a number.
    """
    from tqdm import tqdm

    works = batches.to_complete(aligned, masks, params.count, params.train_count, params.kinds)
    size = works[0].size
    if params.network == "classical":
        system = baseline(params, aligned, size)
    elif params.network == "onnx":
        system = foreign(params, checkpoint, size)
    else:
        system = learned(params, checkpoint, size, runtime)
    todo = [completable(work, system, params, name) for work in works]
    rows = system.rows
    with batches.writing_results(inpainted, size) as results:
        for work in todo:
            said = f"{name}, {work.split}"
            for batch in tqdm(
                work.batches(rows), total=work.count_batches(rows), desc=said, unit="batch", disable=None
            ):
                results.append(batch, system.complete(batch), work.split)


if __name__ == "__main__":
    command.run(
        infer,
        sections={"params": "infer.{name}", "runtime": "runtime"},
        inputs=("checkpoint", "aligned", "masks"),
        outputs=("inpainted",),
    )
