"""Training: exact resume after real kills, members, fingerprints, clean endings."""

import hashlib
import json
import os
import signal
import time
from pathlib import Path

import forked
import numpy as np
import pyarrow as pa
import pytest
from forked import Forked
from pretend import NO_CHECKPOINT, NO_TABLE
from safetensors.torch import load_file
from small_training import OUTPUTS, run

from stages.images import table
from stages.runs.errors import InputError
from stages.runs.params import Runtime
from stages.training import checkpoint
from stages.training.distributed import DistributedContext
from stages.training.examples import Examples, Sampler
from stages.training.run import STATE
from stages.training.training_set import TrainingSet

ROOT = Path(__file__).parents[2]
STEPS = 40


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("aligned"), 16)


def write_pictures(folder: Path, size: int) -> Path:
    """`folder` with 50 training pictures of noise; eyes at a quarter and three quarters of the side."""
    pixels = np.random.default_rng(0).integers(0, 256, (50, size, size, 3), dtype=np.uint8)
    eyes = [size * 0.25, size * 0.4, size * 0.75, size * 0.4, *[size * 0.5] * 6]
    with table.writing_pictures(folder / "train.arrow", (size, size), table.ALIGNED) as writer:
        for i, picture in enumerate(pixels):
            writer.append(picture, f"id{i}", f"{i}.png", None, eyes)
    return folder


SMALL = {"steps": STEPS, "batch": 8, "width": 4, "ema": 0.9, "log_every": 3, "sample_every": 10, "save_every": 5}
STAGES: dict[str, dict[str, object]] = {
    "train_dcgan": {"kernel": 4},
    "train_autoencoder": {"width": 2},
    # The second stage begins before the first state that is saved, or behind it: both must go on exactly.
    "train_partial_conv": {"finetune_from": 0.5, "refine": 1, "residual": True},
    "train_context_encoder": {"objective": "gan", "bottleneck": 8, "encoder": "alexnet"},
    "train_dmfn": {"blocks": 1, "d_width": 2},
}


def section(stage: str, **changes: object) -> dict[str, object]:
    return {"dataset": "x", **SMALL, **STAGES[stage], **changes}


def command(
    aligned: Path, home: Path, stage: str = "train_dcgan", start: Path = NO_CHECKPOINT, **changes: object
) -> tuple[str, list[str], Path, dict[str, str]]:
    """What `forked` takes: the stage as a command, its outputs in `home`/out."""
    file = home / "params.yaml"
    file.write_text(json.dumps({"runtime": {"threads": 1}, stage: {"a": section(stage, **changes)}}))
    words = [
        "a",
        "--params",
        str(file),
        "--train",
        str(aligned / "train.arrow"),
        "--also",
        str(NO_TABLE),
        "--start",
        str(start),
    ]
    words += [part for key, name in OUTPUTS.items() for part in (f"--{key}", str(home / "out" / name))]
    places = {STATE: str(home / "state"), "PALIMPSEST_RECORDS": str(home / "records")}
    return f"stages.{stage}", words, ROOT, {**os.environ, **places}


def begun(home: Path, process: Forked) -> Path:
    """The state that a training has saved, as soon as it has."""
    while not (states := list((home / "state").glob("a-*/state.safetensors"))):
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    return states[0]


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def unbroken(aligned: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    home = tmp_path_factory.mktemp("unbroken")
    run("train_dcgan", aligned, home, section("train_dcgan"))
    assert not list((home / "state").glob("a-*")), "the state is deleted on success"
    return contents(home / "out")


def test_outputs_are_complete(unbroken: dict[str, bytes]) -> None:
    lines = unbroken["a.csv"].decode().splitlines()
    assert lines[0] == "step,d_fake,d_real,g_loss"
    assert [int(line.split(",")[0]) for line in lines[1:]] == [*range(3, STEPS, 3), STEPS]
    assert {"samples/0000010.png", "samples/0000040.png"} <= set(unbroken)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_training_goes_on_to_the_same_bytes(
    number: signal.Signals, aligned: Path, tmp_path: Path, unbroken: dict[str, bytes]
) -> None:
    asked = command(aligned, tmp_path)
    process = Forked(*asked)
    state = begun(tmp_path, process)
    process.send_signal(number)
    process.communicate()
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    assert not (tmp_path / "out").exists(), "outputs appear whole or not at all"
    goes_on(asked, state)
    assert contents(tmp_path / "out") == unbroken


def goes_on(asked: tuple[str, list[str], Path, dict[str, str]], state: Path) -> None:
    """The command goes on where the state was saved, and succeeds."""
    step = checkpoint.Checkpoint(state).inputs["step"]
    assert 5 <= step < STEPS
    done = forked.run(*asked)
    assert done.returncode == 0, done.stderr
    assert f"a: step {step};" in done.stderr


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "train_dcgan"])
def test_every_training_goes_on_after_a_kill_to_the_same_bytes(stage: str, tmp_path: Path) -> None:
    aligned = write_pictures(tmp_path, 64 if stage == "train_context_encoder" else 32)
    asked = command(aligned, tmp_path, stage)
    process = Forked(*asked)
    state = begun(tmp_path, process)
    process.kill()
    process.communicate()
    goes_on(asked, state)
    run(stage, aligned, tmp_path / "whole", section(stage))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole" / "out")


