"""`palimpsest audit erase` beside what runs: experiments, Dask workers, interrupted trainings, linked worktrees."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from test_erasure import Lab, git, lab, quiet, saved, scene
from test_erasure_places import erased, sha

from flows.engine import commands, remotes, turns
from flows.erasure import checkpoints, turn
from flows.lineage import cache
from flows.process import file_lock
from stages.runs.errors import InputError

__all__ = ["lab"]  # the fixture


def project(home: Path, command: str) -> None:
    """A repository with a stage."""
    git(home, "init", "-q")
    (home / ".dvc" / "tmp").mkdir(parents=True)
    (home / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
    (home / ".gitignore").write_text("/.dvc/tmp\n/.dvc/cache\n/begun\n/end\n")
    (home / "dvc.yaml").write_text(json.dumps({"stages": {"one": {"cmd": command, "outs": ["out"]}}}))
    git(home, "add", "-A")
    git(home, "commit", "-qm", "all")


def test_an_experiment_is_waited_for(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path_factory.mktemp("home")  # DVC's experiments work in no folder with a % in its name
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cached")))
    project(home, f"touch {home}/begun; while [ ! -e {home}/end ]; do sleep 0.02; done; echo 1 > out")
    process = subprocess.Popen([sys.executable, "-m", "dvc", "exp", "run", "--temp"], cwd=home,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
    while not (home / "begun").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    said: list[str] = []

    def hear(line: str) -> None:
        assert process.poll() is None
        said.append(line)
        (home / "end").touch()

    with turn.taken(home, hear):
        assert git(home, "for-each-ref", "refs/exps").strip()
        assert process.wait(60) == 0, process.communicate()
    assert f"waiting for `dvc exp run --temp` (PID {process.pid}) in {home}" in said[0]
    process.communicate()


def test_a_stage_that_a_killed_dvc_has_left_is_waited_for(tmp_path: Path) -> None:
    """Its working folder tells to which project it belongs."""
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "__init__.py").touch()
    (tmp_path / "stages" / "one.py").write_text("import sys; print(1, flush=True); sys.stdin.read()")
    with subprocess.Popen([sys.executable, "-m", "stages.one"], cwd=tmp_path, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as process:  # fmt: skip
        assert process.stdout
        process.stdout.readline()
        assert turns.running([tmp_path]) == [f"`python -m stages.one` (PID {process.pid}) in {tmp_path}"]
        assert turns.running([tmp_path / "stages"]) == []
    assert turns.running([tmp_path]) == []


def test_a_dask_worker_that_runs_is_refused_whatever_its_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = tmp_path / "workers"
    (workers / "0").mkdir(parents=True)
    monkeypatch.setenv("PALIMPSEST_WORKSPACES", str(workers))
    home = tmp_path / "home"
    home.mkdir()
    project(home, "true")
    with (
        file_lock.lock(workers / "0.lock"),
        pytest.raises(
            InputError, match=rf"workers/0: a Dask worker's clone, which it uses \(PID {os.getpid()}\); stop"
        ),
        turn.taken(home, quiet),
    ):
        pass
    with turn.taken(home, quiet):
        assert file_lock.acquire(workers / "0.lock") is None  # a worker that begins now takes another


def test_a_training_that_went_on_from_a_removed_checkpoint_is_forgotten(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    home = tmp_path / ".palimpsest" / "state"
    for name, facts in {"a-study-s1-c0ffee/from": {"start": "a" * 32}, "other": {"start": "b" * 32},
                        "none": {"start": None}, "older": {"step": 3}}.items():  # fmt: skip
        (home / name).mkdir(parents=True)
        metadata = {"palimpsest": json.dumps(facts)}
        save_file({"seen": np.zeros(5, bool)}, home / name / "state.safetensors", metadata)
    assert checkpoints.states(tmp_path, {5: {0}}, []) == []
    found = checkpoints.states(tmp_path, {5: {0}}, ["a" * 32])
    assert {folder.name for folder in found} == {"from", "older"}


def test_a_checkpoint_that_no_lock_names_goes_by_the_list_that_it_names(lab: Lab) -> None:
    """As a killed experiment, or a `dvc repro` that was not committed, leaves one; and one that has gone on from it."""
    lists = {name: md5 for name, md5 in lab.repository.outs.items() if name.endswith(".members.arrow")}
    read, never = (lists[f"data/models/{name}.members.arrow"] for name in ("read", "never"))
    home = lab.home / ".dvc" / "tmp" / "exps" / "x" / "data" / "models"
    home.mkdir(parents=True)

    def made(name: str, **facts: str) -> str:
        file = home / f"{name}.safetensors"
        save_file({"w": np.zeros(3)}, file, {"palimpsest": json.dumps(facts | {"name": name})})
        md5 = hashlib.md5(file.read_bytes()).hexdigest()
        cache.place(lab.home, md5).parent.mkdir(exist_ok=True)
        shutil.copy(file, cache.place(lab.home, md5))
        return md5

    one = made("one", members=read)
    two = made("two", members=never, start=one)
    three = made("three", members=never, start="0" * 32)
    assert erased(lab, sha(5)) == []
    assert sorted(file.name for file in home.iterdir()) == ["three.safetensors"]
    assert [cache.place(lab.home, md5).exists() for md5 in (one, two, three)] == [False, False, True]


def test_linked_worktrees_are_brought_up_to_date(lab: Lab) -> None:
    """Their `.dvc` files, and what DVC remembers of the names of their files."""
    (lab.home / ".gitignore").write_text((lab.home / ".gitignore").read_text().replace("/photos\n", ""))
    commands.add(lab.home, lab.home / "photos", quiet)
    git(lab.home, "add", "-A")
    git(lab.home, "commit", "-qm", "photos")
    linked = lab.home.parent / "linked"
    git(lab.home, "worktree", "add", "-q", str(linked))
    (linked / ".dvc" / "config.local").write_text(f'[cache]\n    dir = "{lab.home}/.dvc/cache"\n')
    commands.check_out(linked, quiet, ["photos.dvc"])
    remembered = remotes.site_cache(linked)
    assert remembered != remotes.site_cache(lab.home)
    index = [file.read_bytes() for file in remembered.rglob("*") if file.is_file()]
    assert any(b"001.png" in data for data in index)

    with turn.taken(lab.home, quiet):
        assert erased(lab, sha(1)) == []

    assert not any(b"001.png" in file.read_bytes() for file in remembered.rglob("*") if file.is_file())
    for home in (lab.home, linked):
        listing = (home / "photos.dvc").read_text().split("md5: ")[1].split()[0]
        named = cache.listing(cache.place(lab.home, listing))
        assert "001.png" not in named
        assert named["000.png"] == hashlib.md5(saved(scene(0))).hexdigest()
        assert named["pictures.csv"] == hashlib.md5((home / "photos/pictures.csv").read_bytes()).hexdigest()
