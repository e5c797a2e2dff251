"""What has happened, in the order of time: stage runs, what people have done with checkpoints, decisions."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.audit.facts import printed
from flows.checkout.git import Git
from flows.lineage import public_keys, signatures
from flows.lineage.records import ERASED, HANDED, REBUILT, TESTED, Records
from flows.registry import history

# What people have done with a checkpoint, by the folder of its records, and what the notes say of it.
PEOPLE: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    REBUILT: ("rebuilt", lambda notes: f"{notes.get('verdict')}: {notes.get('why')}"),
    HANDED: (
        "handed over",
        lambda notes: f"to {notes.get('to')}" + (f": {notes['note']}" if notes.get("note") else ""),
    ),
    TESTED: (
        "tests signed",
        lambda notes: f"{len(notes.get('scores') or ())} files of scores, by {notes.get('signer')}",
    ),
}


@dataclasses.dataclass(frozen=True)
class Event:
    """Something that happened."""

    time: datetime
    # "run", "rebuilt", "handed over", "tests signed", "erased", "promoted", "rejected", "rolled back" or "withdrawn"
    kind: str
    about: str  # the stage, the checkpoint or the system
    said: str  # one line
    where: str  # the record, or the commit of the decision
    signed: str | None  # who vouches for the record, by a signature that is right; None: nobody, or a decision


def ask(root: Path) -> list[Event]:
    """All events that this clone knows of, oldest first. Raises InputError outside of a Git repository."""
    git = Git(root)
    records = Records(root)
    texts = {where: text.decode("utf-8", "surrogateescape") for where, text in records.texts().items()}
    held, others = signatures.on_branch(git).attestations, public_keys.elsewhere(git)
    signed = signatures.check(texts, held, public_keys.counted(git), elsewhere=others).signed
    events = [_run(one.body, one.where, signed.get(one.where)) for one in records.every()]
    for entry in history.read(git, fetched=True):
        decision = entry.decision
        said = f"{decision.why}, by {entry.who}"
        events.append(Event(entry.time, decision.outcome, decision.system, said, entry.commit, None))
    return sorted(events, key=lambda event: event.time)


def _run(record: dict[str, Any], where: str, signed: str | None) -> Event:
    time = datetime.fromisoformat(record["ended"]).astimezone(UTC)
    notes = record.get("notes") or {}
    if record.get("stage") in PEOPLE:
        kind, words = PEOPLE[record["stage"]]
        return Event(time, kind, str(notes.get("checkpoint")), words(notes), where, signed)
    if record.get("stage") == ERASED:
        count = len(notes.get("pictures") or ())
        said = f"{notes.get('removed')} things removed, {notes.get('rewritten')} tables written anew"
        return Event(time, "erased", f"{count} picture{'s' * (count != 1)}", said, where, signed)
    outputs = [f"{path} {md5[:10]}" for path, md5 in record["outputs"].items()]
    more = f" and {len(outputs) - 1} more" if len(outputs) > 1 else ""
    took = f" in {record['seconds']:.0f} s" if "seconds" in record else ""
    processor = (record.get("environment") or {}).get("processor")
    said = f"{outputs[0] if outputs else 'nothing'}{more}{took}, on {processor}"
    return Event(time, "run", str(record.get("stage")), said, where, signed)


def show(events: list[Event], last: int) -> None:
    """The last so many events on the terminal, a line each; the newest is the lowest."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for column in range(5):
        table.add_column(overflow="fold", no_wrap=column < 3)
    for event in events[-last:]:
        signed = f"signed by {event.signed}" if event.signed else ""
        table.add_row(
            f"{event.time:%Y-%m-%d %H:%M}",
            Text(event.kind, "bold"),
            *(Text(printed(text)) for text in (event.about, event.said, signed)),
        )
    if len(events) > last:
        print(f"the last {last} of {len(events)} (-n for more; times are UTC)")
    Console(highlight=False, width=None if sys.stdout.isatty() else 180).print(table)
