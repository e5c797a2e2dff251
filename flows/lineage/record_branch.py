"""The Git branch `palimpsest/records`, by which records travel from clone to clone.

Its tree is that of the folder of records: `STAGE/NAME.json`, `diffs/SHA256.patch`, and `attestations/SHA256.dsse`, by
which somebody vouches for a record (`attestation.py`). It only grows. Two clones' branches
are merged by union: where they have other bytes at one path, which two runs of the same facts leave, both stay, the
second as `NAME.BLOB.json`. All is written into Git's objects and this one reference: working copy and index are not
touched. A project in the repository's folder `sub` has `sub/palimpsest/records`.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
import time
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from flows.checkout.git import Git, GitError
from flows.checkout.root import label
from stages.runs import record
from stages.runs.errors import InputError

BRANCH = "palimpsest/records"
FILES = r"[^/\n\"]+/[0-9a-f]{{32}}{0}\.json|diffs/[0-9a-f]{{64}}{0}\.patch|attestations/[0-9a-f]{{64}}{0}\.dsse"
OURS = re.compile(FILES.format(""))  # what a run leaves in the folder
KEPT = re.compile(FILES.format(r"(\.[0-9a-f]{10})?"))  # on the branch, where a second file of one name is NAME.BLOB
TRIES = 20  # to write the branch while others do
PAUSE = 0.05  # seconds between two of them
# Nobody's name: it is written unattended, too.
WRITER = {f"GIT_{who}_{what}": "palimpsest" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


class Collected(NamedTuple):
    """What a call of `collect` has done."""

    branch: str
    commit: str | None  # where the branch points at now; None: there are no records at all
    records: int  # on it
    new: int  # records of them that it did not have before
    merged: list[str]  # references of other clones that had something new


def name(git: Git) -> str:
    """The branch of the project that is `git.home`."""
    folder = label(git.prefix)
    return f"{folder}/{BRANCH}" if folder else BRANCH


def files(git: Git, end: str) -> dict[str, bytes]:
    """The files whose names end so, on the branch and on those of other clones that have been fetched, by path."""
    found: dict[str, str] = {}
    for tip in _tips(git).values():
        _unite(found, _tree(git, tip))
    found = {path: blob for path, blob in found.items() if path.endswith(end)}
    texts = git.blobs(dict.fromkeys(found.values()))
    return {path: texts[blob] for path, blob in found.items()}


def lost(git: Git) -> dict[str, tuple[str, bytes]]:
    """Files that the branch has had and that no branch of its name has now: their paths and bytes, by blob.

    The commits before tell, and those at which the branches have pointed in this clone (Git's reflog). A file that has
    moved to where nobody reads it is lost. Files that are not what their names promise are left out: whoever takes
    these off does right.
    """
    tips = _tips(git)
    if not tips:
        return {}
    now = {blob for tip in tips.values() for path, blob in _tree(git, tip).items() if KEPT.fullmatch(path)}
    before = [commit for reference in tips for commit in _past(git, reference)]
    had = _had(git, [*tips.values(), *before])
    gone = [(path, blob) for path, blob in had if blob not in now and KEPT.fullmatch(path)]
    texts = git.blobs(dict.fromkeys(blob for _, blob in gone))
    return {blob: (path, texts[blob]) for path, blob in gone if _sound(path, texts[blob])}


def _had(git: Git, commits: list[str]) -> list[tuple[str, str]]:
    """The path and the blob of each file that these commits, or those before them, have brought; sorted."""
    every = git("rev-list", "--ignore-missing", *dict.fromkeys(commits))
    # What a merge has brought differs from one parent at least.
    words = ("diff-tree", "--stdin", "--no-commit-id", "-r", "-m", "--root", "--diff-filter=d", "-z")
    changes = git(*words, stdin=f"{every}\n").split("\0")
    pairs = [(path, about.split(" ")) for about, path in zip(changes[::2], changes[1::2], strict=False)]
    return sorted({(path, about[3]) for path, about in pairs if about[1] != "160000"})  # which is a submodule's commit


def _past(git: Git, reference: str) -> list[str]:
    """The commits at which a reference has pointed, as far as Git's reflog knows."""
    commits = git("log", "--walk-reflogs", "--format=%H", reference).split()
    with contextlib.suppress(GitError):  # the oldest change has made the reference
        commits += [git.commit(f"{reference}@{{{len(commits)}}}") or ""]
    return [commit for commit in commits if commit]


def collect(root: Path) -> Collected:
    """Bring to the branch what it lacks: records of the project's folder, and those of fetched branches of its name.

    Raises InputError where the branch cannot be written.
    """
    git = Git(root)
    branch = name(git)
    if place := git.checked_out().get(branch):
        raise InputError(
            f"branch '{branch}' is checked out in {place}, which would be upset when it grows: "
            f"`git -C {place} switch --detach`"
        )
    for left in reversed(range(TRIES)):
        try:
            return _collect(git, branch, root / record.home())
        except GitError as error:  # another process was writing it, most often
            if "; cannot create" in str(error):
                raise InputError(f"branch '{branch}': {error}; give the other branch another name") from None
            if not left:
                raise
            time.sleep(PAUSE)
    raise AssertionError


def _collect(git: Git, branch: str, folder: Path) -> Collected:
    reference = f"refs/heads/{branch}"
    tips = _tips(git)
    own = tips.get(reference)
    trees = {tip: _tree(git, tip) for tip in tips.values()}
    before = trees[own] if own else {}
    # Those that no other one contains.
    heads = git("merge-base", "--independent", *trees).splitlines() if len(trees) > 1 else list(trees)
    heads.sort(key=lambda tip: tip != own)
    base = dict(trees[heads[0]]) if heads else {}
    united = dict(base)
    for tree in trees.values():
        _unite(united, tree)
    _unite(united, _kept(git, folder, set(united.values())))
    added = {path: blob for path, blob in united.items() if base.get(path) != blob}
    commit = own
    if added or len(heads) > 1:
        commit = _write(git, reference, own, heads, added)
    elif heads and heads[0] != own:
        commit = heads[0]
        _move(git, reference, own, commit)
    known = set(before.values())
    new = [path for path, blob in united.items() if path.endswith(".json") and blob not in known]
    merged = [other for other, tip in tips.items() if other != reference and set(trees[tip].values()) - known]
    return Collected(branch, commit, sum(path.endswith(".json") for path in united), len(new), merged)


def _tips(git: Git) -> dict[str, str]:
    """The commits of the branch, and of the remotes' that have been fetched, by their references."""
    branch = name(git)
    lines = git("for-each-ref", "--format=%(objectname) %(refname)", f"refs/heads/{branch}", f"refs/remotes/*/{branch}")
    found = (line.split(" ", 1) for line in lines.splitlines())
    return {reference: commit for commit, reference in found}


def _tree(git: Git, commit: str) -> dict[str, str]:
    """The blobs of a commit, by path from its top, wherever the project lies."""
    entries = (entry.partition("\t") for entry in git.paths("ls-tree", "-r", "--full-tree", commit))
    return {path: about.split(" ")[2] for about, _, path in entries if about.split(" ")[1] == "blob"}


def _unite(found: dict[str, str], more: dict[str, str]) -> None:
    """Add what has other bytes than all that is there, beside what has its path."""
    known = set(found.values())
    for path, blob in more.items():
        if blob not in known:
            place = PurePosixPath(path)
            found[path if path not in found else str(place.with_suffix(f".{blob[:10]}{place.suffix}"))] = blob


def _kept(git: Git, folder: Path, known: set[str]) -> dict[str, str]:
    """The blobs of the folder's files by path; those that are not `known` are written into Git's objects.

    Damaged files stay where they are: what comes to the branch stays on it.
    """
    names = [file.relative_to(folder).as_posix() for file in sorted(folder.glob("*/*")) if file.is_file()]
    names = [name for name in names if OURS.fullmatch(name) and _sound(name, (folder / name).read_bytes())]
    here = Git(folder, GIT_DIR=str(git.folder()))  # the folder may lie anywhere

    def blobs(names: list[str], *options: str) -> list[str]:
        words = ("hash-object", *options, "--no-filters", "--stdin-paths")
        return here(*words, stdin="".join(f"{name}\n" for name in names)).split() if names else []

    found = dict(zip(names, blobs(names), strict=True))
    blobs([name for name, blob in found.items() if blob not in known], "-w")
    return found


def _sound(path: str, data: bytes) -> bool:
    """Whether a file is what its name promises; of a record of a newer format that is not known."""
    name = PurePosixPath(path).name.partition(".")[0]
    if not path.endswith(".json"):
        return sha256(data).hexdigest() == name
    try:
        body = record.parse(data, path)
    except record.Newer:
        return True
    except InputError:
        return False
    return record.whole(body) and body["digest"] == name


def _write(git: Git, reference: str, own: str | None, heads: list[str], added: dict[str, str]) -> str:
    """A commit on top of `heads`, with files added to the first one's; the reference moves if it is still at `own`."""
    with tempfile.TemporaryDirectory() as home:
        apart = Git(git.home, GIT_INDEX_FILE=f"{home}/index", **WRITER)
        if heads:
            apart("read-tree", heads[0])
        lines = "".join(f"100644 {blob}\t{path}\0" for path, blob in added.items())
        apart("update-index", "--add", "-z", "--index-info", stdin=lines)
        parents = [word for head in heads for word in ("-p", head)]
        count = sum(path.endswith(".json") for path in added)
        said = f"{count} records" if count else "Two clones' records"
        commit = apart("commit-tree", apart("write-tree"), *parents, "-m", said)
    _move(git, reference, own, commit)
    return commit


def _move(git: Git, reference: str, old: str | None, commit: str) -> None:
    git("update-ref", "-m", "records", "--create-reflog", reference, commit, old or "0" * len(commit))
