"""What `audit checkpoint` says of code, environment, foreign weights, data and decisions, from records that are there,
on a branch, elsewhere, or altered."""

import json
import shutil
import subprocess
from hashlib import md5, sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML
from safetensors.numpy import save_file

from flows.audit import checkpoint, collect
from flows.audit.facts import machine
from flows.checkout.git import Git
from flows.registry import decisions, history
from flows.registry.history import Decision
from stages.runs import git, record

IDENTITY = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
MODEL, MEMBERS, TABLE = "data/models/net.safetensors", "data/models/net.members.arrow", "data/ingested/faces"
INGESTED = "0" * 32 + ".dir"
TERMS = {"source": "folder", "licence": "CC-BY-4.0", "consent": "given", "origin": "a shoot"}
PARAMS = {"train_net.net": {"seed": 7, "lr": 0.1, "holes": {"mask_seed": 9}}, "runtime": {"threads": 2}}
NOTES = {
    "kept": 40,
    "rejected": {"duplicate pixels": 2, "too small": 3},
    "terms": [
        {"licence": "CC-BY-4.0", "consent": "given", "pictures": 30},
        {"licence": "CC0-1.0", "consent": "not a person", "pictures": 10},
    ],
}


class Lab:
    """A repository with a checkpoint of one training on one dataset, and the records of both runs."""

    def __init__(self, home: Path) -> None:
        self.home, self.git = home, Git(home)
        (home / ".dvc").mkdir(parents=True)
        (home / "data" / "models").mkdir(parents=True)
        said = {"palimpsest": json.dumps({"network": "net"})}
        save_file({"w": np.zeros(3, np.float32)}, home / MODEL, said)
        self.md5 = record.digest(home / MODEL)
        self.inputs = {"data/aligned/faces": "1" * 32 + ".dir"}
        stages = {
            "ingest@faces": ({}, {TABLE: INGESTED}, {"datasets.faces.ingest": TERMS}),
            "align@faces": ({TABLE: INGESTED}, self.inputs, {}),
            "train_net@net": (self.inputs, {MODEL: self.md5, MEMBERS: "2" * 32}, PARAMS),
        }
        content = {
            name: {
                "cmd": "x",
                "deps": [{"path": path, "hash": "md5", "md5": digest} for path, digest in deps.items()],
                "params": {"params.yaml": params},
                "outs": [{"path": path, "hash": "md5", "md5": digest} for path, digest in outs.items()],
            }
            for name, (deps, outs, params) in stages.items()
        }
        with (home / "dvc.lock").open("w") as file:
            YAML().dump({"schema": "2.0", "stages": content}, file)
        (home / ".gitignore").write_text("/data/\n/.palimpsest/\n")
        self.run("init", "-q", "-b", "main")
        self.run("add", "-A")
        self.run("commit", "-qm", "made")
        self.commit = self.run("rev-parse", "HEAD")

    def run(self, *words: str) -> str:
        done = subprocess.run(["git", *IDENTITY, *words], cwd=self.home, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    @property
    def records(self) -> Path:
        return self.home / ".palimpsest" / "records"

    def trained(self, state: git.State | None, ended: str = "2026-01-01", **changed: Any) -> Path:
        facts = {
            "inputs": self.inputs, "outputs": {MODEL: self.md5, MEMBERS: "2" * 32}, "params": PARAMS,
            "code": "c" * 64, "sources": {"train_net.py": "d" * 64}, "weights": {"vgg16-397923af.pth": "e" * 64},
            "environment": record.environment() | {"processor": "AMD EPYC", "python": "3.11.7"},
        }  # fmt: skip
        return record.write(self.records, "train_net@net", facts | changed, {"ended": ended}, state)

    def ingested(self) -> None:
        facts = {"inputs": {}, "outputs": {TABLE: INGESTED}, "params": {"datasets.faces.ingest": TERMS}, "notes": NOTES}
        record.write(self.records, "ingest@faces", facts, {"ended": "2026-01-01"})

    def told(self, found: bool = False) -> dict[str, tuple[str, str]]:
        """Of each line, its word and what is said."""
        answer = checkpoint.ask(self.home, "net")
        assert answer.found == found
        json.loads(machine(answer))
        return {fact.about: (fact.word, fact.said) for fact in answer.facts}


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "lab")


