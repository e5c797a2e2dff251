"""Retraining's own working copy: one persistent Git worktree, which shares DVC's cache with the user's checkout.

It lies beside the repository, so that data roots like `../photos` mean the same in both. Nothing here writes into the
user's checkout: neither its files nor its index, HEAD, branch or stash.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from dvc.config import Config, merge
from dvc.lock import LockError
from dvc.repo import Repo

from flows.checkout import git
from flows.checkout.git import Git, GitError
from flows.engine import run_cache
from flows.engine.workspace import mend_rwlock, opened
from flows.process import supervisor
from stages.runs.errors import InputError

MARK = "palimpsest"  # a file in the worktree's Git folder: its files are retrain's to overwrite

POLL = 0.5  # seconds

Say = Callable[[str], None]
Result = TypeVar("Result")


class StepError(Exception):
    """The candidate could not be made; the message says how and where to look, in one line. Nothing is promoted."""


class Worktree:
    """The worktree at `path` of the repository whose checkout is `root`; `held` is a lock that its commands inherit."""

    def __init__(self, root: Path, path: Path, held: int) -> None:
        self.root, self.path = root, path
        self.git = Git(path)
        self._held = held
        self._running: subprocess.Popen[str] | None = None
        self._door = threading.Lock()  # for these two; never held for long
        self._stopped = False

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
        folder = _folder(self.git)
        (folder / MARK).touch()
        for name in ("index.lock", "HEAD.lock"):  # a killed Git's; nobody else works here
            (folder / name).unlink(missing_ok=True)
        self.git("checkout", "--quiet", "--force", "--detach", commit)
        self.git("clean", "--quiet", "-d", "--force", "--", "data/start")
        self._configure()
        with opened(self.path) as repo:
            mend_rwlock(repo)

    def _usable(self, main: Git) -> bool:
        """Whether there is a worktree of ours; what is left of one is removed."""
        if not self.path.exists() or not any(self.path.iterdir()):
            return False
        with contextlib.suppress(GitError):
            if _common(self.git) == _common(main) and self.git("rev-parse", "--show-toplevel") == str(self.path):
                if _is_own(self.git):
                    return True
                if [file.name for file in self.path.iterdir()] == [".git"]:  # killed before it was marked
                    return True
                raise InputError(f"{self.path}: a worktree of your own; name another place with --worktree")
        link = self.path / ".git"
        target = link.read_text().removeprefix("gitdir: ").strip() if link.is_file() else ""
        if Path(target).parent != _common(main) / "worktrees":
            raise InputError(f"{self.path}: not retrain's worktree; move it away, or name another with --worktree")
        if not Path(target, MARK).exists() and [file.name for file in self.path.iterdir()] != [".git"]:
            raise InputError(f"{self.path}: a broken worktree of your own; `git worktree repair`, or name another")
        shutil.rmtree(self.path)
        shutil.rmtree(target, ignore_errors=True)
        return False

    def _configure(self) -> None:
        """DVC's configuration of the user's checkout, its paths made absolute: a worktree has none of its own."""
        theirs = Config(str(self.root / ".dvc"), validate=False)
        values: dict[str, Any] = theirs.load_one("repo")
        merge(values, theirs.load_one("local"))
        values.setdefault("cache", {}).setdefault("dir", str(self.root / ".dvc" / "cache"))
        file = self.path / ".dvc" / Config.CONFIG_LOCAL
        file.parent.mkdir(exist_ok=True)
        os.close(os.open(file, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600))  # it may hold a remote's password
        with Config(str(file.parent), validate=False).edit("local", validate=False) as conf:
            conf.update(_plain(values))

    def write(self, path: str, text: str) -> None:
        """A file in the worktree."""
        file = self.path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def restore(self, commit: str, rev: str) -> None:
        """What the candidate `commit`, made from `rev`, had come to: `dvc.lock`, the outputs that DVC leaves to Git,
        and imports as they were updated, unless they have been changed by hand since.
        """
        same = [name for name in self._imports() if self.git.file(rev, name) == self.git.file("HEAD", name)]
        paths = ["dvc.lock", *self._loose(), *same]
        there = self.git("ls-tree", "-r", "-z", "--name-only", commit, "--", *paths).split("\0")
        if files := [name for name in there if name]:
            self.git("restore", "--source", commit, "--worktree", "--", *files)

    def _imports(self) -> list[str]:
        with opened(self.path) as repo:
            imports = [stage for stage in repo.index.stages if stage.is_import and stage.path.endswith(".dvc")]
            return [os.path.relpath(stage.path, self.path) for stage in imports]

    def _loose(self) -> list[str]:
        with opened(self.path) as repo:
            outs = [out for out in repo.index.outs if not out.use_cache and out.protocol == "local"]
            return [os.path.relpath(out.fs_path, self.path) for out in outs]

    def link(self, say: Say) -> None:
        """Lead what stages read and Git does not have, as a folder of photos beside the code, to the user's checkout.

        Raises InputError for a path outside of the repository that is not there, seen from the worktree.
        """
        with opened(self.path) as repo:
            made = {out.fs_path for out in repo.index.outs}
            deps = {dep.fs_path for stage in repo.index.stages for dep in stage.deps if dep.protocol == "local"}
        tracked = self.git("ls-files", "-z").split("\0")
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

    def add(self, file: Path, say: Say) -> None:
        """`dvc add`."""
        _patient(self.path, lambda repo: repo.add(str(file)), say)

    def check_out(self, say: Say, pointers: Sequence[str] = ()) -> None:
        """Outputs as `dvc.lock` has them, so far as the cache does; the others are for the rebuild.

        `pointers` are .dvc files whose data are asked for by name: DVC 3.67.1 leaves those of a new one out else.
        """
        logger = logging.getLogger("dvc_data")
        level = logger.level
        logger.setLevel(logging.ERROR)  # it warns of every output that is not made yet
        try:
            for targets in (None, *([str(self.path / name)] for name in pointers)):
                options = {"targets": targets, "force": True, "allow_missing": True}
                _patient(self.path, lambda repo, options=options: repo.checkout(**options), say)  # type: ignore[misc]
        finally:
            logger.setLevel(level)

    def update(self, say: Say) -> None:
        """`dvc update` for what was imported. Raises DvcException where a source cannot be reached."""
        if files := self._imports():
            say(f"dvc update {' '.join(files)}")
            _patient(self.path, lambda repo: repo.update([str(self.path / file) for file in files]), say)

    def stale(self, say: Say) -> list[str]:
        """The stages that a rebuild would begin with."""
        from flows.engine import graph

        def read(repo: Repo) -> frozenset[str]:
            with repo.lock:
                return graph.read(repo, [str(self.path / "dvc.yaml")]).stale

        # Without the way from here to the file that defines them.
        return sorted(name.rpartition(":")[2] for name in _patient(self.path, read, say))

    def tree(self, new: Iterable[str]) -> str:
        """The worktree's files as a Git tree: what Git follows, as it is now, and the files `new`."""
        files = [name for name in [*new, *self._loose(), "dvc.lock"] if (self.path / name).exists()]
        self.git("add", "--update", "--", ".")
        self.git("add", "--force", "--", *files)
        return self.git("write-tree")

    def remote(self) -> str | None:
        """DVC's default remote."""
        return Config(str(self.path / ".dvc"), validate=False)["core"].get("remote")

    def pushed(self) -> str | None:
        """The commit whose data `push` has sent."""
        file = _folder(self.git) / "palimpsest-pushed"
        return file.read_text() if file.exists() else None

    def push(self, say: Say) -> str | None:
        """Send the data of the commit that is checked out to DVC's remote; what went wrong, in one line."""
        run_cache.forget_lists(self.path)
        code, last = self.run([sys.executable, "-m", "dvc", "push"], say)
        if code:
            return f"`dvc push`: {last}"
        (_folder(self.git) / "palimpsest-pushed").write_text(self.git("rev-parse", "HEAD"))
        return None

    def run(self, words: Sequence[str], say: Say, **more: str | None) -> tuple[int, str]:
        """Run a command in the worktree: its exit code and the last line that it said; `say` gets every line.

        It does not outlive this process. `more` is added to its environment, None taken out.

        Raises StepError after `stop`.
        """
        environment = {name: value for name, value in {**git.environment(), **more}.items() if value is not None}
        last = ""
        with self._door:
            self.go_on()
            process = supervisor.start(
                words,
                cwd=self.path,
                env={**environment, "PYTHONUNBUFFERED": "1"},
                text=True,
                errors="replace",
                pass_fds=[self._held],
            )
            self._running = process
        with process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    last = line.strip() or last
                    say(line.rstrip("\n"))
            finally:
                with self._door:
                    self._running = None
        return process.returncode, last

    def go_on(self) -> None:
        """Raise StepError after `stop`."""
        if self._stopped:
            raise StepError("interrupted; run it again to go on")

    def stop(self) -> None:
        """Let no other command begin, and end the one that runs as Ctrl-C does: it saves what it needs to go on."""
        with self._door:
            self._stopped = True
            if process := self._running:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGINT)
        if process:
            process.wait()


