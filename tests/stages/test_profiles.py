"""Every file of parameters fits its stages, and the reports' own scale is real: full networks that train."""

import math
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import small_training
import torch
from safetensors.torch import load_file
from torch import nn

from stages.images import table
from stages.models.dcgan import Generator
from stages.models.dmfn import DMFN
from stages.runs import params
from stages.runs.header import Header
from stages.runs.params import Runtime

ROOT = Path(__file__).parents[2]
PROFILES = {path.stem: path for path in sorted((ROOT / "profiles").glob("*.yaml"))}
FILES = {"params": ROOT / "params.yaml", **PROFILES}


@pytest.mark.parametrize("file", FILES)
def test_every_section_fits_its_stage(file: str) -> None:
    values = params.load(FILES[file])
    params.section(values, "runtime", Runtime)
    for section in params.SECTIONS:
        if section in ("runtime", "datasets", "retrain"):
            continue
        kind = import_module(f"stages.{section}").Params
        several = section in params.NAMED
        for dotted in (f"{section}.{name}" for name in values[section]) if several else [section]:
            params.section(values, dotted, kind)
    for name in values["datasets"]:
        for section in params.DATASET:
            params.section(values, f"datasets.{name}.{section}", import_module(f"stages.{section}").Params)


@pytest.mark.parametrize("file", FILES)
def test_what_is_named_is_there(file: str) -> None:
    values = params.load(FILES[file])
    trained = [(section, name) for section in values if section.startswith("train_") for name in values[section]]
    names = [name for _, name in trained]
    assert len(names) == len(set(names)), "checkpoints are named after the entry alone"
    networks = {name: section.removeprefix("train_") for section, name in trained}
    for entry in values["infer"].values():
        if entry["network"] != "classical":
            assert networks[Path(entry["checkpoint"]).stem] == entry["network"]
    datasets = [values[section][name]["dataset"] for section, name in trained]
    assert set(datasets) <= set(values["datasets"])


CHANNELS = (64, 128, 256, 512, 512, 512)  # of report 4's encoders

# profile, section, entry, and the parameters of the network that completes, by hand
REPORTS = [
    ("report1", "train_dcgan", "dcgan", 100 * 8192 + 2 * 960 + 25 * (512 * 256 + 256 * 128 + 128 * 64 + 64 * 3) + 3),
    ("report2", "train_dcgan", "dcgan", 100 * 8192 + 2 * 960 + 16 * (512 * 256 + 256 * 128 + 128 * 64 + 64 * 3) + 3),
    (
        "report3", "train_dmfn", "dmfn",
        25 * 4 * 64 + 64 + 9 * (64 * 128 + 128 * 128 + 128 * 256) + 8 * (9 * 256 * 64 + 7 * 9 * 64**2 + 256**2)
        + 9 * 256**2 + 16 * 256 * 128 + 9 * 128**2 + 16 * 128 * 64 + 9 * 64**2 + 9 * 64 * 3 + 3,
    ),
    (  # the encoder, its bottleneck, two heads, the decoder from 4 x 4 to 64 x 64
        "report4", "train_context_encoder", "vae_resnet",
        9 * 3 * 64 + 128 + sum(9 * (a * b + 3 * b * b) + a * b + 10 * b for a, b in pairwise(CHANNELS))
        + 8192 * 4000 + 8000 + 2 * (4000 * 4000 + 4000)
        + 4000 * 512 * 16 + 2 * 960 + 16 * (512 * 256 + 256 * 128 + 128 * 64 + 64 * 3) + 3,
    ),
    (
        "report4", "train_context_encoder", "gan_alexnet",
        121 * 3 * 64 + 25 * 64 * 128 + 9 * (128 * 256 + 256 * 512 + 2 * 512 * 512) + 2 * sum(CHANNELS)
        + 8192 * 4000 + 8000
        + 4000 * 512 * 16 + 2 * 960 + 16 * (512 * 256 + 256 * 128 + 128 * 64 + 64 * 3) + 3,
    ),
    (
        "report4", "train_context_encoder", "vae_vgg",
        sum(9 * (a * b + b * b) + 6 * b for a, b in pairwise((3, *CHANNELS))) + 8192 * 4000 + 8000
        + 2 * (4000 * 4000 + 4000)
        + 4000 * 512 * 16 + 2 * 960 + 16 * (512 * 256 + 256 * 128 + 128 * 64 + 64 * 3) + 3,
    ),
    (
        "report5", "train_autoencoder", "autoencoder",
        2 * 9 * (3 * 32 + 32 * 64 + 64 * 128 + 128 * 256 + 256 * 512) + 32 * (1 + 2 + 4 + 8 + 16) + 32 * 15 + 3,
    ),
    (
        "report5", "train_partial_conv", "partial_conv",
        49 * 3 * 32 + 32 + 25 * (32 * 64 + 64 * 128) + 9 * (128 * 256 + 256 * 256)
        + 9 * (512 * 256 + 384 * 128 + 192 * 64 + 96 * 32) + 2 * (64 + 128 + 256 + 256 + 256 + 128 + 64 + 32)
        + 9 * 35 * 3 + 3,
    ),
]  # fmt: skip


