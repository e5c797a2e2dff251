"""`dvc.lock`, written whole or not at all, its stages in the order in which plain `dvc repro` would leave them.

DVC rewrites the file in place and appends each new stage as it finishes. A kill inside the write leaves
it cut off, and stages that finish in parallel leave another order in every run. Here each update replaces
the file, and another under `.dvc/tmp` (`LastWrites`) remembers the order from before the first update, so that
a rebuild that was killed or failed ends, when it is repeated, in the bytes of an unbroken one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dvc.dvcfile import Lockfile
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.stage import PipelineStage
from dvc.stage.serialize import to_lockfile
from dvc.utils.serialize import dumps_yaml, parse_yaml, parse_yaml_for_update

from flows.process import atomic_file
from stages.runs.errors import InputError

FILE = "palimpsest.journal.json"


class LockFile:
    """The `dvc.lock` beside one `dvc.yaml`. Its methods are to be called under DVC's repository lock."""

    def __init__(self, repo: Repo, pipeline_file: str, plan: Sequence[str]) -> None:
        """`plan` names the stages in the order in which `dvc repro` would run them."""
        self.path = Path(pipeline_file).with_suffix(".lock")
        self.plan = plan
        self._writes = LastWrites(repo)
        self._order: list[str] | None = None  # from before the first update
        self._read: tuple[str, dict] = ("", {})  # a text of the file and what it says: to parse it takes long

    def record(self, stage: PipelineStage) -> None:
        """Write the entry of a stage that has run."""
        old = self._text()
        data = self._parsed(old)
        if self._order is None:
            known = self._writes.entry(self.path)
            remembered = known.get("order") if old in known.get("texts", []) else None
            self._order = list(data.get("stages", {})) if remembered is None else remembered
        if not data:
            data.update({"schema": "2.0"})
        stages = data.setdefault("stages", {})
        stages.update(to_lockfile(stage))
        rank = {name: place for place, name in enumerate(dict.fromkeys([*self._order, *self.plan]))}
        data["stages"] = {name: stages[name] for name in sorted(stages, key=lambda name: rank.get(name, len(rank)))}
        new = dumps_yaml(data)
        if new != old:
            self._writes.remember(self.path, {"texts": [old, new], "order": self._order})
            atomic_file.write(self.path, new, self._writes.draft(self.path))
        self._read = new, data

    def close(self) -> None:
        """All stages are up to date: the next rebuild starts from the order that the file has now."""
        if self.path.exists():
            self._writes.remember(self.path, {"texts": [self._text()]})

    def _text(self) -> str:
        return self.path.read_text(encoding="utf-8") if self.path.exists() else ""

    def _parsed(self, text: str) -> dict:
        known, data = self._read
        self._read = "", {}  # about to be changed
        return data if known == text else parse_yaml_for_update(text, self.path)


class LastWrites:
    """What rebuilds have last written to each `dvc.lock` of a repository, and the order from before."""

    def __init__(self, repo: Repo) -> None:
        self.folder = Path(repo.tmp_dir)
        self._root = repo.root_dir
        self._file = self.folder / FILE

    def entry(self, path: Path) -> dict:
        return self._entries().get(os.path.relpath(path, self._root), {})

    def paths(self) -> set[Path]:
        """The files that it knows."""
        return {Path(self._root, key) for key in self._entries()}

    def remember(self, path: Path, entry: dict) -> None:
        text = json.dumps(self._entries() | {os.path.relpath(path, self._root): entry})
        atomic_file.write(self._file, text, self.draft(self._file))

    def draft(self, path: Path) -> Path:
        """Where to write a file first: not beside `dvc.lock`, as a kill would leave a stray file in Git's sight."""
        return self.folder / f"palimpsest.{path.name}"

    def _entries(self) -> dict[str, dict]:
        if not self._file.exists():
            return {}
        try:
            found = json.loads(self._file.read_bytes())
            if not isinstance(found, dict) or not all(isinstance(entry, dict) for entry in found.values()):
                raise ValueError("not what a rebuild leaves")
        except (ValueError, RecursionError) as error:
            raise InputError(f"{self._file}: damaged ({error}); remove it and run it again") from None
        return found


def text(content: dict[str, Any]) -> str:
    """What a `dvc.lock` says, as DVC writes it."""
    return str(dumps_yaml(content))


def repair(repo: Repo, path: Path) -> Path | None:
    """Put a `dvc.lock` that a killed write has cut off back as it was last written; None where it is whole.

    Returns where the torn file is kept, out of Git's sight. Where no rebuild has written it before, there is none then:
    DVC's run-cache returns what it held.

    Raises InputError where a merge has left conflicts in the file, and where it is no lock file without being cut off:
    that is somebody's work.
    """
    if not path.exists():
        return None
    name = os.path.relpath(path, repo.root_dir)
    text = path.read_text(encoding="utf-8", errors="replace")
    if any(line.startswith("<<<<<<< ") for line in text.splitlines()):
        raise InputError(
            f"{name}: a merge has left conflicts in it; take one side, `git checkout --ours -- {name}`, and run it "
            "again: what the other side has made comes from DVC's cache"
        )
    trouble = "empty"
    if text.strip():
        try:
            Lockfile(repo, str(path)).load()
            return None
        except (DvcException, UnicodeDecodeError) as error:
            trouble = " ".join(f"{error.__cause__ or error}".split())
    writes = LastWrites(repo)
    texts: list[str] = writes.entry(path).get("texts", [])
    if text.strip() and not _is_cut_off(path, text):
        raise InputError(
            f"{name}: not a lock file ({trouble}); mend it, or `git checkout HEAD -- {name}`, and run it again: what "
            "the cache has is not made anew"
        )
    torn = writes.folder / f"{path.name}.torn"
    if texts:
        shutil.copyfile(path, torn)
        atomic_file.write(path, texts[-1], writes.draft(path))
    else:
        path.replace(torn)
    return torn


def _is_cut_off(path: Path, text: str) -> bool:
    """Whether a text that is no lock file is the beginning of one: all but its last entry is right."""
    if not text.endswith("\n"):
        return True
    with contextlib.suppress(DvcException, TypeError, ValueError, LookupError):  # anything may stand there
        entries = dict(parse_yaml(text, path)["stages"])
        entries.popitem()
        Lockfile.validate({"schema": "2.0", "stages": entries})
        return True
    return False
