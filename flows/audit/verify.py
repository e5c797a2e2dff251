"""Everything that stands under a promise, checked now: bytes, tables, checkpoints, locks and records.

What is missing is no fault: it cannot be told, and each line names the remedy.
"""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from flows.audit import verify_files, verify_locks, verify_records
from flows.audit.facts import paragraphs
from flows.audit.findings import Fault, Findings
from flows.audit.hashing import Digests
from flows.audit.verify_contents import Contents
from flows.audit.verify_files import Output
from flows.checkout.git import Git, GitError
from flows.lineage import cache, entries, erasures, locks
from flows.lineage.locks import Lock
from flows.lineage.records import Records
from stages.runs.errors import InputError


@dataclasses.dataclass(frozen=True)
class Verification:
    """What was checked, and what was found."""

    faults: list[Fault]
    unknown: list[tuple[str, str]]  # about what, and why it cannot be told
    remarks: list[tuple[str, str]]  # about what; no fault
    checked: dict[str, int]  # how many of each kind
    unsigned: list[str]  # records that nobody has signed
    files: int  # that were hashed, each once
    bytes: int

    @property
    def found(self) -> bool:
        """Whether there is a fault."""
        return bool(self.faults)


def ask(root: Path) -> Verification:
    """Check the working copy, DVC's cache, every `dvc.lock` in Git's history and the records against each other."""
    findings = Findings()
    with contextlib.suppress(GitError):  # of a damaged branch of records, which is named below
        findings.replaced, findings.removed = erasures.replaced(root), erasures.gone(root)
    verify_locks.git(root, findings)
    every = _locks(root, findings)
    own = _own(root, every)
    named, wrong = entries.distinct(every)
    verify_locks.damaged(wrong, own, findings)
    here = _entries(own)
    tracked = set(Git(root).paths("ls-files"))
    outs = [
        Output(root, out["path"], out["md5"], out.get("size"), out["path"] in tracked)
        for entry in here for out in entry.content.get("outs", []) if "md5" in out
    ] + verify_files.pointers(root, findings)  # fmt: skip
    present = dict(cache.objects(root))
    digests = Digests([*(file for out in outs for file in out.files), *present.values()])
    verify_files.unread(root, digests, findings)

    paths = {md5: path for entry in named for path, md5 in entry.outs.items()} | {out.md5: out.path for out in outs}
    contents = Contents(root, named, digests, findings)
    known = {file: _where(makers[0].lock) for file, makers in contents.made.items()}
    verify_files.outputs(root, outs, digests, known, findings)
    inside = {md5: f"{path}/{name}" for digest, path in paths.items()
              for name, md5 in (contents.listing(digest) or {}).items()}  # fmt: skip
    verify_files.objects(root, present, digests, inside | paths, findings)
    verify_files.absent(root, paths, {*present, *(out.md5 for out in outs)}, digests, findings)
    findings.gone(
        "files in folders",
        [
            f"{path} {md5[:10]}"
            for md5, path in inside.items()
            if md5 not in present and not digests.having(md5) and not findings.erased(md5)
        ],
        f"neither in DVC's cache nor in the working copy; {verify_files.FETCH}",
    )
    noted = verify_locks.runs(root, findings)
    if own and own.commit is None and here:
        committed = [entry for entry in named if entry.lock.commit]
        about = [one.body for one in Records(root).every()]
        verify_locks.own(root, own.text, here, committed, noted, about, findings)
    contents.tables()
    contents.checkpoints()
    try:
        verify_records.check(root, named, findings)
        verify_records.signatures(root, findings)
    except GitError as error:  # a damaged object of the branch
        findings.fault("records", f"their branch cannot be read: {error}")
    faults = _with_remotes(root, findings)
    return Verification(
        faults,
        findings.unknown,
        findings.remarks,
        dict(findings.checked),
        findings.unsigned,
        digests.files,
        digests.bytes,
    )


def _locks(root: Path, findings: Findings) -> list[Lock]:
    try:
        return locks.every(root)
    except GitError as error:
        if error.no_repository:
            raise
        findings.cannot_tell("Git's history", f"{error}; the working copy's dvc.lock alone is looked at")
        file = root / locks.NAME
        return [Lock(None, None, file.read_bytes())] if file.is_file() else []


def _own(root: Path, every: list[Lock]) -> Lock | None:
    """The working copy's lock, as a commit has it where one does."""
    file = root / locks.NAME
    text = file.read_bytes() if file.is_file() else None
    return next((lock for lock in every if lock.text == text), None)


def _entries(lock: Lock | None) -> list[entries.Entry]:
    try:
        return entries.of(lock) if lock else []
    except InputError:  # it has been named
        return []


def _where(lock: Lock) -> str:
    return f"commit {lock.commit[:10]}" if lock.commit else "the working copy"


def _with_remotes(root: Path, findings: Findings) -> list[Fault]:
    """The faults, each with what the remotes have of the right bytes."""
    if not findings.wanted:
        return findings.faults
    from flows.engine import remotes  # DVC takes long to import

    there = remotes.whole(root, sorted(findings.wanted))
    return [dataclasses.replace(fault, remote=there.get(fault.should or "")) for fault in findings.faults]


def summary(answer: Verification) -> str:
    """An answer in one line."""
    count = len(answer.faults)
    first = f": {answer.faults[0].file}{', ...' * (count > 1)}" if count else ""
    said = f"{count} fault{'s' * (count != 1)}{first}" if count else "nothing is altered, so far as can be told"
    return f"{said}; {answer.files} files hashed, {decimal(answer.bytes)}"


def show(answer: Verification) -> None:
    """An answer on the terminal: in one line first, then each fault, and what cannot be told."""
    print(summary(answer))
    rows = [(fault.file, "DIFFERS", _line(fault)) for fault in answer.faults]
    rows += [(about, "cannot tell", why) for about, why in answer.unknown]
    rows += [(about, "recorded", said) for about, said in answer.remarks]
    rows.append(("checked", "verified", ", ".join(f"{number} {what}" for what, number in answer.checked.items())))
    paragraphs(rows)


def _line(fault: Fault) -> str:
    digests: dict[str, Any] = {"should be": fault.should, "is": fault.found}
    told = ", ".join(f"{key} {value[:10]}" for key, value in digests.items() if value and fault.should != fault.found)
    return "; ".join(filter(None, [fault.said, told, fault.remote]))
