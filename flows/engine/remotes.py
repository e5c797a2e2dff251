"""Whether a DVC remote has the right bytes of an object."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable
from pathlib import Path

from flows.engine.repository import opened


def whole(root: Path, md5s: Iterable[str]) -> dict[str, str]:
    """Of each object, what the remotes of the working copy at `root` have of it, in words. It is read and hashed.

    Nothing is written. The default remote is asked first.
    """
    wanted = list(md5s)
    try:
        with opened(root) as repo:
            names = list(repo.config["remote"])
            names.sort(key=lambda name: name != repo.config["core"].get("remote"))
            if not names:
                return dict.fromkeys(wanted, "there is no remote")
            found = {}
            for md5 in wanted:
                said = [_asked(repo, name, md5) for name in names]
                good = [words for words in said if words.startswith("whole")]
                found[md5] = good[0] if good else "; ".join(said)
            return found
    except Exception as error:  # the configuration, or what it names, may be damaged
        return dict.fromkeys(wanted, f"cannot tell what the remotes have ({_line(error)})")


def _asked(repo: object, name: str, md5: str) -> str:
    total = hashlib.md5()
    try:
        store = repo.cloud.get_remote_odb(name, "audit verify")  # type: ignore[attr-defined]
        with contextlib.closing(store.fs.open(store.oid_to_path(md5), "rb")) as stream:
            while part := stream.read(1 << 20):
                total.update(part)
    except FileNotFoundError:
        return f"missing on the remote '{name}'"
    except Exception as error:  # each kind of remote has errors of its own
        return f"cannot tell what the remote '{name}' has ({_line(error)})"
    same = total.hexdigest() == md5.removesuffix(".dir")
    return f"whole on the remote '{name}'" if same else f"altered on the remote '{name}' too"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def ignored(root: Path, files: Iterable[Path]) -> set[Path]:
    """Those of the files that `.dvcignore` leaves out."""
    with opened(root) as repo:
        return {file for file in files if repo.dvcignore.is_ignored_file(str(file))}


def stages(root: Path) -> set[str]:
    """The names of the stages in the `dvc.yaml` at `root`. Raises DvcException where it cannot be read."""
    with opened(root) as repo:
        return {stage.name for stage in repo.index.stages if stage.path == str(root / "dvc.yaml")}
