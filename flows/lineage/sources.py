"""Files that Git keeps, found by the digests that `dvc.lock` has of them: code, lists, scores."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from flows.checkout.git import Git, GitError

# Oldest first: of each commit the files that it brought, with the names of their blobs.
RAW = ("-m", "--reverse", "--raw", "--no-abbrev", "-z", "--no-renames", "--format=commit %H %ct")


class Version(NamedTuple):
    """A version of a file in Git."""

    path: str  # from the top folder of the repository
    commit: str  # that brought it first
    time: datetime


class Sources:
    """Git's files by md5. What has been read of them is kept for the next question."""

    def __init__(self, root: Path) -> None:
        self.git = Git(root)
        self._md5: dict[str, str] = {}  # by the name of the blob

    def digests(self, blobs: Collection[str]) -> dict[str, str]:
        """md5 by blob."""
        unknown = [blob for blob in dict.fromkeys(blobs) if blob not in self._md5]
        self._md5 |= {blob: hashlib.md5(data).hexdigest() for blob, data in self.git.blobs(unknown).items()}
        return {blob: self._md5[blob] for blob in blobs}

    def at(self, commit: str, paths: Collection[str]) -> dict[str, str]:
        """The digests of files and folders at a commit, as `dvc.lock` would have them, by path."""
        blobs: dict[str, str] = {}
        paths = self._inside(paths)
        if not paths:
            return {}
        for line in self.git.paths("ls-tree", "-r", commit, "--", *paths):
            about, _, name = line.partition("\t")
            kind, blob = about.split(" ")[1:3]
            if kind == "blob":
                blobs[name] = blob
        md5s = self.digests(blobs.values())
        found = {}
        for path in paths:
            if path in blobs:
                found[path] = md5s[blobs[path]]
            elif inside := [name for name in blobs if name.startswith(f"{path}/")]:
                listing = [{"md5": md5s[blobs[name]], "relpath": name.removeprefix(f"{path}/")} for name in inside]
                listing.sort(key=lambda file: file["relpath"])
                found[path] = hashlib.md5(json.dumps(listing, sort_keys=True).encode()).hexdigest() + ".dir"
        return found

    def find(self, wanted: Mapping[str, str], first: str | None = None) -> dict[str, str]:
        """A commit for each path at which it has the digest that is wanted; `first` is tried first."""
        found: dict[str, str] = {}
        commits = [first] if first else []
        while True:
            for commit in commits:
                left = [path for path in wanted if path not in found]
                if not left:
                    return found
                found |= {path: commit for path, md5 in self.at(commit, left).items() if md5 == wanted[path]}
            left = [path for path in wanted if path not in found]
            if not left or commits not in ([first], []):
                return found
            words = [f":(literal){path}" for path in self._inside(left)]
            if not words:
                return found
            commits = self._log("--format=%H", "--", *words).split()
            if not commits:
                return found

    def tracked(self, paths: Collection[str]) -> set[str]:
        """Those of the files and folders that Git has or had, in the working copy or in any commit."""
        words = [f":(literal){path}" for path in self._inside(paths)]
        names = self.git.paths("ls-files", "--full-name", "--", *words) if words else []
        names += self._log("-m", "--name-only", "-z", "--format=", "--", *words).split("\0") if words else []
        inside = {name.strip("\n").removeprefix(self.git.prefix) for name in names}
        return {path for path in paths if any(name == path or name.startswith(f"{path}/") for name in inside)}

    def _inside(self, paths: Collection[str]) -> list[str]:
        """Those that lie in the repository: `../photos` may not, and Git would refuse the question."""
        ways = {path: Path(os.path.normpath(self.git.prefix + path)) for path in paths if not Path(path).is_absolute()}
        return [path for path, way in ways.items() if way.parts[:1] != (os.pardir,)]

    def versions(self, paths: Collection[str] = ()) -> dict[str, Version]:
        """Every version of these files (none: of all) that Git knows, by md5; the first that brought it."""
        words = [f":(literal){path}" for path in self._inside(paths)]
        if paths and not words:
            return {}
        return self._first(self._log("--full-history", *RAW, "--", *words))

    def holding(self, blob: str) -> Version | None:
        """The first commit, and the path there, of a blob by its name; None where Git has no such blob."""
        return self._first(self._log(f"--find-object={blob}", *RAW), blob).get(blob)

    def _log(self, *words: str) -> str:
        try:
            return self.git("log", "--all", "--reflog", *words)
        except GitError as error:
            if "does not have any commits yet" in str(error):
                return ""
            raise

    def _first(self, log: str, only: str | None = None) -> dict[str, Version]:
        """By md5, or by the blob's name where one `only` is asked for."""
        first: dict[str, Version] = {}
        commit, time = "", datetime.fromtimestamp(0, UTC)
        parts = iter(log.split("\0"))
        for part in parts:
            line = part.strip("\n")
            if line.startswith("commit "):
                _, commit, seconds = line.split()
                time = datetime.fromtimestamp(int(seconds), UTC)
            elif line.startswith(":"):
                _, mode, _, blob, _ = line.split(" ")
                path = next(parts)
                if blob.strip("0") and mode != "160000" and only in (None, blob):  # not removed, no submodule
                    first.setdefault(blob, Version(path, commit, time))
        if only:
            return first
        md5s = self.digests(first)
        return {md5s[blob]: version for blob, version in reversed(first.items())}
