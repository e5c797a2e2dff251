"""What the records of stage runs say of a checkpoint: its code, machine and foreign weights, and its data's terms."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from flows.audit.facts import HERE, Fact, left_out
from flows.checkout.git import Git
from flows.lineage import dvc_lock, record_branch
from flows.lineage.entries import Entry
from flows.lineage.records import Records
from flows.lineage.revocation import Elsewhere, Untold
from flows.lineage.signatures import Vouchers
from flows.lineage.upstream import Upstream
from stages.runs import kernels
from stages.runs.errors import InputError
from stages.runs.record import text as record_text
from stages.runs.record import whole

SHOWN = 3  # of a list that people see; `--json` has all
OLD = "its record is of an older version, which did not note it"


@dataclasses.dataclass(frozen=True)
class Run:
    """The record of the run that made something, as far as it is here."""

    record: dict[str, Any] | None
    where: str | None  # the record's path in the folder of records, or on the branch
    uncommitted: str | None  # a patch: what the code was beyond the record's commit; None: nothing, or it is not here


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A dataset that a checkpoint comes from, as it was ingested."""

    name: str
    md5: str  # of the ingested table
    licence: str | None  # of every picture for which its own list (pictures.csv) has none
    consent: str | None
    origin: str | None
    terms: list[dict[str, Any]] | None  # `licence`, `consent` and how many `pictures` are under them; None: no record
    kept: int | None  # pictures
    rejected: dict[str, int] | None  # pictures by reason
    run: Run


def run(records: Records, entry: Entry, path: str) -> Run:
    """The record of the stage run that made the output at `path`, by its entry of `dvc.lock`."""
    found = records.of(path, entry.outs[path], entry.deps)
    if found is None:
        return Run(None, None, None)
    try:
        patch = records.diff(found.body)
    except InputError as error:
        records.unread.append(str(error))
        patch = None
    return Run(found.body, found.where, None if patch is None else patch.decode(errors="replace"))


def datasets(records: Records, before: Upstream) -> list[Dataset]:
    """The datasets among what a checkpoint comes from."""
    found = []
    for entry, path in ((made, path) for made in before.entries for path in made.outs):
        if not path.startswith(dvc_lock.INGESTED):
            continue
        name, ran = path.removeprefix(dvc_lock.INGESTED), run(records, entry, path)
        said = entry.params.get(f"datasets.{name}.ingest")
        said = {key: text for key, text in said.items() if isinstance(text, str)} if isinstance(said, Mapping) else {}
        notes = (ran.record or {}).get("notes") or {}
        kept = notes.get("kept")
        found.append(
            Dataset(
                name, entry.outs[path], said.get("licence"), said.get("consent"), said.get("origin"),
                notes.get("terms"), kept if isinstance(kept, int) else None, notes.get("rejected"), ran,
            )
        )  # fmt: skip
    return found


def of_damaged(damaged: Iterable[str]) -> Iterator[Fact]:
    """A line for each damaged `dvc.lock`, by what is wrong with it."""
    for error in dict.fromkeys(damaged):
        yield Fact("dvc.lock", left_out(error), "cannot tell")


def of_upstream(unknown: Mapping[str, str]) -> Iterator[Fact]:
    """A line for each input (md5 by path) of which it is not known what it comes from."""
    for path, md5 in unknown.items():
        said = (
            f"{path} {md5[:10]}: no dvc.lock that Git knows here says which run has made it, or DVC's cache lacks the "
            f"folder's listing, which would tell; {HERE}"
        )
        yield Fact("comes from", said, "cannot tell")


def of_training(git: Git, vouchers: Vouchers, ran: Run, params: Mapping[str, Any], unread: list[str]) -> Iterator[Fact]:
    """The lines about a training's run: code, environment, seeds, foreign weights."""
    record = ran.record
    if record is None:
        branch = record_branch.name(git)
        why = unread[0] if unread else (
            "no record of this run is here, which would tell code, environment and foreign weights; `palimpsest audit "
            f"collect` in the clone that ran it writes it to branch '{branch}', and `git fetch` brings that"
        )  # fmt: skip
        yield Fact("code", why, "cannot tell")
    else:
        yield signature(vouchers, record, str(ran.where))
        yield _code(git, ran, record)
        yield Fact("environment", _environment(record.get("environment") or {}), "recorded")
    # The record has the parameters that params.yaml leaves out as well.
    sections = record["params"] if record else params
    seeds = ", ".join(f"{name} {value}" for section in sections.values() for name, value in _seeds(section))
    if seeds:
        yield Fact("seeds", seeds, "recorded")
    if record is not None:
        weights = record.get("weights")
        if weights is None:
            yield Fact("weights", f"{OLD}: whether foreign weights were read", "cannot tell")
        else:
            said = ", ".join(f"{name} (sha256 {sha256[:10]})" for name, sha256 in weights.items())
            yield Fact("weights", said or "no foreign weights were read", "recorded")


