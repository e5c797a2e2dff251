"""The gate: what it promotes, what it refuses, and what it says."""

from pathlib import Path
from typing import Any

import numpy as np
import pretend
import pyarrow as pa
import pytest
import torch

from flows.registry import gate
from stages.images import table
from stages.images.batches import composite, select
from stages.metrics import fidelity
from stages.models.dcgan import Discriminator, Generator
from stages.models.partial_conv import PartialConvUNet
from stages.runs.errors import InputError
from stages.training import checkpoint, run

SIZE, COUNT = 32, 12
KINDS = ("centre", "pixels")
SHAPE = {"size": SIZE, "width": 2, "refine": 0, "residual": True}
VALUES: dict[str, Any] = {
    "runtime": {"threads": 1},
    "infer": {
        "net": {"network": "partial_conv", "dataset": "faces", "checkpoint": "data/models/net.safetensors", "count": 2},
        "telea": pretend.classical("telea"),
    },
    "search": {"dcgan": {"model": "dcgan", "dataset": "faces", "iterations": 2, "starts": 4, "batch": 8}},
    "retrain": {
        "system": "net", "metric": "psnr_hole", "margin": 0.0, "minimum": 4, "confidence": 0.95, "warm": False,
    },
}  # fmt: skip


def values(**changed: Any) -> dict[str, Any]:
    return VALUES | {"retrain": VALUES["retrain"] | changed}


def write_network(path: Path, off: float, note: str = "") -> Path:
    """A network that fills holes smoothly, and then `off` too bright; `note` changes bytes and nothing else."""
    torch.manual_seed(0)
    network = PartialConvUNet(**SHAPE)
    with torch.no_grad():
        network.last.weight.zero_()
        network.last.bias.fill_(off)
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    checkpoint.save(path, tensors, {"network": "partial_conv", "arguments": SHAPE, "note": note})
    return path


def write_dcgan(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    shape = {"size": SIZE, "latent": 8, "width": 4, "kernel": 4}
    parts = {"generator": Generator(**shape), "discriminator": Discriminator(SIZE, 4, 4)}
    tensors = {f"{part}.{name}": value for part, net in parts.items() for name, value in net.state_dict().items()}
    checkpoint.save(path, tensors, {"network": "dcgan", "arguments": shape, "params": {"prior": "uniform"}})
    return path


def write_members(path: Path, numbers: range) -> Path:
    keys = [pretend.key(number) for number in numbers]
    columns = {name: pa.array([key[i] for key in keys], pa.string()) for i, name in enumerate(("image_id", "path"))}
    rows = pa.table(columns)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, rows.schema) as writer:
        writer.write_table(rows)
    return path


def write_tables(aligned: Path, masks: Path, count: int = COUNT) -> None:
    """`count` validation pictures with a hole of each kind."""
    for folder in (aligned, masks):
        folder.mkdir(parents=True)
    for split in ("train", "val", "test"):
        with (
            table.writing_pictures(aligned / f"{split}.arrow", (SIZE, SIZE), table.ALIGNED) as pictures,
            table.writing_holes(masks / f"{split}.arrow", (SIZE, SIZE)) as holes,
        ):
            for number in range(count if split == "val" else 0):
                pictures.append(pretend.picture(number, SIZE), *pretend.key(number), [1.0, 0, 0, 0, 1, 0], None)
                for kind in KINDS:
                    hole = pretend.draw(kind, number, SIZE)
                    holes.append(table.pack(hole), *pretend.key(number), kind, float(hole.mean()))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("gate")
    write_tables(home / "aligned", home / "masks")
    for name, off in (("bad", 0.4), ("good", 0.0)):
        write_network(home / f"{name}.safetensors", off)
    write_network(home / "twin.safetensors", 0.0, note="the same numbers in other bytes")
    write_members(home / "nobody.arrow", range(0))
    return home


def decide(
    home: Path, candidate: str, promoted: str, given: dict[str, Any] = VALUES, /, **members: str
) -> dict[str, Any]:
    contenders = [
        gate.Contender(home / f"{name}.safetensors", [home / f"{members.get(role, 'nobody')}.arrow"])
        for role, name in (("candidate", candidate), ("promoted", promoted))
    ]
    return gate.decide(given, *contenders, home / "aligned", home / "masks")


