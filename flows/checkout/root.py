"""Where the working copy is that a command was called in."""

from __future__ import annotations

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
    """The Git checkout that the current folder lies in. Raises InputError where it is none, or no DVC project."""
    try:
        top = Path(Git(Path.cwd())("rev-parse", "--show-toplevel"))
    except GitError:
        raise InputError("not inside a Git repository") from None
    if not (top / ".dvc").is_dir():
        raise InputError(f"{top}: no DVC project there; its folder has to be the repository's")
    return top
