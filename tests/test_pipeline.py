"""The whole pipeline under real DVC, small: what runs, what does not run again, and what it leaves."""

import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import cv2
import forked
import numpy as np
import pretend
import pytest
from dvc_project import command, end
from ruamel.yaml import YAML

from stages.runs import record

ROOT = Path(__file__).parent.parent

START = "stages/models/no_checkpoint.txt"
ALONE = "stages/images/no_table.txt"
MASK = {"seed": 7, "train_sample": 2, "kinds": {"centre": {}, "lines": {}}}
ORIGIN = {"licence": "CC0-1.0", "consent": "none needed", "origin": "the test"}
SPLIT = {"val": 0.2, "test": 0.2}


def small_params(pictures: Path) -> dict:
    """A default shrunk to seconds, beside a folder of the user's own pictures that trains nothing."""
    face = {"mode": "face", "side": 32, "detector": "annotations", "detector_model": "stages/images/no_model.txt"}
    own = {"source": "folder", "root": str(pictures), "use": "evaluate", "split": SPLIT, **ORIGIN}
    return {
        "runtime": {"device": "cpu", "threads": 1, "precision": "fp32"},
        "draw": {"count": 40, "side": 64, "seed": 1},
        "draw_shapes": {"shapes": {"count": 2, "side": 32, "seed": 1}},
        "datasets": {
            "portraits": {
                "ingest": {
                    "source": "portraits",
                    "root": "data/raw/portraits",
                    "use": "train",
                    "split": SPLIT,
                    **ORIGIN,
                },
                "align": face,
                "mask": MASK,
            },
            "own": {"ingest": own, "align": {**face, "mode": "centre"}, "mask": MASK},
        },
        "train_dcgan": {
            "dcgan": {"also": ALONE, "start": START, "dataset": "portraits", "steps": 6, "batch": 8, "width": 4}
        },
        **{f"train_{network}": {} for network in ("autoencoder", "partial_conv", "context_encoder", "dmfn")},
        "search": {"dcgan": {"model": "dcgan", "dataset": "portraits", "iterations": 5, "starts": 4}},
        "infer": {"telea_own": pretend.classical("telea", "own")},
        "blend": {
            "dcgan": {"system": "dcgan", "dataset": "portraits", "method": "exact"},
            "telea_own": {"system": "telea_own", "dataset": "own", "method": "exact"},
        },
        "evaluate": {"lpips": "none", "perceptual_weights": "none", "bootstrap": 50, "seed": 5},
        "report": {},
    }


