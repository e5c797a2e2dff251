"""Context encoders: the geometry of box and patch, what each sees, the VAE's draws, the stage end to end."""

import csv
import json
import os
import subprocess
from pathlib import Path

import forked
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pretend import NO_CHECKPOINT, NO_TABLE
from small_training import OUTPUTS, run
from torch import Tensor

from stages.images import holes, table
from stages.models.context_encoder import ENCODERS, OBJECTIVES, ContextEncoder, Discriminator, box
from stages.runs.errors import InputError
from stages.runs.params import Runtime
from stages.train_context_encoder import shared
from stages.training import checkpoint
from stages.training.distributed import DistributedContext, launch
from stages.training.run import seeded


def build(encoder: str = "alexnet", objective: str = "vae", size: int = 64, **changes: object) -> ContextEncoder:
    torch.manual_seed(0)
    options: dict = {"bottleneck": 12, "width": 4, "fraction": 0.5, "overlap": 4}
    network = ContextEncoder(size, encoder, objective, **(options | changes))
    image, hole = example(8, size)
    noise = torch.randn(8, network.latent)
    network.patch(image, hole, noise)  # some running statistics
    if network.latent:  # it begins as a variance of 1 everywhere
        torch.nn.init.normal_(network.log_variance.bias)
    return network.eval()


def example(count: int, size: int, fraction: float = 0.5) -> tuple[Tensor, Tensor]:
    image = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return image, torch.from_numpy(holes.draw("centre", size, np.random.default_rng(0), fraction=fraction)).expand(
        count, 1, size, size
    )


# --- box and patch ---


@settings(max_examples=40)
@given(st.integers(1, 8), st.floats(0.01, 1))
def test_the_box_is_the_frozen_hole_centre(factor, fraction):
    size = 64 * factor
    start, side = box(size, fraction)
    if side == size and fraction < 1:  # rounded up: a network refuses it as well
        with pytest.raises(holes.BadHole, match=r"nothing .* stays known"):
            holes.draw("centre", size, np.random.default_rng(0), fraction=fraction)
        return
    expected = np.zeros((size, size), bool)
    expected[start : start + side, start : start + side] = True
    assert (expected == holes.draw("centre", size, np.random.default_rng(0), fraction=fraction)).all()


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("size", [64, 128, 192, 256, 320, 576])
def test_every_size_makes_4_by_4_features_and_a_whole_picture(encoder, size):
    with torch.device("meta"):
        network = ContextEncoder(size, encoder, "gan", bottleneck=10, width=2, overlap=5)
        image, hole = torch.zeros(2, 3, size, size), torch.zeros(2, 1, size, size, dtype=torch.bool)
        assert network.encoder(image).shape[1] == 16
        assert network.encoder(image).shape[2] == 4 or size & (size - 1)
        assert network.patch(image, hole).pixels.shape == (2, 3, size // 2 + 10, size // 2 + 10)
        assert network(image, hole).shape == image.shape


def test_report_4s_decoder():
    """256 pixels, 64 missing, no overlap: 4000 -> 4 x 4 x 512 -> 8 x 8 x 256 -> ... -> 64 x 64 x 3."""
    with torch.device("meta"):
        network = ContextEncoder(256, "alexnet", "vae", 4000, 64, fraction=0.25, overlap=0)
        code = torch.zeros(2, 4000)
        shapes = []
        for layer in network.decoder:
            code = layer(code)
            shapes.append(tuple(code.shape[1:]))
    grown = [shape for i, shape in enumerate(shapes) if i and shape != shapes[i - 1]]
    assert grown == [(512, 4, 4), (256, 8, 8), (128, 16, 16), (64, 32, 32), (3, 64, 64)]
    assert isinstance(network.decoder[-1], torch.nn.Tanh)


def test_pathaks_overlap_is_cropped_evenly():
    """64 + 2 x 7 = 78 comes of a grid of 5: 80, less one pixel on each side."""
    network = build(size=256, fraction=0.25, overlap=7)
    with torch.no_grad():
        code = torch.randn(1, 12)
        whole = network.decoder(code)
        assert whole.shape[-1] == 80
        assert torch.equal(network._decode(code), whole[:, :, 1:79, 1:79])


# Worked out by hand: encoder, bottleneck, heads, decoder.
CHANNELS = (64, 128, 256, 512, 512, 512)
PAIRS = list(zip((3, *CHANNELS), CHANNELS, strict=False))
PARAMETERS = {
    "alexnet": 121 * 3 * 64 + 25 * 64 * 128 + 9 * (128 * 256 + 256 * 512 + 2 * 512 * 512) + 2 * sum(CHANNELS),
    "vgg": sum(9 * (a * b + b * b) + 2 * b + 4 * b for a, b in PAIRS),
    "resnet": 9 * 3 * 64 + 2 * 64 + sum(9 * (a * b + 3 * b * b) + a * b + 10 * b for a, b in PAIRS[1:]),
}
BOTTLENECK = 8192 * 4000 + 2 * 4000
HEADS = 2 * (4000 * 4000 + 4000)
DECODER = 4000 * 8192 + 2 * (512 + 256 + 128 + 64) + 16 * (512 * 256 + 256 * 128 + 128 * 64 + 64 * 3) + 3


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_parameters_of_report_4s_networks(encoder, objective):
    with torch.device("meta"):
        network = ContextEncoder(256, encoder, objective, 4000, 64, fraction=0.25, overlap=0)
    count = sum(p.numel() for p in network.parameters())
    assert count == PARAMETERS[encoder] + BOTTLENECK + (HEADS if objective == "vae" else 0) + DECODER


def test_parameters_of_pathaks_discriminator():
    convolutions = 16 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512) + 64 + 2 * (128 + 256 + 512)
    assert sum(p.numel() for p in Discriminator(64, 64).parameters()) == convolutions + 512 * 16 + 1


