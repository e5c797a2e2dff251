"""Where numbers are computed: the device, its threads and kernels, its precision, and its random numbers."""

from __future__ import annotations

import functools
import os
import sys
from typing import TYPE_CHECKING

import numpy as np

from stages.runs import kernels
from stages.runs.errors import InputError
from stages.runs.params import Runtime

if TYPE_CHECKING:
    import torch


def prepare(runtime: Runtime) -> torch.device:
    """Pin kernels, threads and algorithms; the device of `runtime`.

    A precision that the device has no hardware for is named in one line on standard error. Raises InputError if the
    device is not here, and if torch was imported before portable kernels were chosen.
    """
    kernels.choose(runtime.kernels)
    import torch

    torch.set_num_threads(runtime.threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # saves a tenth
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        device = torch.device(runtime.device)
        torch.empty(1, device=device)
        torch.autocast(device.type, torch.bfloat16)  # `meta` is a device too, and computes nothing
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"params.yaml: runtime.device: {runtime.device}: {str(error).splitlines()[0]}") from None
    hardware = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    if slow := kernels.slow_precision(device.type, runtime.precision, runtime.kernels, hardware):
        _say_once(slow)
    return device


@functools.cache
def _say_once(words: str) -> None:
    print(words, file=sys.stderr)


def autocast(runtime: Runtime, device: torch.device) -> torch.autocast:
    """bfloat16 arithmetic where `runtime.precision` asks for it; weights stay float32."""
    import torch

    return torch.autocast(device.type, torch.bfloat16, enabled=runtime.precision == "bf16")


def keyed_generator(seed: int, *keys: int) -> torch.Generator:
    """A CPU generator keyed by (seed, *keys)."""
    import torch

    return torch.Generator().manual_seed(
        int(np.random.SeedSequence([seed, *keys]).generate_state(1, np.uint64)[0] >> 1)
    )
