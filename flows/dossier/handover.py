"""Who received a checkpoint: said by whoever handed it over, and kept as a record."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from pathlib import Path

from flows.audit import checkpoint
from flows.lineage import cache
from flows.lineage.public_keys import ODD
from flows.lineage.records import HANDED
from stages.runs import record
from stages.runs.errors import InputError

LONGEST = 1000  # letters of a name or a note


@dataclasses.dataclass(frozen=True)
class Handover:
    """That somebody received a checkpoint."""

    asked: str
    checkpoint: str  # path; of a file without a name in `data/models/`, the file's name
    md5: str
    sha256: str | None  # of the file, by which who has it can know it; None: its bytes are not here
    to: str
    note: str | None
    time: str  # ISO 8601
    record: str  # its path in the folder of records


def hand_over(root: Path, asked: str, to: str, note: str | None = None) -> Handover:
    """Note that somebody has received a checkpoint, named as in `checkpoint.ask`.

    Raises InputError where there is no such checkpoint, or where its bytes are not those that are recorded.
    """
    words = {"--to": to, "--note": note or "none"}
    for option, text in words.items():
        if not text.strip() or len(text) > LONGEST or ODD.search(text):
            raise InputError(f"{option}: takes one line of text, {LONGEST} letters at the most")
    md5, path = checkpoint.known_as(root, asked)
    file = Path(asked) if Path(asked).is_file() else cache.find(root, md5, path)
    sha256 = record.digests(file, "sha256")[0] if file else None
    now = datetime.now(UTC).isoformat(timespec="seconds")
    notes = {"checkpoint": path, "md5": md5, "sha256": sha256, "to": to.strip(), "note": note, "at": now}
    facts = {"inputs": {path: md5}, "outputs": {}, "params": {}, "environment": {}, "notes": notes}
    written = record.write(root / record.home(), HANDED, facts, {"ended": now})
    return Handover(asked, path, md5, sha256, to.strip(), note, now, f"{HANDED}/{written.name}")


def show(done: Handover) -> None:
    """What was noted, and how others learn of it."""
    print(f"{done.asked}: handed over to {done.to}, {done.time}")
    sha256 = done.sha256 or "not known: the file is not here"
    print(f"  md5 {done.md5}, sha256 {sha256}")
    print(f"  noted in {record.home() / done.record}; `palimpsest audit collect` signs it and brings it to others")
