"""What Git has: every blob, where it can be reached from, and stashes that are written anew without some."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from flows.checkout.git import Git, environment
from flows.process import atomic_file

SMALL = 200  # bytes: no picture is in less

# What to do about what Git keeps. Each spares stashes and DVC's queue: `git reflog expire --all` would empty them.
IN_HISTORY = (
    "it was committed; `git filter-repo --strip-blobs-with-ids FILE`, where FILE has its digest in a line, takes it "
    "out, and all commits from that one on get other names"
)
IN_INDEX = "it is staged; `git rm --cached FILE`, then `git gc --prune=now`"
STASHED = "it is stashed; `git stash drop` there"
UNREACHED = (
    "`git -c gc.reflogExpireUnreachable=now -c 'gc.refs/exps/*.reflogExpireUnreachable=never' gc --prune=now` removes "
    "it, with all commits that no branch or tag leads to"
)


class Blob(NamedTuple):
    """A file as Git has it."""

    sha: str
    size: int


def blobs(git: Git) -> Iterator[tuple[Blob, bytes]]:
    """Every blob that Git has, reachable or not, but for the smallest."""
    form = "--batch-check=%(objecttype) %(objectname) %(objectsize)"
    said = git("cat-file", "--batch-all-objects", "--unordered", form)
    wanted = [
        Blob(sha, int(size))
        for kind, sha, size in (line.split() for line in said.splitlines())
        if kind == "blob" and int(size) >= SMALL
    ]
    process = subprocess.Popen(
        ["git", "cat-file", "--batch"],
        cwd=git.home,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin
    assert process.stdout
    with process:
        for blob in wanted:
            process.stdin.write(f"{blob.sha}\n".encode())
            process.stdin.flush()
            process.stdout.readline()
            yield blob, process.stdout.read(blob.size)
            process.stdout.read(1)
        process.stdin.close()


def reachable(git: Git) -> dict[str, str]:
    """The path of every object that a branch, a tag or any other reference leads to; the stash does not count."""
    return _paths(git, "--exclude=refs/stash", "--all")


def staged(git: Git) -> dict[str, str]:
    """The path of every object in the index of a working copy."""
    return _paths(git, "--indexed-objects")


def _paths(git: Git, *words: str) -> dict[str, str]:
    said = git("rev-list", "--objects", *words)
    return {sha: path for sha, _, path in (line.partition(" ") for line in said.splitlines())}


def stashes(git: Git) -> list[str]:
    """The stash's commits, the newest first."""
    if git.reference("refs/stash") is None:
        return []
    return git("log", "--walk-reflogs", "--format=%H", "refs/stash", "--").split()


def stashed(git: Git, commit: str) -> dict[str, str]:
    """The path of every blob in a stash: in its working copy, its index and its untracked files."""
    found = {}
    for parent in git("rev-list", "--parents", "-n", "1", commit).split():
        for line in git.paths("ls-tree", "-r", parent):
            about, _, path = line.partition("\t")
            found[about.split()[2]] = path
    return found


def rewrite_stash(git: Git, gone: Collection[str], notes: Path) -> None:
    """Write every stash that has one of these blobs anew without it, in its place; the others stay as they are.

    Git cannot do that in one step. What the stash is to become stands in the file `notes` meanwhile: where this was
    killed, `finish_stash` ends it, and no stash is lost.
    """
    every = _stash(git)
    new = [(_without(git, commit, gone), message) for commit, message in every]
    if new != every:
        replaced = {old: commit for (old, _), (commit, _) in zip(every, new, strict=True) if old != commit}
        atomic_file.write(notes, json.dumps({"new": new, "replaced": replaced}))
        finish_stash(git, notes)


def finish_stash(git: Git, notes: Path) -> None:
    """Let the stash become what `notes` say, if that file is there; what was stashed since is kept, too."""
    if not notes.is_file():
        return
    said = json.loads(notes.read_text())
    new = [(commit, message) for commit, message in said["new"]]
    known = {commit for commit, _ in new} | said["replaced"].keys()
    since = [(commit, message) for commit, message in _stash(git) if commit not in known]
    atomic_file.write(notes, json.dumps(said | {"new": since + new}))
    git("stash", "clear")
    for commit, message in reversed(since + new):
        git("stash", "store", "-m", message, commit)
    _forget(git, [*said["replaced"]])
    notes.unlink()


def _stash(git: Git) -> list[tuple[str, str]]:
    """The stash's commits and their messages, the newest first."""
    return [
        (commit, git("log", "-1", "--format=%gs", "--walk-reflogs", f"refs/stash@{{{number}}}", "--"))
        for number, commit in enumerate(stashes(git))
    ]


def _without(git: Git, commit: str, gone: Collection[str]) -> str:
    if not gone & stashed(git, commit).keys():
        return commit
    _, base, *others = git("rev-list", "--parents", "-n", "1", commit).split()
    parents = [base, *(_commit(git, other, gone) for other in others)]
    return _commit(git, commit, gone, parents)


def _commit(git: Git, commit: str, gone: Collection[str], parents: list[str] | None = None) -> str:
    """The commit with the same author, date and message, its tree without the blobs."""
    if parents is None:
        parents = git("rev-list", "--parents", "-n", "1", commit).split()[1:]
    about = git("log", "-1", "--format=%an%x00%ae%x00%ad%x00%B", "--date=raw", commit).split("\0")
    own = Git(git.home, GIT_AUTHOR_NAME=about[0], GIT_AUTHOR_EMAIL=about[1], GIT_AUTHOR_DATE=about[2],
              GIT_COMMITTER_NAME=about[0], GIT_COMMITTER_EMAIL=about[1], GIT_COMMITTER_DATE=about[2])  # fmt: skip
    words = [word for parent in parents for word in ("-p", parent)]
    return own("commit-tree", _tree(git, commit, gone), *words, "-F", "-", stdin=about[3])


def _tree(git: Git, commit: str, gone: Collection[str]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        own = Git(git.home, GIT_INDEX_FILE=str(Path(folder, "index")))
        own("read-tree", commit)
        lines = own.paths("ls-files", "--stage", "--full-name")
        dropped = [line.partition("\t")[2] for line in lines if line.split()[1] in gone]
        own("update-index", "--force-remove", "-z", "--stdin", stdin="".join(f"{path}\0" for path in dropped))
        return own("write-tree")


def _forget(git: Git, commits: list[str]) -> None:
    """Delete what only these commits led to, as far as it is not in a pack.

    Both sets are listed whole: what Git lists behind `--not` may have trees that others need.
    """
    needed = _objects(git, "--all", "--reflog", "--indexed-objects")
    for sha in _objects(git, *left(git, commits)) - needed:
        (git.common() / "objects" / sha[:2] / sha[2:]).unlink(missing_ok=True)


def _objects(git: Git, *words: str) -> set[str]:
    return {line.split()[0] for line in git("rev-list", "--objects", *words).splitlines()}


def left(git: Git, shas: Collection[str]) -> list[str]:
    """Those of the objects that Git still has."""
    said = git("cat-file", "--batch-check", stdin="".join(f"{sha}\n" for sha in shas))
    return [line.split()[0] for line in said.splitlines() if not line.endswith("missing")]
