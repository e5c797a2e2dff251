"""What a training learns from: of one dataset or of two, all pictures or the first of each."""

import hashlib
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pretend import NO_CHECKPOINT, NO_TABLE
from safetensors.torch import load_file
from small_training import run

from flows.erasure import checkpoints
from stages.images import table
from stages.images.holes import keyed_hash
from stages.runs import params
from stages.runs.errors import InputError
from stages.training import checkpoint
from stages.training.params import Training
from stages.training.run import STATE, Inputs, Outputs, Run
from stages.training.training_set import TrainingSet, training_set

SIDE = 32  # pixels
SECTION = {"dataset": "x", "steps": 6, "batch": 4, "width": 2, "log_every": 2, "sample_every": 3, "save_every": 2}
HOLES = {"eye_bar": {}, "centre": {}}

Row = tuple[np.ndarray, str, str, None, list[float] | None]


def rows(name: str, count: int, size: int = SIDE, eyes: bool = True) -> list[Row]:
    """Pictures of noise, `eyes` each at a place of its own."""
    rng = np.random.default_rng(len(name) + count)
    pixels = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    points = [[8.0, 12 + number / 10, 24.0, 12.0, *[16.0] * 6] if eyes else None for number in range(count)]
    ids = [hashlib.sha256(f"{name}{number}".encode()).hexdigest() for number in range(count)]
    return [(pixels[i], ids[i], f"{name}{i}.png", None, points[i]) for i in range(count)]


