"""Git submodules, in copies of the user's checkout: as the checkout has them, without its remotes and its settings."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from flows.checkout.git import Git, GitError
from stages.runs.errors import InputError


def commits(git: Git) -> Iterator[tuple[str, str]]:
    """The path of each submodule in the index, and the commit that it is to be at."""
    for entry in git.paths("ls-files", "--stage"):
        about, _, path = entry.partition("\t")
        mode, commit, _ = about.split(" ")
        if mode == "160000":
            yield path, commit


def populate(ours: Path, theirs: Path) -> None:
    """Bring the submodules of the checkout `ours` to their commits; those that `theirs` has empty stay as they are.

    They are clones of the ones in `theirs`. Raises InputError where one of these lacks the commit.
    """
    for path, commit in commits(Git(ours)):
        source, target = theirs / path, ours / path
        if (source / ".git").exists():
            _check_out(commit, source, target)
            populate(target, source)


def _check_out(commit: str, source: Path, target: Path) -> None:
    for anew in (False, True):  # a kill may have left half a clone
        try:
            if anew or not (target / ".git").is_dir():
                shutil.rmtree(target, ignore_errors=True)
                Git(source)("clone", "--quiet", "--no-checkout", "--template=", ".", str(target))
            git = Git(target)
            if git.commit(commit) is None:
                git("fetch", "--quiet", "--force", str(source), "HEAD", "refs/*:refs/theirs/*")
            git("checkout", "--quiet", "--force", "--detach", commit)
            return
        except GitError as error:
            if anew:
                raise InputError(
                    f"{source}: this submodule cannot be brought to {commit[:10]}: {error}; "
                    "`git submodule update --init --recursive`"
                ) from None