def test_state_of_other_inputs_is_not_taken_up(aligned: Path, tmp_path: Path) -> None:
    process = Forked(*command(aligned, tmp_path, steps=100000))
    begun(tmp_path, process)
    process.kill()
    process.communicate()
    done = forked.run(*command(aligned, tmp_path, steps=6, lr=1e-3))
    assert done.returncode == 0, done.stderr
    assert "a: step 0;" in done.stderr


def test_loss_that_is_not_finite_ends_with_its_parts_named(aligned: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the loss is not finite at step \d+: .*g_loss = nan"):
        run("train_dcgan", aligned, tmp_path, section("train_dcgan", lr=1e30))


def test_members_are_what_the_loader_read(aligned: Path, tmp_path: Path) -> None:
    outputs = run("train_dcgan", aligned, tmp_path, section("train_dcgan", steps=3))
    members = pa.ipc.open_file(outputs.members).read_all()
    sampler = Sampler(50, 8, seed=1)
    read = sorted(int(row) for step in range(3) for row in sampler.rows(step))
    assert members["image_id"].to_pylist() == [f"id{i}" for i in read]
    assert len(read) == 24


def test_sampler_reads_every_picture_once_an_epoch() -> None:
    sampler = Sampler(10, 4, seed=3)
    rows = np.concatenate([sampler.rows(step) for step in range(5)])  # two epochs
    assert sorted(rows[:10]) == sorted(rows[10:]) == list(range(10))
    assert list(rows[:10]) != list(rows[10:])
    fresh = Sampler(10, 4, seed=3)
    assert list(fresh.rows(4)) == list(rows[16:]), "a step's rows do not depend on the steps before"


@pytest.mark.parametrize(("count", "batch"), [(10, 3), (7, 5), (4, 16), (1, 2), (40, 6)])
def test_a_step_may_lie_across_any_epochs(count: int, batch: int) -> None:
    """A training that goes on begins there; and a batch may be larger than the data."""
    running = Sampler(count, batch, seed=3)
    rows = [running.rows(step) for step in range(120)]
    for step, expected in enumerate(rows):
        assert list(Sampler(count, batch, seed=3).rows(step)) == list(expected)
    whole = np.concatenate(rows)
    epochs = whole[: len(whole) // count * count].reshape(-1, count)
    assert (np.sort(epochs, axis=1) == np.arange(count)).all()


@pytest.mark.parametrize("bytes_", [b"", b"not a checkpoint", b"\x80\x04\x95cos\nsystem\n", b"\xff" * 4096])
def test_foreign_checkpoints_are_refused(bytes_: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(bytes_)
    with pytest.raises(InputError, match=r"x\.safetensors: not a checkpoint"):
        checkpoint.Checkpoint(path)


def test_size_that_no_dcgan_takes(tmp_path: Path) -> None:
    with table.writing_pictures(tmp_path / "train.arrow", (24, 24), table.ALIGNED) as writer:
        writer.append(np.zeros((24, 24, 3), np.uint8), "id", "a.png", None, None)
    with pytest.raises(InputError, match=r"not 24: set align\.side"):
        run("train_dcgan", tmp_path, tmp_path, section("train_dcgan"))


@pytest.mark.parametrize(
    ("holes", "said"),
    [
        ({}, "name at least one kind"),
        ({"lins": {}}, "unknown kind of hole 'lins'"),
        ({"bars": {"kind": "lins"}}, "unknown kind of hole 'lins'"),
        ({"a b": {"kind": "lines"}}, r"train_dmfn\..*holes\.a b"),
        ({"eye_bar": {}}, "no landmarks"),
        ({"low": {"kind": "eye_bar"}, "high": {"kind": "eye_bar", "height": 1.0}}, "no landmarks for low, high"),
    ],
)
def test_holes_that_cannot_be_drawn_are_refused_at_once(holes: dict, said: str, tmp_path: Path) -> None:
    with table.writing_pictures(tmp_path / "train.arrow", (16, 16), table.ALIGNED) as writer:
        writer.append(np.zeros((16, 16, 3), np.uint8), "id", "a.png", None, None)
    with pytest.raises(InputError, match=said):
        run("train_dmfn", tmp_path, tmp_path, section("train_dmfn", holes=holes))


def test_two_boxes_of_different_sizes_train_side_by_side(aligned: Path) -> None:
    kinds = {"centre": {"fraction": 0.5}, "small": {"kind": "centre", "fraction": 0.25}}
    pictures = TrainingSet({"train": table.Table(aligned / "train.arrow")}, {"train": np.arange(50)})
    examples = Examples(pictures, 50, kinds, False, seed=1)
    _, hole = examples.batch(0, DistributedContext(Runtime()))
    sizes = hole.sum((1, 2, 3)).tolist()
    assert set(sizes) == {64, 16}
    assert 15 < sizes.count(64) < 35


@pytest.mark.parametrize("stage", STAGES)
def test_a_training_goes_on_from_a_checkpoint(stage: str, tmp_path: Path) -> None:
    """At a learning rate of almost nothing, what it starts from is what it saves: every network of it."""
    aligned = write_pictures(tmp_path, 64 if stage == "train_context_encoder" else 32)
    first = run(stage, aligned, tmp_path / "first", section(stage, steps=3)).model
    still = {"lr": 1e-12} | ({"d_lr": 1e-12} if stage in ("train_dcgan", "train_dmfn") else {})
    second = run(stage, aligned, tmp_path / "second", section(stage, steps=1, **still), first).model
    before, after = load_file(first), load_file(second)
    assert checkpoint.Checkpoint(second).inputs["start"] == hashlib.md5(first.read_bytes()).hexdigest()
    assert before.keys() == after.keys()
    learnt = [name for name in before if name.endswith(("weight", "bias"))]
    assert all((before[name] - after[name]).abs().max() < 1e-6 for name in learnt)


def test_a_state_says_from_which_checkpoint_it_has_gone_on(aligned: Path, tmp_path: Path) -> None:
    """An erasure that removes the one removes the other."""
    first = run("train_dcgan", aligned, tmp_path, section("train_dcgan", steps=1)).model
    process = Forked(*command(aligned, tmp_path, start=first))
    state = begun(tmp_path, process)
    process.kill()
    process.communicate()
    assert checkpoint.Checkpoint(state).inputs["start"] == hashlib.md5(first.read_bytes()).hexdigest()


def test_a_start_of_another_shape_is_one_line(aligned: Path, tmp_path: Path) -> None:
    first = run("train_dcgan", aligned, tmp_path, section("train_dcgan", steps=1)).model
    done = forked.run(*command(aligned, tmp_path, start=first, width=16))
    assert done.returncode == 2
    line = f"train_dcgan@a: start: {first}: of another network: width {section('train_dcgan')['width']} (here 16);"
    assert done.stderr.splitlines()[-1].startswith(line)


def test_a_checkpoint_of_an_older_version_is_gone_on_from(aligned: Path, tmp_path: Path) -> None:
    """It does not name its upsampling, which was transposed then."""
    older = section("train_dcgan", steps=1, upsampling="transposed")
    first = run("train_dcgan", aligned, tmp_path / "first", older).model
    tensors, made_of = load_file(first), checkpoint.Checkpoint(first).inputs
    del made_of["arguments"]["upsampling"]
    checkpoint.save(first, tensors, made_of)
    run("train_dcgan", aligned, tmp_path / "second", older, first)
    with pytest.raises(InputError, match=r"of another network: upsampling transposed \(here resize\); set these to"):
        run("train_dcgan", aligned, tmp_path / "third", older | {"upsampling": "resize"}, first)
