"""What a record says of Git: the commit, and a patch that makes of its files those that ran."""

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from stages.runs import git, record

ENDS = record.SOURCES
COUNTED = ("stages", "dvc.yaml", "params.yaml")
# What some users set, and some break.
HOSTILE = """
[user]
    name =
[core]
    quotePath = false
    pager = false
    hooksPath = /nowhere/hooks
    fsmonitor = /nowhere/monitor
    safecrlf = true
    splitIndex = true
    untrackedCache = true
    attributesFile = /nowhere/attributes
[color]
    ui = always
[diff]
    external = false
    noprefix = true
    mnemonicPrefix = true
    context = 0
    algorithm = patience
    relative = false
    renames = copies
    orderFile = /nowhere/order
[commit]
    gpgSign = true
[status]
    showUntrackedFiles = no
"""


def run(home: Path, *words: str) -> str:
    identity = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "commit.gpgSign=false")
    return subprocess.run(["git", *identity, *words], cwd=home, check=True, capture_output=True, text=True).stdout


def project(top: Path, way: str = "", *options: str) -> Path:
    """A repository at `top` with one commit, whose project lies in its folder `way`."""
    root = top / way
    (root / "stages" / "pages").mkdir(parents=True)
    for name in ("a.py", "ü b.py", "pages/page.html.j2"):
        (root / "stages" / name).write_text("".join(f"{name} {number}\n" for number in range(50)))
    (root / "stages" / "note.txt").write_text("not code")
    (root / "dvc.yaml").write_text("stages: {}\n")
    (root / "params.yaml").write_text("draw: {seed: 1}\n")
    (top / ".gitignore").write_text("ignored.py\n")
    run(top, "init", "-q", *options)
    run(top, "add", "-A")
    run(top, "commit", "-qm", "first")
    return root


def counted(root: Path) -> dict[str, bytes]:
    """What counts, by its path."""
    files = [path for path in root.rglob("*") if path.is_file() and path.relative_to(root).parts[0] in COUNTED]
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in files
        if path.name.endswith(ENDS) or path.name in git.WIRING
    }


def folder(home: Path) -> dict[str, bytes]:
    """All that lies in a folder, Git's own included."""
    return {str(path.relative_to(home)): path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file()}


def edit(root: Path, rng: random.Random) -> None:
    """Some of what people do and do not commit."""
    texts = [b"", b"x = 1", b"x = 1\r\ny = 2\r\n", b"\xff\0\n" * 9, "# ü\n".encode() * rng.randint(1, 99)]
    names = ["stages/a.py", "stages/ü b.py", "stages/new.py", "stages/deep/er/new.css", "stages/ignored.py",
             "stages/pages/page.html.j2", "dvc.yaml", "params.yaml", "stages/note.txt", 'stages/"q\t.py']  # fmt: skip
    for name in rng.sample(names, rng.randint(1, 6)):
        file = root / name
        if file.exists() and rng.random() < 0.3:
            file.unlink()
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(rng.choice(texts))
        if rng.random() < 0.3 and "note" not in name:
            run(root, "add", "-A", "-f", "--", "stages")  # staged, and then maybe edited again


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".gitconfig").write_text(HOSTILE)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("GIT_CONFIG_GLOBAL", raising=False)


@pytest.mark.parametrize("where", ["top", "subfolder", "worktree", "sha256", "hostile"])
def test_commit_and_patch_give_the_files_that_ran(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    top = tmp_path / "ü #1"
    way = "labs/in painting" if where in ("subfolder", "hostile") else ""
    root = project(top, way, *(["--object-format=sha256"] if where == "sha256" else []))
    if where == "worktree":
        run(top, "worktree", "add", "-q", "--detach", str(tmp_path / "tree"))
        root = tmp_path / "tree"
    if where == "hostile":
        request.getfixturevalue("hostile")
        monkeypatch.setenv("GIT_EXTERNAL_DIFF", "false")
    assert git.state(root, ENDS) == git.State(run(root, "rev-parse", "HEAD").strip(), [], b"")
    rng = random.Random(where)
    for number in range(4):
        edit(root, rng)
        with monkeypatch.context() as patched:
            for name in ("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE") if where == "hostile" else ():
                patched.setenv(name, "/nowhere")  # as a hook would have them
            before = folder(tmp_path)
            found = git.state(root, ENDS)
            assert folder(tmp_path) == before, "files, index and objects are as they were"
        assert found is not None
        clone = tmp_path / f"clone {number}"
        run(tmp_path, "clone", "-q", str(top), str(clone))
        run(clone, "checkout", "-q", "--detach", str(found.commit))
        committed = counted(clone / way)
        if found.patch:
            (tmp_path / "patch").write_bytes(found.patch)
            words = ["apply", *([f"--directory={way}"] if way else []), str(tmp_path / "patch")]
            run(clone, *words)
        now = counted(root)
        assert counted(clone / way) == now
        assert set(found.dirty) == {name for name in {*committed, *now} if committed.get(name) != now.get(name)}
        assert str(tmp_path).encode() not in found.patch
        shutil.rmtree(clone)


def test_without_git_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    root = project(tmp_path / "lab")
    for left in ("objects", "refs"):
        shutil.rmtree(root / ".git" / left)
    assert git.state(root, ENDS) is None, "a broken repository"
    shutil.rmtree(root / ".git")
    assert git.state(root, ENDS) is None, "no repository"
    run(root, "init", "-q")
    assert git.state(root, ENDS) == git.State(None, [], b""), "no commit yet"
    monkeypatch.setenv("PATH", os.devnull)
    assert git.state(root, ENDS) is None, "no program"


def test_ends_of_lines_that_git_turns_are_no_edit(tmp_path: Path) -> None:
    root = project(tmp_path)
    run(root, "config", "core.autocrlf", "true")
    file = root / "stages" / "a.py"
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert run(root, "diff", "--stat") == ""
    found = git.state(root, ENDS)
    assert found is not None
    assert (found.dirty, found.patch) == ([], b"")
