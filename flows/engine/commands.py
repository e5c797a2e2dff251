"""DVC's own commands as calls, for a working copy at `root`: each waits while another DVC process uses its files."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from dvc.lock import LockNoop
from dvc.output import HashInfo
from dvc.repo import Repo

from flows.engine import graph, run_cache
from flows.engine.repository import opened, when_free
from flows.process.command import Say

Result = TypeVar("Result")


def reads_and_makes(root: Path) -> tuple[set[str], set[str]]:
    """The files and folders of this machine that stages read, and those that they make: absolute paths."""
    with opened(root) as repo:
        reads = {dep.fs_path for stage in repo.index.stages for dep in stage.deps if dep.protocol == "local"}
        return reads, {out.fs_path for out in repo.index.outs}


def imports(root: Path) -> list[str]:
    """The `.dvc` files of `dvc import` and `dvc import-url`, from `root`."""
    with opened(root) as repo:
        found = [stage for stage in repo.index.stages if stage.is_import and stage.path.endswith(".dvc")]
        return [os.path.relpath(stage.path, root) for stage in found]


def uncached(root: Path) -> list[str]:
    """The outputs that DVC leaves to Git, from `root`."""
    with opened(root) as repo:
        outs = [out for out in repo.index.outs if not out.use_cache and out.protocol == "local"]
        return [os.path.relpath(out.fs_path, root) for out in outs]


def always_changed(root: Path) -> set[str]:
    """The stages that DVC takes for changed each time: `always_changed`, and those without deps and outs."""
    with opened(root) as repo:
        found = [stage for stage in repo.index.stages if stage.always_changed or stage.is_callback]
        return {stage.addressing.rpartition(":")[2] for stage in found if not stage.frozen}


def unlike(root: Path) -> set[str]:
    """The outputs that are not as `dvc.lock` has them, from `root`."""
    with opened(root) as repo:
        outs = [out for out in repo.index.outs if out.protocol == "local" and out.status()]
        return {os.path.relpath(out.fs_path, root) for out in outs}


def fetch(root: Path, md5s: Iterable[str], say: Say) -> None:
    """Bring files into the cache from the default remote, so far as that has them and answers."""
    wanted = [HashInfo("md5", md5) for md5 in md5s]
    try:
        with _only_errors("dvc"):  # it warns of each that is missing
            _do(root, lambda repo: repo.cloud.pull(wanted), say)
    except Exception as error:  # each kind of remote has errors of its own
        say(f"the DVC remote: {' '.join(str(error).split()) or type(error).__name__}")


def versioned_remote(root: Path) -> str | None:
    """A remote that `dvc push` would use and that keeps versions of its own, or None."""
    with opened(root) as repo:
        names = {repo.config["core"].get("remote"), *(out.remote for out in repo.index.outs)} - {None}
        return next((name for name in sorted(names) if run_cache.keeps_versions(repo, name)), None)


def add(root: Path, file: Path, say: Say) -> None:
    """`dvc add`."""
    _do(root, lambda repo: repo.add(str(file)), say)


def commit(root: Path, file: Path) -> None:
    """`dvc commit --force` of a `.dvc` file, for a caller that has DVC's lock (`turns.alone`). Raises DvcException."""
    with _unlocked(root) as repo:
        repo.commit(str(file), force=True)


def remove(root: Path, file: Path) -> None:
    """`dvc remove` of a `.dvc` file, for a caller that has DVC's lock (`turns.alone`). Raises DvcException."""
    with _unlocked(root) as repo:
        repo.remove(str(file))


@contextlib.contextmanager
def _unlocked(root: Path) -> Iterator[Repo]:
    with opened(root) as repo:
        repo.lock = LockNoop()
        yield repo


def check_out(root: Path, say: Say, pointers: Sequence[str] = ()) -> None:
    """`dvc checkout`, so far as the cache has the outputs.

    `pointers` are .dvc files whose data are asked for by name: DVC 3.67.1 leaves those of a new one out else.
    """
    with _only_errors("dvc_data"):  # it warns of every output that is not made yet
        for targets in (None, *([str(root / name)] for name in pointers)):
            _do(root, functools.partial(Repo.checkout, targets=targets, force=True, allow_missing=True), say)


def check_out_sources(root: Path, say: Say) -> None:
    """Lay out the data that `.dvc` files name, and nothing that stages make, from the cache or the default remote.

    Raises DvcException where neither has them.
    """

    def work(repo: Repo) -> None:
        sources = [stage for stage in repo.index.stages if stage.is_data_source]
        names = [stage.addressing for stage in sources]
        if names:
            repo.checkout(targets=names, force=True, allow_missing=True)
            if not all(out.exists for stage in sources for out in stage.outs):
                repo.pull(targets=names, force=True)

    _do(root, work, say)


def update(root: Path, names: Sequence[str], say: Say) -> None:
    """`dvc update` of imports. Raises DvcException where a source cannot be reached."""
    _do(root, lambda repo: repo.update([str(root / name) for name in names]), say)


def stale(root: Path, say: Say) -> list[str]:
    """The stages that have changed, by their names in the `dvc.yaml` at `root`."""

    def read(repo: Repo) -> frozenset[str]:
        with repo.lock:
            return graph.read(repo, [str(root / "dvc.yaml")]).stale

    # Without the way from here to the file that defines them.
    return sorted(name.rpartition(":")[2] for name in _do(root, read, say))


def _do(root: Path, work: Callable[[Repo], Result], say: Say) -> Result:
    def attempt() -> Result:
        with opened(root) as repo:
            return work(repo)

    return when_free(attempt, say)


@contextlib.contextmanager
def _only_errors(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
