"""The records that a dossier shows, each once: of runs, of `dvc.lock`, of decisions, of files, and what was counted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.audit import evidence
from flows.checkout.git import Git
from flows.dossier.sources import UNSAFE, Rests, Source, name
from flows.exports.materials import Materials, Run
from flows.exports.pieces import Piece
from flows.lineage import attestation, owner, signatures
from flows.lineage.owner import Owner
from flows.lineage.records import Found, Records
from flows.lineage.signatures import Vouchers
from stages.runs.errors import InputError
from stages.runs.record import text

# What notes of records may name pictures by: those that lie on another side than they would alone (`ingest`), and what
# an erasure could not reach.
NAMES = ("moved", "left", "kept")
ENDS = {"DIFFERS": "altered, or wrongly signed", "cannot tell": "signed by nobody, as far as can be told here"}


class Shelf:
    """Sources by what they are of; none is made twice."""

    def __init__(self, root: Path) -> None:
        self.git, self.records = Git(root), Records(root)
        self.vouchers = Vouchers(self.git)
        self._root = root
        self._known: dict[object, Source] = {}
        self._written: dict[str, str] = {}  # by file: the sha256 of a record that is here without names of pictures

    def record(self, found: Found) -> Source:
        """Of a record of a run, or of what somebody has done, as it is written; but with numbers for `NAMES`."""
        if found.where not in self._known:
            content = text(found.body).encode("utf-8", "surrogateescape")
            body, notes = found.body, found.body.get("notes") or {}
            title = f"record of {body.get('stage')}"
            if named := {
                key: len(notes[key]) for key in NAMES if isinstance(notes.get(key), list | dict) and notes[key]
            }:
                written = hashlib.sha256(content).hexdigest()
                body = {**body, "notes": {**notes, **named}, "record_sha256": written}
                content = text(body).encode("utf-8", "surrogateescape")
                title += ", without names of pictures"
            fact = evidence.signature(self.vouchers, found.body, found.where)
            who = evidence.signer(self.vouchers, found.body)
            self._known[found.where] = source = Source(
                name("records", str(body.get("stage")), content), title, content, body,
                "DIFFERS" if fact.word == "DIFFERS" else "recorded", f"signed by {who}" if who else ENDS[fact.word],
            )  # fmt: skip
            if body is not found.body:
                self._written[source.file] = written
        return self._known[found.where]

    def entry(self, run: Run) -> Source:
        """Of what `dvc.lock` says of a run."""
        lock = f"dvc.lock of commit {run.commit[:10]}" if run.commit else "dvc.lock of the working copy"
        said = {"lock": lock, "commit": run.commit, "stage": run.stage, "inputs": run.inputs, "outputs": run.outputs}
        return self.values("locks", run.stage, f"{run.stage} in {lock}", said)

    def run(self, run: Run) -> Source:
        """Of a run: its record, or, where that is not here, what `dvc.lock` says."""
        return self.record(run.found) if run.found else self.entry(run)

    def values(self, folder: str, said: str, title: str, values: Mapping[str, Any], word: Rests = "recorded") -> Source:
        """Of plain values that were read or counted now."""
        content = (json.dumps(values, indent=1, ensure_ascii=False, default=str) + "\n").encode("utf-8", "replace")
        file = name(folder, said, content)
        return self._known.setdefault(file, Source(file, title, content, values, word))

    def copy(self, piece: Piece, title: str, values: Mapping[str, Any]) -> Source | None:
        """Of a file as it is, whose digest is the recorded one; `values` are what of it is shown. None: not here."""
        if piece.here is None:
            return None
        content, place = piece.here.read_bytes(), Path(piece.path)
        file = name("scores", place.name.partition(".")[0], content, "".join(place.suffixes))
        return self._known.setdefault(file, Source(file, title, content, {"md5": piece.md5, **values}, "verified"))

    def export(self, said: str, title: str, text: str) -> Source:
        """Of a file in the format of others, under its usual name."""
        content = text.encode("utf-8", "replace")
        file = f"exports/{UNSAFE.sub('-', said).lstrip('.-')}"
        return self._known.setdefault(file, Source(file, title, content, {"bytes": len(content), "text": text}))

    def owner(self, said: Owner, found: Materials) -> Source | None:
        """Of what the owner says of this checkpoint and its datasets; None where there is no such file.

        What it says of others is not for those who get this dossier.
        """
        file = self._root / owner.FILE
        if not file.exists():
            return None
        content = file.read_bytes()
        committed = self.git.file("HEAD", owner.FILE) if self.git.commit("HEAD") else None
        same = committed is not None and committed.splitlines() == content.decode(errors="replace").splitlines()
        names = {one.name for one in found.datasets or []}
        values = {
            **found.said_by(said),
            **{f"datasets.{name}": vars(about) for name, about in said.datasets.items() if name in names},
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        title = f"what {owner.FILE} says of it, {'as it is committed' if same else 'which is not committed'}"
        return self.values("answers", "audit-yaml", title, values, "said by the owner")

    def attestations(self, sources: list[Source]) -> dict[str, bytes]:
        """The attestations of those that are records, by their files' names."""
        wanted = {self._written.get(source.file, source.sha256) for source in sources}
        found = {}
        for one, data in signatures.on_branch(self.git).attestations.items():
            try:
                if attestation.read(data, one).sha256 in wanted:
                    found[f"{one}{signatures.END}"] = data
            except InputError:  # `audit verify` tells
                continue
        return found
