"""Whether a DVC remote has the right bytes of an object."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
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


class Store:
    """The objects of one DVC remote, by their digests (of a folder's listing with `.dir` behind it)."""

    def __init__(self, repo: object, name: str) -> None:
        """`name` is the remote's. Raises an error of its kind where it cannot be reached."""
        self.name = name
        self._odb = repo.cloud.get_remote_odb(name, "audit erase")  # type: ignore[attr-defined]
        self.objects = sorted(self._odb.all())  # the digests of all that it has now

    def read(self, md5: str) -> bytes:
        """The bytes of an object."""
        with self._odb.fs.open(self._odb.oid_to_path(md5), "rb") as stream:
            return bytes(stream.read())

    def size(self, md5: str) -> int:
        """The bytes that an object takes."""
        return int(self._odb.fs.size(self._odb.oid_to_path(md5)))

    def remove(self, md5: str) -> None:
        """Delete an object."""
        self._odb.delete(md5)

    def add(self, md5: str, data: bytes) -> None:
        """Put an object there."""
        self._odb.add_bytes(md5, data)


@contextlib.contextmanager
def stores(root: Path) -> Iterator[list[Store | str]]:
    """The remotes of the working copy at `root`; in place of one that cannot be used, why, in one line."""
    with opened(root) as repo:
        found: list[Store | str] = []
        for name in repo.config["remote"]:
            try:
                found.append(Store(repo, name))
            except Exception as error:  # each kind of remote has errors of its own
                found.append(f"remote '{name}': {_line(error)}")
        yield found


def site_cache(root: Path) -> Path:
    """Where DVC remembers the names of this repository's files; it is made anew as it is needed."""
    with opened(root) as repo:
        return Path(repo.site_cache_dir)
