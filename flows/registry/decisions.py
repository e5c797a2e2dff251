"""Recording decisions, each in one transaction of Git: a candidate is promoted or rejected, or a promotion undone.

GTO's tags follow from the history and are made after it: `settle` makes those that a kill has left out.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from flows.checkout.git import Git
from flows.lineage import signatures
from flows.process import file_lock
from flows.registry import gto, history
from flows.registry.history import MARK, Branches, Decision, Entry, active, last_move, promoted_now
from stages.runs.errors import InputError
from stages.runs.record import canonical


class Moved(Exception):
    """The log has grown since it was read: decide again."""


def record(git: Git, tree: str, decision: Decision, log: Sequence[Entry], also: str) -> str:
    """Add a decision about `tree` to the log as it was read, with `also` as another parent: the new commit.

    All but a rejection moves `promoted` in the same transaction: either all of it has happened or nothing.

    Raises Moved where the log is no longer what was read.
    """
    tip = log[-1].commit if log else None
    parents = dict.fromkeys(parent for parent in (tip, also) if parent)
    title = f"{decision.system} {decision.outcome}: {decision.why}"
    message = f"{title}\n\n{MARK}{canonical(dataclasses.asdict(decision))}\n"
    commit = git(
        "commit-tree", tree, *(word for parent in parents for word in ("-p", parent)), "-F", "-", stdin=message
    )
    branches = Branches.of(git)
    names = [branches.candidates] if decision.outcome == "rejected" else branches
    with _locked(git):
        if [entry.commit for entry in history.read(git)] != [entry.commit for entry in log]:
            raise Moved
        olds = {name: git.reference(f"refs/heads/{name}") or _nothing(commit) for name in names}
        lines = [f"update refs/heads/{name} {commit} {old}" for name, old in olds.items()]
        git("update-ref", "-m", f"retrain: {title}", "--create-reflog", "--stdin",
            stdin="\n".join(["start", *lines, "prepare", "commit", ""]))  # fmt: skip
    return commit


def rollback(root: Path) -> str:
    """Return to the promotion before the one that is promoted; a line that says what is promoted now.

    Raises InputError where there is none.
    """
    git = Git(root)
    ready(git)
    while True:
        log = history.read(git)
        live = active(log)
        if len(live) < 2:
            raise InputError(f"nothing to go back to: {'no other promotion stands' if live else 'nothing is promoted'}")
        undone, back = live[-1], live[-2]
        why = f"from {undone.commit[:10]} to {back.commit[:10]}"
        decision = dataclasses.replace(back.decision, outcome="rolled back", why=why, against=undone.commit, gate=None)
        decision = dataclasses.replace(decision, attested=signatures.newest(git))
        with contextlib.suppress(Moved):
            record(git, git("rev-parse", f"{back.commit}^{{tree}}"), decision, log, back.commit)
            break
    settle(root)
    return promoted_now(root)


def withdraw(root: Path, md5s: Collection[str], why: str) -> list[Entry]:
    """Let promotions of these checkpoints stand no more: those that did. What stood before the last of them is promoted
    again, if anything did.

    Raises InputError where a decision could not be committed.
    """
    git = Git(root)
    gone: list[Entry] = []
    while True:
        log = history.read(git)
        live = active(log)
        wrong = [entry for entry in live if entry.decision.md5 in md5s]
        if not wrong:
            break
        ready(git)
        entry = wrong[-1]
        left = [each for each in live if each.decision.md5 != entry.decision.md5]
        back = left[-1] if left else entry
        decision = dataclasses.replace(entry.decision, outcome="withdrawn", why=why, against=entry.commit, gate=None)
        decision = dataclasses.replace(decision, attested=signatures.newest(git))
        with contextlib.suppress(Moved):
            record(git, git("rev-parse", f"{back.commit}^{{tree}}"), decision, log, back.commit)
            gone.append(entry)
    settle(root)
    return gone


def ready(git: Git) -> None:
    """Raise InputError where a decision could not be committed: no author, or a checkout that it would upset."""
    branches = Branches.of(git)  # of a repository that Git refuses, it tells here
    git.require_author()
    for name, place in git.checked_out().items():
        if name in branches:
            raise InputError(
                f"branch '{name}' is checked out in {place}, which would be upset when it moves: "
                f"`git -C {place} switch --detach`"
            )


def settle(root: Path) -> None:
    """Make what follows from the log: branch `promoted` and GTO's tags, where a kill came before them."""
    git = Git(root)
    with _locked(git):
        log = history.read(git)
        live = active(log)
        if not log or not any(entry.decision.outcome != "rejected" for entry in log):
            return
        promoted = f"refs/heads/{Branches.of(git).promoted}"
        there, belongs = git.reference(promoted), last_move(log).commit
        if there != belongs:
            git("update-ref", "-m", "retrain: mended", promoted, belongs, there or _nothing(belongs))
        for artifact in {entry.decision.artifact: None for entry in log if entry.decision.outcome == "promoted"}:
            _tag(git, artifact, [entry for entry in live if entry.decision.artifact == artifact])


def _tag(git: Git, artifact: str, live: Sequence[Entry]) -> None:
    """GTO's tags of one artifact: a version for every promotion that stands, and the stage for the last of them."""
    for entry in live:
        if not gto.versions(git, artifact, entry.commit):
            gto.register(git, artifact, entry.commit, entry.decision.why)
    assigned, belongs = gto.assigned(git, artifact), live[-1].commit if live else None
    if belongs and assigned != belongs:
        gto.assign(git, artifact, belongs, live[-1].decision.why)
    elif assigned and not belongs:
        gto.unassign(git, artifact, assigned, "rolled back or withdrawn")


def _nothing(commit: str) -> str:
    """Git's name for no commit."""
    return "0" * len(commit)


@contextlib.contextmanager
def _locked(git: Git) -> Iterator[None]:
    """The branches and tags for this process alone: a rollback need not wait for a retraining to end.

    Those of all the repository's projects: they are held for a moment only.
    """
    home = git.common()
    branches = Branches.of(git)
    with file_lock.lock(home / "palimpsest-promotion.lock"):
        # Git's locks on them are then a killed process's: nobody else writes these.
        for name in (*(f"heads/{name}" for name in branches), "tags/**/*@v*", f"tags/**/*#{gto.STAGE}*"):
            for left in (home / "refs").glob(f"{name}.lock"):
                left.unlink()
        yield
