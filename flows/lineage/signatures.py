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
from flows.lineage import attestation, keys, public_keys, record_branch
from flows.lineage.attestation import Attestation, Forged
from flows.lineage.public_keys import Trusted
from flows.lineage.records import TESTED
from flows.lineage.revocation import Elsewhere, Revoked, Signers
from flows.process import atomic_file
from stages.runs import record
from stages.runs.errors import InputError

if TYPE_CHECKING:
    from securesystemslib.signer import Signer

FOLDER = "attestations"  # among the records
END = ".dsse"


class Checked(NamedTuple):
    """What the attestations say of the records."""

    signed: dict[str, str]  # by record: who vouches for it
    unsigned: list[str]  # records that nobody vouches for
    faults: list[str]  # what is not as it was signed, a line each
    unsure: dict[str, tuple[str, str]]  # by attestation: who has signed it, and why that counts for nothing here


class Branch(NamedTuple):
    """What the branch of records holds."""

    records: dict[str, str]  # text by path
    attestations: dict[str, bytes]  # by name, which is the sha256 of the bytes; what was altered, by its file's


def on_branch(git: Git) -> Branch:
    """The records and attestations on the branch, and on those of other clones that have been fetched."""
    texts = record_branch.files(git, ".json")
    signed = record_branch.files(git, END)
    files = [(PurePosixPath(path).name, data) for path, data in signed.items()]
    named = [(file, file.partition(".")[0], data) for file, data in files]  # NAME.BLOB.dsse where branches differed
    return Branch(
        {path: text.decode("utf-8", "surrogateescape") for path, text in texts.items()},
        {name if attestation.name_of(data) == name else file: data for file, name, data in named},
    )


def collect(root: Path, passphrase: str | None = None, which: str | None = None) -> tuple[record_branch.Collected, int]:
    """Bring the records of the project at `root` to their branch; what that says, and how many were signed now.

    Where the user has a key, the records of this clone that nobody has signed are signed; not those of other clones. Of
    the folder of records these are all but those by which a person answers for scores: they say more than that somebody
    held them. `which`, a pattern, names others.

    Raises InputError where that cannot be written, or where the key cannot be used or is revoked.
    """
    done = record_branch.collect(root)
    signer = keys.own(root, passphrase)
    if signer is None:
        return done, 0
    held = on_branch(Git(root))
    files = (root / record.home()).glob(which or "*/*.json")
    own = {file.read_bytes() for file in files if which or file.parent.name != TESTED}
    mine = {path: text for path, text in held.records.items() if text.encode("utf-8", "surrogateescape") in own}
    made = sign_new(mine, held.attestations, signer, public_keys.trusted(root), public_keys.elsewhere(Git(root)))
    for name, data in made.items():
        file = root / record.home() / FOLDER / f"{name}{END}"
        atomic_file.write(file, data)
    if made:
        done = done._replace(commit=record_branch.collect(root).commit)
    return done, len(made)


def newest(git: Git) -> list[str]:
    """The names of the newest attestations, which a commit may anchor.

    Those whose signatures do not count are left out: whoever takes these off the branch does right.
    """
    held = on_branch(git).attestations
    try:
        return attestation.heads(_right(held, _signers(git, held)))
    except InputError:  # `signers.yaml` is damaged, which `audit verify` tells
        return attestation.heads(_readable(held))


def counting(git: Git) -> list[tuple[Attestation, bytes]]:
    """The attestations whose signatures count, with the bytes of their files.

    Raises InputError where `signers.yaml` is damaged.
    """
    held = on_branch(git).attestations
    return [(one, held[one.name]) for one in _right(held, _signers(git, held))]


def revoke(git: Git, name: str, every: bool) -> int:
    """Revoke somebody's key; how many attestations that it has signed still count.

    These are the ones that are here now; where `every` one is revoked, none. Raises InputError as `public_keys.revoke`
    does, and where no attestation is here, or not all that the newest ones follow on: what is missing could be made
    later.
    """
    held = on_branch(git).attestations
    read = _readable(held)
    heads = [] if every else attestation.heads(_right(held, _signers(git, held)))
    if not heads and not every:
        raise InputError(
            "no attestation that counts is here, so nothing that the key has signed would count: `git fetch` first, or "
            "say `--all`"
        )
    counting = attestation.reached(read, heads)
    if gone := sorted(counting - {one.name for one in read}):
        raise InputError(
            f"attestation {gone[0][:10]} is missing, though others name it, and would count whenever it comes: `git "
            "fetch` first, or say `--all`"
        )
    public_keys.revoke(git.home, name, heads)
    key = public_keys.trusted(git.home)[name].key
    signers = Signers({name: Trusted(key)}, [])
    return sum(one.name in counting and signers.right(one, held[one.name]) for one in read)


def lost(
    git: Git, attestations: Mapping[str, bytes], trusted: Mapping[str, Trusted], elsewhere: public_keys.Others
) -> dict[str, str]:
    """The paths of the files that the branch of records has lost, by blob (`record_branch.lost`).

    Attestations that count for nothing are left out: those of strangers, and those with a wrong signature.
    """
    found = record_branch.lost(git)
    signed = {attestation.name_of(data): data for path, data in found.values() if path.endswith(END)}
    signers = Signers(trusted, _readable({**attestations, **signed}), elsewhere)
    kept = {one.name for one in _readable(signed) if signers.right(one, signed[one.name], unsure=True)}
    void = signed.keys() - kept
    return {blob: path for blob, (path, data) in found.items() if attestation.name_of(data) not in void}