@pytest.mark.parametrize("metric", ["psnr_hole", "mse_hole", "ssim"])
def test_better_equal_and_worse_are_told_apart(home: Path, metric: str) -> None:
    given = values(metric=metric)
    better, equal, worse = (decide(home, *pair, given) for pair in (("good", "bad"), ("twin", "good"), ("bad", "good")))
    assert [one["promote"] for one in (better, equal, worse)] == [True, False, False]
    assert better["low"] > 0 > worse["high"]
    assert better["gain"] == pytest.approx(-worse["gain"])
    assert (equal["low"], equal["gain"], equal["high"]) == (0, 0, 0)
    assert better["pictures"] == COUNT, "all validation pictures, whatever the system's count for the test split"
    assert better["why"].startswith(f"{metric} better by ")
    assert equal["why"] == f"{metric} the same [0, 0] over {COUNT} pictures: not surely better"
    assert worse["why"] == better["why"].replace("better by", "worse by") + ": not surely better"
    assert len(better["validation"]) == COUNT
    ids, candidate, promoted = zip(*better["validation"], strict=True)
    assert len({*ids}) == COUNT
    assert (np.mean(candidate), np.mean(promoted)) == pytest.approx((better["candidate"], better["promoted"]))


def test_the_margin_counts(home: Path) -> None:
    gain = decide(home, "good", "bad")["gain"]
    assert not decide(home, "good", "bad", values(margin=2 * gain))["promote"]
    assert decide(home, "twin", "good", values(margin=-0.01))["promote"], "no worse will do, where that is asked"


def test_the_numbers_are_those_of_evaluate(home: Path) -> None:
    """A picture's is the mean over its holes of the composited result's, inside the hole."""
    work = select(home / "aligned", home / "masks", split="val")
    ids, made = gate.measure(VALUES, gate.rule(VALUES), work, [home / "good.safetensors"])
    system = gate.complete(VALUES, "net", home / "good.safetensors", work.size)
    expected: dict[str, list[float]] = {}
    for row, batch in enumerate(work.batches(1)):
        result = composite(batch.known, system.complete(batch), batch.hole)
        truth = work.aligned.pictures([work.picture_rows[row]])
        expected.setdefault(batch.keys[0][0], []).append(fidelity.psnr(result, truth, batch.hole)[0])
    assert ids == sorted(expected)
    means = [np.mean(expected[key]) for key in ids]
    np.testing.assert_allclose(made[:, 0], means, rtol=1e-3)  # bytes may differ by one level between batch sizes


@pytest.mark.parametrize("role", ["candidate", "promoted"])
def test_pictures_that_either_has_trained_on_are_left_out(home: Path, role: str) -> None:
    write_members(home / "some.arrow", range(3, 100))
    result = decide(home, "good", "bad", **{role: "some"})
    assert not result["promote"]
    assert result["why"] == "3 validation pictures that neither has trained on, and retrain.minimum is 4"
    assert decide(home, "good", "bad", values(minimum=3), **{role: "some"})["pictures"] == 3


def test_no_validation_pictures_at_all(home: Path, tmp_path: Path) -> None:
    write_tables(tmp_path / "aligned", tmp_path / "masks", count=0)
    contender = gate.Contender(home / "good.safetensors", [home / "nobody.arrow"])
    result = gate.decide(VALUES, contender, contender, tmp_path / "aligned", tmp_path / "masks")
    assert (result["promote"], result["pictures"]) == (False, 0)


def test_the_interval_is_that_of_the_mean() -> None:
    rng = np.random.default_rng(3)
    promoted = rng.normal(20, 5, 400)
    numbers = np.stack([promoted + rng.normal(0.5, 1, 400), promoted], axis=1)
    said = gate.verdict(numbers, gate.rule(values(confidence=0.9)))
    gains = numbers[:, 0] - numbers[:, 1]
    half = 1.645 * gains.std(ddof=1) / 20
    assert said["low"] == pytest.approx(gains.mean() - half, abs=0.01)
    assert said["high"] == pytest.approx(gains.mean() + half, abs=0.01)
    assert said == gate.verdict(numbers, gate.rule(values(confidence=0.9))), "the same each time"


