"""What differs between two checkpoints: their pictures, parameters, code, environment and start."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from flows.audit import evidence
from flows.audit.checkpoint import CHECKPOINT, SHOWN, named
from flows.audit.facts import HERE, Fact, Word, find_table, listed, page, since
from flows.checkout.git import Git
from flows.lineage import entries, locks
from flows.lineage.entries import Entry
from flows.lineage.locks import Lock
from flows.lineage.records import Records
from flows.lineage.sources import Sources
from flows.lineage.upstream import Upstream, upstream
from flows.registry import history
from stages.runs import record
from stages.runs.header import Header

Key = tuple[str, str | None, str | None]  # a path, and its digests on both sides


@dataclasses.dataclass(frozen=True)
class Difference:
    """What differs between two checkpoints; the first is the old one."""

    asked: tuple[str, str]
    md5: tuple[str, str]
    facts: list[Fact]
    added: list[dict[str, str]]  # pictures that the second alone was trained on: `image_id`, `path`
    removed: list[dict[str, str]]  # that the first alone was trained on
    params: list[dict[str, Any]]  # `stage`, `key`, `old`, `new`
    data: list[dict[str, Any]]  # `path`, `old`, `new`: digests of what the trainings and the stages before them read
    code: list[dict[str, Any]]  # the same of files that Git keeps, with `old_commit` and `new_commit` that have them
    environment: list[str] | None  # what differs between the runs' records; None: there are not both
    start: tuple[list[str], list[str]]  # digests of the checkpoints that each has gone on from

    @property
    def found(self) -> bool:
        """Whether anything differs."""
        return self.md5[0] != self.md5[1] or any(
            (self.added, self.removed, self.params, self.data, self.code, self.environment,
             self.start[0] != self.start[1])
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Made:
    """A checkpoint, and the stage runs that it comes from."""

    asked: str
    md5: str
    own: Entry | None  # None: no lock has it
    path: str  # as the lock has it
    before: Upstream

    @property
    def all(self) -> dict[str, Entry]:
        """Its entries by their stages: its own, and those before it."""
        return {entry.stage: entry for entry in reversed([*([self.own] if self.own else []), *self.before.entries])}


def ask(root: Path, one: str, other: str) -> Difference:
    """What differs between two checkpoints, each named as for `audit checkpoint`.

    Raises InputError where there is no such checkpoint.
    """
    every = locks.every(root)
    log = history.read(Git(root), fetched=True)
    damaged = locks.cut_off(root)
    old, new = (_made(root, every, log, asked, damaged) for asked in (one, other))
    facts: list[Fact] = []
    same = old.md5 == new.md5
    said = f"the same, {old.md5}" if same else f"{old.md5[:10]} -> {new.md5[:10]}"
    facts.append(Fact("bytes", said, "recorded"))
    for made in (old, new):
        if made.own is None:
            said = f"no dvc.lock that Git knows here names {made.asked} ({made.md5[:10]}); {HERE}"
            facts.append(Fact("made by", said, "cannot tell"))
        facts += evidence.of_upstream(made.before.unknown)
    facts += evidence.of_damaged(damaged)
    if old.own is None or new.own is None:
        return Difference((one, other), (old.md5, new.md5), facts, [], [], [], [], [], None, ([], []))
    lines = [f"{made.own.stage}; {since(made.own.lock.commit, made.own.lock.time)}" for made in (old, new) if made.own]
    facts.append(Fact("made by", lines[0] if lines[0] == lines[1] else " -> ".join(lines), "recorded"))
    added, removed = _pictures(root, old, new, facts)
    pairs = _pairs(old, new)
    params = _params(pairs)
    facts += _lines("parameters", [_param(each) for each in params])
    data, code = _files(root, pairs)
    told = [f"{each['path']} {_short(each['old'])} -> {_short(each['new'])}" for each in data]
    facts += _lines("data read", told)
    facts += _lines("code", [_code(each) for each in code])
    environment = _environment(root, old, new, facts)
    start = _start(old.own), _start(new.own)
    if any(start):
        words = [", ".join(_short(md5) for md5 in each) or "none" for each in start]
        facts.append(Fact("gone on from", "the same" if start[0] == start[1] else " -> ".join(words), "recorded"))
    return Difference((one, other), (old.md5, new.md5), facts, added, removed, params, data, code, environment, start)


def _made(root: Path, every: list[Lock], log: list[history.Entry], asked: str, damaged: list[str]) -> Made:
    if (file := Path(asked)).is_file():
        Header(file, "name a checkpoint's file")
        md5 = record.digest(file)
    else:
        md5, _ = named(root, Git(root), asked, log)
    own = next(entries.making(every, md5, None, damaged), None)
    if own is None:
        return Made(asked, md5, None, "", Upstream([], {}))
    return Made(asked, md5, own, own.at(md5)[0], upstream(root, every, own, damaged))


def _lines(about: str, said: list[str]) -> list[Fact]:
    """A line for each difference, or one that says that there is none."""
    more = [f"and {len(said) - SHOWN} more (--json lists them)"] if len(said) > SHOWN else []
    return [Fact(about, line, "recorded") for line in [*said[:SHOWN], *more] or ["the same"]]


def _pictures(root: Path, old: Made, new: Made, facts: list[Fact]) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    lists: list[dict[tuple[str, str], dict[str, str]]] = []
    rewritten: list[str] = []
    for made in (old, new):
        outs = made.own.outs if made.own else {}
        path, md5 = next(((path, md5) for path, md5 in outs.items() if path.endswith(history.MEMBERS)), ("", ""))
        if not md5:
            facts.append(Fact("pictures", f"{made.asked} has no list of pictures in dvc.lock", "cannot tell"))
            return [], []
        found = find_table(root, md5, path, "pictures")
        rows = listed(found, "pictures")
        if isinstance(rows, Fact) or isinstance(found, Fact):
            facts.append(rows)
            return [], []
        if found.rewritten:
            rewritten.append(made.asked)
        lists.append({(row["image_id"], row["path"]): row for row in rows.to_pylist()})
    before, after = lists
    added = [row for key, row in after.items() if key not in before]
    removed = [row for key, row in before.items() if key not in after]
    both = len(after) - len(added)
    word: Word = "recorded" if rewritten else "verified"
    if rewritten:
        said = f"erased from the list of {' and '.join(rewritten)}: what is left of it is compared"
        facts.append(Fact("pictures", said, word))
    if not added and not removed:
        facts.append(Fact("pictures", f"the same {both}", word))
    for rows, what in ((added, "added"), (removed, "removed")):
        if rows:
            names = ", ".join(row["path"] for row in rows[:SHOWN])
            more = f" and {len(rows) - SHOWN} more (--json lists them)" * (len(rows) > SHOWN)
            facts.append(Fact("pictures", f"{len(rows)} {what}: {names}{more}; {both} in both", word))
    return added, removed


def _pairs(old: Made, new: Made) -> list[tuple[Entry | None, Entry | None]]:
    """The entries of both that do the same work: of one stage, and the two trainings, whatever they are called."""
    ours, theirs = old.all, new.all
    assert old.own is not None
    assert new.own is not None
    del ours[old.own.stage], theirs[new.own.stage]
    names = [*dict.fromkeys([*ours, *theirs])]
    pairs: list[tuple[Entry | None, Entry | None]] = [(ours.get(name), theirs.get(name)) for name in names]
    return [(old.own, new.own), *pairs]


def _params(pairs: list[tuple[Entry | None, Entry | None]]) -> list[dict[str, Any]]:
    found = []
    for old, new in pairs:
        ours, theirs = (_values(entry) for entry in (old, new))
        stage = " -> ".join(dict.fromkeys(entry.stage for entry in (old, new) if entry))
        for key in dict.fromkeys([*ours, *theirs]):
            if ours.get(key) != theirs.get(key):
                found.append({"stage": stage, "key": key, "old": ours.get(key), "new": theirs.get(key)})
    return found


def _param(row: dict[str, Any]) -> str:
    before, after = ("not set" if row[side] is None else row[side] for side in ("old", "new"))
    return f"{row['stage']} {row['key']}: {before} -> {after}"


def _values(entry: Entry | None) -> dict[str, Any]:
    """A stage's parameters by their keys inside of its own section, whatever its variant is called."""
    if entry is None:
        return {}
    stage, _, variant = entry.stage.partition("@")
    found: dict[str, Any] = {}
    for section, values in entry.params.items():
        own = section in (f"{stage}.{variant}", stage) or section == f"datasets.{variant}.{stage}"
        found |= entries.plain(entries.renamed(entry.stage, values), "" if own else section)
    return found


