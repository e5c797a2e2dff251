"""`palimpsest audit splits`: what train, val and test have in common is found, pair by pair."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from dvc_project import ENV, command, end
from PIL import ImageOps
from ready_made import Repository, ingested
from test_audit_image import saved, scene

from flows.audit import splits
from stages.runs.errors import InputError

PICTURES = {
    "a.png": ("train", saved(scene(1))),
    "b.jpg": ("test", saved(scene(1), "JPEG", quality=60)),
    "c.png": ("train", saved(scene(2))),
    "d.jpg": ("val", saved(ImageOps.mirror(scene(2)), "JPEG")),
    "e.png": ("train", saved(scene(3))),
    "f.png": ("test", saved(scene(4))),
}


@pytest.fixture
def rows(tmp_path: Path) -> pa.Table:
    return ingested(tmp_path / "x", PICTURES, identity={"e.png": "Ada", "f.png": "Eve"})


def moved(rows: pa.Table, path: str, **values: str) -> pa.Table:
    """The table with another value in one picture's row, as no ingest makes it."""
    changed = [row | (values if row["path"] == path else {}) for row in rows.to_pylist()]
    return pa.Table.from_pylist(changed, schema=rows.schema)


def words(dataset: splits.Dataset) -> list[tuple[str, str]]:
    return [(fact.about, fact.word) for fact in dataset.facts]


def test_what_is_shared_is_found_pair_by_pair(rows: pa.Table, tmp_path: Path) -> None:
    repository = Repository(tmp_path / "home")
    repository.table("clean", rows.filter(pa.compute.is_in(rows["path"], pa.array(["e.png", "f.png"]))))
    repository.table("near", rows)
    eve, e, f = ({row["path"]: row for row in rows.to_pylist()}[name] for name in ("f.png", "e.png", "f.png"))
    repository.table("people", moved(rows, "e.png", identity=eve["identity"]))
    repository.table("pixels", moved(rows, "e.png", pixel_sha256=f["pixel_sha256"]))
    repository.table("bytes", moved(rows, "f.png", image_id=e["image_id"]))
    repository.commit()
    answer = splits.ask(repository.home, None, None)
    found = {dataset.name: dataset for dataset in answer.datasets}
    assert {name: {what for what, shared in one.shared.items() if shared} for name, one in found.items()} == {
        "bytes": {"bytes", "near copies"}, "clean": set(), "near": {"near copies"},
        "people": {"identity", "near copies"}, "pixels": {"near copies", "pixels"},
    }  # fmt: skip
    assert found["near"].pictures == {"train": 3, "val": 1, "test": 2}
    pairs = {tuple((one["path"], one["split"]) for one in each["pictures"]): each["bits"]
             for each in found["near"].shared["near copies"]}  # fmt: skip
    assert pairs.keys() == {(("a.png", "train"), ("b.jpg", "test")), (("c.png", "train"), ("d.jpg", "val"))}
    assert pairs[("a.png", "train"), ("b.jpg", "test")] <= 20
    assert pairs[("c.png", "train"), ("d.jpg", "val")] is None, "mirrored"
    for name, column, value in (("people", "identity", "Eve"), ("pixels", "pixels", f["pixel_sha256"])):
        (shared,) = found[name].shared[column]
        assert shared["value"] == value
        assert shared["pictures"] == [{"path": "e.png", "split": "train"}, {"path": "f.png", "split": "test"}]
    assert ("identity", "cannot tell") in words(found["near"]), "of four pictures nobody knows whom they show"
    assert ("identity", "cannot tell") not in words(found["clean"])
    assert not splits.ask(repository.home, "clean", None).found
    lines = end(command("flows.cli", ["audit", "splits", "near"], repository.home, ENV), 1)
    assert lines[0] == "near: train 3, val 1, test 2: shared: 2 by near copies"
    said = json.loads(
        "\n".join(end(command("flows.cli", ["audit", "splits", "clean", "--json"], repository.home, ENV)))
    )
    assert said["datasets"][0]["shared"] == {"bytes": [], "pixels": [], "near copies": [], "identity": []}


def test_a_table_that_is_missing_altered_or_old_cannot_tell(rows: pa.Table, tmp_path: Path) -> None:
    repository = Repository(tmp_path / "home")
    part = repository.table("x", rows.drop_columns(["near"]))
    repository.commit()
    repository.table("x", rows)
    repository.commit()
    (old,) = splits.ask(repository.home, None, "HEAD~1").datasets
    assert ("near copies", "cannot tell") in words(old)
    assert old.shared == {"bytes": [], "pixels": [], "identity": []}
    part.write_bytes(part.read_bytes() + b"x")
    (altered,) = splits.ask(repository.home, "x", "HEAD~1").datasets
    assert (altered.pictures, words(altered)) == (None, [("table", "DIFFERS")])
    part.unlink()
    answer = splits.ask(repository.home, "x", "HEAD~1")
    assert (answer.found, words(answer.datasets[0])) == (True, [("table", "cannot tell")])
    for name, rev, why in (("y", None, "y: no data/ingested/y in dvc.lock; it has: x"), (None, "gone", "no commit")):
        with pytest.raises(InputError, match=why):
            splits.ask(repository.home, name, rev)


def test_where_nobody_is_known_people_cannot_be_told(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "home")
    repository.table("x", ingested(tmp_path / "x", {"e.png": PICTURES["e.png"], "f.png": PICTURES["f.png"]}))
    repository.commit()
    answer = splits.ask(repository.home, None, None)
    assert [word for about, word in words(answer.datasets[0]) if about == "identity"] == ["cannot tell"]
    assert not answer.found