def test_records_say_code_environment_seeds_weights_terms_and_rejected(lab: Lab) -> None:
    lab.trained(git.State(lab.commit, [], b""))
    lab.ingested()
    told = lab.told()
    files = "1 source files by their sha256 (--json)"
    assert told["code"] == ("recorded", f"commit {lab.commit[:10]}, clean; {files}")
    word, said = told["environment"]
    assert (word, said.startswith("AMD EPYC, "), "Python 3.11.7" in said) == ("recorded", True, True)
    assert told["seeds"] == ("recorded", "holes.mask_seed 9, seed 7")
    assert told["weights"] == ("recorded", "vgg16-397923af.pth (sha256 eeeeeeeeee)")
    thirty = "30 under licence CC-BY-4.0, consent: given, 10 under licence CC0-1.0, consent: not a person"
    assert told["terms"] == ("recorded", f"faces: {thirty}")
    assert told["rejected"] == ("recorded", "faces: 40 kept, 5 rejected: 3 too small, 2 duplicate pixels")
    (training,) = checkpoint.ask(lab.home, "net").trainings
    assert training.run.record is not None
    assert training.run.record["sources"] == {"train_net.py": "d" * 64}
    (data,) = training.datasets
    assert (data.name, data.licence, data.origin, data.kept) == ("faces", "CC-BY-4.0", "a shoot", 40)


def test_the_uncommitted_part_is_shown_wherever_the_records_are(lab: Lab, tmp_path: Path) -> None:
    path = lab.trained(git.State(lab.commit, ["params.yaml", "stages/a.py"], b"a patch\n"))
    files = "1 source files by their sha256 (--json)"
    expected = (
        "recorded",
        f"commit {lab.commit[:10]}; not committed: params.yaml, stages/a.py (--json has the patch); {files}",
    )
    assert lab.told()["code"] == expected
    collect.collect(lab.home)
    shutil.rmtree(lab.records)
    (training,) = checkpoint.ask(lab.home, "net").trainings
    assert training.run.where == f"palimpsest/records:train_net@net/{path.name}"
    assert (lab.told()["code"], training.run.uncommitted) == (expected, "a patch\n")
    lab.run("update-ref", "refs/remotes/origin/palimpsest/records", "palimpsest/records")
    lab.run("branch", "-q", "-D", "palimpsest/records")
    assert lab.told()["code"] == expected, "fetched, and not yet collected"
    lab.run("update-ref", "-d", "refs/remotes/origin/palimpsest/records")
    word, said = lab.told()["code"]
    assert word == "cannot tell"
    assert "palimpsest audit collect" in said


def test_a_record_is_joined_by_path_and_digest(lab: Lab) -> None:
    lab.trained(None, outputs={"data/models/other.safetensors": lab.md5})
    lab.trained(None, outputs={MODEL: "3" * 32, "data/histories/net": lab.md5})
    assert lab.told()["code"][0] == "cannot tell"
    other = lab.trained(git.State("a" * 40, [], b""), "2025-01-01", inputs={"data/aligned/faces": "9" * 32 + ".dir"})
    assert lab.told()["code"][1].startswith("commit aaaaaaaaaa, which is not in this clone, clean; ")
    lab.trained(git.State(lab.commit, [], b""), "2026-01-02")
    assert other.exists()
    assert lab.told()["code"][1].startswith(f"commit {lab.commit[:10]}, clean"), "its inputs are those of the lock"


