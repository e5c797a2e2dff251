"""The frozen holes: which rows there are, that they stay where they are, and that mistakes are named."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pretend import NO_CHECKPOINT, NO_TABLE

from stages.images import holes, table
from stages.images.sampling import sample
from stages.mask import Params, mask
from stages.runs.errors import InputError
from stages.runs.params import build
from stages.training.params import Training
from stages.training.run import Inputs
from stages.training.training_set import training_set

ROOT = Path(__file__).parents[2]
EYES = [5.0, 6.0, 11.0, 6.0, 8.0, 9.0, 6.0, 12.0, 10.0, 12.0]
SMALL = {"seed": 7, "train_sample": 3, "kinds": {"centre": {}, "lines": {}, "eye_bar": {}}}


def write_aligned(folder: Path, splits: dict[str, list[str]], faceless: tuple[str, ...] = ()) -> Path:
    """16 x 16 pictures by image_id; those of `faceless` have no landmarks."""
    folder.mkdir()
    for split in ("train", "val", "test"):
        with table.writing_pictures(folder / f"{split}.arrow", (16, 16), table.ALIGNED) as writer:
            for name in splits.get(split, []):
                pixels = holes.keyed_rng(0, name).integers(0, 256, (16, 16, 3), np.uint8)
                writer.append(pixels, name, f"{name}.png", [1, 0, 0, 0, 1, 0], None if name in faceless else EYES)
    return folder


def rows(path: Path) -> dict[tuple[str, str], bytes]:
    """(image_id, kind) -> the hole's bytes."""
    read = table.Table(path)
    keys = zip(read.column("image_id"), read.column("kind"), strict=True)
    return {key: hole.tobytes() for key, hole in zip(keys, read.holes(), strict=True)}


def letters(text: str) -> list[str]:
    return list(text)


def run(tmp_path: Path, aligned: Path, params: dict[str, object], to: str = "masks", skipped: int = 0) -> Path:
    notes = mask(aligned, tmp_path / to, build(Params, params, "datasets.x.mask"), "x")
    assert notes["skipped"].get("eye_bar", 0) == skipped
    return tmp_path / to


def test_every_val_and_test_picture_and_a_sample_of_train(tmp_path, capsys):
    splits = {"train": letters("abcdefgh"), "val": letters("ij"), "test": letters("klm")}
    out = run(tmp_path, write_aligned(tmp_path / "aligned", splits, faceless=("j", "m")), SMALL, skipped=2)
    assert [" ".join(key) for key in rows(out / "val.arrow")] == [
        "i centre",
        "i lines",
        "i eye_bar",
        "j centre",
        "j lines",
    ]
    assert len(rows(out / "test.arrow")) == 3 * 3 - 1
    assert len({image_id for image_id, _ in rows(out / "train.arrow")}) == 3
    assert capsys.readouterr().err == "mask@x: eye_bar: no hole for 2 pictures without usable landmarks\n"
    test = table.Table(out / "test.arrow")
    assert np.allclose(test.column("ratio"), test.holes().mean((1, 2)))
    assert test.column("path")[0] == "k.png"
    assert test.holes()[0].sum() == 64  # centre: 8 x 8 of 16 x 16


def test_an_added_picture_or_kind_moves_no_other_hole(tmp_path):
    before = run(tmp_path, write_aligned(tmp_path / "a", {"train": letters("abcdef"), "test": letters("klm")}), SMALL)
    more = {"train": letters("0abcxdef"), "test": letters("0kxlm")}
    kinds = {"half": {}, **SMALL["kinds"]}
    after = run(tmp_path, write_aligned(tmp_path / "b", more), {**SMALL, "kinds": kinds}, to="after")
    old, new = rows(before / "test.arrow"), rows(after / "test.arrow")
    assert old.items() <= new.items()
    assert len(new) == 5 * 4
    # The sample: each newcomer puts out at most one.
    old_train, new_train = ({name for name, _ in rows(out / "train.arrow")} for out in (before, after))
    assert len(old_train) == len(new_train) == 3
    assert len(old_train - new_train) == len(new_train & {"0", "x"})


