"""Records and the attestations that vouch for them, held against each other: question 6, has a record been forged?"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from flows.checkout.git import Git
from flows.lineage import attestation, keys, record_branch
from flows.lineage.attestation import Attestation, Forged
from stages.runs import record
from stages.runs.errors import InputError

if TYPE_CHECKING:
    from securesystemslib.signer import Key, Signer


FOLDER = "attestations"  # among the records
END = ".dsse"


class Checked(NamedTuple):
    """What the attestations say of the records."""

    signed: dict[str, str]  # by record: who vouches for it
    unsigned: list[str]  # records that nobody vouches for
    faults: list[str]  # what is not as it was signed, a line each


class Branch(NamedTuple):
    """What the branch of records holds."""

    records: dict[str, str]  # text by path
    attestations: dict[str, bytes]  # by name


def on_branch(git: Git) -> Branch:
    """The records and attestations on the branch, and on those of other clones that have been fetched."""
    texts = record_branch.files(git, ".json")
    signed = record_branch.files(git, END)
    return Branch(
        {path: text.decode("utf-8", "surrogateescape") for path, text in texts.items()},
        {PurePosixPath(path).stem: data for path, data in signed.items()},
    )


def collect(root: Path, passphrase: str | None = None) -> tuple[record_branch.Collected, int]:
    """Bring the records of the project at `root` to their branch; what that says, and how many were signed now.

    Where the user has a key, the records of this clone that nobody has signed are signed; not those of other clones.

    Raises InputError where that cannot be written, or where the key cannot be used.
    """
    done = record_branch.collect(root)
    signer = keys.signer(passphrase)
    if signer is None:
        return done, 0
    held = on_branch(Git(root))
    own = {file.read_bytes() for file in (root / record.home()).glob("*/*.json")}
    mine = {path: text for path, text in held.records.items() if text.encode("utf-8", "surrogateescape") in own}
    made = sign_new(mine, held.attestations, signer)
    for name, data in made.items():
        file = root / record.home() / FOLDER / f"{name}{END}"
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f".{name}")
        draft.write_bytes(data)
        draft.replace(file)
    if made:
        done = done._replace(commit=record_branch.collect(root).commit)
    return done, len(made)


def newest(git: Git) -> list[str]:
    """The names of the newest attestations, which a commit may anchor; damaged ones are left out."""
    return attestation.heads(_readable(on_branch(git).attestations))


class Vouchers:
    """Who vouches for records. The attestations and the keys are read once, when the first record is asked for."""

    def __init__(self, git: Git) -> None:
        self._git = git

    def of(self, text: str) -> str | None:
        """Who vouches for a record, of those that are trusted; None where nobody does.

        Raises Forged where none of its attestations is right.
        """
        trusted = self._trusted
        wrong: Forged | None = None
        for name in self._about.get(_sha256(text), []):
            try:
                return attestation.signed_by(self._attestations[name], trusted)
            except Forged as error:
                wrong = wrong or error
        if wrong:
            raise wrong
        return None

    @functools.cached_property
    def _trusted(self) -> dict[str, Key]:
        return keys.trusted(self._git.home)

    @functools.cached_property
    def _attestations(self) -> dict[str, bytes]:
        return on_branch(self._git).attestations

    @functools.cached_property
    def _about(self) -> dict[str, list[str]]:
        """The names of the attestations of each record, by its sha256."""
        found: dict[str, list[str]] = {}
        for one in _readable(self._attestations):
            found.setdefault(one.sha256, []).append(one.name)
        return found


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _readable(attestations: Mapping[str, bytes]) -> list[Attestation]:
    found = []
    for name, data in attestations.items():
        with contextlib.suppress(Forged):
            found.append(attestation.read(data, name))
    return found


def sign_new(records: Mapping[str, str], attestations: Mapping[str, bytes], signer: Signer) -> dict[str, bytes]:
    """Attestations, by name, of the records (text by path) that have none yet; each names the one before.

    What is no whole record is not signed; neither is another text of a run that the signer has signed: one of the two
    was altered.
    """
    before = _readable(attestations)
    previous = attestation.heads(before)
    attested = {one.sha256 for one in before}
    same = {_run(one.record) for one in before if one.keyid == signer.public_key.keyid}
    made: dict[str, bytes] = {}
    todo: list[tuple[str, str]] = []
    for path, text in records.items():
        with contextlib.suppress(InputError):
            body = record.parse(text.encode("utf-8", "surrogateescape"), path)
            whole = record.whole(body) and record.text(body) == text and isinstance(body.get("inputs"), dict)
            if whole and _sha256(text) not in attested and _run(path) not in same:
                todo.append((body["ended"], path))
    for _, path in sorted(todo):
        data = attestation.sign(path, records[path], previous, signer)
        previous = [attestation.name_of(data)]
        made[previous[0]] = data
    return made


def _run(path: str) -> str:
    """What the path of a record says of the run: `STAGE/DIGEST`, also where branches were united."""
    stage, _, name = path.rpartition("/")
    return f"{stage}/{name.partition('.')[0]}"


def check(
    records: Mapping[str, str],
    attestations: Mapping[str, bytes],
    trusted: Mapping[str, Key],
    anchors: Collection[str] = (),
) -> Checked:
    """Hold records (text by path) against attestations (bytes by name).

    `anchors` are attestations that must be there: Git's history names them. Nothing is raised: each fault is a line.
    """
    read: list[Attestation] = []
    signed: dict[str, str] = {}
    faults: list[str] = []
    known = {_sha256(text): path for path, text in records.items()}
    for name, data in attestations.items():
        try:
            one = attestation.read(data, name)
            read.append(one)
            who = attestation.signed_by(data, trusted)
        except Forged as error:
            faults.append(str(error))
            continue
        path = known.get(one.sha256)  # where branches were united, it may lie under another name
        if path is None:
            became = "not as" if one.record in records else "gone, though"
            faults.append(f"record {one.record}: {became} {who} has signed it")
        elif json.loads(records[path])["outputs"] != one.outputs:
            faults.append(f"attestation {name[:10]}: names other outputs than record {path}")
        else:
            signed[path] = who
    faults += [
        f"attestation {name[:10]}: gone, though others or Git's history name it"
        for name in attestation.missing(read, anchors)
    ]
    return Checked(signed, sorted(records.keys() - signed.keys()), faults)
