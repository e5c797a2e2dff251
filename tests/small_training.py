"""A training stage in the test's own process: without the seconds that a new one needs to import torch."""

from importlib import import_module
from pathlib import Path

import pytest
import torch
from pretend import NO_CHECKPOINT, NO_TABLE

from stages.runs import params
from stages.runs.params import Runtime
from stages.training.distributed import DistributedContext
from stages.training.run import STATE, Inputs, Outputs

OUTPUTS = {"model": "a.safetensors", "members": "a.members.arrow", "history": "a.csv", "samples": "samples"}


def run(
    stage: str,
    aligned: Path,
    home: Path,
    section: dict[str, object],
    start: Path = NO_CHECKPOINT,
    precision: str = "fp32",
    also: Path = NO_TABLE,
) -> Outputs:
    """Train by a section of `params.yaml` on `aligned`/train.arrow, and on the table `also`, where it is one.

    State lies in `home`/state, outputs in `home`/out.
    """
    module = import_module(f"stages.{stage}")
    given = params.section({stage: {"a": section}}, f"{stage}.a", module.Params)
    (home / "out").mkdir(parents=True)
    outputs = Outputs(**{key: home / "out" / name for key, name in OUTPUTS.items()})
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    context = DistributedContext(Runtime(threads=1, precision=precision))
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(STATE, str(home / "state"))
            getattr(module, stage)(context, Inputs(aligned / "train.arrow", also, start), outputs, given, "a")()
    finally:  # as the tests after this one in the process expect it
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
    return outputs
