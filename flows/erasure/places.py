"""Where a repository keeps things on this machine: working copies, caches, workers' clones and Prefect's databases."""

from __future__ import annotations

import itertools
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
    elsewhere = {"Prefect's database": "PREFECT_HOME", "training states": "PALIMPSEST_STATE"}
    for kind, variable in elsewhere.items():
        if home := os.environ.get(variable):
            place = (root / Path(home).expanduser()).resolve()
            if place.is_dir() and not _inside(place, found):
                found.append(Tree(place, kind, False))
    if (large := git.common() / "lfs").is_dir():
        found.append(Tree(large, "Git LFS", False))
    return found


def repositories(root: Path) -> list[Path]:
    """Other Git repositories in these folders: submodules, workers' clones, those of DVC's experiments."""
    known, found = {Git(root).common().resolve()}, []
    for tree in trees(root):
        for here, _, names in _walk(tree, root):
            if ".git" in names and (folder := Git(here).common().resolve()) not in known:
                known.add(folder)
                found.append(here)
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


def copies(root: Path) -> list[Path]:
    """The project's working copies of which somebody makes use: its own, and those in linked worktrees."""
    prefix = Git(root).prefix
    found = [tree.top / prefix for tree in trees(root) if tree.kind in ("working copy", "worktree")]
    return sorted(copy for copy in found if (copy / ".dvc").is_dir())


def projects(root: Path) -> Iterator[Path]:
    """Every working copy of DVC's: those, workers' clones, and those of experiments."""
    for tree in trees(root):
        if not tree.shared:
            yield from (here for here, _, names in _walk(tree, root) if ".dvc" in names)


def workers(root: Path) -> Iterator[Path]:
    """The files on which Dask workers hold locks for their clones (`flows/cluster/worker.py`)."""
    for tree in trees(root):
        if tree.kind == "worker's clone":
            yield from (tree.top / f"{one.name}.lock" for one in sorted(tree.top.iterdir()) if one.name.isdecimal())


def _inside(place: Path, found: list[Tree]) -> bool:
    return any(place.is_relative_to(tree.top) for tree in found)


def files(tree: Tree, root: Path) -> Iterator[Path]:
    """The files of a tree, but for Git's, those of Python environments and what erasures and audits remember.

    A link is a file of its own, wherever it leads.
    """
    for here, names, _ in _walk(tree, root):
        for name in names:
            if name != ".git" and (here / name).is_file():
                yield here / name


def _walk(tree: Tree, root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Every folder of a tree, sorted: the names of its files, and of all that it has."""
    memories = {root / STATE, root / MEMORY}
    for place, folders, names in os.walk(tree.top):
        here, every = Path(place), [*folders, *names]
        folders[:] = sorted(
            name
            for name in folders
            if name not in SKIPPED
            and here / name not in memories
            and not (here / name / "pyvenv.cfg").exists()
            and not (here / name).is_symlink()
        )
        yield here, sorted(names), every


def object_of(file: Path) -> str | None:
    """The digest that a file in a DVC cache has by its place; None for any other file."""
    *_, files, md5, first, rest = ["", "", "", *file.parts]
    return first + rest if (files, md5) == ("files", "md5") and len(first) == 2 else None


def states(root: Path) -> Iterator[Path]:
    """The states of trainings that were interrupted, in every working copy and where else they are kept."""
    for tree in trees(root):
        for here, names, _ in _walk(tree, root):
            home = (".palimpsest", "state") in itertools.pairwise(here.parts)  # a study has a folder for each run there
            if (home or tree.kind == "training states") and "state.safetensors" in names:
                yield here / "state.safetensors"


def caches(root: Path, shared: bool) -> Iterator[Path]:
    """The folders of DVC caches; those that others may use only if `shared`."""
    for tree in trees(root):
        if tree.kind == "cache" and shared:
            yield tree.top
        elif not tree.shared:
            yield from (here for here, _, _ in _walk(tree, root) if here.parts[-2:] == (".dvc", "cache"))


def databases(root: Path) -> Iterator[Path]:
    """Prefect's databases of this project, and of its other working copies."""
    for tree in trees(root):
        for here, names, _ in _walk(tree, root):
            if here.parts[-2:] == (".palimpsest", "prefect") or tree.kind == "Prefect's database":
                yield from (here / name for name in names if name.endswith(".db"))
