"""What a checkpoint comes from, by Git's history, DVC's cache and the file alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from flows.audit import evidence, statements
from flows.audit.facts import HERE, Fact, find_table, listed, page, read_scores, since
from flows.checkout.git import Git
from flows.lineage import cache, entries, locks
from flows.lineage.cache import FoundTable
from flows.lineage.dvc_lock import INGESTED
from flows.lineage.records import REBUILT, Records
from flows.lineage.signatures import Vouchers
from flows.lineage.upstream import upstream
from flows.registry import gto, history
from stages.runs import record
from stages.runs.errors import InputError
from stages.runs.header import Header

MODELS = "data/models/"
CHECKPOINT = ".safetensors"
TABLE = ".parquet"  # ends the table of a system's scores, a row per picture and hole
MEANS = ".means.parquet"
EVALUATION = "evaluate@"
SHOWN = 5  # pictures of a list that people see; `--json` has all


@dataclasses.dataclass(frozen=True)
class Training:
    """A stage run that made a checkpoint, and the pictures that it has read."""

    checkpoint: str  # path
    md5: str
    stage: str
    commit: str | None  # whose `dvc.lock` has it first; None: the working copy's, not committed
    time: datetime | None  # of that commit
    params: dict[str, Any]  # of the stage, as the lock has them
    members: str | None  # md5 of the list of pictures; None: there is none in the lock
    pictures: list[dict[str, str]] | None  # `image_id` and `path` of each; None: the list is not here, or altered
    fact: Fact  # what `pictures` rests on
    run: evidence.Run
    datasets: list[evidence.Dataset]  # that it comes from
    unknown: dict[str, str]  # what it comes from and of which it is not known which run has made it: md5 by path


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What there is to say of a checkpoint."""

    asked: str
    md5: str
    facts: list[Fact]
    trainings: list[Training]  # its own, and those of the checkpoints that it has gone on from
    decisions: list[dict[str, Any]]  # of retrain's, about these bytes

    @property
    def found(self) -> bool:
        """Whether something is not as it is recorded."""
        return any(fact.word == "DIFFERS" for fact in self.facts)


def ask(root: Path, asked: str) -> Checkpoint:
    """What a checkpoint comes from. `asked` is a file, `NAME` (of `data/models/NAME.safetensors` in `dvc.lock`),
    `NAME@VERSION` (of a promoted one) or `NAME@COMMIT` (of that commit's `dvc.lock`).

    Raises InputError where there is no such checkpoint, or where the file is none.
    """
    every = locks.every(root)
    git = Git(root)
    log = history.read(git, fetched=True)
    facts: list[Fact] = []
    file: Path | None = Path(asked)
    if file and file.is_file():
        Header(file, "name a checkpoint's file")  # refuses what is none, before it is hashed
        md5 = record.digest(file)
    else:
        md5, path = named(root, git, asked, log)
        try:
            file = cache.find(root, md5, path)
        except cache.Altered as error:
            file = None
            facts.append(Fact("bytes", str(error), "DIFFERS"))
    if file:
        place = file.relative_to(root) if file.is_relative_to(root) else file
        facts.append(Fact("bytes", f"{place} has the digest {md5}", "verified"))
    records, vouchers = Records(root), Vouchers(git)
    damaged = locks.cut_off(root)
    trainings = _trainings(root, every, md5, records, damaged)
    if not trainings:
        said = f"no dvc.lock that Git knows here names this digest: it was not made here, or {HERE}"
        facts.append(Fact("made by", said, "cannot tell"))
    for training in trainings:
        facts += _facts_of(training, training.md5 != md5)
    if trainings:
        facts += _evaluations(root, every, md5, damaged)
        facts += evidence.of_training(git, vouchers, trainings[0].run, trainings[0].params, records.unread)
        known = {(each.name, each.md5): each for training in trainings for each in training.datasets}
        facts += evidence.of_upstream({path: md5 for each in trainings for path, md5 in each.unknown.items()})
        facts += [fact for each in known.values() for fact in evidence.of_dataset(vouchers, each)]
    facts += evidence.of_damaged(damaged)
    facts += _rebuilt(vouchers, records, md5)
    files = score_files(every, md5, damaged)
    facts += [each.fact for each in statements.tests(root, every, records, vouchers, md5, files)]
    facts += [each.fact for each in statements.handovers(records, vouchers, md5)]
    behind = [*files_behind(trainings), *files.items()]
    facts += [each.fact for each in statements.erased(root, records, vouchers, md5, behind)]
    decisions = [entry for entry in log if entry.decision.md5 == md5]
    told = []
    for entry in decisions:
        measured, more = _selection(git, entry)
        facts += more
        about = {"commit": entry.commit, "time": entry.time, "who": entry.who, **dataclasses.asdict(entry.decision)}
        told.append({**about, "pictures": measured})
        said = f"{entry.time:%Y-%m-%d %H:%M} UTC, by {entry.who}, commit {entry.commit[:10]}: {entry.decision.why}"
        facts.append(Fact(entry.decision.outcome, said, "recorded"))
    if file:
        facts += _claims(Header(file), trainings)
    return Checkpoint(asked, md5, facts, trainings, told)


