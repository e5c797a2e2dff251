"""Removing pictures from everything that a repository keeps, and showing that nothing is left.

What is removed is a list of single things, from the search: no garbage collector decides. A table of other pictures is
written anew without the rows. Each step may be done again, so an erasure that was killed begins at its first one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import re
import shutil
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

from flows.checkout.git import Git
from flows.engine import commands, remotes, turns
from flows.engine.repository import DvcException
from flows.erasure import databases, git_objects, lists, objects, places, plan, rewriting, turn
from flows.erasure.contents import flat
from flows.erasure.journal import Journal
from flows.erasure.plan import Plan, Sought
from flows.erasure.scan import Held
from flows.lineage.erasures import TOMBSTONES
from flows.process import atomic_file
from flows.process.command import Say
from flows.registry import decisions
from stages.images import withdrawn
from stages.runs import record

STASH = "stash.json"  # in the journal's folder
MD5 = re.compile(r"[0-9a-f]{32}(?:[.]dir)?")
OUT = re.compile(r"^ *(?:- )?path: (.+)$", re.M)  # in a `.dvc` file
COUNTED = re.compile(r"^ *(?:size|nfiles): \d+\n", re.M)
ROUNDS = 3  # searches until nothing is found; the second finds nothing, unless somebody writes meanwhile


@dataclasses.dataclass(frozen=True)
class Done:
    """What an erasure has done."""

    pictures: list[dict[str, Any]]  # `image_id`, `pixel_sha256`, `why`
    held: dict[str, int]  # how many things there were, by where: working copy, cache, remote ...
    removed: int  # things
    rewritten: int  # tables, in all places
    bytes: int  # that were taken away or written anew
    checkpoints: list[dict[str, Any]]  # `path`, `md5`, `stage`, `seconds`, `current`
    withdrawn: list[str]  # commits of promotions that stand no more
    changed: dict[str, str]  # digests of tables and listings, and of what stands in their place
    gone: list[str]  # digests of what was removed
    kept: list[dict[str, str]]  # what is out of reach: `kind`, `digest` and `remedy`
    left: list[str]  # what is left in reach: nothing, or it could not be removed
    searched: dict[str, int]  # in the last search: `files`, `objects`, `blobs`, `bytes`


def purge(root: Path, wanted: Sought, shared: bool, say: Say) -> Done:
    """Erase what is sought. To be called in `turn.taken`.

    Raises InputError where a key step cannot be done; what was done until then stays done, and it can be run again.
    """
    if (root / TOMBSTONES).is_file():
        withdrawn.read(root / TOMBSTONES)  # what is no such list is not added to
    journal = Journal(root, wanted.ids)
    journal.begin(wanted)
    git_objects.finish_stash(Git(root), journal.folder / STASH)
    _bury(root, wanted)
    why = f"trained on a picture that was erased ({', '.join(one[:10] for one in wanted.ids[:3])})"
    undone = decisions.withdraw(root, [each.md5 for each in wanted.trained], why)
    removed: list[Held] = []
    for _ in range(ROUNDS):
        found = plan.make(root, wanted, shared, {*journal.gone, *journal.changed})
        failed = _remove(root, wanted, found, journal, shared, say)
        removed += found.removed
        if not found.removed and not found.states:
            break
    # Rows that Prefect itself has deleted may still be in its files.
    failed += filter(None, (databases.compact(file) for file in places.databases(root) if databases.is_one(file)))
    failed += [line for copy in places.copies(root) for line in _tracked(copy, journal)]
    begun = turns.running(turn.folders(root))  # by the worker of a queue, which asks for no lock
    failed += [f"{one}: it began meanwhile; run this again when it has ended" for one in begun]
    left = [one.shown for one in found.removed] + failed
    for path, folder in lists.roots(root).items():
        if (before := journal.roots.get(path)) and (now := record.digest(folder)) != before:
            journal.note(before, now)
    return Done(
        [{"image_id": one.image_id, "pixel_sha256": one.pixel_sha256, "why": _nameless(one.why)}
         for one in wanted.pictures],
        dict(Counter(one.kind for one in removed)),
        sum(one.action != "rewrite" for one in removed),
        sum(one.action == "rewrite" for one in removed),
        sum(one.size for one in removed),
        [{"path": each.path, "md5": each.md5, "stage": each.stage, "seconds": each.seconds, "current": each.current}
         for each in wanted.trained],
        [entry.commit for entry in undone],
        journal.changed,
        sorted(journal.gone),
        _kept(found),
        [*dict.fromkeys([*left, *found.unread])],
        {"files": found.files, "objects": found.objects, "blobs": found.blobs, "bytes": found.bytes},
    )  # fmt: skip


def _kept(found: Plan) -> list[dict[str, str]]:
    """What is out of reach, without names."""
    kept = [{"kind": one.kind, "digest": one.md5 or one.where, "remedy": str(one.remedy)} for one in found.kept]
    kept += [{"kind": "cannot tell", "digest": one, "remedy": plan.PLAIN} for one in found.plain]
    return [dict(one) for one in dict.fromkeys(tuple(each.items()) for each in kept)]


def _nameless(why: str) -> str:
    """A reason without a file's or a person's name."""
    return "named" if why.startswith("named") else "of the person" if why.startswith("of ") else why


def _bury(root: Path, wanted: Sought) -> None:
    """Add the tombstones that are not there yet."""
    file = root / TOMBSTONES
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    there = {line.partition("#")[0].strip().lower() for line in text.splitlines()}
    lines = [
        withdrawn.line(one.image_id, one.pixel_sha256, bytes.fromhex(one.phash) if one.phash else None)
        for one in wanted.pictures
    ]
    if new := [line for line in lines if line not in there]:
        between = "" if not text or text.endswith("\n") else "\n"
        atomic_file.write(file, text + between + "".join(f"{line}\n" for line in new))


def _remove(root: Path, wanted: Sought, found: Plan, journal: Journal, shared: bool, say: Say) -> list[str]:
    """Take away all that was found: what failed, a line each."""
    failed: list[str] = []
    say(f"{len(found.removed)} things to be removed or written anew")
    files = [one for one in found.removed if one.place == "file"]
    # Caches come last: in a working copy, files may be links into one.
    for one in sorted(files, key=lambda one: places.object_of(Path(one.where)) is not None):
        try:
            _from_file(one, wanted, journal)
        except OSError as error:
            failed.append(f"{one.where}: {error.strerror}; remove it, or mend its permissions, and run this again")
        except sqlite3.Error as error:
            failed.append(f"{one.where}: {error}; stop the program that uses it, and run this again")
    failed += _from_remotes(root, [one for one in found.removed if one.place == "remote"], journal)
    for folder in places.caches(root, shared):
        objects.exchange_listings(objects.Cache(folder), journal)
        _runs(folder, journal)
    git = Git(root)
    if stashed := {one.where for one in found.removed if one.kind == "stash"}:
        git_objects.rewrite_stash(git, stashed, journal.folder / STASH)
        if git_objects.left(git, stashed):
            failed.append("a stash's files are in a pack of Git's; `git gc --prune=now` removes them")
    for state in found.states:
        shutil.rmtree(state, ignore_errors=True)
    for tree in places.trees(root):
        shutil.rmtree(tree.top / git.prefix / places.MEMORY, ignore_errors=True)
    for project in places.projects(root):
        with contextlib.suppress(DvcException, OSError):  # of an experiment that was killed before it was whole
            shutil.rmtree(remotes.site_cache(project), ignore_errors=True)
    return failed


def _from_file(one: Held, wanted: Sought, journal: Journal) -> None:
    file = Path(one.where)
    if one.action == "clean":
        search = wanted.search()
        databases.clean(file, lambda value: bool(search.array(flat(value)).pictures))
        return
    new = rewriting.without(file.read_bytes(), one.rows) if one.action == "rewrite" else None
    if promised := places.object_of(file):
        objects.exchange(objects.Cache(file.parents[3]), promised, new, journal)
    elif new is not None:
        journal.note(one.md5, hashlib.md5(new).hexdigest())
        atomic_file.write(file, new)  # of a link, the link is replaced
    else:
        file.unlink(missing_ok=True)


def _from_remotes(root: Path, held: list[Held], journal: Journal) -> list[str]:
    if not held and not journal.gone and not journal.changed:
        return []
    failed: list[str] = []
    with remotes.stores(root) as stores:
        for store in stores:
            if isinstance(store, str):
                failed.append(store)
                continue
            try:
                for one in held:
                    name, _, md5 = one.where.partition(":")
                    if name == store.name:
                        new = rewriting.without(store.read(md5), one.rows) if one.action == "rewrite" else None
                        objects.exchange(store, md5, new, journal)
                objects.exchange_listings(store, journal)
            except Exception as error:  # each kind of remote has errors of its own
                said = " ".join(str(error).split()) or type(error).__name__
                failed.append(f"remote '{store.name}' refuses: {said}; let it be written to, and run this again")
    return failed


def _runs(folder: Path, journal: Journal) -> None:
    """Remove the run-cache's entries that would bring back what is gone: they name digests, and bring nothing now."""
    old = [md5.encode() for md5 in {*journal.gone, *journal.changed}]
    for file in (folder / "runs").glob("*/*/*"):
        text = file.read_bytes() if file.is_file() else b""
        if any(md5 in text for md5 in old):
            file.unlink()


def _tracked(copy: Path, journal: Journal) -> list[str]:
    """Bring the `.dvc` files of a working copy up to date that name what has lost a picture, or was one: what failed,
    a line each."""
    failed = []
    for file in sorted(copy.rglob("*.dvc")):
        inner = next(folder for folder in file.parents if (folder / ".dvc").is_dir())
        if not file.is_file() or inner != copy:  # of a worktree or an experiment in it
            continue
        text = file.read_text(encoding="utf-8", errors="replace")
        named = set(MD5.findall(text))
        if not named & {*journal.gone, *journal.changed}:
            continue
        if all((file.parent / path.strip(" '\"")).exists() for path in OUT.findall(text)):
            name, work = "commit --force", commands.commit
        elif named & journal.gone:  # of a single picture: it tracks nothing any more
            name, work = "remove", commands.remove
        else:  # of a folder that is not checked out
            for old in named & journal.changed.keys():
                text = text.replace(old, journal.changed[old])
            atomic_file.write(file, COUNTED.sub("", text))
            continue
        try:
            work(copy, file)
        except (DvcException, OSError) as error:
            said = " ".join(str(error).split())
            failed.append(f"{file}: `dvc {name} {file.name}` failed ({said}); run it there yourself")
    return failed
