"""Whether a checkpoint can be made again, bit for bit: that is done, and all that comes out on the way is compared.

In a Git worktree of its own beside the checkout, with the files that ran (`_source`), an empty DVC cache, no run-cache
and no resume state. The worktree is removed afterwards. What came of it is left as a record.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from flows.audit import checkpoint
from flows.audit.facts import HERE, left_out, page
from flows.checkout import snapshot
from flows.checkout.git import Git
from flows.checkout.worktree import Worktree
from flows.engine import commands
from flows.engine.repository import copy_configuration
from flows.lineage import dvc_lock, entries, erasures, locks, records
from flows.lineage.entries import Entry
from flows.lineage.records import REBUILT, Records
from flows.process import file_lock
from flows.process.command import Say
from stages.runs import record
from stages.runs.errors import InputError

RECORDS = Path(".palimpsest/records")  # in the worktree, whatever the user's environment says

MD5 = re.compile(r"[0-9a-f]{32}(?:\.dir)?")

Verdict = Literal["identical", "different", "not comparable"]


@dataclasses.dataclass(frozen=True)
class Rebuilt:
    """What came of making a checkpoint again."""

    asked: str
    checkpoint: str  # path
    md5: str
    commit: str | None  # that was used; None: the working copy as it is, not committed
    time: datetime | None  # of that commit, where its `dvc.lock` is the one
    verdict: Verdict
    why: str  # one line
    outputs: list[dict[str, str | None]]  # on the way, upstream first: `stage`, `path`, `recorded` and `made` (md5)
    incomparable: list[str]  # what differs between there and here that can change bytes
    environment: dict[str, Any]  # here

    @property
    def found(self) -> bool:
        return self.verdict != "identical"


def ask(root: Path, asked: str, say: Say) -> Rebuilt:
    """Make a checkpoint again and compare it. `asked` is as in `checkpoint.ask`; `say` gets a line on each step.

    Raises InputError where there is no such checkpoint, or no `dvc.lock` here that has it.
    """
    md5 = checkpoint.digest_of(root, asked)
    damaged = locks.cut_off(root)
    made = next(entries.making(locks.every(root), md5, None, damaged), None)
    if made is None:
        rest = "".join(f"; {left_out(error)}" for error in damaged)
        raise InputError(f"{asked}: no dvc.lock that Git knows here names its digest {md5[:10]}; {HERE}{rest}")
    recorded, path = made.lock.content(), made.at(md5)[0]
    commit, patch, said = _source(root, made, path)
    with _worktree(root, commit, patch, say) as tree:
        say(f"{path} {md5[:10]} is made again in {tree.path}, {said}")
        failed = _run(tree, made.stage, say)
        again = dvc_lock.read(tree.path / locks.NAME)
        outputs, verdict, why = compare(recorded, again, path, erasures.replaced(root))
        first = next((out for out in outputs if out["recorded"] != out["made"]), outputs[-1])
        where, reasons = _environments(root, tree.path, first)
    if failed:
        verdict, why = "not comparable", failed
    elif verdict == "different" and reasons:
        verdict, why = "not comparable", f"{why}; but other than there: {'; '.join(reasons)}"
    used = commit if patch or made.lock.commit else None
    time = made.lock.time if used == made.lock.commit else None
    answer = Rebuilt(asked, path, md5, used, time, verdict, why, outputs, reasons, where)
    _leave(root, answer)
    return answer


def compare(
    recorded: dict[str, Any], again: dict[str, Any], path: str, erased: Mapping[str, str] | None = None
) -> tuple[list[dict[str, str | None]], Verdict, str]:
    """Two `dvc.lock`s on the way to the output at `path`: its outputs, upstream first; the first thing that differs.

    `erased`: digests of what had a picture that was erased since, and of what it is without.
    Where that is an input that no stage makes, a parameter or a command, nothing that follows is comparable.
    """
    erased, altered = erased or {}, 0
    before, now = recorded.get("stages") or {}, again.get("stages") or {}
    every = dvc_lock.outputs(recorded)
    outputs: list[dict[str, str | None]] = []
    first: tuple[Verdict, str] | None = None
    for stage in dvc_lock.makers(recorded, [path], every):
        old, new = before[stage], now.get(stage)
        if new is None:
            first = first or ("not comparable", f"{stage} did not run to its end")
        else:
            first = first or _other_inputs(stage, old, new, every, erased)
        made = dvc_lock.outputs({"stages": {stage: new}}) if new else {}
        for out in old.get("outs", []):
            without = erased.get(out["md5"], out["md5"])
            outputs.append({"stage": stage, "path": out["path"], "recorded": without, "made": made.get(out["path"])})
            altered += without != out["md5"]
            if new and made.get(out["path"]) != without:
                first = first or ("different", f"{out['path']}, by {stage}, is the first output that differs")
    outputs.sort(key=lambda out: out["path"] == path)  # what was asked for comes last of its stage
    said = f"all {len(outputs)} outputs on the way have the digests that are recorded"
    if altered:
        said += f", {altered} of them without a picture that was erased since"
    return outputs, *(first or ("identical", said))


def _other_inputs(
    stage: str, old: dict[str, Any], new: dict[str, Any], made: dict[str, str], erased: Mapping[str, str]
) -> tuple[Verdict, str] | None:
    there = {dep["path"]: dep.get("md5") for dep in new.get("deps", [])}
    for dep in old.get("deps", []):
        should = dep.get("md5")
        if dep["path"] not in made and there.get(dep["path"]) not in (should, erased.get(str(should), should)):
            return "not comparable", f"{dep['path']}, which {stage} reads, is not as it was when it ran"
    for key in ("params", "cmd"):
        if old.get(key) != new.get(key):
            return "not comparable", f"{stage} has another {'command' if key == 'cmd' else 'value of a parameter'} now"
    return None


def _run(tree: Worktree, stage: str, say: Say) -> str | None:
    """Make it: why that failed, in one line, or None."""
    words = [sys.executable, "-m", "dvc", "repro", "--no-run-cache", stage]
    (tree.path / locks.NAME).unlink(missing_ok=True)  # DVC keeps the entries of what it has not made
    state = tree.path / ".palimpsest" / "state"
    code, last = tree.run(words, say, PALIMPSEST_RECORDS=str(tree.path / RECORDS), PALIMPSEST_STATE=str(state))
    return f"`dvc repro {stage}` failed: {last}" if code else None


def lock_of(root: Path) -> Path:
    """The file on which `audit rebuild` holds a lock."""
    return Git(root).common() / "palimpsest-audit.lock"


@contextlib.contextmanager
def _worktree(root: Path, commit: str, patch: bytes | None, say: Say) -> Iterator[Worktree]:
    """A new worktree at a commit, with the data that no stage makes, and an empty cache. It is removed in the end."""
    git = Git(root)
    top = git.top()
    with file_lock.lock(lock_of(root), lambda pid: say(f"waiting for another one (PID {pid})")):
        for entry in git("worktree", "list", "--porcelain").splitlines():  # what a killed one has left
            left = Path(entry.removeprefix("worktree "))
            if (
                entry.startswith("worktree ")
                and left.name.startswith(f"{top.name}-audit-")
                and left.parent == top.parent
            ):
                _remove(git, left)
        try:  # beside the checkout: `../photos` is the same folder then
            home = Path(tempfile.mkdtemp(prefix=f"{top.name}-audit-", dir=top.parent))
        except OSError as error:
            raise InputError(f"{top.parent}: {error.strerror}; a checkpoint is made again in a folder there") from None
        try:
            yield _prepared(root, home, commit, patch, say)
        finally:
            _remove(git, home)


def _prepared(root: Path, home: Path, commit: str, patch: bytes | None, say: Say) -> Worktree:
    tree = Worktree(root, home)
    tree.prepare(commit)
    if patch:
        with tempfile.NamedTemporaryFile(suffix=".patch") as file:
            file.write(patch)
            file.flush()
            Git(home)("apply", "--whitespace=nowarn", file.name)
    tree.link(say)
    _without_erased(root, tree.path)
    commands.check_out_sources(tree.path, say)
    copy_configuration(root, tree.path, cache=tree.path / ".dvc" / "cache")
    return tree


def _without_erased(root: Path, home: Path) -> None:
    """Let `.dvc` files name folders as they are since pictures in them were erased."""
    changed = erasures.replaced(root)
    for file in home.rglob("*.dvc") if changed else ():
        if file.is_file():
            text = file.read_text(encoding="utf-8")
            for old in set(MD5.findall(text)) & changed.keys():
                text = text.replace(old, changed[old])
            file.write_text(text, encoding="utf-8")


def _remove(git: Git, home: Path) -> None:
    with contextlib.suppress(InputError):
        git("worktree", "remove", "--force", "--force", str(home))
    shutil.rmtree(home, ignore_errors=True)


def _source(root: Path, made: Entry, path: str) -> tuple[str, bytes | None, str]:
    """The commit to use, what is to be applied to it, and both in words: what ran, by the record of the run.

    Where there is none, or nothing was left uncommitted: the commit whose lock has it first, or the working copy.
    """
    git = Git(root)
    records, outputs = Records(root), made.lock.files()
    ran = records.of(path, made.outs[path], made.deps)
    state = ran.body.get("git") if ran else None
    as_here = made.lock.commit is None and all(
        (root / path).exists() and record.digest(root / path) == md5
        for path, md5 in made.deps.items()
        if path not in outputs
    )
    if ran and state and state.get("dirty") and not as_here and (commit := git.commit(str(state.get("commit")))):
        patch = records.diff(ran.body)
        if patch:
            return commit, patch, f"from commit {commit[:10]} and the edits that its record has"
    said = "from the working copy as it is" if made.lock.commit is None else f"from commit {made.lock.commit[:10]}"
    return made.lock.commit or _uncommitted(git), None, said


def _uncommitted(git: Git) -> str:
    """The working copy as it is, as a commit that no branch has."""
    with tempfile.TemporaryDirectory() as folder:
        own = Git(git.home, GIT_INDEX_FILE=str(Path(folder, "index")), **snapshot.AUTHOR, **snapshot.DATES)
        if head := git.commit("HEAD"):
            own("read-tree", head)
        snapshot.refuse_data(git.home, own.paths("ls-files", "--others", "--exclude-standard"))
        own("add", "--all", "--", ".")
        own("rm", "-r", "--quiet", "--cached", "--ignore-unmatch", "--", *snapshot.OWN)
        return own("commit-tree", own("write-tree"), "-m", "palimpsest")


def _environments(root: Path, again: Path, out: dict[str, str | None]) -> tuple[dict[str, Any], list[str]]:
    """Where an output was made now; and what of that and of where it was made first can change bytes."""
    path = str(out["path"])
    ours = records.of_outputs(again / RECORDS, {path: str(out["made"])})
    here = next((json.loads(text)["environment"] for text in ours.values()), None) or record.environment()
    there = Records(root).all_of(path, str(out["recorded"]))
    if not there:
        return here, [f"no record of the run that made {path} is here, so where that was is not known"]
    reasons = [record.incomparable(one.body.get("environment") or {}, here) for one in there]
    return here, min(reasons, key=len)  # one like this machine is enough


def _leave(root: Path, answer: Rebuilt) -> None:
    """Leave a record: who asks later learns that it was made again, when and where."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    notes = {
        key: getattr(answer, key)
        for key in ("checkpoint", "md5", "commit", "verdict", "why", "incomparable")
    }  # fmt: skip
    facts = {
        "inputs": {},
        "outputs": {},
        "params": {},
        "environment": answer.environment,
        "notes": {**notes, "at": now},
    }
    record.write(root / record.home(), REBUILT, facts, {"ended": now})


def show(answer: Rebuilt) -> None:
    """An answer on the terminal."""
    print(f"{answer.asked}: {answer.verdict}: {answer.why}")
    rows = []
    for out in answer.outputs:
        same = out["recorded"] == out["made"]
        word = "verified" if same else "cannot tell" if out["made"] is None else "DIFFERS"
        said = f"{out['recorded']}" if same else f"recorded {out['recorded']}, made {out['made'] or 'nothing'}"
        rows.append((str(out["path"]), word, said))
    page(rows)
