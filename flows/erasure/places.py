"""Where a repository keeps things on this machine: working copies, caches, workers' clones and Prefect's databases."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from flows.checkout.git import Git
from flows.lineage import cache, dvc_lock
from stages.runs.errors import InputError

STATE = Path(".palimpsest/erasure")  # what an erasure that was interrupted needs to go on
MEMORY = Path(".palimpsest/audit")  # what the audit has remembered of files: digests, hashes, sheets
SKIPPED = {".git", "__pycache__", "node_modules"}  # Git's folder is asked by Git


class Tree(NamedTuple):
    """A folder that is searched, file by file."""

    top: Path
    kind: str  # working copy, worktree, worker's clone, cache, original pictures, Prefect's database
    shared: bool  # it lies outside of the repository, and others may use it


def trees(root: Path) -> list[Tree]:
    """Every folder on this machine in which this repository keeps things; none lies in another."""
    git = Git(root)
    own = git.top()
    found = [Tree(own, "working copy", False)]
    for line in git("worktree", "list", "--porcelain").splitlines():
        key, _, value = line.partition(" ")
        if key == "worktree" and Path(value) != own and Path(value).is_dir():
            found.append(Tree(Path(value), "worktree", False))
    clones = Path(os.environ.get("PALIMPSEST_WORKSPACES") or Path(tempfile.gettempdir(), f"palimpsest-{os.getuid()}"))
    if clones.is_dir():
        found.append(Tree(clones.resolve(), "worker's clone", False))
    kept = cache.folder(root).resolve()
    if kept.is_dir() and not _inside(kept, found):
        found.append(Tree(kept, "cache", True))
    for folder in originals(root).values():
        if (place := folder.resolve()).is_dir() and not _inside(place, found):
            found.append(Tree(place, "original pictures", True))
    for home in (os.environ.get("PREFECT_HOME"), root / ".palimpsest" / "prefect"):
        if home and (place := Path(home).expanduser().resolve()).is_dir() and not _inside(place, found):
            found.append(Tree(place, "Prefect's database", False))
    return found


def originals(root: Path) -> dict[str, Path]:
    """The folder of the original pictures of each dataset in `params.yaml`; it may lie outside of the project."""
    try:
        datasets = dvc_lock.read(root / "params.yaml").get("datasets") or {}
    except InputError:
        return {}
    found = {}
    for name, sections in datasets.items():
        folder = (sections.get("ingest") or {}).get("root") if isinstance(sections, dict) else None
        if isinstance(folder, str):
            found[str(name)] = root / folder
    return found


def _inside(place: Path, found: list[Tree]) -> bool:
    return any(place.is_relative_to(tree.top) for tree in found)


def files(tree: Tree, root: Path) -> Iterator[Path]:
    """The files of a tree, but for Git's, those of Python environments and what erasures and audits remember.

    Of Prefect's folder only databases. A link is a file of its own, wherever it leads.
    """
    memories = {root / STATE, root / MEMORY}
    for place, folders, names in os.walk(tree.top):
        here = Path(place)
        folders[:] = sorted(
            name
            for name in folders
            if name not in SKIPPED
            and here / name not in memories
            and not (here / name / "pyvenv.cfg").exists()
            and not (here / name).is_symlink()
        )
        for name in sorted(names):
            file = here / name
            if tree.kind == "Prefect's database" and file.suffix != ".db":
                continue
            if name != ".git" and file.is_file():
                yield file


def object_of(file: Path) -> str | None:
    """The digest that a file in a DVC cache has by its place; None for any other file."""
    *_, files, md5, first, rest = ["", "", "", *file.parts]
    return first + rest if (files, md5) == ("files", "md5") and len(first) == 2 else None


def states(root: Path) -> Iterator[Path]:
    """The folders of trainings that were interrupted, in every working copy."""
    for tree in trees(root):
        if tree.kind != "cache":
            yield from sorted(tree.top.glob("**/.palimpsest/state/*/state.safetensors"))
