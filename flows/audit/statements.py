"""What people have done with a checkpoint, by their records: who received it, who has signed its scores, and what was
erased of it and of what it comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flows.audit import evidence
from flows.audit.facts import Fact, Word, find_table
from flows.lineage import erasures
from flows.lineage.cache import FoundTable
from flows.lineage.locks import Lock
from flows.lineage.records import ERASED, HANDED, TESTED, Found, Records
from flows.lineage.signatures import Vouchers

REVOKED = " (key revoked)"  # stands behind the name of a signer whose key is


@dataclasses.dataclass(frozen=True)
class Statement:
    """A record about a checkpoint, and what there is to say of it."""

    found: Found
    fact: Fact


def of(records: Records, kind: str, md5: str) -> list[Found]:
    """The records of this kind about a checkpoint, in the order of time."""
    return [one for one in _of_kind(records, kind) if _notes(one).get("md5") == md5]


def _of_kind(records: Records, kind: str) -> list[Found]:
    found = [one for one in records.every(kind) if one.body.get("stage") == kind]
    return sorted(found, key=lambda one: one.body["ended"])


def erased(
    root: Path, records: Records, vouchers: Vouchers, md5: str | None, files: Iterable[tuple[str, str]]
) -> Iterator[Statement]:
    """What erasures have done: to a checkpoint (None: to none), and to files (path and md5 of each)."""
    now, counted = list(dict.fromkeys(files)), erasures.counted(root)
    for found in _of_kind(records, ERASED):
        day, changed = found.body["ended"][:10], erasures.changes(found.body)
        lost = dict.fromkeys(path for path, digest in now if digest in changed)
        now = [(path, changed.get(digest, digest)) for path, digest in now]
        done = []
        if md5 and erasures.removed(found.body, md5):
            done.append(f"removed on {day}, because a picture was erased on which it was trained")
        if lost:
            done.append(f"pictures were erased on {day} from {' and '.join(lost)}")
        signature = evidence.signature(vouchers, found.body, found.where)
        who = evidence.signer(vouchers, found.body) or "nobody"
        for said in done:
            if signature.word == "DIFFERS":
                yield Statement(found, Fact("erased", signature.said, "DIFFERS"))
            else:
                word: Word = "recorded" if found.body in counted else "cannot tell"
                yield Statement(found, Fact("erased", f"{said}, signed by {who}", word))


def handovers(records: Records, vouchers: Vouchers, md5: str) -> Iterator[Statement]:
    """To whom a checkpoint was handed over."""
    for found in of(records, HANDED, md5):
        signature = evidence.signature(vouchers, found.body, found.where)
        if signature.word == "DIFFERS":
            yield Statement(found, Fact("handed over", signature.said, "DIFFERS"))
            continue
        who = evidence.signer(vouchers, found.body) or "nobody"
        notes = _notes(found)
        more = f": {notes['note']}" if notes.get("note") else ""
        said = f"to {notes.get('to')}, {found.body['ended']}, signed by {who}{more}"
        yield Statement(found, Fact("handed over", said, "recorded"))


def tests(
    root: Path, every: Iterable[Lock], records: Records, vouchers: Vouchers, md5: str, scores: Mapping[str, str]
) -> Iterator[Statement]:
    """Who has signed the scores of a checkpoint. `scores` are those that it has now (md5 by path); `every` lock tells
    whether others were its scores once."""
    for found in of(records, TESTED, md5):
        fact = _signed(vouchers, found) or _compared(root, every, found, scores)
        yield Statement(found, fact)


def _signed(vouchers: Vouchers, found: Found) -> Fact | None:
    """What is wrong with the signature, or missing; None where it is that of the person whom the record names."""
    about, notes = "tests signed", _notes(found)
    signature = evidence.signature(vouchers, found.body, found.where)
    if signature.word != "verified":
        said = f"{found.where} says: by {notes.get('signer')}, {found.body['ended']}; {signature.said}"
        return Fact(about, signature.said if signature.word == "DIFFERS" else said, signature.word)
    who = str(evidence.signer(vouchers, found.body)).removesuffix(REVOKED)
    if who != notes.get("signer"):
        return Fact(
            about, f"{found.where} says: by {notes.get('signer')}; but it is {who} who has signed it", "DIFFERS"
        )
    return None


def _compared(root: Path, every: Iterable[Lock], found: Found, scores: Mapping[str, str]) -> Fact:
    """Whether the scores that were signed are those that the checkpoint has now."""
    about, notes = "tests signed", _notes(found)
    signed = notes.get("scores")
    signed = signed if isinstance(signed, dict) else {}
    said = f"by {notes.get('signer')}, {found.body['ended']}: {len(signed)} files of scores"
    if signed == scores:
        files = {path: find_table(root, md5, path, about) for path, md5 in scores.items()}
        wrong = [one for one in files.values() if isinstance(one, Fact)]
        for fact in sorted(wrong, key=lambda fact: fact.word != "DIFFERS"):
            return Fact(about, f"{said}; {fact.said}", fact.word)
        for path, table in files.items():
            if isinstance(table, FoundTable) and table.rewritten:
                rest = f"a picture was erased from {path} since, so it is not what was signed"
                return Fact(about, f"{said}; {rest}", "cannot tell")
        return Fact(about, f"{said}, which are as they were signed", "verified")
    changed = next((path for path in [*signed, *scores] if signed.get(path) != scores.get(path)), None)
    texts = [lock.text for lock in every]
    if all(any(str(md5).encode() in text for text in texts) for md5 in signed.values()):
        rest = f"the scores are others now ({changed}); `palimpsest audit sign-tests` signs these"
        return Fact(about, f"{said}; {rest}", "recorded")
    rest = f"the scores are others now ({changed}), and no dvc.lock that Git knows here has those that were signed"
    return Fact(about, f"{said}; {rest}", "cannot tell")


def _notes(found: Found) -> dict[str, Any]:
    return found.body.get("notes") or {}