def write(path: Path, content: list[Row], size: int = SIDE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with table.writing_pictures(path, (size, size), table.ALIGNED) as writer:
        for row in content:
            writer.append(*row)
    return path


def of(train: Path, also: Path = NO_TABLE, **told: object) -> TrainingSet:
    given = params.build(Training, {"dataset": "x", **told}, "train_x.a")
    return training_set(Inputs(train, also, NO_CHECKPOINT), given, "train_x.a")


def learned(outputs: Outputs) -> tuple[dict[str, bytes], bytes, bytes]:
    """What a training wrote but for its metadata: weights, members, history."""
    weights = {name: values.numpy().tobytes() for name, values in load_file(outputs.model).items()}
    return weights, outputs.members.read_bytes(), outputs.history.read_bytes()


def members(outputs: Outputs) -> list[str]:
    return pa.ipc.open_file(outputs.members).read_all()["path"].to_pylist()


@pytest.mark.parametrize("stage", ["train_partial_conv", "train_dcgan"])
def test_two_datasets_are_learned_as_one_that_has_the_pictures_of_both(stage: str, tmp_path: Path) -> None:
    section = SECTION | ({"holes": HOLES} if stage == "train_partial_conv" else {"kernel": 4})
    first, second = rows("a", 5), rows("b", 8)
    write(tmp_path / "first" / "train.arrow", first)
    write(tmp_path / "both" / "train.arrow", first + second)
    also = write(tmp_path / "second" / "train.arrow", second)
    together = run(stage, tmp_path / "first", tmp_path / "two", section, also=also)
    joined = run(stage, tmp_path / "both", tmp_path / "one", section)
    assert learned(together) == learned(joined)
    assert members(together) == [row[2] for row in first + second]
    said, alone = (checkpoint.Checkpoint(one.model).inputs for one in (together, joined))
    assert (said["data"], said["also"]) == tuple(
        hashlib.md5(path.read_bytes()).hexdigest() for path in (tmp_path / "first" / "train.arrow", also)
    )
    assert set(said) - set(alone) == {"also"}, "a training of one dataset says what it always has"


def test_the_first_pictures_are_learned_as_if_there_were_no_others(tmp_path: Path) -> None:
    """Whatever the seed: which pictures they are is no matter of a training's own."""
    everyone = rows("a", 12)
    ranked = sorted(everyone, key=lambda row: keyed_hash(0, "sample", row[1]))
    chosen = {row[2] for row in ranked[:5]}
    few = [row for row in everyone if row[2] in chosen]
    write(tmp_path / "all" / "train.arrow", everyone)
    write(tmp_path / "few" / "train.arrow", few)
    for seed in (1, 2):
        section = SECTION | {"seed": seed, "holes": HOLES}
        some = run("train_partial_conv", tmp_path / "all", tmp_path / f"some {seed}", section | {"pictures": 5})
        those = run("train_partial_conv", tmp_path / "few", tmp_path / f"those {seed}", section)
        assert learned(some) == learned(those)
        assert members(some) == [row[2] for row in few]


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 9), st.integers(2, 9))
def test_fewer_are_part_of_more_and_every_row_is_its_own(
    tmp_path_factory: pytest.TempPathFactory, most: int, count: int
) -> None:
    """Of two tables: pictures, keys, landmarks and marks of what was read belong together, in the tables' order."""
    home = tmp_path_factory.mktemp("set")
    first, second = rows("a", 12), rows("b", 9, eyes=False)
    tables = write(home / "a.arrow", first), write(home / "b.arrow", second)
    more = of(*tables, pictures=max(count, most))
    fewer = of(*tables, pictures=count)
    assert len(fewer) == 2 * count
    assert set(fewer.keys()) <= set(more.keys())
    known = {row[1:3]: row for row in first + second}
    places = {row[1:3]: place for place, row in enumerate(first + second)}
    assert [places[key] for key in fewer.keys()] == sorted(places[key] for key in fewer.keys())  # noqa: SIM118
    order = np.random.default_rng(count * 100 + most).permutation(len(fewer))
    read = fewer.read(order, np.empty((len(order), SIDE, SIDE, 3), np.uint8))
    for place, row in enumerate(order):
        pixels, *_, points = known[fewer.keys()[row]]
        assert (read[place] == pixels).all()
        wanted = np.full(10, np.nan) if points is None else np.array(points)
        np.testing.assert_allclose(fewer.landmarks()[row].reshape(-1), wanted)
        assert fewer.title(int(row)).endswith(f"{'ab'[points is None]}.arrow: {fewer.keys()[row][1]}")
    marks = order < count
    by_table = fewer.by_table(marks)
    assert {name: len(some) for name, some in by_table.items()} == {"data": 12, "also": 9}
    assert (fewer.joined(by_table) == marks).all()
    marked = [key for name, path in zip(by_table, tables, strict=True) for key, was in
              zip(table.Table(path).keys(), by_table[name], strict=True) if was]  # fmt: skip
    assert marked == [key for key, was in zip(fewer.keys(), marks, strict=True) if was]


def refused(home: Path) -> dict[str, tuple[Callable[[], object], str]]:
    """What is wrong, and the line that says so."""
    a, b = write(home / "a" / "train.arrow", rows("a", 6)), write(home / "b" / "train.arrow", rows("b", 4))
    empty = write(home / "empty" / "train.arrow", [])
    large = write(home / "large" / "train.arrow", rows("l", 4, 64), 64)
    copy = write(home / "copy" / "train.arrow", rows("a", 6))
    none = "holds no training pictures; name a dataset with use: train in train_x.a"
    twice = "name another dataset, or stages/images/no_table.txt"
    return {
        "too many": (lambda: of(a, pictures=7), f"params.yaml: train_x.a.pictures: 7, and {a} has 6: ask for no more"),
        "of the second": (
            lambda: of(a, b, pictures=5),
            f"params.yaml: train_x.a.pictures: 5, and {b} has 4: ask for no more",
        ),
        "sizes": (
            lambda: of(a, large),
            f"{large}: pictures of 64 x 64, and those of {a} are 32 x 32: give both datasets one align.side",
        ),
        "twice": (lambda: of(a, a), f"params.yaml: train_x.a.also: {a} has the pictures of {a}: {twice}"),
        "a copy": (lambda: of(a, copy), f"params.yaml: train_x.a.also: {copy} has the pictures of {a}: {twice}"),
        "empty": (lambda: of(empty, b), f"{empty}: {none}.dataset"),
        "empty second": (lambda: of(a, empty), f"{empty}: {none}.also"),
        "no table": (
            lambda: of(a, NO_CHECKPOINT),
            f"{NO_CHECKPOINT}: not a table of pictures or holes; remove it and run `dvc repro`",
        ),
        "one picture": (
            lambda: of(a, pictures=1),
            "params.yaml: train_x.a.pictures: input should be greater than or equal to 2 (got 1)",
        ),
        **{
            path: (
                lambda path=path: params.build(Training, {"dataset": "x", "also": path}, "train_x.a"),
                f"params.yaml: train_x.a.also: name data/aligned/DATASET/train.arrow, or stages/images/no_table.txt "
                f"for none (got '{path}')",
            )
            for path in ("lfw", "data/aligned/lfw/test.arrow", "data/aligned/../lfw/train.arrow")
        },
    }


