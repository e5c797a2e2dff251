"""Where the working copy is that a command was called in."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

from flows.checkout.git import Git, GitError
from stages.runs.errors import InputError


def working_copy() -> Path:
    """The DVC project that the current folder lies in, found without DVC. Raises InputError outside one."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / ".dvc").is_dir():
            return folder
    raise InputError(f"{here}: no working copy (there is no folder .dvc here or above)")


def repository() -> Path:
    """The DVC project that the current folder lies in, in a Git checkout: at its top or below. Raises InputError."""
    try:
        Git(Path.cwd()).top()
    except GitError as error:
        if error.no_repository:
            raise InputError("not inside a Git repository") from None
        raise
    root = working_copy()
    Git(root).top()  # an outer project's folder may lie above the checkout
    return root


def label(prefix: str) -> str:
    """What tells the projects of one repository apart, in names of branches, tags and files; empty for that at its top.

    `prefix` is the way to the project, as in `Git.prefix`. Other letters than Git and GTO take are replaced, and a
    digest is added then.
    """
    way = prefix.rstrip("/")
    kept = re.sub(r"[^A-Za-z0-9_/-]", "-", way)
    return kept if kept == way else f"{kept}-{sha256(way.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def retrain_worktree(root: Path) -> Path:
    """Where the worktree of retrain is for the project at `root`: beside the checkout, as its relative paths need.

    Raises GitError outside of a Git repository.
    """
    return _beside(root, "retrain")


def study_worktree(root: Path, number: int) -> Path:
    """Where a study has one of its worktrees; as `retrain_worktree`."""
    return _beside(root, f"study-{number}")


def retrain_lock(root: Path) -> Path:
    """The file on which a retraining of the project holds a lock."""
    return _lock(root, "retrain")


def study_lock(root: Path) -> Path:
    """The file on which a study of the project holds a lock."""
    return _lock(root, "study")


def _beside(root: Path, what: str) -> Path:
    git = Git(root)
    parts = [git.top().name, *filter(None, label(git.prefix).split("/")), what]
    return git.top().with_name("-".join(parts))


def _lock(root: Path, what: str) -> Path:
    git = Git(root)
    name = "-".join([f"palimpsest-{what}", *filter(None, label(git.prefix).split("/"))])
    return git.common() / f"{name}.lock"
