"""What retraining has decided, kept in Git alone: who has the repository has the whole history.

Branch `candidates` is the log. Each of its commits holds one candidate as it was made (code, parameters, `dvc.lock`,
scores) and says in its message what was decided and why; its parents are the commit before in the log and the commit
whose code and parameters were used. A rollback is a commit of the log too: it holds again what it returned to. So
history is never rewritten, and branch `promoted`, which points at the last promotion or rollback, only ever moves
forward: both can be pushed. A project in the repository's folder `sub` has branches of its own, `sub/candidates` and
`sub/promoted`.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from flows.checkout.git import Git
from flows.checkout.root import label
from flows.lineage import dvc_lock, shape
from flows.registry import gto
from stages.runs.errors import InputError

MARK = "Palimpsest: "  # begins the line of a commit's message that is for machines
START = "data/start"  # where a warm start lies, added to DVC
MEMBERS = ".members.arrow"  # ends the list beside a checkpoint
# In a candidate's commit, the pictures that decided: image_id, and what was measured on the candidate and the promoted
# checkpoint. No paths: what is in Git's history stays there, and a path may name a person.
VALIDATION = "data/validation.csv"
COLUMNS = ("image_id", "candidate", "promoted")


Outcome = Literal["promoted", "rejected", "rolled back", "withdrawn"]


@dataclasses.dataclass(frozen=True)
class Decision:
    """What has become of a candidate; or of a rollback, where the rest tells of what was returned to; or that a
    checkpoint was withdrawn, because a picture was erased on which it was trained: it is never returned to."""

    outcome: Outcome
    why: str  # one line
    system: str  # an entry of `search` or `infer`
    artifact: str  # its checkpoint's name in dvc.yaml
    path: str  # the checkpoint
    md5: str
    rev: str  # the commit whose code and parameters were used
    against: str | None = None  # the promotion that it was compared with
    # What was measured, with the sha256 of VALIDATION as `validation`; None where there was nothing to measure.
    gate: dict[str, Any] | None = None
    attested: Sequence[str] = ()  # the newest attestations of records then: none of them can be cut off unseen


_texts = dict.fromkeys(("why", "system", "artifact", "path", "md5", "rev"), shape.text)
_numbers = dict.fromkeys(("gain", "low", "high", "confidence", "margin"), shape.number)
_GATE = shape.having(metric=shape.text, pictures=shape.kind(int), validation=shape.text, **_numbers)
DECISION = shape.having(
    outcome=lambda value: value in get_args(Outcome), against=shape.maybe(shape.text), gate=shape.maybe(_GATE),
    attested=shape.many(shape.text), **_texts,
)  # fmt: skip


class Branches(NamedTuple):
    """The names of a project's branches."""

    candidates: str
    promoted: str

    @classmethod
    def of(cls, git: Git) -> Branches:
        """Those of the project that is `git.home`."""
        folder = label(git.prefix)
        return cls(*(f"{folder}/{name}" if folder else name for name in cls._fields))


UNMEASURED = ("rolled back", "withdrawn")  # decisions about a candidate that another one has measured
FIELDS = {field.name for field in dataclasses.fields(Decision)}


@dataclasses.dataclass(frozen=True)
class Entry:
    """A commit of the log."""

    commit: str
    time: datetime
    who: str  # the author of the commit
    decision: Decision


@dataclasses.dataclass(frozen=True)
class Promoted:
    """What is promoted now."""

    commit: str  # of the candidate that was promoted
    time: datetime  # since when it is promoted: of its promotion, or of the rollback to it
    version: str | None  # GTO's, of that commit
    system: str
    artifact: str
    path: str  # of the checkpoint
    md5: str
    message: str  # why, in one line
    data: dict[str, str]  # of the datasets that it comes from, by name: md5 of what was ingested


def current(root: Path) -> Promoted | None:
    """What is promoted in the repository at `root`, by Git alone; None where nothing is.

    Raises GitError where there is no repository.
    """
    git = Git(root)
    log = read(git)
    live = active(log)
    if not live:
        return None
    top, moved = live[-1], last_move(log)
    decision = top.decision
    version = next(iter(gto.versions(git, decision.artifact, top.commit)), None)
    data = dvc_lock.ingested(lock(git, top.commit), decision.path)
    return Promoted(
        top.commit, moved.time, version, decision.system, decision.artifact, decision.path, decision.md5,
        moved.decision.why, data,
    )  # fmt: skip


def promoted_now(root: Path) -> str:
    """What is promoted now, in one line."""
    now = current(root)
    if now is None:
        return "nothing is promoted"
    return (
        f"promoted now: {now.artifact} {now.version or ''}, checkpoint {now.md5[:10]}, "
        f"commit {now.commit[:10]} on branch '{Branches.of(Git(root)).candidates}'"
    )


