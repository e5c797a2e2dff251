"""The command `git` in one checkout: no hooks, prompts or needless locks, and the same whatever the user has set."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from stages.runs.errors import InputError

# What Git tells its hooks and aliases, and what is set for one command; it would lead another elsewhere.
LEADING = (
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX",
    "GIT_NAMESPACE", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_DEFAULT_HASH",
    "GIT_LITERAL_PATHSPECS", "GIT_GLOB_PATHSPECS", "GIT_NOGLOB_PATHSPECS", "GIT_ICASE_PATHSPECS",
)  # fmt: skip
QUIET = {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
# The user's settings stay in force (`safe.directory`, `core.excludesFile`, filters); these would change what comes out.
PINNED = {
    "core.hooksPath": "/dev/null",  # hooks are for the user's own commands: DVC's would check data out
    "core.fsmonitor": "false",  # a hook as well
    "core.quotePath": "false",
    "core.splitIndex": "false",  # DVC 3.67.1 cannot read the worktree's index else
    "core.untrackedCache": "false",
    "index.version": "2",
    "index.skipHash": "false",
    "color.ui": "false",
    "grep.patternType": "default",
    "grep.extendedRegexp": "false",
    "log.showSignature": "false",
    "i18n.commitEncoding": "UTF-8",
    "i18n.logOutputEncoding": "UTF-8",
    "commit.gpgSign": "false",  # a signature asks for a password, and nobody is there
    "tag.gpgSign": "false",
    "tag.forceSignAnnotated": "false",
    "submodule.recurse": "false",
    "protocol.file.allow": "always",  # submodules come from the user's checkout
    "gc.auto": "0",
    "maintenance.auto": "false",
}


class GitError(InputError):
    """Git has refused; the message is its own, in one line."""

    def __init__(self, message: str, code: int) -> None:
        """`code` is Git's exit code."""
        super().__init__(message)
        self.code = code

    @property
    def no_repository(self) -> bool:
        """Whether there is no Git repository, or what leads to it is broken."""
        return "not a git repository" in str(self) or "invalid gitfile format" in str(self)


class Git:
    """Git in the checkout `home`: `Git(home)("status")` runs `git status` there. Paths are relative to `home`."""

    def __init__(self, home: Path, **variables: str) -> None:
        """`variables` are added to its commands' environment."""
        self.home = home
        self._variables = variables

    def __call__(self, *words: str, stdin: str | None = None) -> str:
        """What `git WORDS` prints, without the last newline. Raises GitError where it fails."""
        pinned = [word for key, value in PINNED.items() for word in ("-c", f"{key}={value}")]
        try:
            done = subprocess.run(
                ["git", *pinned, *words],
                cwd=self.home,
                env={**environment(), **QUIET, **self._variables},
                input=b"" if stdin is None else stdin.encode("utf-8", "surrogateescape"),
                capture_output=True,
                check=False,
            )
        except FileNotFoundError as error:
            said = "no such program; install Git" if error.filename == "git" else "no such folder"
            raise GitError(f"{error.filename}: {said}", 127) from None
        out, told = (text.decode("utf-8", "surrogateescape") for text in (done.stdout, done.stderr))
        if done.returncode:
            said = " ".join(told.split()) or f"exit code {done.returncode}"
            raise GitError(f"git {words[2] if words[0] == '-c' else words[0]}: {said}", done.returncode)
        return out.removesuffix("\n")

    def paths(self, *words: str) -> list[str]:
        """What `git WORDS -z` lists."""
        return [name for name in self(words[0], "-z", *words[1:]).split("\0") if name]

    def top(self) -> Path:
        """The checkout's top folder, which `home` is or lies in."""
        return Path(self("rev-parse", "--show-toplevel"))

    @functools.cached_property
    def prefix(self) -> str:
        """The way from the top folder to `home`: empty, or with a slash at its end."""
        return self("rev-parse", "--show-prefix")

    def folder(self) -> Path:
        """The Git folder of this checkout alone."""
        return Path(self("rev-parse", "--absolute-git-dir"))

    def common(self) -> Path:
        """The `.git` folder that all worktrees of the repository share."""
        return Path(self("rev-parse", "--path-format=absolute", "--git-common-dir"))

    def require_author(self) -> None:
        """Raise InputError where Git does not know who commits."""
        try:
            self("-c", "user.useConfigOnly=true", "var", "GIT_COMMITTER_IDENT")
            self("-c", "user.useConfigOnly=true", "var", "GIT_AUTHOR_IDENT")
        except GitError as error:
            raise InputError(
                "Git does not know who commits: `git config user.name NAME` and `git config user.email ADDRESS` "
                f"({str(error).rpartition('fatal: ')[2]})"
            ) from None

    def commit(self, rev: str) -> str | None:
        """The commit that `rev` names, or None."""
        try:
            return self("rev-parse", "--verify", "--quiet", "--end-of-options", f"{rev}^{{commit}}")
        except GitError as error:
            if error.code == 1:  # no such thing; of all else Git tells
                return None
            raise

    def setting(self, name: str) -> str | None:
        """The value of a setting, or None."""
        try:
            return self("config", "--get", name)
        except GitError as error:
            if error.code == 1:
                return None
            raise

    def reference(self, name: str) -> str | None:
        """What a reference points at by its full name, there or not; None where there is no such reference."""
        return self("for-each-ref", "--format=%(objectname)", name) or None

    def checked_out(self) -> dict[str, str]:
        """Where branches are checked out: the folder of the working copy by the branch's name."""
        found, place = {}, ""
        for line in self("worktree", "list", "--porcelain").splitlines():
            key, _, value = line.partition(" ")
            if key == "worktree":
                place = value
            elif key == "branch":
                found[value.removeprefix("refs/heads/")] = place
        return found

    def file(self, commit: str, path: str) -> str | None:
        """The text of a file as the commit has it, or None."""
        for entry in self.paths("ls-tree", commit, "--", path):
            about, _, name = entry.partition("\t")
            _, kind, blob = about.split(" ")
            if kind == "blob" and name == path:
                return self("cat-file", "blob", blob)
        return None

    def changed(self, *paths: str) -> list[str]:
        """The files among these paths that are not as HEAD has them; those that Git does not follow are left out."""
        # `status` is the one that leaves the index alone.
        lines = self.paths("status", "--porcelain", "--untracked-files=no", "--no-renames", "--", *paths)
        return [line[3:].removeprefix(self.prefix) for line in lines]

    def blobs(self, names: Iterable[str]) -> dict[str, bytes]:
        """The bytes of objects by their names, read by one process. Raises GitError where one is missing."""
        wanted = list(names)
        if not wanted:
            return {}
        printed = self("cat-file", "--batch", stdin="".join(f"{name}\n" for name in wanted))
        rest, found = printed.encode("utf-8", "surrogateescape"), {}
        for name in wanted:
            head, _, rest = rest.partition(b"\n")
            if head.endswith(b" missing"):
                raise GitError(f"git cat-file: {name} is missing; fetch it, or restore the repository", 128)
            size = int(head.split()[2])
            found[name], rest = rest[:size], rest[size + 1 :]
        return found


def environment() -> dict[str, str]:
    """This process's environment, without the variables that would lead Git to another checkout."""
    return {name: value for name, value in os.environ.items() if name not in LEADING}
