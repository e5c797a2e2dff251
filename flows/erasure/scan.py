"""Everything that a repository keeps, read and searched: what has a picture, and what is to become of it."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Literal

from flows.checkout.git import Git
from flows.engine import remotes
from flows.erasure import checkpoints, git_objects, lists, places
from flows.erasure.contents import ROW, Search, Seen, flat
from flows.erasure.lists import Lists
from flows.erasure.pictures import Picture
from flows.lineage import cache, locks
from flows.lineage.entries import of_stage
from flows.lineage.tables import FOLDER
from stages.runs import record
from stages.runs.errors import InputError

Place = Literal["file", "remote", "Git"]
Action = Literal["remove", "rewrite", "clean", "keep"]
TRAINED = "trained on it"
LISTED = "lists it"
BORROWED = "hole filled from it"
RESULTS = re.compile(r"(?:^|/)data/(inpainted|blended)/([^/]+)/")  # also in a copy of the project


@dataclasses.dataclass(frozen=True)
class Held:
    """One thing that has a picture."""

    place: Place
    where: str  # a file's path; NAME:MD5 on a remote; a blob's digest in Git
    kind: str  # working copy, worktree, worker's clone, cache, remote, Git ...
    what: str  # its path in the project, as far as it is known
    md5: str  # of its bytes
    size: int
    pictures: tuple[int, ...]  # by number
    how: tuple[str, ...]  # file, pixels, crop, row, ...
    action: Action
    rows: tuple[int, ...] = ()  # of a table, which go
    remedy: str | None = None  # where it is kept: what to do

    @property
    def shown(self) -> str:
        """Where it is and what, in words."""
        return f"{self.where} ({self.what})" if self.what and not self.where.endswith(self.what) else self.where


@dataclasses.dataclass
class Scan:
    """What was found."""

    held: list[Held] = dataclasses.field(default_factory=list)
    files: int = 0  # that were read, on this machine; equal ones count as often as they are there
    objects: int = 0  # that were read on remotes, because no file here has their bytes
    blobs: int = 0  # of Git
    bytes: int = 0  # that were searched; equal contents once
    unread: list[str] = dataclasses.field(default_factory=list)  # what could not be read, a line each
    trained: set[str] = dataclasses.field(default_factory=set)  # md5 of checkpoints that were trained on a picture


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file, or an object on a remote, that was searched."""

    place: Place
    where: str
    kind: str
    what: str
    md5: str  # of its bytes
    size: int
    read: Callable[[], bytes]
    paths: frozenset[str]  # that it has in the project, in any `dvc.lock`
    shared: bool

    def systems(self, blended: Mapping[str, Collection[str]]) -> frozenset[str]:
        """The systems whose results it has; `blended` are those of each entry of `blend`."""
        found = [match for path in self.paths if (match := RESULTS.search(path))]
        return frozenset(
            system
            for match in found
            for system in (blended.get(match[2], [match[2]]) if match[1] == "blended" else [match[2]])
        )


