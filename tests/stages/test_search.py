"""Latent search: it finds what the generator can make, each picture by itself, and looks at no truth."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
from pathlib import Path

import forked
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from stages.images import table
from stages.images.holes import draw, keyed_rng
from stages.models.dcgan import Discriminator, Generator
from stages.runs.params import Runtime
from stages.search import Networks, Params, best_start, descend, draw_candidates, load_networks, weigh
from stages.training import checkpoint

ROOT = Path(__file__).parents[2]

CPU = torch.device("cpu")
SIZE = 32


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained narrow DCGAN with running statistics: its pictures vary with z, which is all search needs."""
    path = tmp_path_factory.mktemp("model") / "a.safetensors"
    torch.manual_seed(0)
    shape = {"size": SIZE, "latent": 16, "width": 8, "kernel": 5}
    generator, discriminator = Generator(**shape), Discriminator(SIZE, 8, 5)
    for p in generator.parameters():
        p.data.mul_(3)
    discriminator(generator(torch.rand(64, 16) * 2 - 1))
    tensors = {f"generator.{k}": v for k, v in generator.state_dict().items()}
    tensors |= {f"discriminator.{k}": v for k, v in discriminator.state_dict().items()}
    checkpoint.save(path, tensors, {"network": "dcgan", "arguments": shape, "params": {"prior": "uniform"}})
    return path


@pytest.fixture(scope="module")
def networks(model: Path) -> Networks:
    return load_networks(model, CPU)


def holes(count: int) -> torch.Tensor:
    kinds = ("centre", "random_box", "lines", "half")
    return torch.from_numpy(np.stack([draw(kinds[i % 4], SIZE, keyed_rng(i, "t")) for i in range(count)]))


def run(networks: Networks, known: torch.Tensor, hole: torch.Tensor, **changes: object) -> torch.Tensor:
    params = Params(model="a", dataset="x", **({"iterations": 60, "starts": 64} | changes))
    weights = weigh(hole, params)
    start = best_start(known, weights, draw_candidates(networks, params, Runtime(), CPU))
    return descend(networks, known, weights, start, params, Runtime())


def test_finds_the_generators_own_pictures(networks: Networks) -> None:
    z = torch.rand(4, 16, generator=torch.Generator().manual_seed(5)) * 2 - 1
    pictures = networks.generator(z)
    found = run(networks, pictures, holes(4), iterations=250, context="plain", prior_weight=0.0)
    error = (networks.generator(found.z) - pictures).abs().mean(dim=(1, 2, 3))
    spread = (pictures[:2] - pictures[2:]).abs().mean()
    assert error.max() < spread / 5, "what is under the hole comes back too"  # over 10 seeds 0.001 of it
    assert (found.contexts[-1] < found.contexts[0] / 5).all()


def test_a_picture_alone_is_as_in_a_batch(networks: Networks) -> None:
    torch.manual_seed(1)
    known = torch.rand(6, 3, SIZE, SIZE) * 2 - 1
    hole = holes(6)
    together = networks.generator(run(networks, known, hole).z)
    for i in range(6):
        alone = networks.generator(run(networks, known[i : i + 1], hole[i : i + 1]).z)
        assert (alone[0] - together[i]).abs().max() <= 2 / 255, "1/255 of the range"


def test_z_stays_in_the_uniform_prior_only(networks: Networks) -> None:
    known = torch.ones(2, 3, SIZE, SIZE)
    assert run(networks, known, holes(2), lr=1.0, lr_schedule="constant").z.abs().max() <= 1
    normal = networks._replace(prior="normal")
    assert run(normal, known, holes(2), lr=1.0, lr_schedule="constant").z.abs().max() > 1


def test_starts_from_the_best_candidate(networks: Networks) -> None:
    params = Params(model="a", dataset="x", starts=50)
    z, pictures = draw_candidates(networks, params, Runtime(), CPU)
    hole = holes(3)
    weights = weigh(hole, params)
    assert torch.equal(best_start(pictures[[7, 31, 40]], weights, (z, pictures)), z[[7, 31, 40]])


