"""What retraining has decided, kept in Git alone: who has the repository has the whole history.

Branch `candidates` is the log. Each of its commits holds one candidate as it was made (code, parameters, `dvc.lock`,
scores) and says in its message what was decided and why; its parents are the commit before in the log and the commit
whose code and parameters were used. A rollback is a commit of the log too: it holds again what it returned to. So
history is never rewritten, and branch `promoted`, which points at the last promotion or rollback, only ever moves
forward: both can be pushed.

GTO's tags (`name@v2.0.0`, `name#prod#3`) follow from the log and are made after it: `settle` makes those that a kill
has left out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from ruamel.yaml import YAML

from flows.checkout.git import Git, GitError
from flows.process.file_lock import alone
from stages.runs.errors import InputError
from stages.runs.record import canonical

CANDIDATES = "candidates"
PROMOTED = "promoted"
STAGE = "prod"  # GTO's, of the version that is promoted
MARK = "Palimpsest: "  # begins the line of a commit's message that is for machines
INGESTED = "data/ingested/"
START = "data/start"  # where a warm start lies, added to DVC
MEMBERS = ".members.arrow"  # ends the list beside a checkpoint
NOTHING = "0" * 40


@dataclasses.dataclass(frozen=True)
class Decision:
    """What has become of a candidate, or of a rollback: then the rest tells of what was returned to."""

    outcome: Literal["promoted", "rejected", "rolled back"]
    why: str  # one line
    system: str  # an entry of `search` or `infer`
    artifact: str  # its checkpoint's name in dvc.yaml
    path: str  # the checkpoint
    md5: str
    rev: str  # the commit whose code and parameters were used
    against: str | None = None  # the promotion that it was compared with
    gate: dict[str, Any] | None = None  # what was measured; None where there was nothing to measure


FIELDS = {field.name for field in dataclasses.fields(Decision)}


@dataclasses.dataclass(frozen=True)
class Entry:
    """A commit of the log."""

    commit: str
    time: datetime
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
    log = history(git)
    live = standing(log)
    if not live:
        return None
    top, moved = live[-1], last_move(log)
    decision = top.decision
    version = next(iter(versions(git, decision.artifact, top.commit)), None)
    data = ingested(lock(git, top.commit), decision.path)
    return Promoted(
        top.commit, moved.time, version, decision.system, decision.artifact, decision.path, decision.md5,
        moved.decision.why, data,
    )  # fmt: skip


# --- The log ---


def history(git: Git) -> list[Entry]:
    """Every decision, oldest first.

    Raises InputError where a branch of this name is somebody's own.
    """
    tip = git.commit(f"refs/heads/{CANDIDATES}") or git.commit(f"refs/heads/{PROMOTED}")
    if tip is None:
        return []
    # In `git log`, %x00 cannot occur in what it stands between.
    text = git("log", "--first-parent", "--reverse", f"--grep=^{MARK}", "--format=%H%x00%ct%x00%B%x00", tip, "--")
    parts = text.split("\0")
    entries = []
    for commit, at, body in zip(parts[0::3], parts[1::3], parts[2::3], strict=False):
        said = [line.removeprefix(MARK) for line in body.splitlines() if line.startswith(MARK)]
        with contextlib.suppress(ValueError, TypeError):
            values = json.loads(said[-1])
            decision = Decision(**{name: values[name] for name in values.keys() & FIELDS})
            entries.append(Entry(commit.strip(), datetime.fromtimestamp(int(at), UTC), decision))
    if not entries or entries[-1].commit != tip:
        raise InputError(
            f"branch '{CANDIDATES}': its last commit is none of retrain's decisions, which are kept there; "
            f"give your branch another name: `git branch -m {CANDIDATES} NAME`"
        )
    return entries


def standing(log: Sequence[Entry]) -> list[Entry]:
    """The promotions that no rollback has undone; the last one is what is promoted."""
    stack: list[Entry] = []
    for entry in log:
        if entry.decision.outcome == "promoted":
            stack.append(entry)
        elif entry.decision.outcome == "rolled back":
            stack.pop()
    return stack


def last_move(log: Sequence[Entry]) -> Entry:
    """The last promotion or rollback: where branch `promoted` belongs."""
    return next(entry for entry in reversed(log) if entry.decision.outcome != "rejected")


def candidate(log: Sequence[Entry]) -> Entry | None:
    """The last candidate, whatever became of it."""
    return next((entry for entry in reversed(log) if entry.decision.outcome != "rolled back"), None)


def lock(git: Git, commit: str) -> dict[str, Any]:
    """`dvc.lock` as the commit has it."""
    return YAML(typ="safe").load(git.file(commit, "dvc.lock") or "") or {}


def outputs(content: dict[str, Any]) -> dict[str, str]:
    """Of a `dvc.lock`, the md5 of every output by its path."""
    stages = content.get("stages") or {}
    return {out["path"]: out.get("md5", "") for stage in stages.values() for out in stage.get("outs", [])}


def upstream(content: dict[str, Any], path: str) -> dict[str, str]:
    """Of a `dvc.lock`, all that the output at `path` comes from, and what was made along with it: md5 by path."""
    stages = (content.get("stages") or {}).values()
    found: dict[str, str] = {}
    todo = [path]
    while todo:
        wanted = PurePosixPath(todo.pop())
        for stage in stages:
            outs, deps = stage.get("outs", []), stage.get("deps", [])
            if any(
                wanted.is_relative_to(out["path"]) or PurePosixPath(out["path"]).is_relative_to(wanted) for out in outs
            ):
                todo += [dep["path"] for dep in deps if dep["path"] not in found]
                found |= {file["path"]: file.get("md5", "") for file in [*outs, *deps]}
    return found


def ingested(content: dict[str, Any], checkpoint: str) -> dict[str, str]:
    """Of a `dvc.lock`, the md5 of every ingested dataset that the checkpoint comes from."""
    found = upstream(content, checkpoint)
    return {path.removeprefix(INGESTED): md5 for path, md5 in found.items() if path.startswith(INGESTED)}


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
        for path, md5 in upstream(content, checkpoint).items():
            if path.endswith(MEMBERS):
                found.append(Kept(commit, path, md5))
            elif path.startswith(f"{START}/") and (start := promoted.pop(md5, None)):
                todo.append((start.commit, lock(git, start.commit), start.decision.path))
    return found


def versions(git: Git, artifact: str, commit: str) -> list[str]:
    """GTO's versions of the artifact at the commit, the last one first."""
    names = git("for-each-ref", "--points-at", commit, "--sort=-version:refname", "--format=%(refname:strip=2)",
                f"refs/tags/{artifact}@v*").split()  # fmt: skip
    return [name.rpartition("@")[2] for name in names if not name.endswith("!")]