def _files(
    root: Path, pairs: list[tuple[Entry | None, Entry | None]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What the stages have read otherwise: data, and files that Git keeps."""
    sides = [{item for pair in pairs if (entry := pair[side]) for item in entry.deps.items()} for side in (0, 1)]
    both: set[tuple[str, str | None]] = {(path, None) for path, _ in sides[0] & sides[1]} | (sides[0] & sides[1])
    found: dict[Key, tuple[Lock | None, Lock | None]] = {}
    for old, new in pairs:
        ours, theirs = (entry.deps if entry else {} for entry in (old, new))
        for path in dict.fromkeys([*ours, *theirs]):
            if path.endswith(CHECKPOINT) or {(path, ours.get(path)), (path, theirs.get(path))} <= both:
                continue
            if ours.get(path) != theirs.get(path):
                where = (old.lock if old else None), (new.lock if new else None)
                found.setdefault((path, ours.get(path), theirs.get(path)), where)
    sources = Sources(root)
    tracked = _commits(sources, {key: where[0] for key, where in found.items()}, 1)
    wanted = _commits(sources, {key: where[1] for key, where in found.items()}, 2)
    known = sources.tracked({path for path, _, _ in found})
    data, code = [], []
    for key in found:
        path, before, after = key
        row = {"path": path, "old": before, "new": after}
        if path in known:
            code.append({**row, "old_commit": tracked.get(key), "new_commit": wanted.get(key)})
        else:
            data.append(row)
    return data, code


def _commits(sources: Sources, found: dict[Key, Lock | None], side: int) -> dict[Key, str]:
    """A commit that has each file with the digest of one side, found from the commit of its lock on."""
    answers: dict[Key, str] = {}
    for commit in dict.fromkeys(lock.commit if lock else None for lock in found.values()):
        wanted = {str(key[0]): str(key[side]) for key, lock in found.items()
                  if key[side] and (lock.commit if lock else None) == commit}  # fmt: skip
        there = sources.find(wanted, commit or "HEAD") if wanted else {}
        answers |= {key: there[key[0]] for key in found if wanted.get(key[0]) == key[side] and key[0] in there}
    return answers


def _code(row: dict[str, Any]) -> str:
    before, after = row["old_commit"], row["new_commit"]
    if before and after:
        return f"{row['path']}: git diff {before[:10]} {after[:10]} -- {row['path']}"
    where = [_short(row[side]) + (f" (commit {commit[:10]})" if commit else " (in no commit)") * bool(row[side])
             for side, commit in (("old", before), ("new", after))]  # fmt: skip
    return f"{row['path']}: {' -> '.join(where)}"


def _environment(root: Path, old: Made, new: Made, facts: list[Fact]) -> list[str] | None:
    records = Records(root)
    found: list[dict[str, Any]] = []
    for made in (old, new):
        ran = records.of(made.path, made.md5, made.own.deps if made.own else {})
        if ran is None:
            said = f"no record of the run that made {made.asked} {made.md5[:10]} is here; it lies where the run was"
            facts.append(Fact("environment", said, "cannot tell"))
        elif isinstance(ran.body.get("environment"), dict):
            found.append(ran.body["environment"])
    if len(found) < 2:
        return None
    try:
        differs = record.incomparable(*found)
    except (KeyError, TypeError, AttributeError):
        facts.append(Fact("environment", "one of the records is of another form; update Palimpsest", "cannot tell"))
        return None
    facts += _lines("environment", differs)
    return differs


def _start(entry: Entry) -> list[str]:
    return [md5 for path, md5 in entry.deps.items() if path.endswith(CHECKPOINT)]


def _short(md5: str | None) -> str:
    return md5[:10] if md5 else "none"


def show(answer: Difference) -> None:
    """An answer on the terminal: in one line first, then what differs, and what does not."""
    kinds = {
        "pictures": bool(answer.added or answer.removed), "parameters": bool(answer.params),
        "data read": bool(answer.data), "code": bool(answer.code), "environment": bool(answer.environment),
        "start": answer.start[0] != answer.start[1],
    }  # fmt: skip
    differs = [kind for kind, there in kinds.items() if there]
    names = " and ".join(answer.asked)
    if differs:
        print(f"{names}: differ in {', '.join(differs)}")
    elif answer.found:
        print(f"{names}: differ in their bytes, and in nothing else that is known here")
    else:
        print(f"{names}: nothing differs that is known here")
    page([(fact.about, fact.word, fact.said) for fact in answer.facts])