class Scanner:
    """Searches everything for pictures; what has been searched once is known by its digest."""

    def __init__(
        self,
        root: Path,
        search: Search,
        pictures: Sequence[Picture],
        trained: Mapping[str, tuple[int, ...]],
        shared: bool,
        before: Collection[str] = (),
    ) -> None:
        """`trained`: the pictures that a checkpoint was trained on, by its md5; `shared`: what others use goes, too;
        `before`: the md5 of what this erasure has removed or rewritten already."""
        self._root, self._search, self._shared = root, search, shared
        self._trained: dict[str, Collection[int]] = {**trained}
        self._had: dict[str, Collection[int]] = dict.fromkeys(before, (0,)) | self._trained
        self._prefix = Git(root).prefix
        self._seen: dict[str, Seen] = {}
        self.scan = Scan()
        self.names = names(root)
        self._lists = Lists(root, pictures)

    def run(self) -> Scan:
        """Search working copies, worktrees, clones, caches, remotes and Git."""
        with remotes.stores(self._root) as stores:
            entries = [*self._files(), *self._remotes(stores)]
            self._borrowed(entries)
            self._checkpoints()
            for entry in entries:
                self._note(entry)
        self._git()
        return self.scan

    def _files(self) -> Iterator[Entry]:
        from tqdm import tqdm

        every = [(tree, file) for tree in places.trees(self._root) for file in places.files(tree, self._root)]
        for tree, file in tqdm(every, "search", unit="file", mininterval=1, disable=None):
            try:
                md5, size = record.digest(file), file.stat().st_size
                self._look(md5, functools.partial(self._search.file, file), size)
            except OSError as error:
                self.scan.unread.append(f"{file}: {error.strerror}")
                continue
            self.scan.files += 1
            promised = places.object_of(file)
            paths = self.names.get(promised, set()) if promised else {self._relative(tree, file)}
            what = min(paths, default="") if promised else self._relative(tree, file)
            yield Entry("file", str(file), "cache" if promised else tree.kind, what, md5, size, file.read_bytes,
                        frozenset(paths), tree.shared)  # fmt: skip

    def _remotes(self, stores: Iterable[remotes.Store | str]) -> Iterator[Entry]:
        for store in stores:
            if isinstance(store, str):
                self.scan.unread.append(store)
                continue
            for name in store.objects:
                read = functools.partial(store.read, name)
                md5 = name.removesuffix(FOLDER)
                if md5 in self._seen:
                    size = store.size(name)
                else:
                    data = read()
                    md5, size = hashlib.md5(data).hexdigest(), len(data)
                    self._look(md5, functools.partial(self._search.array, flat(data)), size)
                    self.scan.objects += 1
                paths = frozenset(self.names.get(name, ()))
                where, kind = f"{store.name}:{name}", f"remote '{store.name}'"
                yield Entry("remote", where, kind, min(paths, default=""), md5, size, read, paths, False)

    def _borrowed(self, entries: Sequence[Entry]) -> None:
        """Note the rows whose hole was filled from a picture, in all tables of the system that has done so.

        In `guide.arrow` the picture is whole. In a completed one too little of it may be visible to be found, and in a
        blended one its pixels are of another brightness.
        """
        blended = blends(self._root)
        keys: dict[str, set[tuple[str, ...]]] = {}  # by system
        for entry in entries:
            for system in entry.systems(blended) if self._seen[entry.md5].keys else ():
                keys.setdefault(system, set()).update(self._seen[entry.md5].keys)
        done: set[tuple[str, str]] = set()
        for entry in entries:
            for system in entry.systems(blended) & keys.keys():
                if (entry.md5, system) in done:
                    continue
                done.add((entry.md5, system))
                if rows := _having(entry.read(), keys[system]) - self._seen[entry.md5].rows:
                    self._seen[entry.md5].add({0: {BORROWED}})
                    self._seen[entry.md5].rows |= rows

    def _checkpoints(self) -> None:
        """Note the checkpoints that were trained on a picture by the list that they name, though no lock has them."""
        lists = {
            md5: [number for number, forms in seen.pictures.items() if ROW in forms]
            for md5, seen in self._seen.items()
            if seen.table
        }
        made = {md5: seen.made for md5, seen in self._seen.items() if seen.made}
        self._trained |= checkpoints.trained(made, self._had | lists)
        self.scan.trained = {*self._trained}

    def _note(self, entry: Entry) -> None:
        seen = self._seen[entry.md5]
        if listed := self._lists.names([*entry.paths, *([entry.where] if entry.place == "file" else [])]):
            seen = _list(entry.read(), listed)
        if seen.pictures or entry.md5 in self._trained:
            remedy = "others may use it; --shared removes it there, too" if entry.shared and not self._shared else None
            self._add(entry.place, entry.where, entry.kind, entry.what, entry.md5, entry.size, seen, remedy)

    def _look(self, md5: str, look: Callable[[], Seen], size: int) -> Seen:
        if md5 not in self._seen:
            self._seen[md5] = look()
            self.scan.bytes += size
        return self._seen[md5]

    def _git(self) -> None:
        self._repository(self._root, own=True)
        for place in places.repositories(self._root):
            try:
                self._repository(place, own=False)
            except InputError as error:
                self.scan.unread.append(f"{place}: {error}")

    def _repository(self, place: Path, own: bool) -> None:
        git = Git(place)
        found: dict[str, tuple[int, Seen]] = {}
        for blob, data in git_objects.blobs(git):
            self.scan.blobs += 1
            md5 = hashlib.md5(data).hexdigest()
            seen = self._look(md5, functools.partial(self._search.array, flat(data)), blob.size)
            if seen.pictures or md5 in self._trained:
                found[blob.sha] = blob.size, seen
        if not found:
            return
        history, index = git_objects.reachable(git), git_objects.staged(git)
        stashed = {sha: path for one in git_objects.stashes(git) for sha, path in git_objects.stashed(git, one).items()}
        for sha, (size, seen) in found.items():
            known = next((paths for paths in (history, index, stashed) if sha in paths), None)
            path = known[sha] if known else ""
            remedy = (
                git_objects.IN_HISTORY if known is history
                else git_objects.IN_INDEX if known is index
                else git_objects.UNREACHED if known is None
                else None if own
                else git_objects.STASHED
            )  # fmt: skip
            if own:
                self._add("Git", sha, "Git" if remedy else "stash", path, "", size, seen, remedy)
            else:
                self._add("Git", sha, "Git of another repository", f"{place}: {path}", "", size, seen, remedy)

    def _add(
        self, place: Place, where: str, kind: str, what: str, md5: str, size: int, seen: Seen, remedy: str | None
    ) -> None:
        pictures = {*seen.pictures, *self._trained.get(md5, ())}
        how = sorted({form for forms in seen.pictures.values() for form in forms})
        how += [TRAINED] * (md5 in self._trained)
        action: Action = "keep" if remedy else "rewrite" if seen.table else "remove"
        if action == "remove" and seen.database and place == "file" and not places.object_of(Path(where)):
            action = "clean"
        held = Held(place, where, kind, what, md5, size, tuple(sorted(pictures)), tuple(how), action,
                    tuple(sorted(seen.rows)), remedy)  # fmt: skip
        self.scan.held.append(held)

    def _relative(self, tree: places.Tree, file: Path) -> str:
        return file.relative_to(tree.top).as_posix().removeprefix(self._prefix)


