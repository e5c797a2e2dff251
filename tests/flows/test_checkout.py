"""Retraining in other people's checkouts: their Git settings, submodules, monorepos, moved folders and odd names."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from configobj import ConfigObj
from dvc_project import ENV, command, end
from test_retrain import IDENTITY, STAGE, Lab, finish, job_of, make_template, plant

from flows.checkout import root, snapshot
from flows.checkout.git import Git, GitError
from flows.checkout.worktree import Worktree
from flows.operations import alerts
from flows.registry import decisions, history
from stages.runs.errors import InputError

HOSTILE = """
[grep]
    patternType = fixed
    extendedRegexp = true
[log]
    showSignature = true
    date = relative
[core]
    quotePath = true
    fsmonitor = {home}/hooks/trap
    hooksPath = {home}/hooks
    autocrlf = input
    splitIndex = true
    abbrev = 4
    commentChar = F
    pager = false
    editor = false
[color]
    ui = always
[commit]
    gpgSign = true
[tag]
    gpgSign = true
    forceSignAnnotated = true
    sort = -creatordate
[gpg]
    program = {home}/hooks/trap
[user]
    signingKey = DEADBEEF
[init]
    templateDir = {home}/template
    defaultObjectFormat = sha256
    defaultBranch = trunk
[i18n]
    logOutputEncoding = ISO-8859-1
    commitEncoding = ISO-8859-1
[status]
    showUntrackedFiles = all
    relativePaths = false
    short = true
    branch = true
[diff]
    noprefix = true
    external = {home}/hooks/trap
[submodule]
    recurse = true
[fetch]
    prune = true
[transfer]
    fsckObjects = true
[worktree]
    guessRemote = true
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_template(tmp_path_factory.mktemp("template"))


