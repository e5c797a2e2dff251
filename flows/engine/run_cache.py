"""What stages have made, carried between clones by DVC's run-cache on the default remote.

An entry of the run-cache lies under two digests: of what went into a stage, and of what came out. DVC itself carries
the whole run-cache; here it is single entries, each behind the objects that it names, so that an entry
on the remote is always one that can be had.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple

import dvc.fs
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.stage import Stage
from dvc.stage.cache import _can_hash, _get_cache_hash, _get_stage_hash
from dvc.stage.serialize import to_single_stage_lockfile

from flows.engine.repository import opened
from stages.runs.errors import InputError


class Remote(NamedTuple):
    """The default remote, by a name and an address that mean the same in every clone."""

    name: str
    url: str


class Entry(NamedTuple):
    """One run of a stage in the run-cache."""

    key: str
    value: str


def remote(repo: Repo) -> Remote:
    """The repository's default remote. Raises InputError where there is none, or one that carries no run-cache."""
    name = repo.config["core"].get("remote")
    if not name:
        raise InputError(
            "no default DVC remote, and workers get and give a stage's files there alone; `dvc remote add -d NAME URL`"
        )
    if keeps_versions(repo, name):
        raise InputError(f"the DVC remote '{name}' keeps versions of its own, and no run-cache; take another kind")
    there = repo.cloud.get_remote_odb(name, "--runner", hash_name="md5-dos2unix")
    if isinstance(there.fs, dvc.fs.HTTPFileSystem):
        raise InputError(f"the DVC remote '{name}' is on HTTP, where DVC keeps no run-cache; take another kind")
    if there.fs.protocol == "local":
        Path(there.path).parent.mkdir(parents=True, exist_ok=True)
    return Remote(name, str(repo.config["remote"][name]["url"]))


def keeps_versions(repo: Repo, name: str) -> bool:
    """Whether a remote keeps versions of its own: to push there changes `dvc.lock`, and it carries no run-cache."""
    kind = repo.config["remote"].get(name, {})
    return bool(kind.get("version_aware") or kind.get("worktree"))


def adopt(repo: Repo, default: Remote) -> None:
    """Make `default` the remote of this clone; its credentials are this machine's own."""
    with repo.config.edit("local") as config:
        config["core"]["remote"] = default.name
        config["remote"][default.name] = {"url": default.url}


def forget_lists(root: Path) -> None:
    """Before `dvc push` and `dvc pull` at `root`: let DVC list anew what is to be carried.

    It keeps these lists, and takes the part of one that a killed process has left for the whole (DVC 3.67.1).
    """
    with opened(root) as repo, repo.lock:
        repo.drop_data_index()


def left_empty(stage: Stage) -> bool:
    """Whether the stage's folder of the run-cache has no entry: a process was killed before it wrote one.

    DVC 3.67.1 then raises TypeError, where there is nothing to restore. The stage's deps are to be saved.
    """
    key = _get_stage_hash(stage)
    folder = Path(stage.repo.stage_cache._get_cache_dir(key)) if key else None
    return folder is not None and folder.is_dir() and not any(folder.iterdir())


def portable(stage: Stage) -> bool:
    """Whether the run-cache can bring back all that the stage makes from what it reads. Its deps are to be saved."""
    return bool(_can_hash(stage)) and all(out.use_cache or out.is_metric or out.is_plot for out in stage.outs)


def turn(stage: Stage) -> Path | None:
    """The file to be locked by the one process that makes what the stage would make now.

    It lies beside the run-cache, which all working copies with this cache share: the others find there what that
    process has made. None where the run-cache cannot bring it back. The stage stays as it was: to restore it, DVC
    compares the digests that `dvc.lock` has of its deps.
    """
    now = copy.copy(stage)
    now.deps = [copy.copy(dep) for dep in stage.deps]
    now.save_deps()
    return Path(stage.repo.cache.legacy.path, "running", _get_stage_hash(now)) if portable(now) else None


def entry(stage: Stage) -> Entry:
    """The entry of the run whose inputs and outputs the stage has now; it is made where it is not there."""
    stage.repo.stage_cache.save(stage)
    return Entry(_get_stage_hash(stage), _get_cache_hash(to_single_stage_lockfile(stage)))


def push(stage: Stage) -> None:
    """Send the outputs that DVC caches. Raises DvcException where one cannot be sent."""
    for odb, objects in stage.get_used_objs(push=True).items():
        _all(stage.repo.cloud.push(objects, odb=odb), "sent to")


def push_entry(repo: Repo, one: Entry) -> None:
    """Send an entry and, before it, all that it names. Raises DvcException where that fails."""
    _objects(repo, one, repo.cloud.push, "sent to")
    here, there = _places(repo)
    _copy(here, there, one)


def fetch_entry(repo: Repo, one: Entry) -> bool:
    """Get an entry and all that it names into the cache; False where the remote does not have it whole."""
    here, there = _places(repo)
    if not there.fs.exists(_path(there, one)):
        return False
    _copy(there, here, one)
    try:
        _objects(repo, one, repo.cloud.pull, "had from")
        made = _made(repo, one, None)
    except DvcException:
        return False
    return made is not None and bool(made.outs_cached())


def fetch(stage: Stage) -> None:
    """Bring what the stage would make from the remote's run-cache to the one here, if it is there.

    Its deps are to be saved.
    """
    any(fetch_entry(stage.repo, one) for one in known(stage))  # until one of them is here


def known(stage: Stage) -> list[Entry]:
    """The entries that the remote has for what goes into the stage now. Its deps are to be saved."""
    _, there = _places(stage.repo)
    key = _get_stage_hash(stage)
    folder = there.fs.join(there.path, "runs", key[:2], key)
    return [Entry(key, there.fs.name(path)) for path in there.fs.find(folder)] if there.fs.exists(folder) else []


def check_out(stage: Stage, one: Entry) -> None:
    """Put what the entry names into the working copy. Raises DvcException where the cache does not have it."""
    made = _made(stage.repo, one, stage.wdir)
    if made is None:
        raise DvcException(f"the run-cache has lost what {stage.addressing} has made")
    for out in made.outs:  # the stage's own `checkout` takes DVC's read-write lock, which is ours already
        out.checkout(force=True)


def _made(repo: Repo, one: Entry, folder: str | None) -> Stage | None:
    found = repo.stage_cache._load_cache(*one)
    return repo.stage_cache._create_stage(found, wdir=folder) if found else None


def _objects(repo: Repo, one: Entry, carry: Any, word: str) -> None:
    for odb, objects in repo.stage_cache.get_used_objs([one], push=True).items():
        _all(carry(objects, odb=odb), word)


def _all(result: Any, word: str) -> None:
    if result.failed:
        raise DvcException(f"{len(result.failed)} files could not be {word} the DVC remote")


def _places(repo: Repo) -> tuple[Any, Any]:
    return repo.cache.legacy, repo.cloud.get_remote_odb(None, "--runner", hash_name="md5-dos2unix")


def _path(odb: Any, one: Entry) -> str:
    return str(odb.fs.join(odb.path, "runs", one.key[:2], one.key, one.value))


def _copy(source: Any, target: Any, one: Entry) -> None:
    dvc.fs.generic.copy(source.fs, _path(source, one), target.fs, _path(target, one))
