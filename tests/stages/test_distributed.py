"""Several devices: two processes that talk by gloo train as one does, stop together and go on."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import forked
import numpy as np
import pytest
import torch
from forked import Forked
from pretend import NO_CHECKPOINT, NO_TABLE
from small_training import OUTPUTS

from stages.images import table
from stages.models import dcgan
from stages.models.autoencoder import Autoencoder
from stages.models.dmfn import DMFN
from stages.models.partial_conv import PartialConvUNet
from stages.runs import params, record
from stages.runs.errors import InputError
from stages.runs.header import Header
from stages.runs.params import Runtime
from stages.train_dmfn import Params, train_dmfn
from stages.training.distributed import DistributedContext, launch
from stages.training.run import STATE, Inputs, Outputs, seeded

ROOT = Path(__file__).parents[2]

NETWORKS: dict[str, Callable[[], torch.nn.Module]] = {
    "autoencoder": lambda: Autoencoder(32, width=2),
    "partial_conv": lambda: PartialConvUNet(32, width=4, refine=1, residual=True),
    "dmfn": lambda: DMFN(32, width=4, blocks=1),
    "dcgan": lambda: dcgan.Discriminator(32, width=4, kernel=4),
}


def gradients(context: DistributedContext, out: Path) -> None:
    """Of each network over a batch that the processes share; batch normalisation by its running statistics.

    (Those of a batch are each process's own on CPUs: what is joined are the gradients.)
    """
    rng = torch.Generator().manual_seed(0)
    image, hole = torch.rand(6, 3, 32, 32, generator=rng) * 2 - 1, torch.rand(6, 1, 32, 32, generator=rng) < 0.3
    for name, build in NETWORKS.items():
        with seeded(1):
            network = context.place(build()).eval()
        whole = context.wrap(network)
        part = context.shard(image)
        loss = whole(part) - 1 if name == "dcgan" else whole(part, context.shard(hole)) - part
        loss.square().mean().backward()
        np.save(
            out / f"{name}-{context.size}-{context.rank}.npy",
            torch.cat([p.grad.flatten() for p in network.parameters()]),
        )


MISTAKES = {
    "batch: 5 is no multiple of runtime.devices: 2": {"batch": 5},
    "batch: 2 is less than two for each of 2 devices": {"batch": 2},
    "not finite": {"lr": 1e30},
}


STEPS = 20


def section(**changes: object) -> dict[str, object]:
    given = {"dataset": "x", "steps": STEPS, "batch": 4, "width": 4, "blocks": 1, "d_width": 2, "holes": {"lines": {}}}
    return given | {"log_every": 4, "sample_every": 10, "save_every": 5} | changes


def train(context: DistributedContext, home: Path, **changes: object) -> Callable[[], None]:
    given = params.section({"train_dmfn": {"a": section(**changes)}}, "train_dmfn.a", Params)
    outputs = Outputs(**{key: home / "whole" / name for key, name in OUTPUTS.items()})
    return train_dmfn(context, Inputs(home / "train.arrow", NO_TABLE, NO_CHECKPOINT), outputs, given, "a")


def together(context: DistributedContext, home: Path) -> Callable[[], None]:
    """Two processes are started once for a whole training, gradients and mistakes; the last mistake ends them."""
    forget = train(context, home)
    record.note_weights("read by a child", str(context.rank))
    context.barrier()
    if context.rank == 0:
        forget()
    gradients(context, home)
    *handled, last = MISTAKES.items()
    for said, changes in handled:
        with pytest.raises(InputError, match=said):
            train(context, home, **changes)
    return train(context, home, **last[1])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with thirty pictures, what `together` has made of them, and the gradients of one process."""
    home = tmp_path_factory.mktemp("devices")
    pixels = np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3), dtype=np.uint8)
    with table.writing_pictures(home / "train.arrow", (16, 16), table.ALIGNED) as writer:
        for i, picture in enumerate(pixels):
            writer.append(picture, f"id{i}", f"{i}.png", None, None)
    (home / "whole").mkdir()
    launch(Runtime(threads=1), gradients, home)
    with pytest.MonkeyPatch.context() as patch, forked.spawning():
        patch.setenv(STATE, str(home / "whole-state"))
        with pytest.raises(InputError, match="not finite"):
            launch(Runtime(threads=1, devices=2), together, home)
    assert record.weights()["read by a child"] == "0", "the process that writes the record knows"
    return home


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_of_two_processes_are_those_of_one(name: str, home: Path) -> None:
    one, two, other = (np.load(home / f"{name}-{which}.npy") for which in ("1-0", "2-0", "2-1"))
    assert np.array_equal(two, other)
    assert np.abs(one).max() > 1e-3
    assert np.abs(one - two).max() <= 1e-5


def command(home: Path, out: Path, **changes: object) -> tuple[str, list[str], Path, dict[str, str]]:
    """What `forked` takes: the stage as a command, its outputs in `out`."""
    values = {"runtime": {"threads": 1, "devices": 2}, "train_dmfn": {"a": section(**changes)}}
    (out / "params.yaml").write_text(json.dumps(values))
    words = ["a", "--params", str(out / "params.yaml"), "--train", str(home / "train.arrow")]
    words += ["--also", str(NO_TABLE), "--start", str(NO_CHECKPOINT)]
    words += [part for key, name in OUTPUTS.items() for part in (f"--{key}", str(out / "made" / name))]
    places = {STATE: str(out / "state"), "PALIMPSEST_RECORDS": str(out / "records")}
    return "stages.train_dmfn", words, ROOT, {**os.environ, **places, "FORKED_PYTHON": forked.python()}


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_two_processes_stop_together_and_go_on_to_the_same_bytes(home: Path, tmp_path: Path) -> None:
    asked = command(home, tmp_path)
    process = Forked(*asked)
    while not (states := list((tmp_path / "state").glob("a-*/state.safetensors"))):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.terminate()
    said, _ = process.communicate(60)
    assert process.returncode == 128 + signal.SIGTERM, said
    step = Header(states[0]).inputs["step"]
    assert 5 <= step < STEPS
    done = forked.run(*asked)
    assert done.returncode == 0, done.stderr
    assert f"a: step {step};" in done.stderr
    assert contents(tmp_path / "made") == contents(home / "whole")


def test_a_mistake_ends_all_processes_in_one_line(home: Path, tmp_path: Path) -> None:
    """As those of `together` have ended, which were told by an exception; here by the command."""
    done = forked.run(*command(home, tmp_path, batch=5))
    said = done.stderr
    assert done.returncode == 2
    assert "batch: 5 is no multiple" in said.splitlines()[-1]
    assert "Traceback" not in said