@pytest.fixture
def environment(api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", api)
    for name, value in {**IDENTITY, "PATH": ENV["PATH"], "PYTHONPATH": ENV["PYTHONPATH"]}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def lab(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: None) -> Lab:
    monkeypatch.setenv("CONTROL", str(tmp_path / "control"))
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    lab = Lab(tmp_path)
    lab.git("status")
    return lab


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings of Git's that change all that they can; what a hook or a signing program leaves when it is run."""
    sprung = tmp_path / "sprung"
    (tmp_path / "hooks").mkdir()
    (tmp_path / "template" / "info").mkdir(parents=True)
    (tmp_path / "template" / "info" / "exclude").write_text("*\n")
    for name in ("trap", "post-checkout", "reference-transaction", "post-index-change", "pre-commit"):
        hook = tmp_path / "hooks" / name
        hook.write_text(f"#!/bin/sh\necho {name} >> '{sprung}'\nexit 1\n")
        hook.chmod(0o755)
    (tmp_path / "gitconfig").write_text(HOSTILE.format(home=tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    return sprung


def status(home: Path) -> str:
    return end(command("flows.cli", ["status"], home, os.environ))


def test_the_users_git_settings_change_nothing(lab: Lab, trap: Path) -> None:
    plant(lab, "a", system="ödland")
    lab.photos("good")
    (lab.root / "stages").mkdir()
    (lab.root / "stages" / "größe.py").write_text("staged")
    lab.git("add", "stages")
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", said.append)
        assert finish(lab).outcome == "promoted"
    assert "not committed, so without what has changed in: stages/größe.py" in said
    lab.photos("good", more=1)
    assert finish(lab).why == "the same checkpoint as the promoted one"
    decisions.rollback(lab.root)
    log = [(entry.decision.system, entry.decision.outcome) for entry in history.read(lab.git)]
    assert log == [("ödland", "promoted"), ("net", "promoted"), ("net", "rejected"), ("ödland", "rolled back")]
    assert lab.git("log", "-1", "--format=%s", "candidates").startswith("ödland rolled back: from ")
    assert "ödland-net v1.0.0 since" in status(lab.root)
    assert "gpgsig" not in lab.git("cat-file", "commit", "candidates")
    assert set(lab.git("tag", "--list").split()) == {
        "face-net@v1.0.0", "face-net#prod#1", "face-net#prod!#2", "ödland-net@v1.0.0", "ödland-net#prod#1",
    }  # fmt: skip
    assert lab.git.file("refs/tags/face-net@v1.0.0", "none.txt") == "none"
    assert not trap.exists(), trap.read_text()


def test_a_snapshot_is_of_the_files_as_they_are(lab: Lab, trap: Path, tmp_path: Path) -> None:
    (lab.root / "none.txt").write_bytes(b"two\r\nlines\r\n")
    lab.git("add", "none.txt")
    taken = snapshot.take(lab.root)
    assert snapshot.check_out(taken.commit, taken.bundle, tmp_path / "clone")
    assert (tmp_path / "clone" / "none.txt").read_bytes() == b"two\r\nlines\r\n"
    assert (tmp_path / "clone" / "stage.py").read_text() == STAGE
    assert not trap.exists(), trap.read_text()


def _repository(lab: Lab) -> None:
    root.repository()


def _commit(lab: Lab) -> None:
    lab.git.commit("main")


def _file(lab: Lab) -> None:
    lab.git.file("main", "none.txt")


def _prepare(lab: Lab) -> None:
    Worktree(lab.root, lab.worktree, 0).prepare("main")


@pytest.mark.parametrize("call", [_repository, _commit, _file, _prepare])
def test_git_says_itself_why_it_refuses(lab: Lab, monkeypatch: pytest.MonkeyPatch, call: Callable[[Lab], None]) -> None:
    monkeypatch.chdir(lab.root)
    _prepare(lab)
    kept = lab.worktree / "kept"
    kept.touch()
    if call is _prepare:  # it is refused for the worktree alone
        (lab.home / "gitconfig").write_text(f"[safe]\n    directory = {lab.root}\n")
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(lab.home / "gitconfig"))
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(InputError, match=r"dubious ownership in repository at .*safe\.directory"):
        call(lab)
    assert kept.exists(), "what Git refuses is not broken"


def test_a_broken_setting_is_no_missing_author(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in IDENTITY:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    with pytest.raises(InputError, match=r"does not know who commits: `git config user.name NAME` .* \(no email was"):
        decisions.ready(lab.git)
    with (lab.root / ".git" / "config").open("a") as file:
        file.write("[user\n")
    with pytest.raises(InputError, match=r"git rev-parse: fatal: bad config line \d+"):
        decisions.ready(Git(lab.root))


def test_what_git_does_not_have_is_told_from_what_is_broken(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (lab.git.commit("none"), lab.git.commit("HEAD:none.txt")) == (None, None)
    assert (lab.git.file("main", "none"), lab.git.file("main", "tables")) == (None, None)
    assert lab.git.file("main", "none.txt") == "none"
    assert alerts.promoted(lab.root) == (None, None)
    lost = lab.git("rev-parse", "main:none.txt")
    (lab.root / ".git" / "objects" / lost[:2] / lost[2:]).unlink()
    with pytest.raises(GitError, match="git cat-file: "):
        lab.git.file("main", "none.txt")
    plant(lab, "a")
    tip = lab.git("rev-parse", "candidates")
    (lab.root / ".git" / "objects" / tip[:2] / tip[2:]).unlink()
    _, why = alerts.promoted(lab.root)
    assert why is not None
    assert tip in why
    assert f"not known: git log: fatal: bad object {tip}" in status(lab.root)
    monkeypatch.chdir(lab.home)
    with pytest.raises(InputError, match=r"^not inside a Git repository$"):
        root.repository()
    monkeypatch.setenv("PATH", str(lab.home))
    with pytest.raises(InputError, match="git: no such program; install Git"):
        root.repository()


# --- Where the checkout lies ---


def test_a_checkout_that_was_moved_keeps_its_worktree(lab: Lab, tmp_path: Path) -> None:
    rev = lab.git("rev-parse", "HEAD")
    Worktree(lab.root, lab.worktree, 0).prepare(rev)
    kept = lab.worktree / "data" / "kept"
    kept.parent.mkdir()
    kept.write_text("made by a stage")
    moved = tmp_path / "moved"
    moved.mkdir()
    for folder in (lab.root, lab.worktree):
        folder.rename(moved / folder.name)
    tree = Worktree(moved / "lab", moved / "lab-retrain", 0)
    tree.prepare(rev)
    assert (moved / "lab-retrain" / "data" / "kept").exists(), "what was made there is not made again"
    assert tree.git("rev-parse", "HEAD") == rev
    assert ConfigObj(str(tree.path / ".dvc" / "config.local"))["cache"]["dir"] == str(moved / "lab" / ".dvc" / "cache")

    # The checkout alone; its worktree is named.
    (moved / "lab").rename(tmp_path / "lab")
    tree = Worktree(lab.root, moved / "lab-retrain", 0)
    tree.prepare(rev)
    assert tree.git.common() == lab.root / ".git"
    assert (tree.path / "data" / "kept").exists()
    assert len(lab.git("worktree", "list").splitlines()) == 2

    # And not named: another is made, beside the checkout.
    (tmp_path / "away").mkdir()
    lab.root.rename(tmp_path / "away" / "lab")
    tree = Worktree(tmp_path / "away" / "lab", tmp_path / "away" / "lab-retrain", 0)
    tree.prepare(rev)
    assert (tree.path / "stage.py").exists()
    assert kept.with_name("kept") != tree.path / "data" / "kept"


def test_another_repositorys_worktree_of_the_same_name_is_not_taken(lab: Lab, tmp_path: Path) -> None:
    Worktree(lab.root, lab.worktree, 0).prepare("main")
    other = tmp_path / "other"
    other.mkdir()
    subprocess.run(["git", "clone", "-q", str(lab.root), str(other / "lab")], check=True)
    subprocess.run(["git", "worktree", "add", "-q", str(other / "lab-retrain")], cwd=other / "lab", check=True)
    shutil.move(other / "lab", other / "gone")  # its worktree leads nowhere now
    with pytest.raises(InputError, match="not retrain's worktree; move it away"):
        Worktree(lab.root, other / "lab-retrain", 0).prepare("main")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="not retrain's worktree; move it away"):
        Worktree(lab.root, tmp_path / "file", 0).prepare("main")


class Project(Lab):
    """A lab in another place: a folder of a repository, or a linked worktree."""

    def __init__(self, home: Path, root: Path, worktree: Path) -> None:
        super().__init__(home)
        self.root, self.worktree, self.git = root, worktree, Git(root)


def test_a_linked_worktree_under_any_name_is_a_checkout(
    template: Path, tmp_path: Path, environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "ü #1 %20, 'it'"
    monkeypatch.setenv("CONTROL", str(home / "control"))
    shutil.copytree(template, home)
    first = Lab(home)
    first.git("worktree", "add", "--quiet", "-b", "mine", str(home / "linked ö" / "mine"))
    lab = Project(home, home / "linked ö" / "mine", home / "linked ö" / "mine-retrain")
    shutil.copytree(first.root / "photos", lab.root / "photos")
    lab.photos("good")
    settings = "['remote \"store\"']\n    url = ../../rémote\n[core]\n    remote = store\n"
    (lab.root / ".dvc" / "config.local").write_text(settings)
    assert finish(lab).outcome == "promoted"
    assert lab.worktree.is_dir()
    assert history.promoted_now(first.root) == history.promoted_now(lab.root)
    assert history.promoted_now(lab.root).startswith("promoted now: face-net v1.0.0")
    assert list((home / "linked ö" / "rémote").iterdir()), "its data were pushed"
    assert lab.git("status", "--porcelain", "--branch") == "## mine"
    with job_of(lab) as job:
        job.do("refresh", print)
    assert (job.stale, job.news) == ([], False)


# --- The project below the repository's top; a linked worktree; submodules ---


@pytest.fixture
def mono(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: None) -> Path:
    """A repository with the lab as project `vision/lab`, another of its own as `vision/other`, and code above both."""
    monkeypatch.setenv("CONTROL", str(tmp_path / "control"))
    top = tmp_path / "mono"
    for name in ("lab", "other"):
        shutil.copytree(template / "lab", top / "vision" / name, ignore=shutil.ignore_patterns(".git"))
    (tmp_path / "control").mkdir()
    (top / "common.txt").write_text("shared")
    (top / "pictures").mkdir()
    (top / ".gitignore").write_text("/pictures/\n")
    pipeline = json.loads((top / "vision/lab/dvc.yaml").read_text())
    pipeline["stages"]["train"]["do"]["deps"] += ["../../common.txt", "../../pictures", "../../../beside"]
    (top / "vision/lab/dvc.yaml").write_text(json.dumps(pipeline))
    (tmp_path / "beside").write_text("beside the repository")
    git = Git(top)
    git("init", "--quiet", "-b", "main")
    git("add", "--all")
    git("commit", "--quiet", "-m", "Two projects")
    return top


def test_two_projects_of_one_repository(mono: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Project(tmp_path, mono / "vision/lab", tmp_path / "mono-vision-lab-retrain/vision/lab")
    other = Project(tmp_path, mono / "vision/other", tmp_path / "mono-vision-other-retrain/vision/other")
    lab.photos("good")
    monkeypatch.chdir(lab.root / "tables")
    assert root.repository() == lab.root
    (lab.root / "stage.py").write_text("half an edit")
    (lab.root / "params.yaml").write_text((lab.root / "params.yaml").read_text() + "\n")
    before = lab.git("status", "--porcelain=v2", "--branch"), (mono / ".git" / "index").read_bytes()
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", said.append)
        assert finish(lab).outcome == "promoted"
    assert "not committed, so without what has changed in: params.yaml" in said
    assert before == (lab.git("status", "--porcelain=v2", "--branch"), (mono / ".git" / "index").read_bytes())
    assert (lab.worktree / "data/models/net.safetensors").exists()
    assert (lab.worktree / "../../pictures").resolve() == mono / "pictures"
    assert history.promoted_now(lab.root).startswith("promoted now: vision/lab:face-net v1.0.0")
    assert history.promoted_now(other.root) == "nothing is promoted"
    first = lab.git("rev-parse", "vision/lab/promoted")

    plant(other, "a")
    plant(other, "b")
    decisions.settle(other.root)
    decisions.rollback(other.root)
    assert lab.git("rev-parse", "vision/lab/candidates") == first
    with job_of(other) as one, job_of(lab) as two:  # neither waits for the other
        assert one.worktree.top != two.worktree.top
        two.do("refresh", print)
    assert (two.stale, two.news) == ([], False)
    assert [entry.decision.outcome for entry in history.read(other.git)] == ["promoted", "promoted", "rolled back"]
    tags = set(lab.git("tag", "--list", "vision*").split())
    assert tags == {"vision/lab=face-net@v1.0.0", "vision/lab=face-net#prod#1"}
    shown = subprocess.run(["gto", "show"], cwd=mono, env=ENV, check=True, capture_output=True, text=True).stdout
    assert "vision/lab:face-net" in shown
    assert "vision/lab:face-net v1.0.0 since" in status(lab.root)
    said = end(command("flows.cli", ["retrain", "--rollback"], lab.root, {**os.environ, **IDENTITY}), 2)
    assert "nothing to go back to: no other promotion stands" in said[-1]


def test_projects_are_told_apart_by_names_that_git_and_gto_take() -> None:
    assert [root.label(way) for way in ("", "sub/", "a/b_c-D/")] == ["", "sub", "a/b_c-D"]
    odd = [root.label(way) for way in ("a b/", "a-b/", "a.b/", "ü~^:/.lock/", "=@{/..")]
    assert len(set(odd)) == 5
    for name in odd:
        subprocess.run(["git", "check-ref-format", f"refs/heads/{name}/candidates"], check=True)


ALLOW = "protocol.file.allow=always"


@pytest.fixture
def nested(lab: Lab, tmp_path: Path) -> str:
    """A submodule `lib` of the lab, with one of its own, and a second one that the user has left empty."""
    git = {}
    for name in ("deep", "lib"):
        git[name] = Git(tmp_path / name)
        (tmp_path / name).mkdir()
        git[name]("init", "--quiet", "-b", "main")
        (tmp_path / name / "code.txt").write_text(name)
        git[name]("add", ".")
        git[name]("commit", "--quiet", "-m", name)
    git["lib"]("-c", ALLOW, "submodule", "--quiet", "add", str(tmp_path / "deep"), "deep")
    git["lib"]("commit", "--quiet", "-m", "deep")
    for place in ("lib", "empty"):
        lab.git("-c", ALLOW, "submodule", "--quiet", "add", str(tmp_path / "lib"), place)
    lab.git("-c", ALLOW, "submodule", "--quiet", "update", "--init", "--recursive", "--", "lib")
    lab.git("commit", "--quiet", "-m", "lib")
    lab.git("-c", ALLOW, "submodule", "--quiet", "deinit", "--force", "empty")
    for name in ("lib", "deep"):
        (tmp_path / name).rename(tmp_path / f"{name}-away")  # there is no network
    return lab.git("rev-parse", "HEAD")


def test_submodules_are_as_in_the_checkout(lab: Lab, nested: str) -> None:
    before = (lab.root / ".git" / "config").read_text()
    tree = Worktree(lab.root, lab.worktree, 0)
    tree.prepare(nested)
    assert [(tree.path / name).read_text() for name in ("lib/code.txt", "lib/deep/code.txt")] == ["lib", "deep"]
    assert [*(tree.path / "empty").iterdir()] == []
    assert tree.git("status", "--porcelain") == ""
    assert tree.tree([]) == lab.git("rev-parse", f"{nested}^{{tree}}")

    # Another commit of it, and half a clone that a kill has left.
    (lab.root / "lib" / "code.txt").write_text("new")
    Git(lab.root / "lib")("commit", "--quiet", "--all", "-m", "new")
    lab.git("commit", "--quiet", "--all", "-m", "lib is new")
    tree.prepare(lab.git("rev-parse", "HEAD"))
    assert (tree.path / "lib" / "code.txt").read_text() == "new"
    shutil.rmtree(tree.path / "lib" / ".git" / "objects")
    tree.prepare(nested)
    assert (tree.path / "lib" / "code.txt").read_text() == "lib"
    assert (lab.root / ".git" / "config").read_text() == before
    made = f"160000,{'1' * 40},lib"
    lab.git("update-index", "--cacheinfo", made)
    lab.git("commit", "--quiet", "-m", "nowhere")
    with pytest.raises(InputError, match=r"lib: this submodule cannot be brought to 1111111111: .*; `git submodule "):
        tree.prepare(lab.git("rev-parse", "HEAD"))


def test_a_snapshot_carries_the_files_of_submodules(lab: Lab, nested: str, tmp_path: Path) -> None:
    (lab.root / "lib" / "deep" / "code.txt").write_text("not committed")
    taken = snapshot.take(lab.root)
    clone = tmp_path / "clone"
    assert snapshot.check_out(taken.commit, taken.bundle, clone)
    assert [(clone / name).read_text() for name in ("lib/code.txt", "lib/deep/code.txt")] == ["lib", "not committed"]
    assert (clone / "stage.py").read_text() == STAGE
    assert snapshot.take(lab.root).commit == taken.commit
    assert lab.git("ls-files", "--stage", "lib").startswith("160000 "), "the user's index is only read"
