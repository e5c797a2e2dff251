"""Which commit a stage's code is of, and what of it was not committed: read from Git, in which nothing is written."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

# Beside the sources: what decides which stages run, and with which parameters.
CODE = "stages"
WIRING = ("dvc.yaml", "params.yaml")

# What Git tells its hooks, and what is set for one command: it would lead to another repository, or to an index.
LEADING = (
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX",
    "GIT_NAMESPACE", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_DEFAULT_HASH", "GIT_EXTERNAL_DIFF", "GIT_DIFF_OPTS",
    "GIT_LITERAL_PATHSPECS", "GIT_GLOB_PATHSPECS", "GIT_NOGLOB_PATHSPECS", "GIT_ICASE_PATHSPECS",
)  # fmt: skip
QUIET = {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1", "LC_ALL": "C"}
# The user's settings may be anything; these would run something, refuse, or change what comes out.
PINNED = ("core.hooksPath=/dev/null", "core.fsmonitor=false", "core.safecrlf=false", "core.quotePath=true",
          "core.splitIndex=false", "core.untrackedCache=false", "diff.noprefix=false", "diff.mnemonicPrefix=false",
          "diff.suppressBlankEmpty=false", "diff.orderFile=/dev/null", "diff.context=3",
          "diff.interHunkContext=0", "diff.algorithm=default", "diff.indentHeuristic=true",
          "gc.auto=0", "maintenance.auto=false")  # fmt: skip


class Refused(Exception):
    """Git has failed; its words may name a folder or a user, and are dropped."""


class State(NamedTuple):
    """A commit, and what differs from it."""

    commit: str | None  # None: there is none yet
    dirty: list[str]  # files that are others than the commit's, new or gone, by their paths from the project's root
    patch: bytes  # what turns the commit's files into those, for `git apply`; empty where there are none


def state(root: Path, ends: tuple[str, ...]) -> State | None:
    """The commit of the checkout that the project `root` is or lies in, and what is not committed of what counts: the
    files under `stages/` whose names end so, `dvc.yaml` and `params.yaml`.

    None where there is no Git, no repository, or where Git refuses. Neither index nor objects nor files are written.
    """
    try:
        commit = _commit(root)
        if commit is None:
            return State(None, [], b"")
        dirty = _dirty(root, commit, ends)
        patch = _patch(root, commit, dirty) if dirty else b""
        return State(commit, dirty if patch else [], patch)  # no patch: Git turns their ends of lines, or filters them
    except (Refused, OSError):
        return None


def _commit(root: Path) -> str | None:
    try:
        return _git(root, "rev-parse", "--verify", "--quiet", "HEAD").decode().strip()
    except Refused:
        _git(root, "rev-parse", "--git-dir")  # refuses outside of a repository
        return None


def _dirty(root: Path, commit: str, ends: tuple[str, ...]) -> list[str]:
    """Of what counts, the files whose bytes are not the commit's, and those that the commit has and are gone."""
    committed: dict[str, str] = {}
    for entry in filter(None, _git(root, "ls-tree", "-r", "-z", commit, "--", CODE, *WIRING).split(b"\0")):
        about, _, path = entry.partition(b"\t")
        name = os.fsdecode(path)
        if name.endswith(ends) or name in WIRING:
            committed[name] = about.split(b" ")[2].decode()
    files = [path.relative_to(root).as_posix() for path in (root / CODE).rglob("*") if path.name.endswith(ends)]
    gone = [name for name in committed if not (root / name).exists()]
    there = [name for name in (*files, *WIRING) if (root / name).is_file()]
    changed = [name for name in there if not _same((root / name).read_bytes(), committed.get(name))]
    return sorted({*gone, *changed})


def _same(content: bytes, blob: str | None) -> bool:
    """Whether a file has the bytes of a blob of Git's, which is called by their digest."""
    kind = "sha256" if blob and len(blob) == 64 else "sha1"
    return hashlib.new(kind, b"blob %d\0%b" % (len(content), content)).hexdigest() == blob


def _patch(root: Path, commit: str, dirty: list[str]) -> bytes:
    """What turns the commit's files into those that lie here. An index and objects of its own take them in."""
    objects = _git(root, "rev-parse", "--path-format=absolute", "--git-path", "objects").decode().removesuffix("\n")
    with tempfile.TemporaryDirectory() as home:
        own = {
            "GIT_INDEX_FILE": f"{home}/index",
            "GIT_OBJECT_DIRECTORY": home,
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": '"{}"'.format(objects.replace("\\", "\\\\").replace('"', '\\"')),
        }
        there = "".join(f"{name}\0" for name in dirty if (root / name).is_file())
        _git(root, "update-index", "--add", "-z", "--stdin", stdin=os.fsencode(there), more=own)
        # Of all that the index does not have, the paths leave out what has not changed.
        return _git(root, "diff-index", "--cached", "--patch", "--binary", "--full-index", "--no-renames",
                    "--no-ext-diff", "--no-textconv", "--no-color", "--relative", "--src-prefix=a/", "--dst-prefix=b/",
                    commit, "--", *(f":(literal){name}" for name in dirty), more=own)  # fmt: skip


def _git(root: Path, *words: str, stdin: bytes = b"", more: Mapping[str, str] = MappingProxyType({})) -> bytes:
    """What `git WORDS` prints in `root`, with `more` in its environment.

    Raises Refused where it fails, and OSError where there is no Git.
    """
    environment = {name: value for name, value in os.environ.items() if name not in LEADING}
    pinned = [word for setting in PINNED for word in ("-c", setting)]
    done = subprocess.run(
        ["git", *pinned, *words],
        cwd=root,
        env={**environment, **QUIET, **more},
        input=stdin,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise Refused
    return done.stdout