def signature(vouchers: Vouchers, record: Mapping[str, Any], where: str) -> Fact:
    """The line about a record itself: who has signed it."""
    about = "record"
    if not whole(record):
        said = f"{where}: altered since it was written: its name is the digest of something else"
        return Fact(about, said, "DIFFERS")
    try:
        who = vouchers.of(record_text(record))
    except (Elsewhere, Untold) as error:
        return Fact(about, str(error), "cannot tell")
    except InputError as error:
        return Fact(about, str(error), "DIFFERS")
    if who is None:
        said = f"{where}: signed by nobody, so whether it was forged is not known; `palimpsest audit collect` signs"
        return Fact(about, said, "cannot tell")
    return Fact(about, f"{where}: signed by {who}", "verified")


def signer(vouchers: Vouchers, record: Mapping[str, Any]) -> str | None:
    """Who vouches for a record; None where nobody does, or where it or its signature is not right."""
    with contextlib.suppress(InputError):
        return vouchers.of(record_text(record)) if whole(record) else None
    return None


def of_dataset(vouchers: Vouchers, dataset: Dataset) -> Iterator[Fact]:
    """The lines about a dataset: who vouches for its record, under which terms it is, and what was rejected."""
    if dataset.run.record:
        yield signature(vouchers, dataset.run.record, str(dataset.run.where))
    notes = dataset.kept is not None
    terms = [f"licence {dataset.licence}", f"consent: {dataset.consent}", f"origin: {dataset.origin}"]
    if dataset.terms is not None and len(dataset.terms) > 1:
        terms = [
            f"{one['pictures']} under licence {one['licence']}, consent: {one['consent']}" for one in dataset.terms
        ]
    if dataset.licence is None and not dataset.terms:
        yield Fact("terms", f"{dataset.name}: params.yaml in dvc.lock has no licence and consent of it", "cannot tell")
    else:
        rest = "" if dataset.terms is not None else "; whether pictures.csv says otherwise for some is not recorded"
        yield Fact("terms", f"{dataset.name}: {_some(terms)}{rest}", "recorded")
    if not notes:
        why = OLD if dataset.run.record else "no record of its ingestion is here; bring it as the training's"
        yield Fact("rejected", f"{dataset.name}: {why}", "cannot tell")
        return
    rejected = dataset.rejected or {}
    reasons = [f"{count} {reason}" for reason, count in sorted(rejected.items(), key=lambda item: -item[1])]
    said = f"{sum(rejected.values())} rejected{': ' if reasons else ''}{_some(reasons)}"
    yield Fact("rejected", f"{dataset.name}: {dataset.kept} kept, {said}", "recorded")


def _code(git: Git, ran: Run, record: Mapping[str, Any]) -> Fact:
    sources = record.get("sources")
    if sources is None:
        return Fact("code", f"{OLD} beyond a digest, {str(record.get('code'))[:10]}", "cannot tell")
    files = f"{len(sources)} source files by their sha256 (--json)"
    state = record.get("git")
    if state is None or state["commit"] is None:
        why = "it ran outside of a Git repository, or Git refused" if state is None else "nothing was committed yet"
        return Fact("code", f"{files}; no commit: {why}", "recorded")
    commit = f"commit {state['commit'][:10]}" + ("" if git.commit(state["commit"]) else ", which is not in this clone")
    if not state["dirty"]:
        return Fact("code", f"{commit}, clean; {files}", "recorded")
    patch = "--json has the patch" if ran.uncommitted else "its patch is not here"
    return Fact("code", f"{commit}; not committed: {_some(state['dirty'])} ({patch}); {files}", "recorded")


def _environment(found: Mapping[str, Any]) -> str:
    used = found.get("kernels") or {}
    libraries = found.get("libraries") or {}
    parts = [str(found.get("processor"))]
    if used.get("torch"):
        held = (
            "portable" if kernels.held(used) else f"{used['torch']}, oneDNN {used.get('onednn')}, MKL {used.get('mkl')}"
        )
        parts.append(f"kernels {held}")
        parts.append(f"{used.get('threads')} threads")
    driver = found.get("driver") or {}
    parts.append(" ".join([str(found.get("accelerator") or "no GPU"), *(f"{k} {v}" for k, v in driver.items())]))
    parts.append(f"Python {found.get('python')}")
    parts += [f"{name} {libraries[name]}" for name in ("torch", "numpy") if libraries.get(name)]
    return ", ".join(parts)


def _seeds(params: Any, way: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in params.items() if isinstance(params, Mapping) else ():
        name = f"{way}.{key}" if way else str(key)
        if isinstance(value, Mapping):
            yield from _seeds(value, name)
        elif key == "seed" or str(key).endswith("_seed"):
            yield name, value


def _some(words: list[str]) -> str:
    more = len(words) - SHOWN
    return ", ".join(words[:SHOWN]) + (f" and {more} more (--json)" if more > 0 else "")