def checkout(home: Path, params: dict) -> Path:
    """A fresh repository with the working tree's files, no cache, and neither lock nor scores of the default."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if name != "dvc.lock" and not name.startswith("data/scores/") and (ROOT / name).is_file():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, home / name)
    write_params(home, params)
    for words in (["init", "-q"], ["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "all"]):
        subprocess.run(["git", *words], cwd=home, check=True)
    return home


def write_params(home: Path, params: dict) -> None:
    (home / "params.yaml").write_text(json.dumps(params, indent=1))


def repro(home: Path, *targets: str) -> list[str]:
    """`dvc repro` as a user runs it; the stages that ran."""
    env = forked.environment(os.environ)
    env.pop("PALIMPSEST_RECORDS", None)
    said = end(command("dvc", ["repro", *targets], home, env), patience=900)
    return re.findall(r"Running stage '([^']+)'", "\n".join(said))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own pictures")
    for i in range(3):
        picture = np.random.default_rng(i).integers(0, 256, (5, 5, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), cv2.resize(picture, (60, 50), interpolation=cv2.INTER_CUBIC))
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> tuple[Path, dict, list[str]]:
    params = small_params(pictures)
    home = checkout(tmp_path_factory.mktemp("first"), params)
    return home, params, repro(home)


def test_every_stage_runs_once_and_then_none(built: tuple[Path, dict, list[str]]) -> None:
    home, given, ran = built
    assert len(ran) == len(set(ran))
    empty = {name for name, section in given.items() if name.startswith("train_") and not section}
    stages = set(YAML(typ="safe").load(home / "dvc.yaml")["stages"])
    assert {name.partition("@")[0] for name in ran} == stages - empty
    page = (home / "data" / "report" / "index.html").read_text()
    for linked in re.findall(r'src="([^"]+)"', page):
        assert linked.startswith("data:") or (home / "data" / "report" / linked).is_file()
    assert repro(home) == []


def test_git_sees_scores_and_nothing_else_of_data(built: tuple[Path, dict, list[str]]) -> None:
    home, _, _ = built
    listed = subprocess.run(
        ["git", "status", "--porcelain", "-uall"], cwd=home, check=True, capture_output=True, text=True
    ).stdout.split("\n")
    assert sorted(line[3:] for line in listed if line) == [
        "data/scores/dcgan.json", "data/scores/telea_own.json", "dvc.lock",
    ]  # fmt: skip


def test_every_locked_output_has_the_record_of_its_run(built: tuple[Path, dict, list[str]]) -> None:
    home, _, ran = built
    lock = YAML(typ="safe").load(home / "dvc.lock")["stages"]
    for name in ran:
        (file,) = (home / ".palimpsest" / "records" / name).glob("*.json")
        body = json.loads(file.read_text())
        assert body["outputs"] == {out["path"]: out["md5"] for out in lock[name]["outs"]}
        locked = {dep["path"]: dep["md5"] for dep in lock[name].get("deps", [])}
        assert body["inputs"].items() <= locked.items()


def test_members_join_the_checkpoint_to_the_pictures(built: tuple[Path, dict, list[str]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from stages.runs.header import Header

    home, _, _ = built
    inputs = Header(home / "data" / "models" / "dcgan.safetensors").inputs
    members = home / "data" / "models" / "dcgan.members.arrow"
    assert inputs["members"] == record.digest(members)
    assert inputs["data"] == record.digest(home / "data" / "aligned" / "portraits" / "train.arrow")
    rows = pq.read_table(home / "data" / "ingested" / "portraits").to_pylist()
    known = {(row["image_id"], row["path"]): row for row in rows}
    for member in pa.ipc.open_file(members).read_all().to_pylist():
        row = known[member["image_id"], member["path"]]
        assert row["split"] == "train"
        raw = (home / "data" / "raw" / "portraits" / row["path"]).read_bytes()
        assert hashlib.sha256(raw).hexdigest() == row["image_id"]


def test_another_folder_with_an_empty_cache_ends_in_the_same_lock(
    built: tuple[Path, dict, list[str]], tmp_path: Path
) -> None:
    """From the portraits to the scores of the system that trains."""
    home, params, ran = built
    other = checkout(tmp_path / "a folder elsewhere", params)
    again = repro(other, "evaluate@dcgan")
    assert set(again) == {name for name in ran if not name.endswith(("own", "shapes")) and name != "report"}
    locked, there = (YAML(typ="safe").load(folder / "dvc.lock")["stages"] for folder in (home, other))
    assert there == {name: locked[name] for name in again}


def test_only_what_depends_on_a_change_runs_again(built: tuple[Path, dict, list[str]], pictures: Path) -> None:
    home, params, _ = built
    lock = (home / "dvc.lock").read_bytes()

    changed = json.loads(json.dumps(params))
    changed["blend"]["dcgan"] |= {"method": "sobel", "iterations": 3}
    write_params(home, changed)
    assert set(repro(home)) == {"blend@dcgan", "evaluate@dcgan", "report"}

    write_params(home, params)
    assert repro(home) == [], "what was made before comes from DVC's cache"
    assert (home / "dvc.lock").read_bytes() == lock

    shutil.copy(home / "data" / "raw" / "portraits" / "0001.png", pictures / "a new one.png")
    own = {"ingest@own", "align@own", "mask@own", "infer@telea_own", "blend@telea_own", "evaluate@telea_own"}
    assert set(repro(home)) == own | {"report"}
