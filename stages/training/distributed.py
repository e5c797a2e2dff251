"""Training on several devices at once, one process a device, or on one in this process."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from stages.runs import record
from stages.runs.errors import InputError
from stages.runs.params import Runtime
from stages.training.device import autocast, prepare

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    Module = TypeVar("Module", bound=nn.Module)


class DistributedContext:
    """The processes that train together, one a device; most often there is one.

    Each takes its part of every batch; `wrap` makes their gradients those of the whole batch
    (Lightning Fabric's distributed data parallel). Losses and statistics over a batch are each
    process's own: batch normalisation is joined on GPUs, where torch can.
    """

    def __init__(self, runtime: Runtime, fabric: Any = None):
        self.runtime, self._fabric = runtime, fabric
        chosen = prepare(runtime)
        self.rank: int = fabric.global_rank if fabric else 0
        self.size: int = fabric.world_size if fabric else 1
        self.device: torch.device = fabric.device if fabric else chosen

    def autocast(self) -> torch.autocast:
        return autocast(self.runtime, self.device)

    def place(self, module: Module) -> Module:
        """`module` on the device, channels last in memory, in training mode."""
        import torch

        if self.size > 1 and self.device.type == "cuda":
            module = torch.nn.SyncBatchNorm.convert_sync_batchnorm(module)
        return module.to(self.device).to(memory_format=torch.channels_last).train()

    def wrap(self, module: nn.Module) -> nn.Module:
        """What to call for passes that train `module`; `module` itself on one device."""
        return self._fabric.setup_module(module, move_to_device=False) if self._fabric else module

    def shard(self, batch: Tensor) -> Tensor:
        """This process's part of something that has one row a picture of the whole batch."""
        return batch[self.rank :: self.size].to(self.device)

    def all_reduce_mean(self, values: Sequence[float]) -> list[float]:
        """The mean over the processes, number by number."""
        if not self._fabric:
            return list(values)
        import torch

        return self._fabric.all_reduce(torch.tensor(values, dtype=torch.float32, device=self.device)).tolist()

    def barrier(self) -> None:
        if self._fabric:
            self._fabric.barrier()


def launch(runtime: Runtime, function: Callable[..., Callable[[], None]], *arguments: Any) -> Callable[[], None]:
    """`function(context, *arguments)`, in this process or in `runtime.devices` new ones; what the first returned.

    Signals are passed on: each process ends its step, the state is saved, and this one leaves as asked.
    """
    if runtime.devices == 1:
        return function(DistributedContext(runtime), *arguments)
    device = prepare(runtime)
    import torch

    if device.type == "cuda" and runtime.devices > torch.cuda.device_count():
        raise InputError(f"params.yaml: runtime.devices: {runtime.devices}, and here are {torch.cuda.device_count()}")
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    fabric = Fabric(
        accelerator="gpu" if runtime.device.startswith("cuda") else "cpu",
        devices=runtime.devices,
        # Buffers, the running statistics, are the first process's; sent about, they would break a second backward.
        strategy=DDPStrategy(start_method="spawn", forward_sync_buffers=False),
    )

    def pass_on(signum: int, frame: object) -> None:
        for child in multiprocessing.active_children():
            os.kill(child.pid, signum)  # type: ignore[arg-type]

    handlers = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        # Bound beforehand: Fabric would look for tensors in arguments, and refuses frozen dataclasses.
        outcome: Any
        outcome, weights = fabric.launch(functools.partial(_one_of_many, runtime, function, arguments))
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for name, sha256 in weights.items():
        record.note_weights(name, sha256)  # the record is written here
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _one_of_many(
    runtime: Runtime, function: Callable[..., Any], arguments: Sequence[Any], fabric: Any
) -> tuple[Any, dict[str, str]]:
    """What the function returned or was ended by, and the foreign weights that it has read."""
    try:
        return function(DistributedContext(runtime, fabric), *arguments), record.weights()
    except (InputError, KeyboardInterrupt, SystemExit) as ending:  # all processes come here together
        return ending, record.weights()