@pytest.mark.parametrize("side", [8, 9, 15, 23, 40, 78])
def test_the_discriminator_takes_every_patch(side):
    assert Discriminator(side, 4)(torch.zeros(2, 3, side, side)).shape == (2,)


@pytest.mark.parametrize("size", [0, 32, 96, 100, 63])
def test_sizes_it_cannot_take_are_refused(size):
    with pytest.raises(InputError, match=rf"multiples of 64 pixels, not {size}: set align.side"):
        ContextEncoder(size, "vgg", "gan", 10, 4)


@pytest.mark.parametrize(("fraction", "overlap"), [(0.5, 17), (0.5, -1), (0.05, 0), (0.999, 0)])
def test_boxes_and_overlaps_it_cannot_take_are_refused(fraction, overlap):
    with pytest.raises(InputError, match="set fraction and overlap"):
        ContextEncoder(64, "vgg", "gan", 10, 4, fraction=fraction, overlap=overlap)


@pytest.mark.parametrize(("encoder", "objective"), [("lenet", "vae"), ("vgg", "flow")])
def test_what_does_not_exist_is_refused(encoder, objective):
    with pytest.raises(InputError, match="is one of alexnet, vgg, resnet"):
        ContextEncoder(64, encoder, objective, 10, 4)


# --- what it sees and what it gives ---


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_patch_is_put_over_the_known_pixels(encoder, objective):
    network = build(encoder, objective)
    image, hole = example(2, 64)
    with torch.no_grad():
        whole, patch = network(image, hole), network.patch(image, hole)
    assert torch.equal(network.inner(whole), patch.pixels)
    assert patch.pixels.shape == (2, 3, 40, 40)
    assert patch.pixels.abs().max() <= 1
    outside = torch.ones(64, 64, dtype=torch.bool)
    outside[12:52, 12:52] = False
    assert torch.equal(whole[..., outside], image[..., outside])
    assert (patch.mean is None) == (objective == "gan") == (patch.log_variance is None)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_what_lies_in_the_box_or_a_hole_changes_no_bit(encoder):
    """A smaller hole blanks the whole box too; holes outside it are blank as well, though not completed."""
    network = build(encoder)
    image, full = example(2, 64)
    small = torch.zeros_like(full)
    small[:, :, 20:30, 20:30] = True
    small[:, :, 2:5, 2:5] = True  # beyond the box
    with torch.no_grad():
        expected = network(image, full | small)
        assert torch.equal(network(image, small), expected)
        assert torch.equal(network(torch.where(full | small, torch.nan, image), small | full), expected)
        other = image.clone()
        other[:, :, 40, 8] += 0.5
        assert not torch.equal(network.inner(network(other, small)), network.inner(expected)), "the known is seen"


