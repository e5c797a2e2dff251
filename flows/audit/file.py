"""Where a bare file comes from: by its bytes alone, whatever it is called and wherever it lies."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from pathlib import Path
from typing import Any

from flows.audit import evidence
from flows.audit.checkpoint import CHECKPOINT
from flows.audit.facts import HERE, Fact, page, since
from flows.checkout.git import Git
from flows.lineage import cache, entries, locks, restored
from flows.lineage.entries import Entry
from flows.lineage.locks import Lock
from flows.lineage.records import Records
from flows.lineage.sources import Sources
from stages.runs import record
from stages.runs.errors import InputError

SHOWN = 5  # places that people see; `--json` has all


@dataclasses.dataclass(frozen=True)
class Origin:
    """A stage run that has made the file."""

    path: str  # where the stage has put it
    folder: str | None  # the output that it lies in, with its digest behind an @; None: it is an output by itself
    stage: str
    commit: str | None  # whose `dvc.lock` has it first; None: the working copy's, not committed
    time: datetime | None
    inputs: dict[str, str]  # md5 by path


@dataclasses.dataclass(frozen=True)
class File:
    """What there is to say of a file."""

    asked: str
    md5: str
    facts: list[Fact]
    origins: list[Origin]
    git: dict[str, Any] | None  # `blob`, `path`, `commit`, `time`: a version of a file that Git tracks
    missing: list[dict[str, str]]  # folders of which the cache has no listing: `md5`, `path`
    hint: str | None  # the command that says more

    @property
    def found(self) -> bool:
        """Whether something is not as it is recorded."""
        return any(fact.word == "DIFFERS" for fact in self.facts)


def ask(root: Path, asked: str) -> File:
    """Where a file or a folder comes from: every `dvc.lock` in Git's history, the listings of the folders in them,
    Git's own files and the records of runs are searched for its digest.

    Raises InputError where there is no such file.
    """
    what = Path(asked)
    if not what.exists():
        raise InputError(f"{asked}: no such file or folder; name one")
    md5 = record.digest(what)
    every = locks.every(root)
    facts = [Fact("bytes", f"{asked} has the digest {md5}", "verified")]
    damaged = locks.cut_off(root)
    making = entries.making(every, md5, None, damaged)
    origins = [_origin(entry, path, None) for entry in making for path in entry.at(md5)]
    inside, missing, altered = _inside(root, every, md5, damaged)
    origins += inside
    for origin in origins[:SHOWN]:
        facts += _facts(origin)[: None if origin is origins[0] else 1]
    if len(origins) > SHOWN:
        facts.append(Fact("made by", f"{len(origins) - SHOWN} more runs (--json lists them)", "recorded"))
    git = None if what.is_dir() else _in_git(root, what)
    if git:
        said = f"{git['path']}, first in commit {git['commit'][:10]}, {git['time']:%Y-%m-%d %H:%M} UTC"
        facts.append(Fact("kept by Git", said, "verified"))
    restoration: list[Fact] = []
    ask_next = None
    if not origins:
        facts += _runs(root, md5)
        restoration, ask_next = _restored(what)
        facts += restoration
    facts += altered
    if len(facts) == 1 or (missing and not origins and not restoration):
        facts.append(Fact("made by", _unknown(bool(facts[1:]), missing), "cannot tell"))
    hint = ask_next or _hint(asked, origins, len(facts) > 2)
    return File(asked, md5, [*facts, *evidence.of_damaged(damaged)], origins, git, missing, hint)


def _origin(entry: Entry, path: str, folder: str | None) -> Origin:
    return Origin(path, folder, entry.stage, entry.lock.commit, entry.lock.time, entry.deps)


def _inside(
    root: Path, every: list[Lock], md5: str, damaged: list[str]
) -> tuple[list[Origin], list[dict[str, str]], list[Fact]]:
    """Where the file lies inside of a folder that a stage has made; the listings that are missing, and those that are
    altered."""
    named = [entries.files(lock, damaged) for lock in every]
    folders = {digest: path for files in named for path, digest in files.items() if digest.endswith(".dir")}
    origins: list[Origin] = []
    missing: list[dict[str, str]] = []
    altered: list[Fact] = []
    for digest, path in folders.items():
        file = cache.place(root, digest)
        try:
            if md5.encode() not in file.read_bytes():  # two listings in three hundred are worth parsing
                continue
            if (found := record.digest(file)) != digest.removesuffix(".dir"):
                said = f"the listing of {path}, {file}, has the digest {found[:10]} and should have {digest[:10]}"
                altered.append(Fact("made by", said, "DIFFERS"))
                continue
            names = [name for name, each in cache.listing(file).items() if each == md5]
        except (OSError, InputError):
            missing.append({"md5": digest, "path": path})
            continue
        for entry in entries.making(every, digest, None, damaged):
            for folder in entry.at(digest):
                origins += [_origin(entry, f"{folder}/{name}", f"{folder}@{digest}") for name in names]
    return origins, missing, altered


def _facts(origin: Origin) -> list[Fact]:
    made = [f"{path} {md5[:10]}" for path, md5 in origin.inputs.items() if path.startswith("data/")]
    others = len(origin.inputs) - len(made)
    read = ", ".join([*made, f"{others} other files and folders (--json lists them)"] if others else made)
    inside = f", in {origin.folder.rpartition('@')[0]}" if origin.folder else ""
    return [
        Fact("made by", f"{origin.stage}, as {origin.path}{inside}; {since(origin.commit, origin.time)}", "recorded"),
        Fact("made from", read or "nothing", "recorded"),
    ]


def _in_git(root: Path, file: Path) -> dict[str, Any] | None:
    blob = Git(root)("hash-object", "--no-filters", "--", str(file.resolve()))
    version = Sources(root).holding(blob)
    return {"blob": blob, **version._asdict()} if version else None


def _runs(root: Path, md5: str) -> list[Fact]:
    """Runs that no lock has: what was made by hand, or by an experiment that is gone."""
    found = []
    for about, where in Records(root).every():
        for path, digest in about["outputs"].items():
            if digest == md5:
                said = f"{about.get('stage')}, as {path}, {about['ended']}; the record {where}, and no dvc.lock"
                found.append(Fact("made by", said, "recorded"))
    return found


def _restored(file: Path) -> tuple[list[Fact], str | None]:
    """What the record beside a restored photo says, and the command that traces its checkpoint."""
    if file.is_dir():
        return [], None
    sha256 = record.digests(file, "sha256")[0]
    if (found := restored.beside(file, sha256)) is None:
        return [], None
    place, record_of_it = found
    photo = record_of_it["photo"]
    facts = [
        Fact(
            "restored from",
            f"{photo['name']}, sha256 {photo['sha256']}; by the record {place.name} beside it",
            "claimed",
        )
    ]
    systems = {one["system"]["system"]: one["system"] for one in restored.answers(record_of_it, sha256)}
    if not systems:
        return facts, None
    share = f"{record_of_it['hole']['share']:.1%} of its pixels, made up by {', '.join(systems)}"
    facts.append(Fact("completed", f"{share}; the rest is the photo's", "claimed"))
    for system in systems.values():
        if checkpoint := system.get("checkpoint"):
            said = ", ".join(f"{key} {value}" for key, value in checkpoint.items())
            facts.append(Fact("checkpoint", said, "claimed"))
    return facts, next((system["ask"] for system in systems.values() if system.get("ask")), None)


def _unknown(known: bool, missing: list[dict[str, str]]) -> str:
    gone = f"{len(missing)} folders of which the cache has no listing" if missing else ""
    if gone:
        gone += f", {missing[0]['path']} {missing[0]['md5'][:10]} for example"
    if known:
        return f"whether a stage has made it too: there are {gone}; {HERE}"
    said = "neither a dvc.lock nor a file that Git knows here has this digest"
    return f"{said}: it was not made here, or it lies in one of {gone}; {HERE}" if gone else f"{said}; {HERE}"


def _hint(asked: str, origins: list[Origin], known: bool) -> str | None:
    if any(origin.path.endswith(CHECKPOINT) for origin in origins):
        return f"palimpsest audit checkpoint {asked}"
    return None if known else f"palimpsest audit image {asked}"


def show(answer: File) -> None:
    """An answer on the terminal: in one line first, then what it rests on."""
    if answer.origins:
        first = answer.origins[0]
        print(f"{answer.asked}: made by {first.stage} as {first.path}")
    elif answer.git:
        print(f"{answer.asked}: a version of {answer.git['path']}, which Git keeps")
    elif any(fact.about == "made by" and fact.word == "recorded" for fact in answer.facts):
        print(f"{answer.asked}: made by a run that no dvc.lock has")
    elif any(fact.about == "restored from" for fact in answer.facts):
        print(f"{answer.asked}: a photo that `palimpsest restore` has completed")
    else:
        print(f"{answer.asked}: cannot tell where it comes from")
    page([(fact.about, fact.word, fact.said) for fact in answer.facts])
    if answer.hint:
        print(f"  see also: {answer.hint}")
