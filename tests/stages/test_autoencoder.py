"""Report 5's blind autoencoder, and both of the report's networks trained by their stages."""

import csv
import json
import os
import subprocess
from pathlib import Path

import forked
import numpy as np
import pyarrow as pa
import pytest
import torch
from pretend import NO_CHECKPOINT, NO_TABLE
from small_training import OUTPUTS, run
from torch import Tensor

from stages.images import table
from stages.models.autoencoder import Autoencoder
from stages.models.partial_conv import PartialConvUNet
from stages.runs.errors import InputError
from stages.training import checkpoint
from stages.training.run import seeded

NETWORKS = {"autoencoder": Autoencoder, "partial_conv": PartialConvUNet}


def example(count: int, size: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    image = torch.rand(count, 3, size, size, generator=rng) * 2 - 1
    return image, torch.rand(count, 1, size, size, generator=rng) < 0.5


def autoencoder(size: int = 32) -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(size, 4)


def test_report_5s_shape():
    """3-32-64-128-256-512 and back; 32 pixels become one."""
    network = Autoencoder(32, 32)
    bottleneck = network.encoder(torch.zeros(1, 3, 32, 32))
    assert bottleneck.shape == (1, 512, 1, 1)
    widths = [value.shape[0] for key, value in network.encoder.state_dict().items() if key.endswith("weight")]
    assert widths == [32, 64, 128, 256, 512]
    assert network.decoder(bottleneck).shape == (1, 3, 32, 32)


def test_it_is_blind():
    """A black picture without a hole and any picture that is all hole are the same to it."""
    network = autoencoder().eval()
    image, hole = example(2, 32)
    black = torch.full_like(image, -1)
    everything, nothing = torch.ones_like(hole), torch.zeros_like(hole)
    with torch.no_grad():
        assert torch.equal(network(image, everything), network(black, nothing))
        assert torch.equal(network(image, hole), network(image.masked_fill(hole, -1), nothing))


def test_what_lies_under_the_hole_changes_no_bit():
    network = autoencoder().eval()
    image, hole = example(2, 32)
    with torch.no_grad():
        assert torch.equal(network(image, hole), network(torch.where(hole, torch.nan, image), hole))


@pytest.mark.parametrize("size", [32, 64, 96])
def test_sizes_and_range(size):
    network = autoencoder(size)
    with torch.no_grad():
        for value in network.parameters():
            value.mul_(20)
        output = network(*example(1, size))
    assert output.shape == (1, 3, size, size)
    assert output.min() >= -1
    assert output.max() <= 1
    assert output.std() > 0.1


@pytest.mark.parametrize("size", [0, 16, 48, 100])
def test_sizes_it_cannot_take_are_refused(size):
    with pytest.raises(InputError, match=rf"multiples of 32 pixels, not {size}: set align.side"):
        Autoencoder(size, 4)


# --- both stages ---


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("aligned")
    rng = np.random.default_rng(0)
    with table.writing_pictures(folder / "train.arrow", (32, 32), table.ALIGNED) as writer:
        for i in range(24):  # two colours, side by side
            picture = np.repeat(rng.integers(0, 256, (1, 2, 3), np.uint8), 16, 1).repeat(32, 0)
            writer.append(picture, f"id{i}", f"{i}.png", None, None)
    return folder


SMALL = {"dataset": "x", "steps": 6, "batch": 8, "width": 4, "ema": 0.5, "log_every": 2, "sample_every": 3}


def command(stage: str, aligned: Path, home: Path, **changes: object) -> subprocess.CompletedProcess[str]:
    file = home / "params.yaml"
    file.write_text(json.dumps({"runtime": {"threads": 1}, f"train_{stage}": {"a": SMALL | changes}}))
    line = ["a", "--params", str(file)]
    line += ["--train", str(aligned / "train.arrow"), "--also", str(NO_TABLE), "--start", str(NO_CHECKPOINT)]
    line += [part for key, name in OUTPUTS.items() for part in (f"--{key}", str(home / "out" / name))]
    places = {"PALIMPSEST_STATE": str(home / "state"), "PALIMPSEST_RECORDS": str(home / "records")}
    return forked.run(f"stages.train_{stage}", line, Path.cwd(), {**os.environ, **places})


def history(home: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((home / "out" / OUTPUTS["history"]).read_text().splitlines()))


@pytest.mark.parametrize("stage", NETWORKS)
def test_a_stage_leaves_its_outputs(stage, aligned, tmp_path):
    run(f"train_{stage}", aligned, tmp_path, SMALL)
    rows = history(tmp_path)
    assert [row["step"] for row in rows] == ["2", "4", "6"]
    assert set(rows[0]) == {"step", "mse", "mse_raw", "mse_composited"}
    assert all(row["mse"] == row["mse_raw"] for row in rows), "the report's loss is the error itself"
    assert all(0 < float(row["mse_composited"]) < float(row["mse_raw"]) for row in rows)
    assert sorted(p.name for p in (tmp_path / "out" / "samples").iterdir()) == ["0000003.png", "0000006.png"]
    members = pa.ipc.open_file(tmp_path / "out" / OUTPUTS["members"]).read_all()
    assert sorted(members["image_id"].to_pylist()) == sorted(f"id{i}" for i in range(24))
    found = checkpoint.Checkpoint(tmp_path / "out" / OUTPUTS["model"])
    network = NETWORKS[stage](**found.inputs["arguments"])
    network.load_state_dict(found.tensors("network"))
    assert found.inputs["network"] == stage


def test_lius_terms_are_logged_one_by_one_and_the_second_stage_freezes_the_encoders_normalisation(aligned, tmp_path):
    """A training that is second stage from its first step on: the encoder's normalisation ends as it began."""
    changes = {"loss": "liu", "perceptual_weights": "random", "finetune_from": 0.0, "finetune_lr": 1e-3}
    run("train_partial_conv", aligned, tmp_path, SMALL | {"steps": 4, "ema": 0.0} | changes)
    terms = {"valid", "hole", "perceptual", "style_raw", "style_composited", "tv"}
    assert set(history(tmp_path)[0]) == {"step", "mse_raw", "mse_composited"} | terms
    end = checkpoint.Checkpoint(tmp_path / "out" / OUTPUTS["model"]).tensors("network")
    with seeded(1):
        start = PartialConvUNet(32, 4).state_dict()
    same = {key for key in end if torch.equal(start[key], end[key])}
    frozen = {key for key in end if key.startswith("encoder") and ".norm." in key}
    assert len(frozen) == 4 * 5
    assert same == frozen


def test_liu_needs_perceptual_weights(aligned, tmp_path):
    with pytest.raises(InputError, match="needs perceptual_weights"):
        run("train_partial_conv", aligned, tmp_path, SMALL | {"loss": "liu"})


def test_an_unknown_parameter_is_one_line(aligned, tmp_path):
    done = command("autoencoder", aligned, tmp_path, widht=4)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "train_autoencoder.a.widht" in done.stderr