# The stage trains with the entry's own parameters but these, and the full network takes a step by itself: in training,
# weights lie in memory five times (with gradients, Adam's two moments and the average), which is 2 GB for report 4.
SIDE = 64  # pixels, of what is larger
SHORT = {"steps": 2, "batch": 2, "log_every": 1, "sample_every": 2}
LIKE = ("gan_alexnet", "vae_vgg")  # of 100 million weights as `vae_resnet`, whose step shows that one can be taken
# Where an entry says more; ImageNet's weights are not here.
SMALL = {"bottleneck": 100, "perceptual_weights": "random", "pictures": 2}


@pytest.mark.parametrize(("profile", "section", "entry", "count"), REPORTS, ids=str)
def test_a_reports_entry_trains_and_its_full_network_takes_a_step(
    profile: str, section: str, entry: str, count: int, tmp_path: Path
) -> None:
    values = params.load(PROFILES[profile])
    given = values[section][entry]
    size = values["datasets"][given["dataset"]]["align"]["side"]
    side = min(size, SIDE)
    write_pictures(tmp_path, side)
    changes = SHORT | {name: value for name, value in SMALL.items() if name in given}
    outputs = small_training.run(section, tmp_path, tmp_path, given | changes)
    tensors, made = load_file(outputs.model), Header(outputs.model).inputs
    assert all(value.isfinite().all() for value in tensors.values())
    assert [row.split(",")[0] for row in outputs.history.read_text().splitlines()] == ["step", "1", "2"]
    assert made["arguments"]["size"] == side

    full = {"size": size, "bottleneck": given.get("bottleneck")}
    module = import_module(section.replace("train_", "stages.models."))
    kind = module.Generator if section == "train_dcgan" else module.Network
    arguments = {name: full.get(name, value) for name, value in made["arguments"].items()}
    with torch.device("meta"):
        assert sum(weight.numel() for weight in kind(**arguments).parameters()) == count
    if entry in LIKE:
        return
    network = kind(**arguments)
    taken = side if isinstance(network, DMFN) else size  # it has the same weights at every size, and takes long at 256
    assert descend(network, taken) == (3, taken, taken)


def write_pictures(folder: Path, side: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    with table.writing_pictures(folder / "train.arrow", (side, side), table.ALIGNED) as writer:
        for i, picture in enumerate(pixels):
            writer.append(picture, f"id{i}", f"{i}.png", None, None)


def descend(network: nn.Module, size: int) -> tuple[int, ...]:
    """A step of gradient descent on pictures of a `size`; the shape of one that the network makes.

    Each weight moves as soon as its gradient is known, which is then let go: one copy of the network is in memory.
    """
    moved: list[float] = []

    def move(weight: torch.Tensor) -> None:
        assert weight.grad is not None
        moved.append(float(weight.grad.norm()))
        weight.data.add_(weight.grad, alpha=-1e-3)
        weight.grad = None

    for weight in network.parameters():
        weight.register_post_accumulate_grad_hook(move)
    rng = torch.Generator().manual_seed(0)
    count = 1 if isinstance(network, DMFN) else 2  # batch normalisation needs two
    truth = torch.rand(count, 3, size, size, generator=rng) * 2 - 1
    hole = torch.zeros(count, 1, size, size, dtype=torch.bool)
    hole[:, :, size // 4 : -size // 4, size // 4 : -size // 4] = True
    if isinstance(network, Generator):
        output = network(torch.randn(count, network.first.in_features, generator=rng))
    elif latent := getattr(network, "latent", 0):  # without noise, nothing of the variance would be learnt
        output = network(truth, hole, torch.randn(count, latent, generator=rng))
    else:
        output = network(truth, hole)
    (output - truth).square().mean().backward()
    assert len(moved) == len(list(network.parameters()))
    assert all(math.isfinite(value) and value > 0 for value in moved)
    assert all(weight.isfinite().all() for weight in network.parameters())
    return tuple(output.shape[1:])
