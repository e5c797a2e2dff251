"""`palimpsest audit erase`: what would be done, or its doing, as an answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from rich.filesize import decimal

from flows.audit.facts import page
from flows.erasure import plan, purge
from flows.erasure.journal import Journal, pending
from flows.erasure.pictures import Person
from flows.erasure.plan import Plan, Sought
from flows.erasure.purge import Done
from flows.erasure.scan import Held, total
from flows.lineage import erasures
from flows.lineage.records import ERASED
from flows.process.command import Say
from stages.runs import record
from stages.runs.errors import InputError

SHOWN = 12  # things that people see of each kind; `--json` has all


def look(root: Path, asked: Sequence[str], person: Person | None, exact: bool, shared: bool, say: Say) -> Plan:
    """What an erasure would do; nothing is changed. Raises InputError as `seek` does."""
    going = pending(root)
    for wanted in going:
        say(f"an erasure of {len(wanted.pictures)} pictures was interrupted; --purge goes on with it first")
    same = next((one for one in going if _covered(one, asked, person)), None)
    return plan.make(root, same or seek(root, asked, person, exact), shared)


def seek(root: Path, asked: Sequence[str], person: Person | None, exact: bool) -> Sought:
    """What to look for. Raises InputError as `plan.sought` does, and where nothing is named."""
    if not asked and person is None:
        raise InputError("nothing to erase: name pictures by a file or sha256, or a person by --identity")
    return plan.sought(root, asked, person, exact)


def all_of(root: Path, asked: Sequence[str], person: Person | None, exact: bool, say: Say) -> list[Sought]:
    """The erasures to be done: those that were interrupted, then what is asked, unless they have it all.

    Raises InputError as `seek` does.
    """
    going = pending(root)
    if going:
        say(f"{len(going)} erasure{'s' * (len(going) != 1)} interrupted before: to be ended first")
    same = [one for one in going if _covered(one, asked, person)] or [seek(root, asked, person, exact)]
    return [*(one for one in going if one not in same), *same]


def _covered(wanted: Sought, asked: Sequence[str], person: Person | None) -> bool:
    """Whether an erasure that was interrupted is the one that is asked for, or nothing is asked."""
    names = [sha256(Path(name).read_bytes()).hexdigest() if Path(name).is_file() else name.lower() for name in asked]
    return all(any(one.startswith(name) for one in wanted.ids) for name in names) and (
        person is None or wanted.person == person
    )


def do(root: Path, wanted: Sought, shared: bool, say: Say) -> Done:
    """Erase, and leave a record, which has no names. Raises InputError as `purge.purge` does."""
    done = purge.purge(root, wanted, shared, say)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    left = [f"{len(done.left)} things that could not be removed, or searched, yet"] if done.left else []
    facts = {
        "inputs": {},
        "outputs": {},
        "params": {},
        "environment": record.environment(),
        "notes": {**dataclasses.asdict(done), "left": left, "at": now},
    }
    record.write(root / record.home(), ERASED, facts, {"ended": now})
    erasures.replaced.cache_clear()
    if not done.left:
        Journal(root, wanted.ids).end()
    return done


def show(answer: Plan) -> None:
    """What would be done, on the terminal."""
    pictures = answer.pictures
    count = f"{len(pictures)} picture{'s' * (len(pictures) != 1)}"
    print(
        f"{count}: held in {len(answer.held)} places, {decimal(total(answer.held))}; nothing is changed without --purge"
    )
    rows = [("dataset", "", f"{name}: {count} pictures of this person") for name, count in answer.datasets.items()]
    rows += [(picture.image_id[:10], "", _said(picture)) for picture in pictures]
    for kind in dict.fromkeys(one.kind for one in answer.removed):
        rows += _of_kind(kind, [one for one in answer.removed if one.kind == kind])
    rows += [
        ("training", "remove", f"{state}: interrupted, and has read it or gone on from what has")
        for state in answer.states
    ]
    rows += [(each.path, "remove", _trained(each)) for each in answer.checkpoints]
    if answer.promoted:
        now = answer.promoted
        stands = answer.instead
        then = f"then {stands['path']} {stands['md5'][:10]} is promoted" if stands else "then nothing is promoted"
        rows.append(("promoted", "withdraw", f"{now.artifact} {now.version or ''} {now.md5[:10]}; {then}"))
    if any(each.current for each in answer.checkpoints):
        took = "not known how long" if answer.seconds is None else f"about {answer.seconds / 60:.1f} minutes"
        rows.append(("retraining", "", f"the next `dvc repro` trains anew what has seen it: {took}, as recorded"))
    rows += [("stays", "", f"{one.kind}, {one.shown}: {one.remedy}") for one in answer.kept]
    rows += [("cannot tell", "", f"{one[:10]}: {plan.PLAIN}") for one in answer.plain]
    rows += [("cannot tell", "", line) for line in dict.fromkeys(answer.unread)]
    page(rows)


def _said(picture: plan.Picture) -> str:
    names = ", ".join(f"{path} of {dataset}" for dataset, path in picture.names[:3])
    people = f"; shows {', '.join(picture.identities)}" if picture.identities else ""
    return f"{picture.why}; {names or 'in no table'}{people}"


def _trained(each: plan.Trained) -> str:
    how = f"has gone on from {each.after[:10]}" if each.after else "was trained on it"
    now = "; it is the present one" if each.current else ""
    return f"{each.md5[:10]}, by {each.stage}: {how}{now}"


def _of_kind(kind: str, held: list[Held]) -> list[tuple[str, str, str]]:
    words = {"remove": "remove", "rewrite": "rewrite", "clean": "remove rows"}
    rows = [
        (kind, words[one.action], f"{one.what or one.where}{_rows(one)}, {decimal(one.size)} ({', '.join(one.how)})")
        for one in held[:SHOWN]
    ]
    if len(held) > SHOWN:
        rows.append((kind, "", f"and {len(held) - SHOWN} more, {decimal(total(held[SHOWN:]))} (--json lists them)"))
    return rows


def _rows(one: Held) -> str:
    return f" without {len(one.rows)} row{'s' * (len(one.rows) != 1)}" if one.action == "rewrite" else ""


def show_done(done: Done) -> None:
    """What was done, on the terminal."""
    searched = done.searched
    what = f"{searched['files']} files, {searched['objects']} objects on remotes and {searched['blobs']} of Git"
    if done.left:
        things = "1 thing is" if len(done.left) == 1 else f"{len(done.left)} things are"
        print(f"erased in part: {things} left, or cannot be searched; mend what is named, and run it again")
    else:
        print(f"erased: {done.removed} things removed, {done.rewritten} tables written anew; nothing is left in {what}")
    rows = [("left", "", line) for line in done.left]
    rows += [("removed", "", f"{each['path']} {each['md5'][:10]}, trained on it") for each in done.checkpoints]
    rows += [("withdrawn", "", f"the promotion of commit {commit[:10]}") for commit in done.withdrawn]
    rows += [
        ("cannot tell", "", f"{one['digest'][:10]}: {one['remedy']}")
        if one["kind"] == "cannot tell"
        else ("stays", "", f"{one['kind']} {one['digest']}: {one['remedy']}")
        for one in done.kept
    ]
    rows.append(("next", "", "`git add tombstones.txt` and commit, then `dvc repro` makes the rest anew"))
    page(rows)
