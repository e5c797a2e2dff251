"""What an erasure keeps while it is going on, so that it can be taken up again if it is killed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from flows.erasure import lists, places
from flows.erasure.checkpoints import Trained
from flows.erasure.needles import Needles
from flows.erasure.pictures import Person, Picture
from flows.erasure.plan import Sought
from flows.process import atomic_file, private_folder
from stages.runs import record
from stages.runs.errors import InputError

SOUGHT, NEEDLES, CHANGES = "sought.json", "needles.npz", "changes.jsonl"


def pending(root: Path) -> list[Sought]:
    """What erasures that were interrupted have sought."""
    files = sorted((root / places.STATE).glob(f"*/{SOUGHT}"), key=lambda file: file.stat().st_mtime_ns)
    return [_sought(file.parent) for file in files]


class Journal:
    """The folder of an erasure that is going on; it is removed at its end. It has pieces of pictures: nobody else may
    read it."""

    def __init__(self, root: Path, ids: Sequence[str]) -> None:
        """`ids` are the image_ids of what is erased: each erasure has its folder."""
        self._root = root
        self.folder = root / places.STATE / sha256(" ".join(ids).encode()).hexdigest()[:16]
        self.changed: dict[str, str] = {}  # digests of tables and listings, and of what stands in their place
        self.gone: set[str] = set()  # digests of what was removed
        self.roots: dict[str, str] = {}  # digests of folders of original pictures, by path, as they were before
        file = self.folder / CHANGES
        for line in file.read_text().splitlines() if file.is_file() else ():
            if line.endswith("}"):  # else a kill has cut it off, and what it tells of was not done yet
                self._note(**json.loads(line))

    def begin(self, wanted: Sought) -> None:
        """Keep what is sought, unless that was done before. The last file makes it whole."""
        private_folder.make(self.folder.parent)
        private_folder.make(self.folder)
        if (self.folder / SOUGHT).is_file():
            self.roots = json.loads((self.folder / SOUGHT).read_text())["roots"]
            return
        self.roots = {path: record.digest(folder) for path, folder in lists.roots(self._root).items()}
        wanted.needles.save(self.folder / NEEDLES)
        said = {
            "pictures": [dataclasses.asdict(one) for one in wanted.pictures],
            "scales": wanted.scales,
            "trained": [dataclasses.asdict(one) for one in wanted.trained],
            "rows": {str(count): sorted(rows) for count, rows in wanted.rows.items()},
            "untold": wanted.untold,
            "person": dataclasses.asdict(wanted.person) if wanted.person else None,
            "datasets": wanted.datasets,
            "roots": self.roots,
        }
        atomic_file.write(self.folder / SOUGHT, json.dumps(said, default=str))

    def note(self, old: str, new: str | None) -> None:
        """Write down that something is to be removed, or replaced, before that is done."""
        with (self.folder / CHANGES).open("a") as file:
            file.write(f"{json.dumps({'old': old, 'new': new})}\n")
        self._note(old, new)

    def _note(self, old: str, new: str | None) -> None:
        if new is None:
            self.gone.add(old)
        else:
            self.changed[old] = new

    def end(self) -> None:
        """Forget it all."""
        (self.folder / SOUGHT).unlink(missing_ok=True)  # first: the rest alone is no erasure to go on with
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # another one goes on
            self.folder.parent.rmdir()


def _sought(folder: Path) -> Sought:
    try:
        said = json.loads((folder / SOUGHT).read_text())
        return Sought(
            [Picture(**{**one, "identities": tuple(one["identities"]),
                        "names": tuple(tuple(name) for name in one["names"])}) for one in said["pictures"]],
            Needles.load(folder / NEEDLES),
            tuple(said["scales"]),
            [_trained(one) for one in said["trained"]],
            {int(count): set(rows) for count, rows in said["rows"].items()},
            said["untold"],
            Person(**said["person"]) if said["person"] else None,
            said["datasets"],
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, OSError):
        raise InputError(f"{folder}: not as an erasure leaves it; remove it and name the pictures again") from None


def _trained(said: dict[str, Any]) -> Trained:
    time = datetime.fromisoformat(said["time"]) if said["time"] else None
    return Trained(**{**said, "pictures": tuple(said["pictures"]), "time": time})