@pytest.mark.parametrize(
    ("metric", "margin", "candidate", "promoted", "said"),
    [
        # Gains of 0.98 and 1.28 dB; the mean of two draws lies between them.
        ("psnr_hole", 0.5, [20.98, 21.28], [20, 20], "better by 1.13 dB [0.98, 1.28]"),
        ("psnr", 2.0, [20.98, 21.28], [20, 20], "better by 1.13 dB [0.98, 1.28]#better by more than 2 dB"),
        ("psnr_hole", 0.0, [19.8, 19.9], [20, 20], "worse by 0.150 dB [0.100, 0.200]#better"),
        ("psnr_hole", -0.1, [19.8, 20.1], [20, 20], "worse by 0.05 dB [-0.10, 0.20]#less than 0.1 dB worse"),
        ("ssim", 0.0, [0.9120, 0.9126], [0.9, 0.9], "better by 0.01230 [0.01200, 0.01260]"),
        ("l1_hole", 0.0, [0.03, 0.05], [0.02, 0.02], "worse by 0.020 [0.010, 0.030]#better"),
        ("patch_sse", 0.0, [1400, 1000], [2000, 2000], "better by 800 [600, 1000]"),
        ("mse", 0.0, [0.25, 0.25], [0.5, 0.5], "better by 0.25 [0.25, 0.25]"),
        ("mse", 0.0, [0.5, 0.5], [0.5, 0.5], "the same [0, 0]#better"),
    ],
)
def test_the_gain_is_said_with_its_unit_as_exactly_as_it_is_known(
    metric: str, margin: float, candidate: list[float], promoted: list[float], said: str
) -> None:
    numbers = np.stack([np.array(candidate, float), np.array(promoted, float)], axis=1)
    found = gate.verdict(numbers, gate.rule(values(metric=metric, margin=margin)))
    gain, _, wanted = said.partition("#")
    assert found["why"] == f"{metric} {gain} over 2 pictures" + (f": not surely {wanted}" if wanted else "")
    assert found["promote"] == (not wanted)


def test_latent_search_is_compared_too(home: Path) -> None:
    for seed in (1, 2):
        write_dcgan(home / f"dcgan{seed}.safetensors", seed)
    given = values(system="dcgan", count=5)
    result = decide(home, "dcgan1", "dcgan2", given)
    assert result["pictures"] == 5
    assert result["candidate"] != result["promoted"]
    assert decide(home, "dcgan1", "dcgan1", given)["gain"] == 0


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"system": "telea"}, "'telea' is classical: no checkpoint to promote"),
        ({"system": "none"}, "no 'none' in `search` or `infer`"),
        ({"metric": "sharpness"}, "retrain.metric"),
        ({"minimum": 1}, "retrain.minimum"),
        ({"surely": 1}, "retrain.surely"),
    ],
)
def test_mistakes_name_the_key(home: Path, changed: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=line):
        decide(home, "good", "bad", values(**changed))


def test_a_promoted_checkpoint_of_another_shape_rejects(home: Path) -> None:
    shape = SHAPE | {"size": 48}
    tensors = {f"network.{name}": value for name, value in PartialConvUNet(**shape).state_dict().items()}
    for name, network in (("large", "partial_conv"), ("other", "autoencoder")):
        checkpoint.save(home / f"{name}.safetensors", tensors, {"network": network, "arguments": shape})
    checkpoint.save(home / "older.safetensors", {}, {"network": "partial_conv", "arguments": SHAPE})
    for name, line in (
        ("large", "size was 48, is 32; a network of another shape counts as a new system: rename 'net' in params.yaml"),
        ("other", "network was autoencoder, is partial_conv, size was 48, is 32; a"),
        ("older", "the code of its network has changed; a"),
    ):
        result = decide(home, "good", name)
        assert (result["promote"], result["pictures"]) == (False, COUNT)
        assert result["why"].startswith(f"cannot be compared with the promoted checkpoint: {line}")
    with pytest.raises(InputError, match="completes 48 x 48 pictures"):
        decide(home, "large", "good")
    (home / "torn.safetensors").write_bytes((home / "good.safetensors").read_bytes()[:99])
    with pytest.raises(InputError, match=r"torn.safetensors: not a checkpoint"):
        decide(home, "good", "torn")


def test_members_are_those_that_training_writes(tmp_path: Path) -> None:
    write_tables(tmp_path / "aligned", tmp_path / "masks", count=4)
    seen = np.array([True, False, True, False])
    keys = table.Table(tmp_path / "aligned" / "val.arrow").keys()
    run.write_members(tmp_path / "members.arrow", keys, seen)
    assert gate.read_members(tmp_path / "members.arrow") == {pretend.key(number)[0] for number in (0, 2)}
    (tmp_path / "members.arrow").write_text("none")
    with pytest.raises(InputError, match="not a list of the pictures"):
        gate.read_members(tmp_path / "members.arrow")