def test_total_is_context_plus_lambda_times_prior(networks: Networks) -> None:
    known, hole = torch.zeros(2, 3, SIZE, SIZE), holes(2)
    found = run(networks, known, hole, iterations=1, prior_weight=0.1)
    start = best_start(known, weigh(hole, Params(model="a", dataset="x")), draw_candidates(
        networks, Params(model="a", dataset="x", starts=64), Runtime(), CPU))  # fmt: skip
    d = torch.sigmoid(networks.discriminator(networks.generator(start)))
    assert torch.allclose(found.losses[0] - found.contexts[0], 0.1 * torch.log(1 - d), atol=1e-4)


def test_weights_are_left_as_they_were(networks: Networks) -> None:
    before = {k: v.clone() for k, v in networks.generator.state_dict().items()}
    run(networks, torch.zeros(2, 3, SIZE, SIZE), holes(2), iterations=3)
    assert all(torch.equal(before[k], v) for k, v in networks.generator.state_dict().items())
    assert not any(p.requires_grad for p in networks.generator.parameters())


# The stage as a command


def tables(home: Path, truth: np.ndarray, hole: np.ndarray) -> None:
    home.mkdir()
    size = truth.shape[1:3]
    with table.writing_pictures(home / "test.arrow", size, table.ALIGNED) as writer:
        for i, picture in enumerate(truth):
            writer.append(picture, f"id{i}", f"{i}.png", None, None)
    (home / "masks").mkdir()
    with table.writing_holes(home / "masks" / "test.arrow", size) as writer:
        for i, one in enumerate(hole):
            writer.append(table.pack(one), f"id{i}", f"{i}.png", "centre", float(one.mean()))


def stage(home: Path, model: Path, out: str = "out", **changes: object) -> subprocess.CompletedProcess[str]:
    section = {"model": "a", "dataset": "x", "iterations": 5, "starts": 8, "batch": 2, **changes}
    (home / "p.yaml").write_text(json.dumps({"runtime": {"threads": 1}, "search": {"a": section}}))
    line = ["a", "--params", str(home / "p.yaml"), "--model", str(model)]
    line += ["--aligned", str(home), "--masks", str(home / "masks"), "--inpainted", str(home / out)]
    env = {**os.environ, "PALIMPSEST_RECORDS": str(home / "records")}
    return forked.run("stages.search", line, ROOT, env)


def test_stage_composites_keeps_curves_and_leaks_nothing(model: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)
    hole = holes(3).numpy()
    noise = np.where(hole[..., None], rng.integers(0, 256, truth.shape, dtype=np.uint8), truth)
    outputs = []
    for name, pictures in (("true", truth), ("noise", noise)):
        tables(tmp_path / name, pictures, hole)
        done = stage(tmp_path / name, model)
        assert done.returncode == 0, done.stderr
        folder = tmp_path / name / "out"
        outputs.append({p.name: p.read_bytes() for p in sorted(folder.iterdir())})
    assert outputs[0] == outputs[1], "the truth under the hole changes no byte"
    assert set(outputs[0]) == {"completed.arrow", "guide.arrow", "curves.parquet"}
    completed = table.Table(tmp_path / "true" / "out" / "completed.arrow").pictures()
    guide = table.Table(tmp_path / "true" / "out" / "guide.arrow").pictures()
    assert (completed[~hole] == truth[~hole]).all()
    assert (completed[hole] == guide[hole]).all()
    curves = pq.read_table(tmp_path / "true" / "out" / "curves.parquet")
    assert curves["image_id"].to_pylist() == ["id0", "id1", "id2"]
    assert {len(row) for row in curves["losses"].to_pylist()} == {5}


class Planted:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch planted-and-run",)


@pytest.mark.parametrize("content", [b"", b"text", pickle.dumps(Planted())], ids=["empty", "text", "pickle"])
def test_a_checkpoint_that_is_none_is_one_line(content: bytes, tmp_path: Path) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(content)
    tables(tmp_path / "x", np.zeros((1, SIZE, SIZE, 3), np.uint8), holes(1).numpy())
    done = stage(tmp_path / "x", bad)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "bad.safetensors: not a checkpoint" in done.stderr
    assert not (ROOT / "planted-and-run").exists()


def test_a_dataset_of_another_size_is_one_line(model: Path, tmp_path: Path) -> None:
    tables(tmp_path / "x", np.zeros((1, 64, 64, 3), np.uint8), np.ones((1, 64, 64), bool))
    done = stage(tmp_path / "x", model)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "completes 32 x 32" in done.stderr
    assert "align.side" in done.stderr
