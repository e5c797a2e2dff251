"""`palimpsest audit rebuild`: checkpoints made again for real, by DVC, from commits."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from dvc_project import ENV, Project, dvc

from flows.audit import checkpoint, log, rebuild
from flows.lineage.records import REBUILT
from flows.process.command import Say
from stages.runs import record
from stages.runs.errors import InputError

IDENTITY = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]

# What `prepare` and `train` read: a file that Git has, one that DVC has, and what a machine adds.
STAGE = """
import json, os, sys
from pathlib import Path
import numpy
from safetensors.numpy import save_file
from stages.runs import git, record
stage, out, *inputs = sys.argv[1:]
if stage == os.environ.get("FAIL"):
    sys.exit("no memory")
data = b"".join(Path(name).read_bytes() for name in inputs) + os.environ.get("NOISE_" + stage, "").encode()
Path(out).parent.mkdir(parents=True, exist_ok=True)
if out.endswith(".safetensors"):
    save_file({"w": numpy.frombuffer(data, numpy.uint8)}, out, {"palimpsest": json.dumps({"network": "net"})})
else:
    Path(out).write_bytes(data)
kernels = dict.fromkeys(("torch", "onednn", "mkl", "threads"), "1")
environment = record.environment() | {"processor": os.environ.get("PROCESSOR", "one"), "kernels": kernels}
facts = {"inputs": {}, "outputs": {out: record.digest(Path(out))}, "params": {}, "environment": environment}
record.write(record.home(), stage, facts, {"ended": "2026-11-27T00:00:00+00:00"},
             git.state(Path.cwd(), record.SOURCES))