def test_one_picture_alone_is_as_in_a_batch():
    image, hole = example(5, 64)
    for encoder in ENCODERS:
        network = build(encoder)
        with torch.no_grad():
            assert (network(image, hole)[:1] - network(image[:1], hole[:1])).abs().max() <= 1 / 255


def test_holes_within_the_box_can_be_completed():
    network = build()
    hole = torch.zeros(5, 1, 64, 64, dtype=torch.bool)
    hole[0, :, 16:48, 16:48] = True
    hole[1, :, 20:21, 47:48] = True
    hole[2, :, 16:49, 16:48] = True  # a row too many
    hole[3, :, 15, 20] = True
    assert network.completes(hole).tolist() == [True, True, False, False, True]


# --- the VAE ---


def test_draws_are_mean_and_deviation_times_noise():
    network = build()
    image, hole = example(2, 64)
    noise = torch.randn(2, 12, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        pixels, mean, log_variance = network.patch(image, hole, noise)
        assert log_variance.std() > 0.1
        assert torch.equal(pixels, network._decode(mean + torch.exp(0.5 * log_variance) * noise))
        assert torch.equal(network.patch(image, hole).pixels, network._decode(mean))
        assert torch.equal(network.patch(image, hole, torch.zeros(2, 12)).pixels, network._decode(mean))
        assert torch.equal(network.inner(network(image, hole, noise)), pixels)


def test_several_completions_are_drawn():
    network = build()
    image, hole = example(2, 64)
    with torch.no_grad():
        drawn = network.sample(image, hole, 3, torch.Generator().manual_seed(5))
        noises = torch.randn(3, 2, 12, generator=torch.Generator().manual_seed(5))
        for completion, noise in zip(drawn, noises, strict=True):
            assert torch.allclose(completion, network(image, hole, noise), atol=1e-6)
    assert drawn.shape == (3, 2, 3, 64, 64)
    assert (network.inner(drawn[0]) - network.inner(drawn[1])).abs().mean() > 1e-3


def test_a_gan_draws_nothing():
    network = build(objective="gan")
    image, hole = example(2, 64)
    assert network.latent == 0
    with torch.no_grad():
        assert torch.equal(network(image, hole, torch.zeros(2, 0)), network(image, hole))
    with pytest.raises(ValueError, match="only a VAE"):
        network.sample(image, hole, 2, torch.Generator())


# --- training ---


def difference(context: DistributedContext) -> tuple[float, float]:
    """The largest gradient, and how far this process's lie from the mean of all processes'."""
    with seeded(1):
        network = context.place(ContextEncoder(64, "alexnet", "vae", 8, 2))
    image, hole = (context.shard(x) for x in example(4, 64))
    predict = shared(context, network)  # to be kept: gradients are joined as long as it is there
    pixels, mean, log_variance = predict(image, hole, torch.ones(len(image), 8))
    (pixels.square().mean() + mean.square().mean() + log_variance.square().mean() + log_variance.mean()).backward()
    own = np.concatenate([p.grad.numpy().ravel() for p in network.parameters()])
    return float(np.abs(own).max()), float(np.abs(own - context.all_reduce_mean(own.tolist())).max())


def test_two_processes_join_their_gradients():
    with forked.spawning():
        largest, apart = launch(Runtime(threads=1, devices=2), difference)
    assert largest > 1e-2
    assert apart <= 1e-6


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of one colour each: the middle follows from what is around it."""
    folder = tmp_path_factory.mktemp("aligned")
    rng = np.random.default_rng(0)
    with table.writing_pictures(folder / "train.arrow", (64, 64), table.ALIGNED) as writer:
        for i in range(8):  # a batch: what every step sees
            picture = np.broadcast_to(rng.integers(0, 256, 3, np.uint8), (64, 64, 3))
            writer.append(np.ascontiguousarray(picture), f"id{i}", f"{i}.png", None, None)
    return folder


SMALL = {"dataset": "x", "steps": 6, "batch": 8, "width": 4, "bottleneck": 16, "encoder": "alexnet"}
SMALL |= {"log_every": 2, "sample_every": 6, "ema": 0.5}


def command(aligned: Path, home: Path, **changes: object) -> subprocess.CompletedProcess[str]:
    file = home / "params.yaml"
    file.write_text(json.dumps({"runtime": {"threads": 1}, "train_context_encoder": {"a": SMALL | changes}}))
    line = ["a", "--params", str(file)]
    line += ["--train", str(aligned / "train.arrow"), "--also", str(NO_TABLE), "--start", str(NO_CHECKPOINT)]
    line += [part for key, name in OUTPUTS.items() for part in (f"--{key}", str(home / "out" / name))]
    places = {"PALIMPSEST_STATE": str(home / "state"), "PALIMPSEST_RECORDS": str(home / "records")}
    return forked.run("stages.train_context_encoder", line, Path.cwd(), {**os.environ, **places})


def history(home: Path) -> list[dict[str, float]]:
    rows = csv.DictReader((home / "out" / OUTPUTS["history"]).read_text().splitlines())
    return [{name: float(value) for name, value in row.items()} for row in rows]


@pytest.mark.parametrize(
    ("objective", "rows", "columns"),
    [("vae", 6, {"l2", "kl"}), ("gan", 3, {"l2", "adversarial", "d_loss"})],
)
def test_the_stage_learns_and_leaves_its_outputs(objective, rows, columns, aligned, tmp_path):
    often = {"steps": 240, "log_every": 10, "sample_every": 240, "width": 8}
    often |= {"overlap_weight": 1.0, "lr": 4e-3} | ({"kl": 0.01} if objective == "vae" else {})
    run("train_context_encoder", aligned, tmp_path, SMALL | often | {"objective": objective})
    logged = history(tmp_path)
    assert set(logged[0]) == {"step", "patch_sse"} | columns
    # Over 8 seeds and two instruction sets at most 0.24 of it is left; of a network that sees nothing, 0.8 or more.
    assert logged[-1]["patch_sse"] < logged[0]["patch_sse"] / 2
    with Image.open(tmp_path / "out" / "samples" / "0000240.png") as sheet:
        assert sheet.size == (8 * 65 + 1, rows * 65 + 1)  # given, completed, a VAE's three draws, truth
        pixels = np.asarray(sheet)
    assert (pixels[17:49, 17:49] == 0).all(), "what is given is black under the hole"
    found = checkpoint.Checkpoint(tmp_path / "out" / OUTPUTS["model"])
    assert found.inputs["network"] == "context_encoder"
    network = ContextEncoder(**found.inputs["arguments"])
    network.load_state_dict(found.tensors("network"))
    assert bool(found.tensors("discriminator")) == (objective == "gan")


def test_a_box_that_does_not_fit_the_pictures(aligned, tmp_path):
    with pytest.raises(InputError, match="set fraction and overlap"):
        run("train_context_encoder", aligned, tmp_path, SMALL | {"overlap": 17})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"widht": 4}, "unknown key 'train_context_encoder.a.widht'"),
        ({"encoder": "lenet"}, "train_context_encoder.a.encoder"),
    ],
)
def test_a_mistake_is_one_line(changes, said, aligned, tmp_path):
    done = command(aligned, tmp_path, **changes)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert said in done.stderr
