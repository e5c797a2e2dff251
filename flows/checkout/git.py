"""Git as a command, quiet and for one checkout: no hooks, no prompts, no locks that it could do without."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from stages.runs.errors import InputError

# What Git tells its hooks and aliases; it would lead a command elsewhere.
LEADING = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX")


class GitError(InputError):
    """Git has refused; the message is its own, in one line."""


class Git:
    """The checkout in the folder `home`."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def __call__(self, *words: str, stdin: str | None = None) -> str:
        """What `git WORDS` prints, without the last newline. Raises GitError where it fails."""
        # Hooks are the user's, for the user's own commands: DVC's would check data out.
        done = subprocess.run(
            ["git", "-c", "core.hooksPath=/dev/null", *words],
            cwd=self.home,
            env={**environment(), "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"},
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

    def commit(self, rev: str) -> str | None:
        """The commit that `rev` names, or None."""
        try:
            return self("rev-parse", "--verify", "--quiet", "--end-of-options", f"{rev}^{{commit}}")
        except GitError:
            return None

    def file(self, commit: str, path: str) -> str | None:
        """The text of a file as the commit has it, or None."""
        try:
            return self("cat-file", "blob", f"{commit}:{path}")
        except GitError:
            return None


def environment() -> dict[str, str]:
    """This process's, without what would lead Git to another checkout."""
    return {name: value for name, value in os.environ.items() if name not in LEADING}
