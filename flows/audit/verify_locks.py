"""`dvc.lock` against its witnesses: Git's history, DVC's run-cache, and the records of runs.

A lock that Git has is Git's to protect: `git fsck` hashes it. One that is not committed is believed entry by entry,
where a commit or DVC's own note of the run says the same.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from flows.audit.findings import Findings
from flows.checkout.git import Git, GitError
from flows.lineage import cache, dvc_lock, locks
from flows.lineage.entries import Entry, plain, renamed, split
from flows.lineage.locks import NAME, Lock
from stages.runs import record
from stages.runs.errors import InputError

UNHASHED = ("size", "nfiles")  # keys that DVC leaves out of a run's digest, wherever they stand


def git(root: Path, findings: Findings) -> None:
    """Git's own objects: each is hashed, and must be there."""
    repository = Git(root)
    for error in locks.cut_off(root):
        findings.cannot_tell("Git's history", error)
    try:
        repository("fsck", "--no-dangling", "--no-reflogs", "--no-progress")
        findings.checked["Git repository"] += 1
    except GitError as error:
        parts = re.split(r" (?=error|warning|fatal)", str(error).removeprefix("git fsck: "))
        # Old commits may be oddly written ("error in commit ..."), which is no damage.
        if parts := [part for part in parts if not re.match("(error|warning) in", part)]:
            place = re.search(r"\.git/objects/[0-9a-f/]+", str(error))
            said = f"Git's repository is damaged: {' '.join(parts)[:300]}; fetch it anew from another clone"
            findings.fault(place[0] if place else ".git", said)


def runs(root: Path, findings: Findings) -> list[dict[str, Any]]:
    """The entries of `dvc.lock` that DVC's run-cache has kept, each hashed: a digest of its contents is its name."""
    found = []
    folder = cache.folder(root)
    for file in sorted((folder / "runs").glob("??/*/*")):
        if not re.fullmatch("[0-9a-f]{64}", file.name):
            continue
        findings.checked["runs in DVC's run-cache"] += 1
        try:
            content = _note(file.read_bytes())
            named = value(content) == file.name
        except (OSError, InputError, UnicodeDecodeError):
            content, named = {}, False
        if named:
            found.append(content)
        else:
            name = file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)
            findings.fault(name, "DVC's note of a run is not what its name promises; remove it")
    return found


@functools.lru_cache(maxsize=1 << 14)  # to parse one takes milliseconds, and whoever asks again has the same ones
def _note(text: bytes) -> dict[str, Any]:
    return dvc_lock.parse(text.decode(), "a note of a run")


def value(content: dict[str, Any]) -> str:
    """The digest by which DVC's run-cache names an entry of `dvc.lock`."""
    return hashlib.sha256(json.dumps(_stripped(content), sort_keys=True, default=str).encode()).hexdigest()


def _stripped(thing: Any) -> Any:
    if isinstance(thing, dict):
        return {key: _stripped(each) for key, each in thing.items() if key not in UNHASHED}
    return [_stripped(each) for each in thing] if isinstance(thing, list) else thing


def overlooked(entry: Entry) -> dict[str, Any]:
    """The parameters of an entry that DVC leaves out of its digest: their values by their dotted names.

    With such a parameter changed alone, DVC's run-cache brings back what the old value has made, and the lock says the
    new one (treeverse/dvc#10296). Their names are today's.
    """
    pairs = zip(plain(entry.params), today(entry.stage, entry.params).items(), strict=False)
    return dict(named for key, named in pairs if not {*UNHASHED}.isdisjoint(key.split(".")))


def today(stage: str, params: dict[str, Any]) -> dict[str, Any]:
    """The values of sections of parameters by their dotted names, as these are today."""
    return plain({section: renamed(stage, values) for section, values in params.items()})


def own(
    root: Path,
    text: bytes,
    entries: list[Entry],
    committed: list[Entry],
    noted: list[dict[str, Any]],
    records: Iterable[dict[str, Any]],
    findings: Findings,
) -> None:
    """A `dvc.lock` of the working copy that no commit has."""
    if not _as_dvc_writes(text):
        findings.fault(NAME, "is not spelled as DVC writes it: it was changed by hand; `git diff dvc.lock` shows where")
    known = {(entry.stage, value(entry.content)) for entry in committed}
    contents = {value(content): content for content in (*(entry.content for entry in committed), *noted)}
    committed_stages = {entry.stage for entry in committed}
    names: set[str] | None = None
    for entry in entries:
        findings.checked["entries of dvc.lock"] += 1
        digest = value(entry.content)
        if (entry.stage, digest) in known or digest in contents:
            if wrong := _sizes(entry.content, contents[digest]):
                findings.fault(NAME, f"{entry.stage}: {wrong} has another size in every other place; restore dvc.lock")
            if entry.stage not in committed_stages:
                names = _stages(root) if names is None else names
                if names and entry.stage not in names:
                    findings.fault(NAME, f"{entry.stage}: dvc.yaml has no such stage; restore dvc.lock")
            continue
        near = _nearest(entry, contents.values())
        if near and not _as_here(root, entry, near):
            said = f"{entry.stage}: no commit and no run of DVC's says so: {_difference(entry.content, near)}"
            findings.fault(NAME, f"{said}; restore it, or run `dvc repro`")
        elif not near and not any(_agrees(about, entry) for about in records):
            why = "is in no commit, and neither DVC's run-cache nor a record has the run; commit dvc.lock"
            findings.cannot_tell(f"{NAME}, {entry.stage}", why)


