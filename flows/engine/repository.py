"""A DVC repository, as other processes use it at the same time: opened, waited for, mended, configured."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil
from configobj import ConfigObj
from dvc.config import Config, _pack_named, merge
from dvc.exceptions import DvcException as DvcException
from dvc.lock import LockError, make_lock
from dvc.repo import Repo
from dvc.rwlock import RWLOCK_FILE, RWLOCK_LOCK, rwlock
from dvc.stage import Stage
from dvc.utils.serialize import modify_yaml

from flows.process import atomic_file, private_folder
from flows.process.command import Say
from flows.process.identity import process_name
from stages.runs.errors import InputError

POLL = 0.5  # seconds, as DVC's own lock
HOLDER = "palimpsest rebuild: stage "  # begins what DVC says of who holds a read-write lock of ours
SITE_CACHE = "DVC_SITE_CACHE_DIR"

Result = TypeVar("Result")

edit_yaml = modify_yaml  # a context with a YAML file's values, written back with its comments and order


@contextlib.contextmanager
def opened(root: Path | None) -> Iterator[Repo]:
    """DVC's view of the working copy at `root` (None: that of the current folder), until the block ends."""
    repo = open_repo(root)
    try:
        yield repo
    finally:
        repo.close()


def open_repo(root: Path | None = None, wait: bool = True) -> Repo:
    """As `opened`; to be closed. Its `lock` is waited for, unless `wait` is False: then LockError is raised.

    Raises InputError where there is no private folder for DVC's site cache.
    """
    if SITE_CACHE not in os.environ:
        with contextlib.suppress(DvcException):  # no repository: `Repo` says so
            if not Config(Repo.find_dvc_dir(root and str(root)), validate=False).get("core", {}).get("site_cache_dir"):
                os.environ[SITE_CACHE] = str(private_site_cache())
    return Repo(None if root is None else str(root), _wait_for_lock=wait)


def private_site_cache() -> Path:
    """A folder for DVC's site cache that only this user may write: whoever may, can run code in each DVC command.

    DVC takes /var/tmp/dvc, which all may write, and reads pickles from there (diskcache, CVE-2025-69872).
    Raises InputError where the folder cannot be made.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "palimpsest" / "dvc"
    try:
        private_folder.make(folder)
        folder.chmod(0o700)
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}; name a folder of your own in {SITE_CACHE}") from None
    return folder


def when_free(work: Callable[[], Result], say: Say, check: Callable[[], None] = lambda: None) -> Result:
    """What `work` returns. While DVC refuses it, as another process uses the files, it is tried again.

    `check` is called meanwhile, and may raise to give up.
    """
    told = False
    while True:
        try:
            return work()
        except LockError as error:
            if not told:
                said = str(error).split("If there are no processes")[0]
                say(f"waiting for another DVC process: {' '.join(said.split())}")
                told = True
        check()
        time.sleep(POLL)


def read_write_lock(stage: Stage) -> contextlib.AbstractContextManager[None]:
    """DVC's read-write lock on the stage's files, in the stage's name: DVC tells holders by it.

    Raises LockError where another process has it.
    """
    repo = stage.repo
    holder = f"{HOLDER}{stage.addressing} ({process_name(os.getpid())})"
    reads = [dep.fs_path for dep in stage.deps if dep.protocol == "local"]
    writes = [out.fs_path for out in stage.outs if out.protocol == "local"]
    return rwlock(repo.tmp_dir, repo.fs, holder, reads, writes, repo.config["core"].get("hardlink_lock", False))


def repair_read_write_lock(repo: Repo) -> None:
    """Remove from DVC's read-write locks what killed processes have left. To be called before this one takes any.

    DVC rewrites the file in place: a kill inside the write cuts it off, and then every DVC command refuses. And it
    knows a holder by its PID alone, which another process may have by now, this one for example: a container gives the
    same ones again.
    """
    file = Path(repo.tmp_dir, RWLOCK_FILE)
    hardlink = repo.config["core"].get("hardlink_lock", False)
    with make_lock(str(file.with_name(RWLOCK_LOCK)), tmp_dir=repo.tmp_dir, hardlink_lock=hardlink):  # nobody writes now
        if not file.exists():
            return
        try:
            old = json.loads(file.read_text(encoding="utf-8"))
            written = file.stat().st_mtime
            new = {
                "write": {path: one for path, one in old.get("write", {}).items() if _holds(one, written)},
                "read": {
                    path: left
                    for path, holders in old.get("read", {}).items()
                    if (left := [one for one in holders if _holds(one, written)])
                },
            }
        except (ValueError, AttributeError, TypeError, LookupError):
            old, new = None, {}
        if new != old:
            atomic_file.write(file, json.dumps(new))


def _holds(holder: dict[str, Any], written: float) -> bool:
    """Whether the process that took a lock is there still; `written` is when the file was last changed."""
    pid, said = int(holder["pid"]), str(holder["cmd"])
    name = process_name(pid)
    if name is None or pid == os.getpid():
        return False
    if said.startswith(HOLDER):
        return said.endswith(f"({name})")
    # DVC's own: its process began before it wrote, and was called by what it wrote.
    with contextlib.suppress(psutil.Error):
        there = psutil.Process(pid)
        return there.create_time() <= written + 2 or said.split()[-1] in there.cmdline()
    return False


def cached(root: Path, md5s: Iterable[str]) -> list[Path]:
    """Where the cache of the working copy at `root` has the bytes of each md5; they may be missing there."""
    with opened(root) as repo:
        return [Path(repo.cache.local.oid_to_path(md5)) for md5 in md5s]


def default_remote(root: Path) -> str | None:
    """The name of the default remote of the working copy at `root`."""
    return Config(str(root / ".dvc"), validate=False)["core"].get("remote")


def copy_configuration(source: Path, target: Path, cache: Path | None = None) -> None:
    """Give the worktree at `target` the configuration of the working copy `source`, its paths made absolute.

    A worktree has none of its own. Both use one cache, unless another folder is named. What the user or the system has
    configured for all repositories holds in the worktree by itself.
    """
    theirs = Config(str(source / ".dvc"), validate=False)
    values: dict[str, Any] = theirs.load_one("repo")
    merge(values, theirs.load_one("local"))
    if cache or not theirs.get("cache", {}).get("dir"):
        values["cache"]["dir"] = str(cache or source / ".dvc" / "cache")
    file = target / ".dvc" / Config.CONFIG_LOCAL
    file.parent.mkdir(exist_ok=True)
    os.close(os.open(file, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600))  # it may hold a remote's password
    # Config.edit would write ASCII alone, and refuse an `ü`. DVC reads the file as any text on this machine.
    lines = ConfigObj(_pack_named(_plain(values)), interpolation=False).write()
    file.write_text("".join(f"{line}\n" for line in lines), errors="surrogateescape")


def _plain(value: Any) -> Any:
    """Without DVC's own kinds of text, which it would write relative again."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return str(value) if isinstance(value, str) else value
