"""Every file of parameters fits its stages, and the reports' own scale is real: full networks that train."""

import dataclasses
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from pretend import NO_CHECKPOINT

from stages.images import table
from stages.runs import checkpoint, params, training
from stages.runs.params import Runtime

ROOT = Path(__file__).parent.parent
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
        several = section.startswith("train_") or section in ("search", "infer", "blend")
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
        "report4", "train_context_encoder", "gan_vgg",
        sum(9 * (a * b + b * b) + 6 * b for a, b in pairwise((3, *CHANNELS))) + 8192 * 4000 + 8000
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


@pytest.mark.parametrize(("profile", "section", "entry", "count"), REPORTS, ids=lambda value: str(value))
def test_a_reports_full_network_trains_at_its_shapes(
    profile: str, section: str, entry: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 steps of two pictures; random weights stand for ImageNet's, which are not here."""
    monkeypatch.setenv("PALIMPSEST_STATE", str(tmp_path / "state"))
    stage = import_module(f"stages.{section}")
    values = params.load(PROFILES[profile])
    given = params.section(values, f"{section}.{entry}", stage.Params)
    small = {"steps": 20, "batch": 2, "log_every": 10, "sample_every": 20}
    if getattr(given, "perceptual_weights", "none") != "none":
        small["perceptual_weights"] = "random"
    size = values["datasets"][given.dataset]["align"]["size"]
    pixels = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), dtype=np.uint8)
    with table.writing_pictures(tmp_path / "train.arrow", (size, size), table.ALIGNED) as writer:
        for i, picture in enumerate(pixels):
            writer.append(picture, f"id{i}", f"{i}.png", None, None)
    inputs = training.Inputs(tmp_path, NO_CHECKPOINT)
    outputs = training.Outputs(*(tmp_path / name for name in ("a.safetensors", "members.arrow", "a.csv", "samples")))
    team = training.Team(Runtime(precision="bf16"))
    getattr(stage, section)(team, inputs, outputs, dataclasses.replace(given, **small), entry)()
    tensors, made = checkpoint.load(outputs.model)
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    weights = {name: value for name, value in tensors.items() if not name.endswith(statistics)}
    assert sum(v.numel() for name, v in weights.items() if name.startswith(("network.", "generator."))) == count
    assert all(value.isfinite().all() for value in weights.values())
    assert [row.split(",")[0] for row in outputs.history.read_text().splitlines()] == ["step", "10", "20"]
    assert made["arguments"]["size"] == size