def _patient(path: Path, work: Callable[[Repo], Result], say: Say) -> Result:
    """Do something that DVC refuses while another process uses the files: one that was killed takes a moment to go."""
    warned = False
    while True:
        try:
            with opened(path) as repo:
                return work(repo)
        except LockError as error:
            if not warned:
                say(f"waiting for another DVC process: {' '.join(str(error).split())}")
                warned = True
        time.sleep(POLL)


def blobs(root: Path, md5s: Iterable[str]) -> list[Path]:
    """Where DVC's cache of the checkout `root` has the bytes of each md5; they may be missing there."""
    with opened(root) as repo:
        return [Path(repo.cache.local.oid_to_path(md5)) for md5 in md5s]


def _unseen(root: Path, folder: str) -> int:
    others = Git(root)("ls-files", "--others", "-z", "--", folder).split("\0")
    return len([name for name in others if name and "__pycache__" not in name])


def _folder(git: Git) -> Path:
    return Path(git("rev-parse", "--absolute-git-dir"))


def _common(git: Git) -> Path:
    return Path(git("rev-parse", "--path-format=absolute", "--git-common-dir"))


def _is_own(git: Git) -> bool:
    return (_folder(git) / MARK).exists()


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _plain(value: Any) -> Any:
    """Without DVC's own kinds of text, which it would write relative again."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return str(value) if isinstance(value, str) else value
