"""Training pictures completed beside test pictures: chosen alike, scored apart, and no answer to themselves."""

import json
import re
from pathlib import Path

import numpy as np
import pretend
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_leak import write_checkpoint

from stages import blend, evaluate, infer, search
from stages.images import batches, sampling, table
from stages.metrics import fidelity
from stages.metrics.means import OVERALL, SCHEMA, read_means
from stages.models import classical
from stages.runs.errors import InputError
from stages.runs.params import Runtime, build

RUNTIME = Runtime(threads=1)
SIZE = 32
SCORING = evaluate.Params("none", "none", bootstrap=20, seed=1)
TRAINED = [pretend.key(number) for number in range(pretend.TRAINED, pretend.TRAINED + 4)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two test pictures and four training pictures, of which all have holes."""
    home = tmp_path_factory.mktemp("data")
    pretend.dataset(home, count=2, train=4)
    return home


def tables(data: Path) -> tuple[Path, Path]:
    return data / "aligned" / "faces", data / "masks" / "faces"


def complete(data: Path, out: Path, method: str = "nearest", **changes: object) -> Path:
    entry = build(infer.Params, {**pretend.classical(method, "faces"), **changes}, "infer.a")
    infer.infer(Path(entry.checkpoint), *tables(data), out / "made", entry, RUNTIME, "a")
    blend.blend(*tables(data), out / "made", out / "blended", blend.Params("a", "faces"), "a")
    files = [out / f"a{end}" for end in (".json", ".parquet", ".means.parquet")]
    evaluate.evaluate(*tables(data), out / "made", out / "blended", *files, SCORING, RUNTIME, "a")
    return out


@pytest.fixture(scope="module")
def both(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All test pictures and three training ones, completed by the nearest neighbour, blended and scored."""
    return complete(data, tmp_path_factory.mktemp("both"), train_count=3)


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of the test pictures alone."""
    return complete(data, tmp_path_factory.mktemp("alone"))


def test_training_pictures_are_those_of_the_smallest_hash_and_their_truth_is_gone(data: Path) -> None:
    aligned, masks = tables(data)
    test, train = batches.to_complete(aligned, masks, 1, 3, ["centre"])
    assert (test.split, train.split) == ("test", "train")
    assert train.keys == sampling.sample(TRAINED, 3)
    assert len(test) == 1
    (batch,) = train.batches(9)
    assert batch.hole.any(axis=(1, 2)).all()
    assert not batch.known[batch.hole].any()
    assert [work.split for work in batches.to_complete(aligned, masks, None, 0, None)] == ["test"]


def test_more_than_have_holes_are_refused_in_one_line(data: Path, tmp_path: Path) -> None:
    said = (
        "train_count: 5, but {} has holes for 4 training pictures: lower it, or raise the dataset's mask.train_sample"
    )
    with pytest.raises(InputError, match=f"^{re.escape(said.format(tables(data)[1] / 'train.arrow'))}$"):
        complete(data, tmp_path, train_count=5)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("stage", "value"), [(infer, -1), (search, -1), (search, None)])
def test_a_count_that_is_none_is_named(stage: object, value: object) -> None:
    given = pretend.classical("mean") if stage is infer else {"model": "a", "dataset": "x"}
    with pytest.raises(InputError, match=r"infer\.a\.train_count|search\.a\.train_count"):
        build(stage.Params, {**given, "train_count": value}, f"{stage.__name__.removeprefix('stages.')}.a")


def test_they_stand_behind_the_test_pictures_which_stay_as_they_are(both: Path, alone: Path) -> None:
    for file in ("made/completed.arrow", "made/guide.arrow", "blended/blended.arrow"):
        with_them, without = table.Table(both / file), table.Table(alone / file)
        assert with_them.column("split") == ["test"] * 4 + ["train"] * 6
        assert without.column("split") == ["test"] * 4
        assert with_them.keys()[:4] == without.keys()
        np.testing.assert_array_equal(with_them.pictures(range(4)), without.pictures())
        assert {key[:2] for key in with_them.keys()[4:]} < {*TRAINED}


def test_only_holes_of_training_pictures_are_filled(data: Path, both: Path) -> None:
    truth, holes = (table.Table(folder / "train.arrow") for folder in tables(data))
    for file in ("made/completed.arrow", "blended/blended.arrow"):
        found = table.Table(both / file)
        rows = found.splits()["train"]
        keys = [found.keys()[row] for row in rows]
        pictures, hole = truth.pictures(truth.find([key[:2] for key in keys])), holes.holes(holes.find(keys))
        np.testing.assert_array_equal(found.pictures(rows)[~hole], pictures[~hole])
        assert (found.pictures(rows)[hole] != pictures[hole]).mean() > 0.5


def test_scores_are_those_of_their_own_pictures_and_means_are_never_mixed(data: Path, both: Path, alone: Path) -> None:
    assert (both / "a.json").read_bytes() == (alone / "a.json").read_bytes(), "`dvc metrics` shows test pictures alone"
    assert read_means(both / "a.means.parquet") == read_means(alone / "a.means.parquet")
    assert read_means(alone / "a.means.parquet", "train") == {}
    truth, holes = (table.Table(folder / "train.arrow") for folder in tables(data))
    made = table.Table(both / "made/completed.arrow")
    rows = made.splits()["train"]
    keys = [made.keys()[row] for row in rows]
    pictures = truth.pictures(truth.find([key[:2] for key in keys]))
    expected = fidelity.score(made.pictures(rows), pictures, holes.holes(holes.find(keys)))
    scored = pq.read_table(both / "a.parquet").to_pylist()
    assert scored[: len(scored) - 12] == pq.read_table(alone / "a.parquet").to_pylist()
    raw = [row for row in scored if (row["split"], row["blending"]) == ("train", "raw")]
    assert [(row["image_id"], row["path"], row["kind"]) for row in raw] == keys
    for metric in ("psnr_hole", "patch_sse"):
        assert [row[metric] for row in raw] == expected[metric].tolist()
        mean = read_means(both / "a.means.parquet", "train")["raw", *OVERALL][metric]
        assert (mean.n, mean.mean) == (6, pytest.approx(expected[metric].mean(), rel=1e-5))
        assert mean.low < mean.mean < mean.high


def test_a_picture_is_no_neighbour_of_its_own(data: Path, both: Path) -> None:
    guides, train = table.Table(both / "made/guide.arrow"), table.Table(tables(data)[0] / "train.arrow")
    known = train.pictures()
    for row in guides.splits()["train"]:
        itself = train.find([guides.keys()[row][:2]])[0]
        alike = [place for place, one in enumerate(known) if np.array_equal(one, guides.pictures([row])[0])]
        assert len(alike) == 1
        assert alike != [itself]


def test_the_nearest_other_picture_by_hand(tmp_path: Path) -> None:
    """Flat pictures of levels 10, 14 and 30: nearest to 14 is itself, of others 10; to a stranger of 13 it is 14."""
    levels = [10, 14, 30]
    with table.writing_pictures(tmp_path / "train.arrow", (2, 2), table.ALIGNED) as writer:
        for level in levels:
            writer.append(np.full((2, 2, 3), level, np.uint8), str(level), f"{level}.png", None, None)
    train = table.Table(tmp_path / "train.arrow")
    hole = np.zeros((4, 2, 2), bool)
    hole[:, 0, 0] = True
    known = np.stack([np.full((2, 2, 3), level, np.uint8) for level in (10, 14, 30, 13)])
    known[hole] = 0
    found = classical.nearest(known, hole, train, own=[0, 1, 2, -1])
    assert found[:, 1, 1, 0].tolist() == [14, 10, 14, 14]
    assert classical.nearest(known, hole, train)[:, 1, 1, 0].tolist() == [10, 14, 30, 14]
    with table.writing_pictures(tmp_path / "one.arrow", (2, 2), table.ALIGNED) as writer:
        writer.append(np.zeros((2, 2, 3), np.uint8), "0", "0.png", None, None)
    with pytest.raises(InputError, match=r"one\.arrow: method 'nearest' needs another picture than the one"):
        classical.nearest(known, hole, table.Table(tmp_path / "one.arrow"), own=[0, -1, -1, -1])


def test_a_search_completes_them_too_and_its_curves_say_so(data: Path, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "dcgan.safetensors")
    pretend.dataset(tmp_path / "large", count=1, size=64, train=2)
    given = search.Params("dcgan", "faces", iterations=3, starts=4, kinds=("centre",), train_count=1)
    search.search(
        tmp_path / "dcgan.safetensors", *tables(tmp_path / "large"), tmp_path / "made", given, RUNTIME, "dcgan"
    )
    curves = pq.read_table(tmp_path / "made" / "curves.parquet").to_pydict()
    assert curves["split"] == ["test", "train"]
    completed = table.Table(tmp_path / "made" / "completed.arrow")
    assert [*zip(curves["image_id"], curves["path"], curves["kind"], strict=True)] == completed.keys()
    assert completed.column("split") == curves["split"]


def test_a_split_that_there_is_not_is_no_path(tmp_path: Path) -> None:
    with table.writing_pictures(tmp_path / "guide.arrow", (SIZE, SIZE), table.COMPLETED) as writer:
        writer.append(pretend.picture(0, SIZE), *pretend.key(0), "centre", "../test")
    with pytest.raises(InputError, match=r"guide\.arrow: has rows of a split that there is not; remove it"):
        table.Table(tmp_path / "guide.arrow").splits()


def test_means_of_an_older_version_are_of_test_pictures(alone: Path, tmp_path: Path) -> None:
    """An audit asks for scores of any commit."""
    old = pq.read_table(alone / "a.means.parquet").drop_columns("split")
    assert old.schema == pa.schema([field for field in SCHEMA if field.name != "split"])
    pq.write_table(old, tmp_path / "old.means.parquet")
    assert read_means(tmp_path / "old.means.parquet") == read_means(alone / "a.means.parquet") != {}
    assert read_means(tmp_path / "old.means.parquet", "train") == {}
    assert json.loads((alone / "a.json").read_text())["n"] == 4