def read(git: Git, fetched: bool = False) -> list[Entry]:
    """Every decision, oldest first; none where nothing has been decided yet.

    Where this clone has no such branch, that of another clone counts if it was `fetched`: for reading alone.

    Raises InputError where a branch of this name is somebody's own.
    """
    branches = Branches.of(git)
    tip = git.reference(f"refs/heads/{branches.candidates}") or git.reference(f"refs/heads/{branches.promoted}")
    if tip is None and fetched:
        tip = next(iter((git.reference(f"refs/remotes/*/{branches.candidates}") or "").splitlines()), None)
    if tip is None:
        return []
    # In `git log`, %x00 cannot occur in what it stands between.
    text = git("log", "--first-parent", "--reverse", f"--grep=^{MARK}", "--basic-regexp", "--no-show-signature",
               "--format=%H%x00%ct%x00%an%x00%B%x00", tip, "--")  # fmt: skip
    parts = text.split("\0")
    entries = []
    for commit, at, who, body in zip(parts[0::4], parts[1::4], parts[2::4], parts[3::4], strict=False):
        said = [line.removeprefix(MARK) for line in body.splitlines() if line.startswith(MARK)]
        with contextlib.suppress(ValueError, TypeError):
            values = json.loads(said[-1])
            if not DECISION(values):  # it may be a stranger's
                continue
            decision = Decision(**{name: values[name] for name in values.keys() & FIELDS})
            entries.append(Entry(commit.strip(), datetime.fromtimestamp(int(at), UTC), who, decision))
    if not entries or entries[-1].commit != tip:
        raise InputError(
            f"branch '{branches.candidates}': its last commit is none of retrain's decisions, which are kept there; "
            f"give your branch another name: `git branch -m {branches.candidates} NAME`"
        )
    return entries


def active(log: Sequence[Entry]) -> list[Entry]:
    """The promotions that stand, oldest first: none was undone by a rollback or withdrawn. The last one is promoted."""
    stack: list[Entry] = []
    for entry in log:
        if entry.decision.outcome == "promoted":
            stack.append(entry)
        elif entry.decision.outcome == "rolled back":
            stack.pop()
        elif entry.decision.outcome == "withdrawn":
            stack = [one for one in stack if one.decision.md5 != entry.decision.md5]
    return stack


def last_move(log: Sequence[Entry]) -> Entry:
    """The last promotion, rollback or withdrawal: where branch `promoted` belongs."""
    return next(entry for entry in reversed(log) if entry.decision.outcome != "rejected")


def validation(git: Git, entry: Entry) -> list[dict[str, Any]] | None:
    """The pictures that a decision rests on, and what was measured on each, by COLUMNS; None where it does not say.

    Raises InputError where they are not those that the decision names.
    """
    gate = entry.decision.gate
    if not gate or "validation" not in gate or entry.decision.outcome in UNMEASURED:
        return None
    text = git.file(entry.commit, VALIDATION)
    where = f"{VALIDATION} of commit {entry.commit[:10]}"
    if text is None or sha256(f"{text}\n".encode()).hexdigest() != gate["validation"]:  # Git takes off the last newline
        raise InputError(f"{where}: not the pictures that the decision names (sha256 {gate['validation'][:10]})")
    rows = csv.DictReader(text.splitlines())
    return [{**row, "candidate": float(row["candidate"]), "promoted": float(row["promoted"])} for row in rows]


def candidate(log: Sequence[Entry]) -> Entry | None:
    """The last candidate, whatever became of it."""
    return next((entry for entry in reversed(log) if entry.decision.outcome not in UNMEASURED), None)


def lock(git: Git, commit: str) -> dict[str, Any]:
    """`dvc.lock` as the commit has it. Raises InputError where that is damaged."""
    return dvc_lock.parse(git.file(commit, "dvc.lock"), f"dvc.lock of commit {commit[:10]}")


class Kept(NamedTuple):
    """A file that DVC keeps."""

    commit: str  # whose `dvc.lock` names it
    path: str
    md5: str


def members(git: Git, log: Sequence[Entry], commit: str, content: dict[str, Any], checkpoint: str) -> list[Kept]:
    """The lists of pictures behind a checkpoint in the `dvc.lock` of `commit`: what its training has read, and those
    of all that it has gone on from.

    The promotion that a warm start was is known by its md5, whatever has been rolled back since.
    """
    promoted = {entry.decision.md5: entry for entry in log if entry.decision.outcome == "promoted"}
    found: list[Kept] = []
    todo = [(commit, content, checkpoint)]
    while todo:
        commit, content, checkpoint = todo.pop()
        for path, md5 in dvc_lock.upstream(content, checkpoint).items():
            if path.endswith(MEMBERS):
                found.append(Kept(commit, path, md5))
            elif path.startswith(f"{START}/") and (start := promoted.pop(md5, None)):
                todo.append((start.commit, lock(git, start.commit), start.decision.path))
    return found


def starts(log: Sequence[Entry], content: dict[str, Any], paths: Sequence[str]) -> list[Kept]:
    """The promoted checkpoints that the outputs at `paths` in a `dvc.lock` have gone on from."""
    promoted = {entry.decision.md5: entry for entry in log if entry.decision.outcome == "promoted"}
    found = {md5: name for path in paths for name, md5 in dvc_lock.upstream(content, path).items()}
    return [
        Kept(promoted[md5].commit, promoted[md5].decision.path, md5)
        for md5, name in found.items()
        if name.startswith(f"{START}/") and md5 in promoted
    ]