def files_behind(trainings: Iterable[Training]) -> Iterator[tuple[str, str]]:
    """The lists of pictures and the ingested tables that trainings have read: path and md5 of each."""
    for each in trainings:
        if each.members:
            yield f"{each.checkpoint.removesuffix(CHECKPOINT)}{history.MEMBERS}", each.members
        yield from ((f"{INGESTED}{one.name}", one.md5) for one in each.datasets)


def _rebuilt(vouchers: Vouchers, records: Records, md5: str) -> list[Fact]:
    """What came of making the checkpoint again, each time."""
    found = []
    for body, _ in statements.of(records, REBUILT, md5):
        notes = body.get("notes") or {}
        where = (body.get("environment") or {}).get("processor")
        who = evidence.signer(vouchers, body) or "nobody"
        said = f"{notes.get('verdict')}, {body['ended']}, on {where}, signed by {who}: {notes.get('why')}"
        found.append(Fact("rebuilt", said, "recorded"))
    return found


def _selection(git: Git, entry: history.Entry) -> tuple[list[dict[str, Any]] | None, list[Fact]]:
    """The pictures that a decision rests on, and a line about them; none where nothing was measured."""
    gate, about = entry.decision.gate, "selected on"
    if not gate or entry.decision.outcome in history.UNMEASURED:
        return None, []
    count = f"{gate.get('pictures')} validation pictures"
    try:
        measured = history.validation(git, entry)
    except InputError as error:
        return None, [Fact(about, str(error), "DIFFERS")]
    if measured is None:
        return None, [Fact(about, f"{count}, by retrain; which ones is not recorded", "cannot tell")]
    ids = ", ".join(row["image_id"][:10] for row in measured[:SHOWN])
    more = len(measured) - SHOWN
    rest = f" and {more} more (--json lists them)" if more > 0 else ""
    return measured, [Fact(about, f"{count}, by retrain: {ids}{rest}", "verified")]


def named(root: Path, git: Git, asked: str, log: list[history.Entry]) -> tuple[str, str]:
    """The digest and the path of a checkpoint that is named: `NAME`, `NAME@VERSION` or `NAME@COMMIT`.

    A name alone is an entry of the working copy's `dvc.lock`. Behind the @ a promoted version is looked for first, then
    a commit, as Git names commits, whose `dvc.lock` has the entry. Raises InputError where there is none.
    """
    name, at, version = asked.partition("@")
    path = f"{MODELS}{name}{CHECKPOINT}"
    if at:
        for entry in log:
            decision = entry.decision
            if decision.artifact.rpartition(":")[2] == name and version in gto.versions(
                git, decision.artifact, entry.commit
            ):
                return decision.md5, decision.path
        if not (commit := git.commit(version)):
            raise InputError(
                f"{asked}: no version '{version}' of a promoted '{name}', and no such commit; `gto show {name}` lists "
                "versions, `git log` commits"
            )
        files = locks.files((git.file(commit, locks.NAME) or "").encode("utf-8", "surrogateescape"))
        where = f"dvc.lock of commit {commit[:10]}"
    else:
        own = root / locks.NAME
        files = locks.files(own.read_bytes()) if own.is_file() else {}
        where = "dvc.lock"
    if path in files:
        return files[path], path
    raise InputError(f"{asked}: no file, and no {path} in {where}; name a file, NAME, NAME@VERSION or NAME@COMMIT")


def digest_of(root: Path, asked: str) -> str:
    """The md5 of a checkpoint that is named as in `ask`. Raises InputError where there is none."""
    return known_as(root, asked)[0]


def known_as(root: Path, asked: str) -> tuple[str, str]:
    """The same, and its path; of a file that no `dvc.lock` knows, its name. Raises InputError where there is none."""
    if (file := Path(asked)).is_file():
        Header(file, "name a checkpoint's file")
        md5 = record.digest(file)
        made = next(entries.making(locks.every(root), md5), None)
        return md5, made.at(md5)[0] if made else file.name
    git = Git(root)
    return named(root, git, asked, history.read(git, fetched=True))


def _trainings(root: Path, every: list[locks.Lock], md5: str, records: Records, damaged: list[str]) -> list[Training]:
    found: list[Training] = []
    todo, seen = [md5], set[str]()
    while todo:
        wanted = todo.pop(0)
        if wanted in seen or (made := next(entries.making(every, wanted, None, damaged), None)) is None:
            continue
        seen.add(wanted)
        path, members = next(
            ((path, md5) for path, md5 in made.outs.items() if path.endswith(history.MEMBERS)), ("", None)
        )
        todo += [md5 for path, md5 in made.deps.items() if path.endswith(CHECKPOINT)]
        pictures, fact = _pictures(root, made.stage, members, path)
        own, before = made.at(wanted)[0], upstream(root, every, made, damaged)
        run, data = evidence.run(records, made, own), evidence.datasets(records, before)
        found.append(
            Training(own, wanted, made.stage, made.lock.commit, made.lock.time, made.params, members, pictures, fact,
                     run, data, before.unknown)
        )  # fmt: skip
    return found