def _stages(root: Path) -> set[str]:
    from flows.engine import remotes
    from flows.engine.repository import DvcException

    try:
        return remotes.stages(root)
    except DvcException:  # dvc.yaml does not fit params.yaml: DVC says so itself
        return set()


@functools.lru_cache(maxsize=2)  # it takes half a second, most of what a small repository takes
def _as_dvc_writes(text: bytes) -> bool:
    round_trip = YAML()
    round_trip.default_flow_style = False
    written = io.BytesIO()
    try:
        round_trip.dump(round_trip.load(text), written)
    except (YAMLError, ValueError):
        return False
    return written.getvalue() == text and bool(split(text))


def _sizes(content: dict[str, Any], other: dict[str, Any]) -> str | None:
    """A file of which two equal entries say another size."""
    for key in ("deps", "outs"):
        for ours, theirs in zip(content.get(key, []), other.get(key, []), strict=True):
            if any(ours.get(size) != theirs[size] for size in UNHASHED if size in theirs):
                return str(ours["path"])
    return None


def _nearest(entry: Entry, contents: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """An entry that tells of the same run in part: of the same outputs, or of the same inputs."""
    ours = _stripped(entry.content)
    best, most = None, 0
    for content in contents:
        theirs = _stripped(content)
        same = sum(len(json.dumps(ours[key], default=str)) for key in ours if theirs.get(key) == ours[key])
        shared = theirs.get("outs") == ours.get("outs") or all(
            theirs.get(key) == ours.get(key) for key in ("cmd", "deps", "params")
        )
        if shared and same > most:
            best, most = content, same
    return best


def _difference(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    for key in ("deps", "outs"):
        known = {file.get("path"): file.get("md5") for file in theirs.get(key, [])}
        for file in ours.get(key, []):
            if known.get(file.get("path")) != file.get("md5"):
                return (
                    f"{file.get('path')} {str(file.get('md5'))[:10]}, elsewhere {str(known.get(file.get('path')))[:10]}"
                )
    key = next((key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)), "outs")
    return f"another value under {key}"


def _agrees(about: dict[str, Any], entry: Entry) -> bool:
    """Whether a run's record has the entry's outputs, inputs and parameters. (Of code a record has a digest alone.)"""
    return contradiction(about, entry) is None and about["outputs"].items() <= entry.outs.items()


def contradiction(about: dict[str, Any], entry: Entry) -> str | None:
    """What a record of the entry's outputs says otherwise: an input or a parameter; None where they agree."""
    for path, md5 in (about.get("inputs") or {}).items():
        if path in entry.deps and entry.deps[path] != md5:
            return f"{path} {md5[:10]}, dvc.lock has {entry.deps[path][:10]}"
    for section, values in (about.get("params") or {}).items():
        known = plain(renamed(entry.stage, entry.params.get(section, {})))
        for key, said in plain(renamed(entry.stage, values)).items():
            given = known.get(key, said)
            if given != said:
                return f"{section}.{key}: {said}, dvc.lock has {given}"
    return None


def _as_here(root: Path, entry: Entry, near: dict[str, Any]) -> bool:
    """Whether all that differs from an entry with the same command and outputs lies in the working copy just so.

    Then a stage has run without the run-cache (`dvc repro --no-commit`) and made the same again.
    """
    ours, theirs = _stripped(entry.content), _stripped(near)
    there = [path for path in entry.deps if (root / path).exists()]
    deps = [{"path": path, "hash": "md5", "md5": record.digest(root / path)} for path in there]
    given = plain(dvc_lock.read(root / "params.yaml"))
    values = {key: {name: given.get(name) for name in plain(entry.params)} for key in ours.get("params", {})}
    params = {key: plain(each) for key, each in ours.get("params", {}).items()}
    return (
        ours.keys() == theirs.keys()
        and all(ours[key] == theirs[key] for key in ours if key not in ("deps", "params"))
        and (ours.get("deps") == theirs.get("deps") or ours.get("deps") == deps)
        and (ours.get("params") == theirs.get("params") or (params == values and [*params] == ["params.yaml"]))
    )


def damaged(errors: Iterable[InputError], own_lock: Lock | None, findings: Findings) -> None:
    """Locks that cannot be read: of a commit it is named, as nothing can mend it."""
    for error in errors:
        if own_lock and str(error).startswith(f"{NAME} of the working copy"):
            findings.fault(
                NAME, f"{str(error).partition(': ')[2]}; `git checkout dvc.lock` brings the last committed one"
            )
        else:
            findings.cannot_tell("Git's history", f"{error}; what it said cannot be checked")
