"""Several devices: two processes that talk by gloo train as one does, stop together and go on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pretend import NO_CHECKPOINT

from stages.images import table
from stages.models import dcgan
from stages.models.autoencoder import Autoencoder
from stages.models.dmfn import DMFN
from stages.models.partial_conv import PartialConvUNet
from stages.runs.header import Header
from stages.runs.params import Runtime
from stages.training.distributed import DistributedContext, launch
from stages.training.run import seeded

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


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gradients")
    for count in (1, 2):
        launch(Runtime(threads=1, devices=count), gradients, out)
    return out


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_of_two_processes_are_those_of_one(name: str, joined: Path) -> None:
    one, two, other = (np.load(joined / f"{name}-{which}.npy") for which in ("1-0", "2-0", "2-1"))
    assert np.array_equal(two, other)
    assert np.abs(one).max() > 1e-3
    assert np.abs(one - two).max() <= 1e-5


@pytest.fixture
def home(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3), dtype=np.uint8)
    with table.writing_pictures(tmp_path / "train.arrow", (16, 16), table.ALIGNED) as writer:
        for i, picture in enumerate(pixels):
            writer.append(picture, f"id{i}", f"{i}.png", None, None)
    return tmp_path


def command(home: Path, out: str, **changes: object) -> tuple[list[str], dict[str, str]]:
    params = {"dataset": "x", "steps": 40, "batch": 4, "width": 4, "blocks": 1, "d_width": 2, "holes": {"lines": {}}}
    params |= {"log_every": 4, "sample_every": 20, "save_every": 5, **changes}
    values = {"runtime": {"threads": 1, "devices": 2}, "train_dmfn": {"a": params}}
    (home / f"{out}.yaml").write_text(json.dumps(values))
    line = [sys.executable, "-m", "stages.train_dmfn", "a", "--params", str(home / f"{out}.yaml")]
    line += ["--train", str(home / "train.arrow"), "--start", str(NO_CHECKPOINT)]
    names = {"model": "a.safetensors", "members": "a.members.arrow", "history": "a.csv", "samples": "samples"}
    line += [part for key, name in names.items() for part in (f"--{key}", str(home / out / name))]
    places = {"PALIMPSEST_STATE": str(home / "state"), "PALIMPSEST_RECORDS": str(home / "records")}
    return line, {**os.environ, **places}


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_two_processes_stop_together_and_go_on_to_the_same_bytes(home: Path) -> None:
    line, env = command(home, "whole")
    done = subprocess.run(line, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    line, env = command(home, "broken")
    process = subprocess.Popen(line, env=env, stderr=subprocess.PIPE, text=True)
    while not (states := list((home / "state").glob("a-*/state.safetensors"))):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143, stderr
    step = Header(states[0]).inputs["step"]
    assert 5 <= step < 40
    done = subprocess.run(line, env=env, capture_output=True, text=True, check=False)
    assert f"a: step {step};" in done.stderr
    assert contents(home / "broken") == contents(home / "whole")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch": 5}, "batch: 5 is no multiple"),
        ({"batch": 2}, "batch: 2 is less than two for each of 2 devices"),
        ({"lr": 1e30}, "not finite"),
    ],
)
def test_a_mistake_ends_all_processes_in_one_line(change: dict, said: str, home: Path) -> None:
    line, env = command(home, "out", **change)
    done = subprocess.run(line, env=env, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