def test_what_cannot_be_learned_is_refused_in_one_line(tmp_path: Path) -> None:
    for name, (ask, line) in refused(tmp_path).items():
        with pytest.raises(InputError) as caught:
            ask()
        assert str(caught.value) == line, name


def test_a_training_of_two_datasets_goes_on_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the state that it was stopped in says of each table what was read: an erasure finds it by either."""
    (tmp_path / "a").mkdir()
    write(tmp_path / "a" / "train.arrow", rows("a", 15))
    also = write(tmp_path / "b" / "train.arrow", rows("b", 30))
    section = SECTION | {"pictures": 12, "holes": HOLES, "save_every": 1}
    whole = run("train_partial_conv", tmp_path / "a", tmp_path / "whole", section, also=also)

    log = Run.log

    def stop(training: Run, parts: dict[str, torch.Tensor]) -> None:
        if training.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        log(training, parts)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", stop)
        with pytest.raises(SystemExit):
            run("train_partial_conv", tmp_path / "a", tmp_path / "stopped", section, also=also)
    (state,) = (tmp_path / "stopped" / "state").glob("a-*")
    marks = {name: values.numpy() for name, values in load_file(state / "state.safetensors").items() if "seen" in name}
    assert {name: len(values) for name, values in marks.items()} == {"seen.data": 15, "seen.also": 30}
    home = tmp_path / "repository"
    subprocess.run(["git", "init", "-q", str(home)], check=True)
    monkeypatch.setenv(STATE, str(tmp_path / "stopped" / "state"))
    for values in marks.values():
        assert checkpoints.states(home, {len(values): {int(np.flatnonzero(values)[0])}}, []) == [state]
        assert checkpoints.states(home, {len(values): {int(np.flatnonzero(values == 0)[0])}}, []) == []

    (tmp_path / "stopped" / "out").rmdir()
    goes_on = run("train_partial_conv", tmp_path / "a", tmp_path / "stopped", section, also=also)
    assert [path.read_bytes() for path in goes_on[:3]] == [path.read_bytes() for path in whole[:3]]


def test_a_picture_that_both_have_is_listed_once(tmp_path: Path) -> None:
    write(tmp_path / "a" / "train.arrow", rows("a", 4))
    also = write(tmp_path / "b" / "train.arrow", [*rows("b", 3), rows("a", 4)[2]])
    outputs = run("train_partial_conv", tmp_path / "a", tmp_path, SECTION, also=also)
    assert members(outputs) == ["a0.png", "a1.png", "a2.png", "a3.png", "b0.png", "b1.png", "b2.png"]


def test_a_picture_without_eyes_is_named_with_its_table(tmp_path: Path) -> None:
    write(tmp_path / "a" / "train.arrow", rows("a", 4))
    also = write(tmp_path / "b" / "train.arrow", rows("b", 4, eyes=False))
    with pytest.raises(InputError, match=r"b/train\.arrow: b0\.png has no landmarks for eye_bar"):
        run("train_partial_conv", tmp_path / "a", tmp_path, SECTION | {"holes": {"eye_bar": {}}}, also=also)
