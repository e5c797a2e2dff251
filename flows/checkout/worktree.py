"""Retraining's own working copy: one persistent Git worktree, which shares DVC's cache with the user's checkout.

It lies beside the repository, so that data roots like `../photos` mean the same in both. Nothing here writes into the
user's checkout: neither its files nor its index, HEAD, branch or stash.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from flows.checkout import git
from flows.checkout.git import Git, GitError
from flows.engine import commands, run_cache
from flows.engine.repository import copy_configuration, opened, repair_read_write_lock
from flows.process.command import Runner, Say, Stopped
from stages.runs.errors import InputError

INTERRUPTED = "interrupted; run it again to go on"
MARK = "palimpsest"  # a file in the worktree's Git folder: its files are retrain's to overwrite


class StepError(Exception):
    """The candidate could not be made; the message says how and where to look, in one line. Nothing is promoted."""


class Worktree:
    """The worktree at `path` of the repository whose checkout is `root`; `lock` is one that its commands inherit."""

    def __init__(self, root: Path, path: Path, lock: int) -> None:
        self.root, self.path = root, path
        self.git = Git(path)
        self._runner = Runner(lock)

    def prepare(self, commit: str) -> None:
        """Bring the worktree to a commit, whatever a killed run has left; it is made where there is none.

        Data that are not Git's stay. Raises InputError where something else lies at its path.
        """
        main = Git(self.root)
        if _is_own(main):
            raise InputError("this is retrain's own worktree: run it in the repository's")
        if not self._usable(main):
            # Not pruned: a worktree of the user's on a drive that is away would be forgotten.
            main("worktree", "add", "--force", "--force", "--detach", "--no-checkout", str(self.path), commit)
        folder = self.git.folder()
        (folder / MARK).touch()
        for name in ("index.lock", "HEAD.lock"):  # a killed Git's; nobody else works here
            (folder / name).unlink(missing_ok=True)
        self.git("checkout", "--quiet", "--force", "--detach", commit)
        self.git("clean", "--quiet", "-d", "--force", "--", "data/start")
        copy_configuration(self.root, self.path)
        with opened(self.path) as repo:
            repair_read_write_lock(repo)

    def _usable(self, main: Git) -> bool:
        """Whether the worktree is there and is ours; the remains of a broken one are removed."""
        if not self.path.exists() or not any(self.path.iterdir()):
            return False
        with contextlib.suppress(GitError):
            if self.git.common() == main.common() and self.git("rev-parse", "--show-toplevel") == str(self.path):
                if _is_own(self.git):
                    return True
                if [file.name for file in self.path.iterdir()] == [".git"]:  # killed before it was marked
                    return True
                raise InputError(f"{self.path}: a worktree of your own; name another place with --worktree")
        link = self.path / ".git"
        target = link.read_text().removeprefix("gitdir: ").strip() if link.is_file() else ""
        if Path(target).parent != main.common() / "worktrees":
            raise InputError(f"{self.path}: not retrain's worktree; move it away, or name another with --worktree")
        if not Path(target, MARK).exists() and [file.name for file in self.path.iterdir()] != [".git"]:
            raise InputError(f"{self.path}: a broken worktree of your own; `git worktree repair`, or name another")
        shutil.rmtree(self.path)
        shutil.rmtree(target, ignore_errors=True)
        return False

    def write(self, path: str, text: str) -> None:
        """Write a file in the worktree."""
        file = self.path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def restore(self, commit: str, rev: str) -> None:
        """Restore what the candidate `commit`, made from `rev`, had: `dvc.lock`, the outputs that DVC leaves to Git,
        and imports as they were updated, unless they have been changed by hand since.
        """
        same = [name for name in commands.imports(self.path) if self.git.file(rev, name) == self.git.file("HEAD", name)]
        paths = ["dvc.lock", *commands.uncached(self.path), *same]
        if files := self.git.paths("ls-tree", "-r", "--name-only", commit, "--", *paths):
            self.git("restore", "--source", commit, "--worktree", "--", *files)

    def link(self, say: Say) -> None:
        """Link to the user's checkout what stages read and Git does not follow, as a folder of photos beside the code.

        Raises InputError for a path outside of the repository that is not there, seen from the worktree.
        """
        deps, made = commands.reads_and_makes(self.path)
        tracked = self.git.paths("ls-files")
        for dep in sorted(deps):
            name = os.path.relpath(dep, self.path)
            theirs = self.root / name
            if name.startswith(".."):
                if not Path(dep).exists() and theirs.exists():
                    raise InputError(
                        f"{name}: not there, seen from {self.path}; name a --worktree beside the repository, "
                        "or write the path absolute"
                    )
                continue
            if any(_within(dep, out) or _within(out, dep) for out in made):
                continue
            if any(_within(file, name) for file in tracked):
                if theirs.is_dir() and (count := _unseen(self.root, name)):
                    say(f"{name}: {count} files that Git does not follow beside others are left out; part the two")
                continue
            ours = Path(dep)
            if ours.is_symlink():
                ours.unlink()
            if theirs.exists() and not ours.exists():
                ours.parent.mkdir(parents=True, exist_ok=True)
                ours.symlink_to(theirs)

    def update(self, say: Say) -> None:
        """`dvc update` for what was imported. Raises DvcException where a source cannot be reached."""
        if names := commands.imports(self.path):
            say(f"dvc update {' '.join(names)}")
            commands.update(self.path, names, say)

    def tree(self, new: Iterable[str]) -> str:
        """The worktree's files as a Git tree: what Git follows, as it is now, and the files `new`."""
        files = [name for name in [*new, *commands.uncached(self.path), "dvc.lock"] if (self.path / name).exists()]
        self.git("add", "--update", "--", ".")
        self.git("add", "--force", "--", *files)
        return self.git("write-tree")

    def pushed(self) -> str | None:
        """The commit whose data `push` has sent."""
        file = self.git.folder() / "palimpsest-pushed"
        return file.read_text() if file.exists() else None

    def push(self, say: Say) -> str | None:
        """Send the data of the commit that is checked out to DVC's remote; what went wrong, in one line."""
        run_cache.forget_lists(self.path)
        code, last = self.run([sys.executable, "-m", "dvc", "push"], say)
        if code:
            return f"`dvc push`: {last}"
        (self.git.folder() / "palimpsest-pushed").write_text(self.git("rev-parse", "HEAD"))
        return None

    def run(self, words: Sequence[str], say: Say, **more: str | None) -> tuple[int, str]:
        """Run a command in the worktree: its exit code and the last line that it said; `say` gets every line.

        It does not outlive this process. `more` is added to its environment, None taken out.

        Raises StepError after `stop`.
        """
        environment = {name: value for name, value in {**git.environment(), **more}.items() if value is not None}
        try:
            return self._runner.run(words, say, cwd=self.path, env={**environment, "PYTHONUNBUFFERED": "1"})
        except Stopped:
            raise StepError(INTERRUPTED) from None

    def check(self) -> None:
        """Raise StepError after `stop`."""
        if self._runner.stopped:
            raise StepError(INTERRUPTED)

    def stop(self) -> None:
        """Let no other command begin, and end the one that runs as Ctrl-C does: it saves what it needs to go on."""
        self._runner.stop(signal.SIGINT)


def _unseen(root: Path, folder: str) -> int:
    others = Git(root).paths("ls-files", "--others", "--", folder)
    return len([name for name in others if "__pycache__" not in name])


def _is_own(git: Git) -> bool:
    return (git.folder() / MARK).exists()


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
