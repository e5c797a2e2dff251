"""How records travel, on the branch `palimpsest/records`, and what the audit reads in them."""

import json
import shutil
import subprocess
import sys
from hashlib import md5, sha256
from pathlib import Path
from typing import Any

import pytest
from dvc_project import ENV, ROOT, command, drawing, wait
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.audit import collect
from flows.checkout.git import Git
from flows.lineage import record_branch
from stages.runs import git, record
from stages.runs.errors import InputError

BRANCH = "palimpsest/records"
IDENTITY = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")


def run(home: Path, *words: str, code: int = 0) -> str:
    done = subprocess.run(["git", *IDENTITY, *words], cwd=home, check=False, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done.stdout.strip()


def repository(home: Path, way: str = "") -> Path:
    """A repository with a commit, in which the project is the folder `way`."""
    root = home / way
    (root / ".dvc").mkdir(parents=True)
    (home / ".gitignore").write_text(".palimpsest/\n")
    (root / "code.py").write_text("x = 1\n")
    run(home, "init", "-q", "-b", "main")
    run(home, "add", "-A")
    run(home, "commit", "-qm", "first")
    return root


def leave(root: Path, number: int, ended: str = "2026-01-01", patch: bytes = b"") -> bytes:
    """A record of a run, in the folder of the project's records: its bytes."""
    facts = {"inputs": {}, "outputs": {f"out{number}": md5(str(number).encode()).hexdigest()}, "code": "c"}
    state = git.State("c" * 40, ["stages/a.py"] if patch else [], patch)
    folder = root / ".palimpsest" / "records"
    return record.write(folder, f"train@{number}", facts, {"ended": ended}, state).read_bytes()


def on_branch(root: Path) -> dict[str, bytes]:
    """All that the project's own branch has."""
    names = run(root, "ls-tree", "-r", "--full-tree", "--name-only", record_branch.name(Git(root))).splitlines()
    branch = record_branch.name(Git(root))
    return {name: run(root, "show", f"{branch}:{name}").encode() + b"\n" for name in names}


@pytest.mark.parametrize("way", ["", "labs/in painting"])
def test_records_are_collected_once_and_nothing_else_is_touched(way: str, tmp_path: Path) -> None:
    root = repository(tmp_path, way)
    branch = record_branch.name(Git(root))
    assert branch == (f"labs/in-painting-{sha256(way.encode()).hexdigest()[:8]}/{BRANCH}" if way else BRANCH)
    assert collect.collect(root) == collect.Collection(branch, None, 0, 0, [])
    (root / "code.py").write_text("half an edit")
    (root / "staged").write_text("staged")
    run(root, "add", "staged")
    texts = {leave(root, number, patch=b"a patch\n" if number else b"") for number in range(3)}
    (root / ".palimpsest" / "records" / "train@0" / ".draft.123").write_text("half a record")
    before = run(root, "status", "--porcelain=v2", "--branch"), (tmp_path / ".git" / "index").read_bytes()
    done = collect.collect(root)
    assert (done.branch, done.records, done.new, done.merged) == (branch, 3, 3, [])
    found = on_branch(root)
    assert {text for name, text in found.items() if name.endswith(".json")} == texts
    patches = [name for name in found if not name.endswith(".json")]
    assert patches == [f"diffs/{sha256(b'a patch' + bytes([10])).hexdigest()}.patch"]
    again = collect.collect(root)
    assert (again.commit, again.new, again.records) == (done.commit, 0, 3), "a second run adds no commit"
    texts.add(leave(root, 3))
    assert collect.collect(root).new == 1
    assert run(root, "rev-parse", f"{branch}^") == done.commit
    assert set(on_branch(root).values()) == texts | {b"a patch\n"}
    out, _ = command("flows.cli", ["audit", "collect", "--json"], root, ENV).communicate(timeout=60)
    assert json.loads(out) == {
        "branch": branch, "commit": run(root, "rev-parse", branch), "records": 4, "new": 0, "merged": [], "signed": 0,
    }  # fmt: skip
    assert (run(root, "status", "--porcelain=v2", "--branch"), (tmp_path / ".git" / "index").read_bytes()) == before


def test_two_clones_merge_by_union(tmp_path: Path) -> None:
    run(tmp_path, "init", "-q", "--bare", "hub")
    first = repository(tmp_path / "first")
    run(first, "remote", "add", "origin", str(tmp_path / "hub"))
    run(first, "push", "-q", "origin", "main")
    run(tmp_path, "clone", "-q", "-b", "main", str(tmp_path / "hub"), "second")
    second = tmp_path / "second"
    (second / ".dvc").mkdir()
    run(second, "config", "user.name", "")  # whoever collects needs no name
    texts = {leave(first, 0), leave(first, 1), leave(second, 0, ended="2026-02-02"), leave(second, 2)}
    assert len(texts) == 4, "of one path two differ: the same facts, at another time"
    for root in (first, second):
        assert collect.collect(root).new == 2
    run(first, "push", "-q", "origin", BRANCH)
    run(second, "push", "-q", "origin", BRANCH, code=1)  # rejected: it lacks what the first one has pushed
    run(second, "fetch", "-q")
    done = collect.collect(second)
    assert (done.new, done.records, done.merged) == (2, 4, [f"refs/remotes/origin/{BRANCH}"])
    assert set(on_branch(second).values()) == texts
    run(second, "push", "-q", "origin", BRANCH)
    run(first, "fetch", "-q")
    assert collect.collect(first).commit == done.commit, "forward, without a merge of its own"
    assert set(on_branch(first).values()) == texts
    assert collect.collect(first).new == 0, "its own is there, under another name"
    for root in (first, second):
        assert collect.collect(root).commit == done.commit

    # One who rewinds the hub, or removes records there, takes nothing from those who have them.
    thief = tmp_path / "thief"
    run(tmp_path, "clone", "-q", "-b", BRANCH, str(tmp_path / "hub"), "thief")
    run(thief, "rm", "-q", "-r", "train@0", "train@1")
    run(thief, "commit", "-qm", "gone")
    run(thief, "push", "-q", "origin", BRANCH)
    run(first, "fetch", "-q")
    assert collect.collect(first).records == 4
    assert set(on_branch(first).values()) == texts
    run(first, "push", "-q", "origin", BRANCH)


Clones = st.lists(st.sets(st.integers(0, 6), max_size=4), min_size=2, max_size=3)


@settings(max_examples=4)
@given(clones=Clones, order=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=5))
def test_whatever_is_fetched_from_whom_all_end_with_all_records(
    clones: list[set[int]], order: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("clones")
    roots = [repository(home / str(number)) for number in range(len(clones))]
    left: set[bytes] = set()
    for number, (root, records) in enumerate(zip(roots, clones, strict=True)):
        left |= {leave(root, one, ended=f"2026-01-0{1 + number}") for one in records}
        collect.collect(root)
    everyone = [(one, other) for one in range(len(clones)) for other in range(len(clones))]
    for one, other in [*order, *everyone, *everyone]:
        to, source = roots[one % len(roots)], roots[other % len(roots)]
        spec = f"refs/heads/{BRANCH}:refs/remotes/r{other % len(roots)}/{BRANCH}"
        if to != source and Git(source).reference(f"refs/heads/{BRANCH}"):
            run(to, "fetch", "-q", str(source), spec)
            collect.collect(to)
    for root in roots:
        assert not left or set(on_branch(root).values()) == left
    shutil.rmtree(home)


def test_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    root = repository(tmp_path / "lab")
    texts = {leave(tmp_path / f"{writer}-{one}", 10 * writer + one) for writer in range(3) for one in range(5)}
    code = """
import os, sys, time
from pathlib import Path
from flows.lineage import record_branch
root, home, writer = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
(home / f"ready{writer}").touch()
while not (home / "go").exists():
    time.sleep(0.001)
for one in range(5):
    os.environ["PALIMPSEST_RECORDS"] = str(home / f"{writer}-{one}" / ".palimpsest" / "records")
    record_branch.collect(root)
"""
    words = [sys.executable, "-c", code, str(root), str(tmp_path)]
    writers = [subprocess.Popen([*words, str(writer)], env=ENV, cwd=ROOT) for writer in range(3)]
    wait(lambda: len([*tmp_path.glob("ready*")]) == len(writers))
    (tmp_path / "go").touch()
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert set(on_branch(root).values()) == texts


def test_what_is_in_the_way_is_one_line(tmp_path: Path) -> None:
    root = repository(tmp_path)
    leave(root, 0)
    run(root, "branch", "palimpsest")
    with pytest.raises(InputError, match=f"branch '{BRANCH}': .*give the other branch another name") as caught:
        collect.collect(root)
    assert "\n" not in str(caught.value)
    run(root, "branch", "-D", "palimpsest")
    assert collect.collect(root).new == 1
    run(root, "switch", "-q", BRANCH)
    with pytest.raises(InputError, match=f"branch '{BRANCH}' is checked out in .*switch --detach"):
        collect.collect(root)


def test_a_queued_experiments_records_are_the_projects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / "lab" / ".dvc" / "tmp" / "exps" / "tmpq1" / "sub"  # where DVC's workers check it out
    inside.mkdir(parents=True)
    monkeypatch.delenv("PALIMPSEST_RECORDS", raising=False)
    monkeypatch.chdir(inside)
    assert record.home() == tmp_path / "lab" / ".palimpsest" / "records"
    monkeypatch.setenv("PALIMPSEST_RECORDS", "mine")
    assert record.home() == tmp_path / "lab" / "mine"
    monkeypatch.setenv("PALIMPSEST_RECORDS", str(tmp_path / "all"))
    assert record.home() == tmp_path / "all"
    monkeypatch.chdir(tmp_path / "lab")
    monkeypatch.delenv("PALIMPSEST_RECORDS")
    assert record.home() == Path(".palimpsest/records")


def records(root: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted((root / ".palimpsest" / "records").glob("*/*.json"))]


@pytest.mark.parametrize("way", ["", "labs/one"])
def test_the_record_of_an_experiment_elsewhere_comes_home(way: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """`dvc exp run --temp` runs in a checkout that it removes."""
    root = drawing(tmp_path_factory.mktemp("lab"), way).home  # DVC takes no experiment to a folder with `#` in its name
    with (root / "stages" / "draw.py").open("a") as file:
        file.write("# not committed\n")
    words = ["dvc", "exp", "run", "--temp", "-q", "-S", "draw.seed=2"]
    done = subprocess.run(words, cwd=root, env={**ENV, "PYTHONPATH": ""}, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not [*(root / ".dvc" / "tmp" / "exps" / "standalone").glob("tmp*")]
    (body,) = records(root)
    assert body["params"]["draw"]["seed"] == 2
    assert body["git"]["commit"] == run(root, "rev-parse", "HEAD")
    assert body["git"]["dirty"] == ["params.yaml", "stages/draw.py"]
    assert "+# not committed" in (root / ".palimpsest" / "records" / body["git"]["diff"]).read_text()
    experiment = run(root, "for-each-ref", "--format=%(objectname)", "refs/exps/*/*/*")
    assert body["outputs"]["data/raw/portraits"] in run(root, "show", f"{experiment}:./dvc.lock")
