"""A working copy of palimpsest's own: a Git worktree, which shares DVC's cache with the user's checkout.

Retraining has one that stays, a study has one for each run at a time. It lies beside the repository, so that data
roots like `../photos` mean the same in both. Where the project is a subfolder of the repository, the worktree is of
all of it, and the commands run in the subfolder. Nothing here writes into the user's checkout: neither its files nor
its index, HEAD, branch or stash.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from flows.checkout import git, submodules
from flows.checkout.git import Git, GitError
from flows.engine import commands, run_cache
from flows.engine.repository import copy_configuration, opened, repair_read_write_lock
from flows.process.command import Runner, Say, Stopped
from stages.runs.errors import InputError

INTERRUPTED = "interrupted; run it again to go on"
LACKING = "Missing cache files"  # what `dvc push` says of files that it does not have, and its exit code does not
MARK = "palimpsest"  # a file in the worktree's Git folder: its files are ours to overwrite; it names the project
RETRAIN = "retrain", "move it away, or name another with --worktree"


class StepError(Exception):
    """What was to be made could not be made; the message says how and where to look, in one line."""


class Worktree:
    """The worktree at `top` of the repository in which the user's project `root` lies.

    `path` is the project in it; `locks` are descriptors of file locks that its commands inherit.
    """

    def __init__(self, root: Path, top: Path, *locks: int, owner: tuple[str, str] = RETRAIN) -> None:
        """`owner` is the command whose worktree it is, and what to do where something else lies at `top`."""
        self.root, self.top = root, top
        self._owner, self._remedy = owner
        self._main = Git(root)
        self.path = top / self._main.prefix
        self.git = Git(self.path)
        self._tree = Git(top)
        self._runner = Runner(*locks)

    def prepare(self, commit: str) -> None:
        """Bring the worktree to a commit, whatever a killed run has left; it is made where there is none.

        Data that are not Git's stay. Raises InputError where something else lies at its path.
        """
        if _mark(self._main.folder()) is not None:
            raise InputError("this is a worktree of palimpsest's own: run it in the repository's")
        if not self._usable():
            # Not pruned: a worktree of the user's on a drive that is away would be forgotten.
            self._main("worktree", "add", "--force", "--force", "--detach", "--no-checkout", str(self.top), commit)
        folder = self._tree.folder()
        (folder / MARK).write_text(self._main.prefix)
        for name in ("index.lock", "HEAD.lock"):  # a killed Git's; nobody else works here
            (folder / name).unlink(missing_ok=True)
        self._tree("checkout", "--quiet", "--force", "--detach", commit)
        if not self.path.is_dir():
            raise InputError(f"{self._main.prefix}: commit {commit[:10]} has no such folder; `git add` and commit it")
        submodules.populate(self.top, self._main.top())
        self.git("clean", "--quiet", "-d", "--force", "--", "data/start")
        copy_configuration(self.root, self.path)
        with opened(self.path) as repo:
            repair_read_write_lock(repo)

    def _usable(self) -> bool:
        """Whether the worktree is there and is ours; the remains of a broken one are removed."""
        if not self.top.exists() or (self.top.is_dir() and not any(self.top.iterdir())):
            return False
        admin = self._admin()
        if admin is None:
            raise InputError(f"{self.top}: not {self._owner}'s worktree; {self._remedy}")
        bare = [file.name for file in self.top.iterdir()] == [".git"]  # killed before it was marked
        mark = _mark(admin)
        if self._linked():
            if mark == self._main.prefix or (mark is None and bare):
                return True
            if mark is not None:
                whose = f"{self._owner}'s for the project in {mark or 'the top folder'}"
                raise InputError(f"{self.top}: {whose}; {self._remedy}")
            raise InputError(f"{self.top}: a worktree of your own; {self._remedy}")
        if mark is None and not bare:
            raise InputError(f"{self.top}: a broken worktree of your own; `git worktree repair`, or {self._remedy}")
        shutil.rmtree(self.top)
        shutil.rmtree(admin, ignore_errors=True)
        return False

    def remove(self) -> None:
        """Remove the worktree, if it is there and is ours; Git forgets it."""
        if self._usable():
            self._main("worktree", "remove", "--force", "--force", str(self.top))

    def _admin(self) -> Path | None:
        """What the worktree's `.git` leads to, in this repository; None where that is something else.

        Where the checkout has been moved, it leads nowhere, and is put right.
        """
        link = self.top / ".git"
        if not link.is_file():
            return None
        said = link.read_text(errors="replace").removeprefix("gitdir:").strip()
        target = (self.top / said).resolve()  # Git may write it relative
        admin = self._main.common().resolve() / "worktrees" / target.name
        if target.parent == admin.parent:
            return target
        if target.exists() or _mark(admin) is None or not _forsaken(admin, self.top):
            return None
        self._main("worktree", "repair", str(self.top))
        return admin

    def _linked(self) -> bool:
        """Whether Git takes the worktree for one of this repository."""
        try:
            return self._tree.common() == self._main.common() and self._tree.top() == self.top
        except GitError as error:
            if error.no_repository:
                return False
            raise

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
        home = self._main.top()
        tracked = self._tree.paths("ls-files")
        for dep in sorted(deps):
            name = os.path.relpath(dep, self.top)
            theirs = home / name
            if name.startswith(".."):
                if not Path(dep).exists() and theirs.exists():
                    raise InputError(
                        f"{os.path.relpath(dep, self.path)}: not there, seen from {self.path}; "
                        "name a --worktree beside the repository, or write the path absolute"
                    )
                continue
            if any(_within(dep, out) or _within(out, dep) for out in made):
                continue
            if any(_within(file, name) or _within(name, file) for file in tracked):
                if theirs.is_dir() and (count := _unseen(home, name)):
                    shown = os.path.relpath(dep, self.path)
                    say(f"{shown}: {count} files that Git does not follow beside others are left out; part the two")
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
        lines: list[str] = []

        def told(line: str) -> None:
            lines.append(line)
            say(line)

        code, last = self.run([sys.executable, "-m", "dvc", "push"], told)
        if code:
            return f"`dvc push`: {last}"
        if not any(LACKING in line for line in lines):  # else it is tried again: they may have been made meanwhile
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

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._runner.stopped

    def check(self) -> None:
        """Raise StepError after `stop`."""
        if self.stopped:
            raise StepError(INTERRUPTED)

    def stop(self) -> None:
        """Let no other command begin, and end the one that runs as Ctrl-C does: it saves what it needs to go on."""
        self._runner.stop(signal.SIGINT)


def _unseen(top: Path, folder: str) -> int:
    others = Git(top).paths("ls-files", "--others", "--", folder)
    return len([name for name in others if "__pycache__" not in name])


def _mark(folder: Path) -> str | None:
    """For which project the worktree with this Git folder is ours; None where it is not."""
    file = folder / MARK
    return file.read_text() if file.exists() else None


def _forsaken(admin: Path, top: Path) -> bool:
    """Whether Git knows the worktree at `top`, or at a place where there is none any more."""
    file = admin / "gitdir"
    place = (admin / file.read_text().strip()).resolve() if file.is_file() else None
    return place is None or place == top / ".git" or not place.exists()


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
