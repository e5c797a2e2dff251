"""A DVC repository, as other processes use it at the same time: opened, waited for, mended, configured."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from configobj import ConfigObj
from dvc.config import Config, _pack_named, merge
from dvc.exceptions import DvcException as DvcException
from dvc.lock import LockError, make_lock
from dvc.repo import Repo
from dvc.rwlock import RWLOCK_FILE, RWLOCK_LOCK, rwlock
from dvc.stage import Stage
from dvc.utils.serialize import modify_yaml

from flows.process import atomic_file
from flows.process.command import Say

POLL = 0.5  # seconds, as DVC's own lock

Result = TypeVar("Result")

edit_yaml = modify_yaml  # a context with a YAML file's values, written back with its comments and order


@contextlib.contextmanager
def opened(root: Path | None) -> Iterator[Repo]:
    """DVC's view of the working copy at `root` (None: that of the current folder), until the block ends."""
    repo = Repo(None if root is None else str(root), _wait_for_lock=True)
    try:
        yield repo
    finally:
        repo.close()


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
    holder = f"palimpsest rebuild: stage {stage.addressing}"
    reads = [dep.fs_path for dep in stage.deps if dep.protocol == "local"]
    writes = [out.fs_path for out in stage.outs if out.protocol == "local"]
    return rwlock(repo.tmp_dir, repo.fs, holder, reads, writes, repo.config["core"].get("hardlink_lock", False))


def repair_read_write_lock(repo: Repo) -> None:
    """DVC rewrites this file in place: a kill inside the write cuts it off, and then every DVC command refuses."""
    file = Path(repo.tmp_dir, RWLOCK_FILE)
    hardlink = repo.config["core"].get("hardlink_lock", False)
    with make_lock(str(file.with_name(RWLOCK_LOCK)), tmp_dir=repo.tmp_dir, hardlink_lock=hardlink):  # nobody writes now
        try:
            if file.exists():
                json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            atomic_file.write(file, "{}")


def cached(root: Path, md5s: Iterable[str]) -> list[Path]:
    """Where the cache of the working copy at `root` has the bytes of each md5; they may be missing there."""
    with opened(root) as repo:
        return [Path(repo.cache.local.oid_to_path(md5)) for md5 in md5s]


def default_remote(root: Path) -> str | None:
    """The name of the default remote of the working copy at `root`."""
    return Config(str(root / ".dvc"), validate=False)["core"].get("remote")


def copy_configuration(source: Path, target: Path) -> None:
    """Give the worktree at `target` the configuration of the working copy `source`, its paths made absolute.

    A worktree has none of its own. Both use one cache.
    """
    theirs = Config(str(source / ".dvc"), validate=False)
    values: dict[str, Any] = theirs.load_one("repo")
    merge(values, theirs.load_one("local"))
    values.setdefault("cache", {}).setdefault("dir", str(source / ".dvc" / "cache"))
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
