"""Which checkpoint `palimpsest restore` takes: the promoted one by its digest, from wherever it is kept."""

import json
import shutil
import subprocess
from hashlib import md5
from pathlib import Path

import pytest
from dvc_project import Project

from flows.lineage import cache
from flows.registry import history
from flows.restoration.system import choices, open_system
from stages.models.dmfn import DMFN
from stages.runs.errors import InputError
from stages.training import checkpoint

ARGUMENTS = {"size": 32, "width": 4, "blocks": 1, "combine": "dense", "upsampling": "resize"}
PATH = "data/models/net.safetensors"


def git(home: Path, *words: str) -> None:
    subprocess.run(["git", "-c", "user.name=Ada", "-c", "user.email=a@example.org", *words], cwd=home, check=True)


def weights(path: Path, note: int) -> str:
    """A checkpoint with weights of any kind: its md5."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {f"network.{key}": value for key, value in DMFN(**ARGUMENTS).state_dict().items()}
    checkpoint.save(path, state, {"network": "dmfn", "arguments": ARGUMENTS, "params": {"note": note}})
    return md5(path.read_bytes()).hexdigest()


@pytest.fixture
def promoted(project: Project) -> tuple[Project, str]:
    """A promoted checkpoint in the cache alone, and another one of its name in the working copy."""
    home = project.home
    digest = weights(home / PATH, 1)
    kept = cache.place(home, digest)
    kept.parent.mkdir(parents=True)
    shutil.move(home / PATH, kept)
    decision = {
        "outcome": "promoted", "why": "better by 0.5 dB", "system": "net", "artifact": "net", "path": PATH,
        "md5": digest, "rev": "HEAD",
    }  # fmt: skip
    lock = f"schema: '2.0'\nstages:\n  train:\n    cmd: x\n    outs:\n    - path: {PATH}\n      md5: {digest}\n"
    (home / "dvc.lock").write_text(lock)
    git(home, "add", "-A")
    git(home, "commit", "-qm", f"net promoted\n\n{history.MARK}{json.dumps(decision)}")
    git(home, "branch", "promoted")
    weights(home / PATH, 2)
    return project, digest


def test_the_promoted_checkpoint_is_taken_from_the_cache_whatever_lies_in_the_working_copy(
    promoted: tuple[Project, str],
) -> None:
    project, digest = promoted
    first, *rest = choices(project.home)
    assert (first.name, first.md5) == ("net", digest)
    assert first.title.endswith(": better by 0.5 dB")
    assert [choice.name for choice in rest] == ["net", "telea", "navier_stokes"]
    facts = open_system(project.home, None).facts
    assert facts["checkpoint"]["md5"] == digest
    assert facts["promotion"]["why"] == "better by 0.5 dB"


def test_a_promoted_checkpoint_comes_from_the_remote_and_is_missed_in_one_line(promoted: tuple[Project, str]) -> None:
    project, digest = promoted
    kept = cache.place(project.home, digest)
    remote = project.home.parent / "remote" / kept.relative_to(cache.folder(project.home))
    remote.parent.mkdir(parents=True)
    shutil.move(kept, remote)
    with pytest.raises(InputError, match=r"net: its checkpoint .* is neither in the working copy, in DVC's cache nor"):
        open_system(project.home, None)
    with (project.home / ".dvc" / "config").open("a") as config:
        config.write("    remote = store\n['remote \"store\"']\n    url = ../../remote\n")
    assert open_system(project.home, None).facts["checkpoint"]["md5"] == digest
    assert kept.is_file()


def test_the_working_copys_best_is_taken_where_nothing_is_promoted(project: Project) -> None:
    home = project.home
    entry = {"network": "dmfn", "dataset": "x"}
    names = ("a", "b")
    infer = {name: {**entry, "checkpoint": f"data/models/{name}.safetensors"} for name in names}
    (home / "params.yaml").write_text(json.dumps({"infer": infer, "blend": {name: {"system": name} for name in names}}))
    (home / "data" / "scores").mkdir(parents=True)
    for name, lines, bar in (("a", 20.0, 25.0), ("b", 30.0, 24.0)):
        weights(home / "data" / "models" / f"{name}.safetensors", 1)
        scores = {"psnr_hole": {"lines": {"raw": 1.0, "blended": lines}, "eye_bar": {"raw": bar}}}
        (home / "data" / "scores" / f"{name}.json").write_text(json.dumps(scores))
    assert [choice.name for choice in choices(home, "lines")][:2] == ["b", "a"]
    assert [choice.name for choice in choices(home, "eye_bar")][:2] == ["a", "b"]
    assert choices(home)[0].title == "the working copy's, 27.0 dB in the hole"
    # Of several blends the one of the system's name counts, or else the first.
    blend = {"soft": {"system": "a"}, "a": {"system": "a"}, "late": {"system": "b"}, "last": {"system": "b"}}
    (home / "params.yaml").write_text(json.dumps({"infer": infer, "blend": blend}))
    for name, psnr in (("soft", 50.0), ("late", 22.0), ("last", 60.0)):
        (home / "data" / "scores" / f"{name}.json").write_text(json.dumps({"psnr_hole": {"lines": {"raw": psnr}}}))
    assert [choice.title.split(",")[1] for choice in choices(home, "lines")[:2]] == [
        " 22.0 dB in the hole on lines", " 20.0 dB in the hole on lines",
    ]  # fmt: skip
    assert [choice.name for choice in choices(home, "lines")][:2] == ["b", "a"]