# --- Writing it ---


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
    with _alone(git):
        if [entry.commit for entry in history(git)] != [entry.commit for entry in log]:
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
        log = history(git)
        live = standing(log)
        if len(live) < 2:
            raise InputError(f"nothing to go back to: {'no other promotion stands' if live else 'nothing is promoted'}")
        undone, back = live[-1], live[-2]
        why = f"from {undone.commit[:10]} to {back.commit[:10]}"
        decision = dataclasses.replace(back.decision, outcome="rolled back", why=why, against=undone.commit, gate=None)
        with contextlib.suppress(Moved):
            record(git, git("rev-parse", f"{back.commit}^{{tree}}"), decision, log, back.commit)
            break
    settle(root)
    return told(root)


def told(root: Path) -> str:
    """What is promoted now, in one line."""
    now = current(root)
    if now is None:
        return "nothing is promoted"
    return (
        f"promoted now: {now.artifact} {now.version or ''}, checkpoint {now.md5[:10]}, "
        f"commit {now.commit[:10]} on branch '{CANDIDATES}'"
    )


# --- What must be so before, and what follows ---


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
    with _alone(git):
        log = history(git)
        live = standing(log)
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
        if not versions(git, artifact, entry.commit):
            more = bool(git("for-each-ref", "--count=1", f"refs/tags/{artifact}@v*"))
            number: dict[str, Any] = {"bump_major": True} if more else {"version": "v1.0.0"}
            _gto(git, "register", artifact, ref=entry.commit, message=entry.decision.why, **number)
    assigned, belongs = _assigned(git, artifact), live[-1].commit if live else None
    if assigned == belongs:
        return
    if belongs:
        version = versions(git, artifact, belongs)[0]
        _gto(git, "assign", artifact, stage=STAGE, version=version, force=True, message=live[-1].decision.why)
    else:
        _gto(git, "unassign", artifact, stage=STAGE, ref=assigned, force=True, message="rolled back")


def _assigned(git: Git, artifact: str) -> str | None:
    """The commit that GTO's last tag puts into the stage, or None."""
    patterns = [f"refs/tags/{artifact}#{STAGE}{end}#*" for end in ("", "!")]
    lines = git("for-each-ref", "--format=%(refname:strip=2) %(*objectname)", *patterns).splitlines()
    tags = {int(name.rpartition("#")[2]): (name, commit) for name, commit in (line.split() for line in lines)}
    if not tags:
        return None
    name, commit = tags[max(tags)]
    return None if "!" in name else commit


def _gto(git: Git, action: Literal["register", "assign", "unassign"], artifact: str, **options: Any) -> None:
    from gto import api
    from gto.exceptions import GTOException

    # GTO orders an artifact's tags by the second in which they were made.
    dates = git("for-each-ref", "--format=%(creatordate:unix)", f"refs/tags/{artifact}#*").split()
    if dates:
        time.sleep(max(0.0, min(1.0, max(map(int, dates)) + 1 - time.time())))
    name, _, address = git("var", "GIT_COMMITTER_IDENT").rpartition("> ")[0].partition(" <")
    try:
        getattr(api, action)(git.home, artifact, author=name, author_email=address, **options)
    except GTOException as error:
        raise InputError(f"gto {action} {artifact}: {' '.join(str(error).split())}") from None


@contextlib.contextmanager
def _alone(git: Git) -> Iterator[None]:
    """The branches and tags for this process alone: a rollback need not wait for a retraining to end."""
    home = common(git)
    with alone(home / "palimpsest-promotion.lock"):
        # Git's locks on them are then a killed process's: nobody else writes these.
        for name in (f"heads/{CANDIDATES}", f"heads/{PROMOTED}", "tags/*@v*", f"tags/*#{STAGE}*"):
            for left in (home / "refs").glob(f"{name}.lock"):
                left.unlink()
        yield


def common(git: Git) -> Path:
    """The `.git` folder that all worktrees of the repository share."""
    return Path(git("rev-parse", "--path-format=absolute", "--git-common-dir"))