def names(root: Path) -> dict[str, set[str]]:
    """The paths that a digest has in any `dvc.lock`, and those of the files in folders whose listing is here."""
    found: dict[str, set[str]] = {}
    for lock in locks.every(root):
        for file in locks.FILE.finditer(lock.text):  # inputs, too: a folder of photos is nobody's output
            found.setdefault(file["md5"].decode(), set()).add(file["path"].decode(errors="replace"))
    for md5, paths in [*found.items()]:
        place = cache.place(root, md5)
        if md5.endswith(FOLDER) and place.is_file():
            try:
                listed = cache.listing(place)
            except InputError:
                continue
            for path in paths:
                for inside, one in listed.items():
                    found.setdefault(one, set()).add(f"{path}/{inside}")
    return found


def blends(root: Path) -> dict[str, set[str]]:
    """The systems that each entry of `blend` has blended, in any `dvc.lock`."""
    found: dict[str, set[str]] = {}
    for made in of_stage(locks.every(root), "blend", []):
        for place in (match for path in made.outs if (match := RESULTS.search(f"{path}/"))):
            read = (RESULTS.search(f"{path}/") for path in made.deps)
            found.setdefault(place[2], set()).update(match[2] for match in read if match)
    return found


def _list(data: bytes, names: Set[str]) -> Seen:
    """What a list has of pictures, by their names."""
    found = lists.lines(data, names)
    return Seen({0: {LISTED}}, True, rows=set(found)) if found else Seen()


def _having(data: bytes, keys: Set[tuple[str, ...]]) -> set[int]:
    """The rows of a table that have one of these keys: (image_id, path, kind) of a completed picture."""
    import pyarrow as pa

    from stages.images.table import KEY

    if not data.startswith(b"ARROW1"):
        return set()
    table = pa.ipc.open_file(data).read_all()
    if not set(KEY) <= {*table.column_names}:
        return set()
    columns = [table[name].to_pylist() for name in KEY]
    return {row for row, key in enumerate(zip(*columns, strict=True)) if tuple(map(str, key)) in keys}


def total(held: Iterable[Held]) -> int:
    """Bytes that these take."""
    return sum(one.size for one in held)