def test_a_dataset_that_was_ingested_again_alone_is_not_the_one_that_was_trained_on(lab: Lab) -> None:
    """`dvc repro -s ingest@faces`: the lock has the new table, and a training that has read the old one."""
    lock = lab.home / "dvc.lock"
    with lock.open() as file:
        content = YAML().load(file)
    ingest = content["stages"]["ingest@faces"]
    ingest["outs"][0]["md5"] = "9" * 32 + ".dir"
    ingest["params"]["params.yaml"]["datasets.faces.ingest"]["licence"] = "CC0-1.0"
    with lock.open("w") as file:
        YAML().dump(content, file)
    lab.run("commit", "-qam", "ingested again")
    (training,) = checkpoint.ask(lab.home, "net").trainings
    assert [(data.md5, data.licence) for data in training.datasets] == [(INGESTED, "CC-BY-4.0")]
    assert training.unknown == {}
    lab.run("update-ref", "refs/heads/main", lab.run("commit-tree", "HEAD^{tree}", "-m", "history without it"))
    lab.run("reflog", "expire", "--expire=now", "--all")
    (training,) = checkpoint.ask(lab.home, "net").trainings
    assert (training.datasets, training.unknown) == ([], {TABLE: INGESTED})
    word, said = lab.told()["comes from"]
    assert (word, said.startswith(f"{TABLE} 0000000000: no dvc.lock that Git knows here")) == ("cannot tell", True)


def test_what_a_record_does_not_say_is_not_made_up(lab: Lab) -> None:
    path = lab.trained(None)
    body = json.loads(path.read_text())
    assert lab.told()["code"][1].endswith("no commit: it ran outside of a Git repository, or Git refused")
    older = {key: value for key, value in body.items() if key not in ("format", "git", "sources", "weights")}
    older["digest"] = record.name_of(older["stage"], record.facts_of(older))
    path.write_text(json.dumps(older))
    told = lab.told()
    assert [told[about][0] for about in ("code", "environment", "weights")] == [
        "cannot tell",
        "recorded",
        "cannot tell",
    ]
    assert told["terms"] == ("recorded", "faces: licence CC-BY-4.0, consent: given, origin: a shoot; whether "
                             "pictures.csv says otherwise for some is not recorded")  # fmt: skip
    assert told["rejected"][0] == "cannot tell"
    path.write_text(json.dumps({"format": record.FORMAT + 1, "outputs": {MODEL: lab.md5}}))
    word, said = lab.told()["code"]
    assert (word, said.endswith("update Palimpsest")) == ("cannot tell", True)


@pytest.mark.parametrize("fact", ["params", "weights", "sources", "inputs", "environment"])
def test_an_altered_record_differs(fact: str, lab: Lab) -> None:
    path = lab.trained(git.State(lab.commit, [], b""))
    body = json.loads(path.read_text())
    path.write_text(json.dumps(body | {fact: body[fact] | {"planted": "x"}}))
    assert lab.told(found=True)["record"][0] == "DIFFERS"


@pytest.mark.parametrize("sound", [True, False])
def test_the_pictures_that_decided_are_named(sound: bool, lab: Lab) -> None:
    ids = [md5(str(number).encode()).hexdigest() * 2 for number in range(7)]
    text = "image_id,candidate,promoted\n" + "".join(f"{one},{30 + at},{29.5 + at}\n" for at, one in enumerate(ids))
    (lab.home / history.VALIDATION).write_text(text)
    lab.run("add", "-f", history.VALIDATION)
    tree = lab.run("write-tree")
    gate = {"pictures": 7, "validation": sha256(text.encode() if sound else b"other").hexdigest()}
    said = Decision("promoted", "better", "net", "net", MODEL, lab.md5, lab.commit, None, gate)
    for key, value in (("user.name", "Ada"), ("user.email", "ada@example.org")):
        lab.run("config", key, value)
    decisions.record(lab.git, tree, said, [], lab.commit)
    word, line = lab.told(found=not sound)["selected on"]
    (decision,) = checkpoint.ask(lab.home, "net").decisions
    if sound:
        assert (word, line.startswith(f"7 validation pictures, by retrain: {ids[0][:10]}, ")) == ("verified", True)
        assert [row["image_id"] for row in decision["pictures"]] == ids
        assert decision["pictures"][1] == {"image_id": ids[1], "candidate": 31, "promoted": 30.5}
    else:
        assert (word, decision["pictures"]) == ("DIFFERS", None)