def _pictures(root: Path, stage: str, md5: str | None, path: str) -> tuple[list[dict[str, str]] | None, Fact]:
    about = "trained on"
    if md5 is None:
        return None, Fact(about, f"{stage} has no list of pictures in dvc.lock", "cannot tell")
    found = find_table(root, md5, path, about)
    rows = listed(found, about)
    if isinstance(rows, Fact):
        return None, rows
    pictures: list[dict[str, str]] = rows.to_pylist()
    names = ", ".join(row["path"] for row in pictures[:SHOWN])
    more = len(pictures) - SHOWN
    rest = f" and {more} more (--json lists them)" if more > 0 else ""
    if isinstance(found, FoundTable) and found.rewritten:
        left = f"{len(pictures)} pictures are left of the list, from which others were erased"
        return pictures, Fact(about, f"{left}: {names}{rest}", "recorded")
    return pictures, Fact(about, f"{len(pictures)} pictures: {names}{rest}", "verified")


def _facts_of(training: Training, before: bool) -> list[Fact]:
    name = f"{training.checkpoint} {training.md5[:10]}"
    said = f"{training.stage}, {name}; {since(training.commit, training.time)}"
    return [Fact("gone on from" if before else "made by", said, "recorded"), training.fact]


def following(every: list[locks.Lock], md5: str, damaged: list[str]) -> list[entries.Entry]:
    """The stages that have read a checkpoint, or what follows from it, in the last lock that has it and is whole.

    Those of another checkpoint, which has gone on from this one, are not among them.
    """
    found: list[entries.Entry] = []
    for lock in reversed(every):
        if md5.encode() in lock.text:
            try:
                found = entries.of(lock)
                break
            except InputError as error:
                damaged.append(str(error))
    # By path and digest: where a stage alone was run, those that follow have read what was there before.
    known = {(path, md5) for entry in found for path in entry.at(md5)}
    after: dict[str, entries.Entry] = {}
    grown = True
    while grown:
        grown = False
        for entry in found:
            another = any(path.endswith(CHECKPOINT) for path in entry.outs)  # which has gone on from this one
            if entry.stage not in after and not another and not known.isdisjoint(entry.deps.items()):
                after[entry.stage] = entry
                known |= entry.outs.items()
                grown = True
    return [*after.values()]


def _evaluations(root: Path, every: list[locks.Lock], md5: str, damaged: list[str]) -> list[Fact]:
    """A line for each table of scores that follows from the checkpoint."""
    return [
        _evaluation(root, entry.stage, path, digest)
        for entry in following(every, md5, damaged) if entry.stage.startswith(EVALUATION)
        for path, digest in entry.outs.items()
        if path.endswith(TABLE) and not path.endswith(MEANS)
    ]  # fmt: skip


def score_files(every: list[locks.Lock], md5: str, damaged: list[str]) -> dict[str, str]:
    """All files of scores that a checkpoint has now, tables and others: md5 by path."""
    after = following(every, md5, damaged)
    return {path: out for entry in after if entry.stage.startswith(EVALUATION) for path, out in entry.outs.items()}


def _evaluation(root: Path, stage: str, path: str, md5: str) -> Fact:
    about = "evaluated on"
    found = find_table(root, md5, path, about)
    if isinstance(found, Fact):
        return found
    try:
        count = len(set(read_scores(found.file, ["image_id"])["image_id"].to_pylist()))
    except InputError as error:
        return Fact(about, str(error), "cannot tell")
    if found.rewritten:
        said = f"{count} pictures are left, from which others were erased; by {stage} ({path})"
        return Fact(about, said, "recorded")
    return Fact(about, f"{count} pictures, by {stage} ({path})", "verified")


def _claims(header: Header, trainings: list[Training]) -> list[Fact]:
    facts = [Fact("network", str(header.inputs.get("network")), "claimed")]
    if trainings and "members" in header.inputs and header.inputs["members"] != trainings[0].members:
        said = f"its metadata name the list {header.inputs['members']}, dvc.lock {trainings[0].members}"
        facts.append(Fact("trained on", said, "DIFFERS"))
    return facts


def show(answer: Checkpoint) -> None:
    """An answer on the terminal: in one line first, then what it rests on."""
    own = answer.trainings[0] if answer.trainings else None
    if own is None:
        print(f"{answer.asked}: cannot tell what it comes from")
    else:
        known = all(training.pictures is not None for training in answer.trainings)
        ids = {row["image_id"] for training in answer.trainings for row in training.pictures or []}
        count = f"{len(ids)} pictures" if known else "pictures whose list is not here"
        print(f"{answer.asked}: made by {own.stage} from {count}")
    page([(fact.about, fact.word, fact.said) for fact in answer.facts])
