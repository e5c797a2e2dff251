"""Deciding: a candidate is promoted or rejected, a promotion is rolled back, all in one transaction of Git.

GTO's tags follow from the history and are made after it: `settle` makes those that a kill has left out.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from flows.checkout.git import Git, GitError
from flows.process import file_lock
from flows.registry import gto, history
from flows.registry.history import CANDIDATES, MARK, PROMOTED, Decision, Entry, active, last_move, promoted_now
from stages.runs.errors import InputError
from stages.runs.record import canonical

NOTHING = "0" * 40  # Git's name for no commit


class Moved(Exception):
    """The log has grown since it was read: decide again."""


def record(git: Git, tree: str, decision: Decision, log: Sequence[Entry], also: str) -> str:
    """Add a decision about `tree` to the log as it was read, with `also` as another parent: the new commit.

    A promotion or rollback moves `promoted` in the same transaction: either all of it has happened or nothing.

    Raises Moved where the log is no longer what was read.
    """
    tip = log[-1].commit if log else None
    parents = dict.fromkeys(parent for parent in (tip, also) if parent)
    title = f"{decision.system} {decision.outcome}: {decision.why}"
    message = f"{title}\n\n{MARK}{canonical(dataclasses.asdict(decision))}\n"
    commit = git(
        "commit-tree", tree, *(word for parent in parents for word in ("-p", parent)), "-F", "-", stdin=message
    )
    names = [CANDIDATES] if decision.outcome == "rejected" else [CANDIDATES, PROMOTED]
    with _locked(git):
        if [entry.commit for entry in history.read(git)] != [entry.commit for entry in log]:
            raise Moved
        olds = {name: git.commit(f"refs/heads/{name}") or NOTHING for name in names}
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
        with contextlib.suppress(Moved):
            record(git, git("rev-parse", f"{back.commit}^{{tree}}"), decision, log, back.commit)
            break
    settle(root)
    return promoted_now(root)


def ready(git: Git) -> None:
    """Raise InputError where a decision could not be committed: no author, or a checkout that it would upset."""
    try:
        git("-c", "user.useConfigOnly=true", "var", "GIT_COMMITTER_IDENT")
        git("-c", "user.useConfigOnly=true", "var", "GIT_AUTHOR_IDENT")
    except GitError:
        raise InputError(
            "Git does not know who commits: `git config user.name NAME` and `git config user.email ADDRESS`"
        ) from None
    place = ""
    for line in git("worktree", "list", "--porcelain").splitlines():
        key, _, value = line.partition(" ")
        if key == "worktree":
            place = value
        elif key == "branch" and value in (f"refs/heads/{CANDIDATES}", f"refs/heads/{PROMOTED}"):
            name = value.removeprefix("refs/heads/")
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
        there, belongs = git.commit(f"refs/heads/{PROMOTED}"), last_move(log).commit
        if there != belongs:
            git("update-ref", "-m", "retrain: mended", f"refs/heads/{PROMOTED}", belongs, there or NOTHING)
        for artifact in {entry.decision.artifact: None for entry in log if entry.decision.outcome == "promoted"}:
            _tag(git, artifact, [entry for entry in live if entry.decision.artifact == artifact])


def _tag(git: Git, artifact: str, live: Sequence[Entry]) -> None:
    """GTO's tags of one artifact: a version for every promotion that stands, and the stage for the last of them."""
    for entry in live:
        if not gto.versions(git, artifact, entry.commit):
            more = bool(git("for-each-ref", "--count=1", f"refs/tags/{artifact}@v*"))
            number: dict[str, Any] = {"bump_major": True} if more else {"version": "v1.0.0"}
            gto.call(git, "register", artifact, ref=entry.commit, message=entry.decision.why, **number)
    assigned, belongs = gto.assigned(git, artifact), live[-1].commit if live else None
    if assigned == belongs:
        return
    if belongs:
        version = gto.versions(git, artifact, belongs)[0]
        gto.call(git, "assign", artifact, stage=gto.STAGE, version=version, force=True, message=live[-1].decision.why)
    else:
        gto.call(git, "unassign", artifact, stage=gto.STAGE, ref=assigned, force=True, message="rolled back")


@contextlib.contextmanager
def _locked(git: Git) -> Iterator[None]:
    """The branches and tags for this process alone: a rollback need not wait for a retraining to end."""
    home = git.common()
    with file_lock.lock(home / "palimpsest-promotion.lock"):
        # Git's locks on them are then a killed process's: nobody else writes these.
        for name in (f"heads/{CANDIDATES}", f"heads/{PROMOTED}", "tags/*@v*", f"tags/*#{gto.STAGE}*"):
            for left in (home / "refs").glob(f"{name}.lock"):
                left.unlink()
        yield
