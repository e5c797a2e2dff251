"""The records of stage runs, which `stages/runs/record.py` writes: a JSON file each, under `STAGE/`.

They are looked for in the folder of records, then on the branch that carries them (`record_branch.py`).
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flows.checkout.git import Git
from flows.lineage import record_branch, shape
from flows.process import atomic_file
from stages.runs import git, record
from stages.runs.errors import InputError

if TYPE_CHECKING:
    from flows.lineage.signatures import Vouchers

PATCH = re.compile("diffs/[0-9a-f]{64}[.]patch")
# The folders of what people have done with checkpoints, by `palimpsest audit ...`: these records are no stage's.
REBUILT = "audit_rebuild"  # it was made again
HANDED = "audit_handover"  # it was handed over
TESTED = "audit_sign_tests"  # somebody has signed its scores
ERASED = "audit_erase"  # pictures were erased, and checkpoints that were trained on them


def of_outputs(folder: Path, outputs: Mapping[str, str]) -> dict[str, str]:
    """The records of the runs that made these outputs (md5 by path): their text by their path in the folder."""
    return {
        file.relative_to(folder).as_posix(): file.read_text(encoding="utf-8")
        for file in sorted(folder.glob("*/*.json"))
        if record.read(file)["outputs"].items() >= outputs.items()
    }


def add(folder: Path, records: Mapping[str, str], state: git.State | None) -> None:
    """Write records of another clone that the folder does not have: text by path.

    `state` is that of this checkout, of which the other one was a copy without history.
    """
    for name, text in records.items():
        if not (folder / name).exists():
            body = json.loads(text) | {"git": record.keep(folder, state)}
            atomic_file.write(folder / name, record.text(body))


class Found(NamedTuple):
    """A record, and where it is."""

    body: dict[str, Any]
    where: str  # its path in the folder of records, or on the branch


class Records:
    """All records that the project at `root` has: those in its folder, then those on the branch alone."""

    def __init__(self, root: Path) -> None:
        self._folder = root / record.home()
        self._git = Git(root)
        self.unread: list[str] = []  # why a record could not be read, a line each
        self._texts: dict[str, bytes] | None = None
        self._vouchers: Vouchers | None = None

    def of(self, path: str, md5: str, inputs: Mapping[str, str]) -> Found | None:
        """The record of the run that made this output at this path.

        Of several, one whose inputs are these (md5 by path); of those one with a signature that counts, so that no
        stranger's stands before it; then one of the newest format, which says most; then the first. None where there
        is none.
        """
        found = self.all_of(path, md5)
        if len(found) < 2:
            return found[0] if found else None

        def rank(one: Found) -> tuple[bool, bool, int, str]:
            body = one.body
            return not _fits(body, inputs), self._loose(body), -body.get("format", 1), body["ended"]

        return min(found, key=rank)

    def all_of(self, path: str, md5: str) -> list[Found]:
        """The records of all runs that made this output at this path."""
        found = []
        for where, text in self._all().items():
            if md5.encode() in text:  # most are not parsed
                try:
                    body = _parsed(text, where)
                except InputError as error:
                    self.unread.append(str(error))
                    continue
                if body["outputs"].get(path) == md5:
                    found.append(Found(body, where))
        return found

    def _loose(self, body: Mapping[str, Any]) -> bool:
        """Whether anybody may have written it: nobody who counts has signed it. One that was altered is no such: it is
        to be seen."""
        from flows.lineage.signatures import Vouchers  # which read records, too

        self._vouchers = self._vouchers or Vouchers(self._git)
        with contextlib.suppress(InputError):
            return record.whole(body) and self._vouchers.of(record.text(body)) is None
        return True

    def texts(self) -> Mapping[str, bytes]:
        """All of them as they are written, by where they are."""
        return self._all()

    def every(self, naming: str = "") -> list[Found]:
        """All that can be read; those alone that have `naming` somewhere in their text."""
        found = []
        for where, text in self._all().items():
            if naming.encode() in text:
                with contextlib.suppress(InputError):
                    found.append(Found(_parsed(text, where), where))
        return found

    def diff(self, body: Mapping[str, Any]) -> bytes | None:
        """What was not committed when a record was made, as a patch; None where there is nothing, or it is not here.

        Raises InputError where the patch has other bytes than the record names.
        """
        name = (body.get("git") or {}).get("diff")
        if not isinstance(name, str) or not PATCH.fullmatch(name):  # it may be a stranger's
            return None
        file = self._folder / name
        patch = file.read_bytes() if file.is_file() else record_branch.files(self._git, name).get(name)
        if patch is not None and sha256(patch).hexdigest() != Path(name).stem:
            raise InputError(f"{name}: other bytes than its name promises: it was altered; remove it")
        return patch

    def _all(self) -> dict[str, bytes]:
        if self._texts is None:
            folder = self._folder
            self._texts = {
                file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.glob("*/*.json"))
            }
            known = set(self._texts.values())
            for name, text in record_branch.files(self._git, ".json").items():
                if text not in known:
                    self._texts[f"{record_branch.name(self._git)}:{name}"] = text
        return self._texts


def _parsed(text: bytes, where: str) -> dict[str, Any]:
    """A record in which everything that is read of it is of the right kind. Raises InputError for any other."""
    body = record.parse(text, where)
    try:
        datetime.fromisoformat(body["ended"])
        right = shape.of_record(body) and isinstance((body.get("git") or {"dirty": []}).get("dirty"), list)
    except ValueError:
        right = False
    if not right:
        raise InputError(f"{where}: not a record as a run leaves it; remove it")
    return body


def _fits(body: Mapping[str, Any], inputs: Mapping[str, str]) -> bool:
    """Whether a run has read these files, of those that its record names."""
    read = body.get("inputs") or {}
    return all(inputs.get(path, md5) == md5 for path, md5 in read.items())