"""
NET = "data/models/net.safetensors"


def git(home: Path, *words: str) -> str:
    said = subprocess.run(["git", *IDENTITY, *words], cwd=home, env=ENV, check=True, capture_output=True, text=True)
    return said.stdout.strip()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """One committed checkpoint, made of a file of Git's and a file of DVC's."""
    home = tmp_path_factory.mktemp("rebuild") / "ü #1 %20?"
    home.mkdir()
    project = Project(home)
    (home / "stage.py").write_text(STAGE)
    (home / "seed").write_text("committed")
    (home / "photos").write_text("photos")
    (home / ".gitignore").write_text("/data/\n/photos\n/.palimpsest/\n/.dvc/cache\n/.dvc/tmp\n__pycache__\n")
    project.pipeline(
        {
            "prepare": {
                "cmd": "python stage.py prepare data/prepared seed photos",
                "deps": ["stage.py", "seed", "photos"],
                "outs": ["data/prepared"],
            },
            "train": {
                "cmd": f"python stage.py train {NET} data/prepared",
                "deps": ["stage.py", "data/prepared"],
                "outs": [NET],
            },
        }
    )
    dvc(home, "add", "-q", "photos")
    project.run("repro")
    git(home, "add", "-A")
    git(home, "commit", "-qm", "made")
    return project


@pytest.fixture
def ask(lab: Project, monkeypatch: pytest.MonkeyPatch) -> Callable[..., rebuild.Rebuilt]:
    def ask(asked: str = "net", say: Say = lambda line: None, **environment: str) -> rebuild.Rebuilt:
        monkeypatch.chdir(lab.home)
        for name in os.environ.keys() - ENV.keys():  # other tests may have left some that count
            monkeypatch.delenv(name)
        for name, value in {**ENV, **environment}.items():
            monkeypatch.setenv(name, value)
        before = git(lab.home, "status", "--porcelain"), git(lab.home, "worktree", "list")
        answer = rebuild.ask(lab.home, asked, say)
        assert (git(lab.home, "status", "--porcelain"), git(lab.home, "worktree", "list")) == before
        assert [path.name for path in lab.home.parent.iterdir()] == [lab.home.name]
        return answer

    return ask


def test_the_same_bytes_are_made_again_and_leave_a_record(lab: Project, ask: Callable[..., rebuild.Rebuilt]) -> None:
    lines: list[str] = []
    answer = ask(say=lines.append, PROCESSOR="other")  # equal bytes are equal, wherever
    assert (answer.verdict, answer.found) == ("identical", False)
    assert [(out["path"], out["recorded"] == out["made"]) for out in answer.outputs] == [
        ("data/prepared", True), (NET, True),
    ]  # fmt: skip
    assert answer.commit == git(lab.home, "rev-parse", "HEAD")
    assert any("Running stage 'prepare'" in line for line in lines), "nothing may come from a cache"
    (left,) = (lab.home / ".palimpsest" / "records" / REBUILT).iterdir()
    notes = record.read(left)["notes"]
    assert (notes["verdict"], notes["md5"]) == ("identical", answer.md5)
    told = [fact.said for fact in checkpoint.ask(lab.home, "net").facts if fact.about == "rebuilt"]
    assert [said.partition(",")[0] for said in told] == ["identical"]
    events = [(event.kind, event.about) for event in log.ask(lab.home)]
    assert events == [("run", "prepare"), ("run", "train"), ("rebuilt", NET)]


def test_the_first_output_that_differs_is_named(ask: Callable[..., rebuild.Rebuilt]) -> None:
    answer = ask(NOISE_prepare="!")
    assert (answer.verdict, answer.found) == ("different", True)
    assert answer.why.startswith("data/prepared, by prepare, is the first output that differs")
    assert [out["recorded"] == out["made"] for out in answer.outputs] == [False, False]


def test_on_another_cpu_other_bytes_are_not_called_different(ask: Callable[..., rebuild.Rebuilt]) -> None:
    answer = ask(NOISE_train="!", PROCESSOR="other")
    assert answer.verdict == "not comparable"
    assert answer.incomparable == ["processor: one, other"]


def test_what_was_not_committed_is_taken_as_it_lies_there(lab: Project, ask: Callable[..., rebuild.Rebuilt]) -> None:
    (lab.home / "seed").write_text("edited")
    try:
        lab.run("repro")
        answer = ask()
        assert (answer.verdict, answer.commit) == ("identical", None)
    finally:
        git(lab.home, "checkout", "-q", ".")
        dvc(lab.home, "checkout", "-q")


def test_an_edit_that_was_not_committed_is_taken_from_the_record(
    lab: Project, ask: Callable[..., rebuild.Rebuilt]
) -> None:
    file = lab.home / "dvc.yaml"
    whole, head = file.read_text(), git(lab.home, "rev-parse", "HEAD")
    file.write_text(whole.replace(f'{NET} data/prepared"', f'{NET} data/prepared seed"'))
    try:
        lab.run("repro")
        git(lab.home, "add", "dvc.lock")
        git(lab.home, "commit", "-qm", "the lock alone")
        file.write_text(whole)
        answer = ask()
        assert (answer.verdict, answer.commit) == ("identical", head)
    finally:
        git(lab.home, "reset", "-q", "--hard", head)
        dvc(lab.home, "checkout", "-q")


def test_a_stage_that_fails_is_no_difference(ask: Callable[..., rebuild.Rebuilt]) -> None:
    answer = ask(FAIL="train")
    assert answer.verdict == "not comparable"
    assert "`dvc repro train` failed" in answer.why
    assert [out["made"] == out["recorded"] for out in answer.outputs] == [True, False]
    assert answer.outputs[-1]["made"] is None


def test_data_that_are_nowhere_are_named(lab: Project, ask: Callable[..., rebuild.Rebuilt]) -> None:
    gone = (lab.home / "photos.dvc").read_text()
    md5 = gone.partition("md5: ")[2][:32]
    (lab.home / "photos").unlink()
    (lab.home / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]).rename(lab.home / ".palimpsest" / "kept")
    try:
        with pytest.raises(Exception, match="photos"):
            ask()
    finally:
        (lab.home / ".palimpsest" / "kept").rename(lab.home / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:])
        dvc(lab.home, "checkout", "-q")


def test_bad_names_end_in_one_line(lab: Project, ask: Callable[..., rebuild.Rebuilt], tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"no checkpoint")
    for asked, why in {"nothing": "no file, and no", str(tmp_path / "photo.png"): "not a checkpoint"}.items():
        with pytest.raises(InputError, match=why):
            ask(asked)


def test_of_two_locks_an_input_that_differs_comes_before_what_follows_from_it() -> None:
    def lock(seed: str, made: str, value: int) -> dict:
        return {
            "stages": {
                "b": {"cmd": "b", "deps": [{"path": "x", "md5": made}], "outs": [{"path": "y", "md5": f"{made}y"}]},
                "a": {
                    "cmd": "a",
                    "deps": [{"path": "seed", "md5": seed}],
                    "params": {"params.yaml": {"a": value}},
                    "outs": [{"path": "x", "md5": made}],
                },
            }
        }

    recorded = lock("s", "m", 1)
    assert rebuild.compare(recorded, lock("s", "m", 1), "y")[1] == "identical"
    assert rebuild.compare(recorded, lock("s", "n", 1), "y")[1:] == (
        "different", "x, by a, is the first output that differs",
    )  # fmt: skip
    assert rebuild.compare(recorded, lock("t", "n", 1), "y")[1:] == (
        "not comparable", "seed, which a reads, is not as it was when it ran",
    )  # fmt: skip
    assert rebuild.compare(recorded, lock("s", "m", 2), "y")[1:] == (
        "not comparable", "a has another value of a parameter now",
    )  # fmt: skip
    partial = json.loads(json.dumps(lock("s", "m", 1)))
    del partial["stages"]["b"]
    assert rebuild.compare(recorded, partial, "y")[1:] == ("not comparable", "b did not run to its end")
