"""Records of runs against their own names, and against every lock that has their outputs."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from flows.audit.findings import Findings
from flows.audit.verify_locks import contradiction
from flows.lineage import records
from flows.lineage.entries import Entry

PARTS = ("inputs", "outputs", "params")  # of a record, each a mapping


def check(root: Path, entries: list[Entry], findings: Findings) -> None:
    """Every record is what its name promises, and contradicts no lock that has its outputs."""
    making: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        for out in entry.outs.items():
            making[out].append(entry)
    whole = _whole(root, findings)
    agreed: set[int] = set()
    against: dict[str, list[tuple[Entry, str]]] = {}
    alone = 0
    for file, about in whole.items():
        outs = about["outputs"].items()
        found = [entry for entry in making.get(next(iter(outs), ("", "")), []) if outs <= entry.outs.items()]
        said = [(entry, contradiction(about, entry)) for entry in found]
        agreed |= {id(entry) for entry, wrong in said if wrong is None}
        alone += not found
        if found and all(wrong for _, wrong in said):
            against[file] = [(entry, wrong) for entry, wrong in said if wrong]
    for file, pairs in against.items():
        if not any(id(entry) in agreed for entry, _ in pairs):  # else it is of another run, with the same outputs
            entry, wrong = pairs[0]
            findings.fault(file, f"contradicts dvc.lock on {entry.stage}: {wrong}; one of the two was altered")
    if alone:
        findings.remarks.append(("records", f"{alone} are of runs whose outputs no lock has"))


def _whole(root: Path, findings: Findings) -> dict[str, dict[str, Any]]:
    """The records that are what their names promise, by their files."""
    home = records.folder(root)
    newer = []
    found: dict[str, dict[str, Any]] = {}
    for name, about in records.every(root).items():
        file = (home / name).relative_to(root).as_posix() if home.is_relative_to(root) else str(home / name)
        stage, _, stem = name.removesuffix(".json").rpartition("/")
        findings.checked["records"] += 1
        if about is None:
            findings.fault(file, "is damaged; remove it")
        elif (digest := records.digest(about)) is None:
            newer.append(file)
        elif (stem, stem, stage) != (digest, about.get("digest"), about.get("stage")):
            findings.fault(file, "says something else than its name promises: it was altered; remove it", stem, digest)
        elif (home / name).read_bytes() != records.text(about) or not _of_parts(about):
            findings.fault(file, "is not spelled as a run writes it: it was altered; remove it")
        else:
            found[file] = about
    findings.gone("records", newer, "of a newer format; update Palimpsest")
    return found


def _of_parts(about: dict[str, Any]) -> bool:
    parts = [about.get(key) for key in PARTS]
    return all(isinstance(part, dict) for part in parts) and all(
        isinstance(md5, str) for md5 in about["outputs"].values()
    )
