"""Digests of short trainings under portable kernels: equal on two machines, or not?

    python tests/portable.py [STEPS] [portable|native]

Prints a line per training: its name, sha256 of the tensors of its checkpoint (first 16 digits), seconds. Every kind of
layer of every network is in one of them. `tests/stages/test_kernels.py` holds the digests of 3 steps.
"""

import hashlib
import os
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from stages.images import table
from stages.runs import kernels, params
from stages.runs.params import Runtime
from stages.training.distributed import DistributedContext
from stages.training.run import STATE, Inputs, Outputs

NO_CHECKPOINT = Path(__file__).parent.parent / "stages" / "models" / "no_checkpoint.txt"
NO_TABLE = Path(__file__).parent.parent / "stages" / "images" / "no_table.txt"
HOLES = {"centre": {}, "lines": {}}

# name: stage, and what of its parameters is not the default
TRAININGS = {
    "dcgan": ("train_dcgan", {"width": 16, "kernel": 4}),
    "dcgan, report 1": ("train_dcgan", {"width": 16, "kernel": 5, "upsampling": "transposed"}),
    "dmfn": ("train_dmfn", {"width": 8, "blocks": 2, "d_width": 8, "holes": HOLES}),
    "vae": ("train_context_encoder", {"width": 16}),
    "gan, alexnet": ("train_context_encoder", {"width": 8, "objective": "gan", "encoder": "alexnet"}),
    "gan, vgg": ("train_context_encoder", {"width": 8, "objective": "gan", "encoder": "vgg"}),
    "autoencoder": ("train_autoencoder", {"width": 16, "holes": HOLES}),
    "partial_conv": ("train_partial_conv", {"width": 16, "refine": 1, "residual": True, "holes": HOLES}),
}


def pictures(folder: Path, count: int = 16, size: int = 64) -> None:
    """`folder`/train.arrow: random squares of 8 pixels, made of integers alone."""
    squares = np.random.default_rng(0).integers(0, 256, (count, size // 8, size // 8, 3), dtype=np.uint8)
    with table.writing_pictures(folder / "train.arrow", (size, size), table.ALIGNED) as writer:
        for number, picture in enumerate(squares.repeat(8, axis=1).repeat(8, axis=2)):
            writer.append(picture, f"{number:064}", f"{number}.png", None, None)


def digest(model: Path) -> str:
    """sha256 of a checkpoint's tensors, by name; its metadata hold the parameters, which may gain keys."""
    total = hashlib.sha256()
    for name, values in sorted(load_file(model).items()):
        total.update(name.encode() + values.tobytes())
    return total.hexdigest()[:16]


def train(name: str, steps: int, chosen: str, home: Path) -> str:
    """The digest of the training `name` after so many steps of 8 pictures."""
    stage, values = TRAININGS[name]
    module = import_module(f"stages.{stage}")
    given = {**values, "dataset": "x", "steps": steps, "batch": 8, "sample_every": steps, "save_every": steps}
    section = params.build(module.Params, given, stage)
    outputs = Outputs(*(home / f"{name}.{end}" for end in ("safetensors", "members", "csv", "samples")))
    context = DistributedContext(Runtime(threads=2, kernels=chosen))
    getattr(module, stage)(context, Inputs(home / "train.arrow", NO_TABLE, NO_CHECKPOINT), outputs, section, name)()
    return digest(outputs.model)


def main(steps: int, chosen: str) -> None:
    kernels.choose(chosen)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[STATE] = f"{folder}/state"
        pictures(Path(folder))
        for name in TRAININGS:
            start = time.monotonic()
            found = train(name, steps, chosen, Path(folder))
            print(f"{name:16} {found} {time.monotonic() - start:6.1f}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50, sys.argv[2] if len(sys.argv) > 2 else "portable")