class Vouchers:
    """Who vouches for records. The attestations and the keys are read once, when the first record is asked for."""

    def __init__(self, git: Git) -> None:
        self._git = git

    def of(self, text: str) -> str | None:
        """Who vouches for a record, of those that are trusted; None where nobody does.

        Raises Forged where none of its attestations is right.
        """
        signers, attestations = self._read
        wrong: Forged | None = None
        for one in self._about.get(_sha256(text), []):
            try:
                return signers.of(one, attestations[one.name])
            except Forged as error:
                wrong = wrong or error
        if wrong:
            raise wrong
        return None

    @functools.cached_property
    def _read(self) -> tuple[Signers, dict[str, bytes]]:
        held = on_branch(self._git).attestations
        return _signers(self._git, held), held

    @functools.cached_property
    def _about(self) -> dict[str, list[Attestation]]:
        """The attestations of each record, by its sha256."""
        found: dict[str, list[Attestation]] = {}
        for one in _readable(self._read[1]):
            found.setdefault(one.sha256, []).append(one)
        return found


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _signers(git: Git, attestations: Mapping[str, bytes]) -> Signers:
    """Who has signed, by all keys that are known. Raises InputError where `signers.yaml` is damaged."""
    return Signers(
        public_keys.counted(git), _readable(attestations), public_keys.elsewhere(git) if attestations else None
    )


def _right(attestations: Mapping[str, bytes], signers: Signers) -> list[Attestation]:
    """Those whose signatures count."""
    return [one for one in _readable(attestations) if signers.right(one, attestations[one.name])]


def _readable(attestations: Mapping[str, bytes]) -> list[Attestation]:
    found = []
    for name, data in attestations.items():
        with contextlib.suppress(Forged):
            found.append(attestation.read(data, name))
    return found


def sign_new(
    records: Mapping[str, str],
    attestations: Mapping[str, bytes],
    signer: Signer,
    trusted: Mapping[str, Trusted] | None = None,
    elsewhere: public_keys.Others | None = None,
) -> dict[str, bytes]:
    """Attestations, by name, of the records (text by path) that have none yet; each names the one before.

    One that does not count is none: a stranger's, one with a wrong signature or with a revoked key. What is no whole
    record is not signed; neither is another text of a run that the signer has signed: one of the two was altered.
    """
    known = dict(trusted or {})
    if known and signer.public_key.keyid not in {one.key.keyid for one in known.values()}:
        known[""] = Trusted(signer.public_key)  # what one has signed oneself counts, whoever else trusts the key
    before = _right(attestations, Signers(known, _readable(attestations), elsewhere))
    previous = attestation.heads(before)
    attested = {one.sha256 for one in before}
    same = {run_of(one.record) for one in before if one.keyid == signer.public_key.keyid}
    made: dict[str, bytes] = {}
    todo: list[tuple[str, str]] = []
    for path, text in records.items():
        with contextlib.suppress(InputError):
            body = record.parse(text.encode("utf-8", "surrogateescape"), path)
            whole = record.whole(body) and record.text(body) == text and isinstance(body.get("inputs"), dict)
            if whole and _sha256(text) not in attested and run_of(path) not in same:
                todo.append((body["ended"], path))
    for _, path in sorted(todo):
        data = attestation.sign(path, records[path], previous, signer)
        previous = [attestation.name_of(data)]
        made[previous[0]] = data
    return made


def run_of(where: str) -> str:
    """What the place of a record says of the run: `STAGE/DIGEST`, also on a branch, and where branches were united."""
    stage, _, name = where.rpartition(":")[2].rpartition("/")
    return f"{stage}/{name.partition('.')[0]}"


def check(
    records: Mapping[str, str],
    attestations: Mapping[str, bytes],
    trusted: Mapping[str, Trusted],
    anchors: Collection[str] = (),
    elsewhere: public_keys.Others | None = None,
) -> Checked:
    """Hold records (text by path) against attestations (bytes by name).

    `anchors` are attestations that must be there: Git's history names them. Nothing is raised: each fault is a line.
    What a revoked key has signed, and does not count, is no fault where somebody else vouches for the same record.
    Signatures of keys that other commits alone have, of those that other commits alone revoke, and all of them where
    nobody is trusted, are neither right nor wrong.
    """
    read: list[Attestation] = []
    signed: dict[str, str] = {}
    faults: list[str] = []
    unsure: dict[str, tuple[str, str]] = {}
    for name, data in attestations.items():
        try:
            read.append(attestation.read(data, name))
        except Forged as error:
            faults.append(str(error))
    signers = Signers(trusted, read, elsewhere)
    known = {_sha256(text): path for path, text in records.items()}
    vouched: set[str] = set()
    late: list[tuple[str, str]] = []
    for one in read:
        try:
            who = signers.of(one, attestations[one.name])
        except Elsewhere as error:
            unsure[one.name] = error.who, error.why
            continue
        except Revoked as error:
            late.append((one.sha256, str(error)))
            continue
        except Forged as error:
            faults.append(str(error))
            continue
        vouched.add(one.sha256)
        path = known.get(one.sha256)  # where branches were united, it may lie under another name
        if path is None:
            became = "not as" if one.record in records else "gone, though"
            faults.append(f"record {one.record}: {became} {who} has signed it")
        elif json.loads(records[path])["outputs"] != one.outputs:
            faults.append(f"attestation {one.name[:10]}: names other outputs than record {path}")
        else:
            signed[path] = who
    faults += [said for sha256, said in late if sha256 not in vouched]
    named = {*anchors, *(head for one in trusted.values() for heads in one.revoked for head in heads)}
    faults += [
        f"attestation {name[:10]}: gone, though others or Git's history name it"
        for name in attestation.missing(read, named)
    ]
    return Checked(signed, sorted(records.keys() - signed.keys()), faults, unsure)