@pytest.mark.parametrize("seed", [7, 8])
def test_training_pictures_with_holes_are_the_first_that_a_training_learns(seed, tmp_path):
    aligned = write_aligned(tmp_path / "a", {"train": letters("abcdefgh"), "test": letters("k")})
    given = build(Training, {"dataset": "x", "pictures": 4}, "t")
    learned = training_set(Inputs(aligned / "train.arrow", NO_TABLE, NO_CHECKPOINT), given, "t")
    masks = run(tmp_path, aligned, {**SMALL, "seed": seed})
    assert {name for name, _ in rows(masks / "train.arrow")} < {key[0] for key in learned.keys()}  # noqa: SIM118


def test_sample_is_sticky_and_keeps_the_order():
    keys = [(name, f"{name}.png") for name in letters("zyxwvutsrq")]
    chosen = sample(keys, 4)
    assert chosen == [key for key in keys if key in chosen]
    left = [key for key in keys if key not in chosen]
    assert sample([*reversed(chosen), left[0]], 4) == chosen[::-1]
    assert set(sample(keys, 3)) < set(chosen)
    assert sample(keys, None) == sample(keys, 99) == keys


def test_two_labels_of_one_kind_draw_apart(tmp_path):
    kinds = {"small": {"kind": "centre", "fraction": 0.25}, "centre": {}, "lines": {}, "more": {"kind": "lines"}}
    aligned = write_aligned(tmp_path / "aligned", {"test": ["k"]})
    drawn = rows(run(tmp_path, aligned, {**SMALL, "kinds": kinds}) / "test.arrow")
    assert sum(drawn["k", "small"]) == 16
    assert sum(drawn["k", "centre"]) == 64
    assert drawn["k", "lines"] != drawn["k", "more"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"kinds": {"center": {}}}, "datasets.x.mask: unknown kind of hole 'center'"),
        ({"kinds": {"centre": {"fracton": 1}}}, "centre: unknown option 'fracton'"),
        ({"kinds": {"a": {"kind": "pixels", "fraction": 2}}}, "pixels: fraction"),
        ({"kinds": {"a b": {"kind": "half"}}}, "datasets.x.mask.kinds.a b"),
        ({"kinds": {"centre": None}}, "datasets.x.mask.kinds.centre"),
        ({"kinds": {}}, "name at least one kind"),
        ({"train_sample": -1}, "datasets.x.mask.train_sample"),
        ({"train_samples": 1}, "unknown key 'datasets.x.mask.train_samples'"),
    ],
)
def test_bad_parameters_are_named(change, named):
    with pytest.raises(InputError, match=named):
        build(Params, {**SMALL, **change}, "datasets.x.mask")


def test_a_missing_mask_file_names_its_key(tmp_path):
    aligned = write_aligned(tmp_path / "aligned", {"test": ["k"]})
    kinds = {"file": {"path": "no/mask.png", "sha256": "0" * 64}}
    with pytest.raises(InputError, match=r"datasets\.x\.mask\.kinds: file: path: no/mask\.png: No such file"):
        run(tmp_path, aligned, {**SMALL, "kinds": kinds})


def test_the_command_gives_the_same_bytes_twice_and_loads_no_torch(tmp_path):
    write_aligned(tmp_path / "aligned", {"train": letters("abcdef"), "val": [], "test": letters("klm")})
    (tmp_path / "params.yaml").write_text(
        "datasets: {x: {mask: {seed: 7, train_sample: 2, kinds: {strokes: {}, pixels: {}, eye_bar: {}}}}}"
    )
    start = "import runpy, sys; runpy.run_module('stages.mask', run_name='__main__', alter_sys=True)"
    code = start + "; assert 'torch' not in sys.modules"
    arguments = ["x", "--params", tmp_path / "params.yaml", "--aligned", tmp_path / "aligned", "--masks"]
    for out in ("one", "two"):
        subprocess.run(
            [sys.executable, "-c", code, *arguments, tmp_path / out],
            cwd=ROOT,
            env={**os.environ, "PALIMPSEST_RECORDS": str(tmp_path / "records")},
            check=True,
        )
    for split in ("train", "val", "test"):
        one, two = ((tmp_path / out / f"{split}.arrow").read_bytes() for out in ("one", "two"))
        assert one == two
    assert len(table.Table(tmp_path / "one" / "test.arrow")) == 9
    assert len(list((tmp_path / "records" / "mask@x").iterdir())) == 2  # two places, two records
