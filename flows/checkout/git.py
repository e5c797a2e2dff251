"""The command `git` in one checkout, without hooks, prompts and locks that it can do without."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

from stages.runs.errors import InputError

# What Git tells its hooks and aliases; it would lead a command elsewhere.
LEADING = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX")
QUIET = {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}


class GitError(InputError):
    """Git has refused; the message is its own, in one line."""


class Git:
    """Git in the checkout `home`: `Git(home)("status")` runs `git status` there."""

    def __init__(self, home: Path, **variables: str) -> None:
        """`variables` are added to its commands' environment."""
        self.home = home
        self._variables = variables

    def __call__(self, *words: str, stdin: str | None = None) -> str:
        """What `git WORDS` prints, without the last newline. Raises GitError where it fails."""
        # Hooks are the user's, for the user's own commands: DVC's would check data out.
        done = subprocess.run(
            ["git", "-c", "core.hooksPath=/dev/null", *words],
            cwd=self.home,
            env={**environment(), **QUIET, **self._variables},
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            check=False,
        )
        if done.returncode:
            said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
            raise GitError(f"git {words[0]}: {said}")
        return done.stdout.removesuffix("\n")

    def paths(self, *words: str) -> list[str]:
        """What `git WORDS -z` lists."""
        return [name for name in self(words[0], "-z", *words[1:]).split("\0") if name]

    def folder(self) -> Path:
        """The Git folder of this checkout alone."""
        return Path(self("rev-parse", "--absolute-git-dir"))

    def common(self) -> Path:
        """The `.git` folder that all worktrees of the repository share."""
        return Path(self("rev-parse", "--path-format=absolute", "--git-common-dir"))

    def commit(self, rev: str) -> str | None:
        """The commit that `rev` names, or None."""
        with contextlib.suppress(GitError):
            return self("rev-parse", "--verify", "--quiet", "--end-of-options", f"{rev}^{{commit}}")
        return None

    def file(self, commit: str, path: str) -> str | None:
        """The text of a file as the commit has it, or None."""
        with contextlib.suppress(GitError):
            return self("cat-file", "blob", f"{commit}:{path}")
        return None


def environment() -> dict[str, str]:
    """This process's environment, without the variables that would lead Git to another checkout."""
    return {name: value for name, value in os.environ.items() if name not in LEADING}
