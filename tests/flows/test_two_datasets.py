"""A training on the first pictures of two datasets, made by DVC: what the audit, exports and an erasure say of it."""

import json
import os
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

import forked
import pretend
import pyarrow as pa
import pytest
from audited import IDENTITY
from dvc_project import command, end
from ruamel.yaml import YAML
from test_pipeline import MASK, ORIGIN, START, checkout, repro, small_params

from flows.audit import checkpoint, image, verify
from flows.exports import materials
from flows.lineage import erasures
from stages.images import png, table
from stages.images.sampling import sample
from stages.runs import record
from stages.runs.header import Header

MODEL = "data/models/both.safetensors"
COUNT = 5  # pictures that are learned of each dataset


def section(name: str) -> dict:
    ingest = {"source": "folder", "root": f"../{name}", "use": "train", "split": {"val": 0, "test": 0.2}, **ORIGIN}
    align = {"mode": "centre", "side": 32, "detector": "annotations", "detector_model": "stages/images/no_model.txt"}
    return {"ingest": ingest, "align": align, "mask": MASK}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, with the pictures that its datasets are of beside it; all is committed."""
    home = tmp_path_factory.mktemp("made") / "project"
    given = small_params(Path("none"))
    given["datasets"] = {name: section(name) for name in ("ours", "theirs")}
    both = {"dataset": "ours", "also": "data/aligned/theirs/train.arrow", "start": START, "pictures": COUNT}
    given["train_dcgan"] = {"both": both | {"steps": 4, "batch": 4, "width": 4, "kernel": 4}}
    given |= {"search": {}, "infer": {}, "blend": {}}
    checkout(home, given)
    for number in range(24):
        file = home.parent / ("ours", "theirs")[number % 2] / f"{number:02}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(png.encode(pretend.picture(number, 48)))
    repro(home, "train_dcgan@both")
    commit(home)
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made.parent, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def commit(home: Path) -> None:
    for words in (["add", "-A"], [*IDENTITY, "commit", "-qm", "trained"]):
        subprocess.run(["git", *words], cwd=home, check=True)


def read(home: Path) -> list[tuple[str, str]]:
    """The pictures that were trained on, by the list that the training left."""
    rows = pa.ipc.open_file(home / "data/models/both.members.arrow").read_all().to_pylist()
    return [(row["image_id"], row["path"]) for row in rows]


def palimpsest(home: Path, *words: str) -> list[str]:
    """The lines that `palimpsest audit WORDS` prints there."""
    return end(command("flows.cli", ["audit", *words], home, forked.environment(os.environ)))


def file(home: Path, path: str) -> Path:
    (found,) = home.parent.glob(f"*s/{path}")
    return found


def learned(home: Path) -> dict[str, list[tuple[str, ...]]]:
    """Of each dataset, the keys of the pictures that the order says are the first, and of the others that may train."""
    keys = {name: table.Table(home / f"data/aligned/{name}/train.arrow").keys() for name in ("ours", "theirs")}
    firsts = {name: sample(every, COUNT) for name, every in keys.items()}
    return firsts | {f"not {name}": [key for key in keys[name] if key not in firsts[name]] for name in keys}


def test_list_checkpoint_lock_and_record_name_both(made: Path) -> None:
    firsts = learned(made)
    assert len(firsts["ours"]) == len(firsts["theirs"]) == COUNT
    assert all(firsts.values()), "some of each were left out"
    assert set(read(made)) == {*firsts["ours"], *firsts["theirs"]}
    tables = {name: record.digest(made / f"data/aligned/{name}/train.arrow") for name in ("ours", "theirs")}
    said = Header(made / MODEL).inputs
    assert (said["data"], said["also"]) == (tables["ours"], tables["theirs"])
    (body,) = (json.loads(one.read_text()) for one in (made / record.home() / "train_dcgan@both").glob("*.json"))
    locked = YAML(typ="safe").load(made / "dvc.lock")["stages"]["train_dcgan@both"]["deps"]
    for name, md5 in tables.items():
        path = f"data/aligned/{name}/train.arrow"
        assert body["inputs"][path] == md5
        assert {"path": path, "hash": "md5", "md5": md5}.items() <= next(d for d in locked if d["path"] == path).items()


def test_the_audit_knows_the_pictures_of_both_and_those_that_were_left_out(home: Path) -> None:
    answer = checkpoint.ask(home, "both")
    (training,) = answer.trainings
    assert [each.name for each in training.datasets] == ["ours", "theirs"]
    assert len(training.pictures or []) == 2 * COUNT
    assert (answer.found, training.unknown) == (False, {})
    for name, keys in learned(home).items():
        for image_id, path in keys[:2]:
            picture = file(home, path)
            assert sha256(picture.read_bytes()).hexdigest() == image_id
            (found,) = image.ask(home, str(picture)).pictures
            used = [] if name.startswith("not") else [(MODEL, path)]
            assert [(use["checkpoint"], use["path"]) for use in found.uses] == used, name
    answer = verify.ask(home)
    assert (answer.faults, answer.checked["lists of pictures"], answer.checked["checkpoints"]) == ([], 1, 1)


def test_a_list_with_a_stranger_is_found(home: Path) -> None:
    """List, metadata and lock say the same, and neither of the two tables has the picture."""
    listed = home / "data/models/both.members.arrow"
    old, rows = record.digest(listed), pa.ipc.open_file(listed).read_all()
    more = pa.table({"image_id": ["f" * 64], "path": ["stranger.png"]})
    listed.unlink()
    with pa.OSFile(str(listed), "wb") as sink, pa.ipc.new_file(sink, rows.schema) as writer:
        writer.write_table(pa.concat_tables([rows, more]))
    lock = (home / "dvc.lock").read_text().splitlines()
    at = next(number for number, line in enumerate(lock) if line.endswith(old))
    lock[at : at + 2] = [lock[at].replace(old, record.digest(listed)), f"      size: {listed.stat().st_size}"]
    (home / "dvc.lock").write_text("\n".join(lock) + "\n")
    commit(home)
    said = [fault.said for fault in verify.ask(home).faults if fault.file == "data/models/both.members.arrow"]
    assert any(one.startswith("1 of its pictures are not among the tables that it was trained on") for one in said)
    assert any(
        one.startswith("1 of its pictures are not among the training pictures of data/ingested/ours")
        and one.endswith("stranger.png")
        for one in said
    ), said


def test_exports_count_the_pictures_of_each(home: Path) -> None:
    found = materials.of(home, "both")
    assert {one.name: (one.trained, one.pictures) for one in found.datasets or []} == {
        "ours": (COUNT, 12),
        "theirs": (COUNT, 12),
    }
    (home / "audit.yaml").write_text("owner: Ada\npurpose: a test\nlicence: MIT\n")
    for words in (["model-card", "both", "-o", "card.md"], ["sbom", "both", "-o", "sbom.json"]):
        palimpsest(home, "export", *words, "--unsigned")
    card = (home / "card.md").read_text()
    for name in ("ours", "theirs"):
        part = card.partition(f"### {name}\n")[2].partition("\n### ")[0]
        assert f"| pictures trained on | {COUNT} |" in part
    components = json.loads((home / "sbom.json").read_text())["components"]
    data = {one["name"]: {p["name"].rpartition(":")[2]: p["value"] for p in one["properties"]}
            for one in components if one["type"] == "data"}  # fmt: skip
    assert {name: data[name]["trained_on"] for name in ("ours", "theirs")} == {"ours": "5", "theirs": "5"}


def test_it_is_made_again(home: Path) -> None:
    lines = palimpsest(home, "rebuild", "both")
    assert any(line.startswith("both: identical: all ") for line in lines), lines


def test_a_picture_of_the_second_is_erased_and_the_checkpoint_with_it(home: Path) -> None:
    image_id, path = learned(home)["theirs"][0]
    palimpsest(home, "erase", image_id, "--purge", "--shared", "--yes")
    assert not (home.parent / "theirs" / path).exists()
    assert not (home / MODEL).exists()
    (body,) = erasures.every(home)
    assert [one["path"] for one in body["notes"]["checkpoints"]] == [MODEL]
    left = table.Table(home / "data/aligned/theirs/train.arrow").keys()
    assert (image_id, path) not in left
