"""A person answers for the scores of a checkpoint: a record that names their digests, signed with the person's key."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from pathlib import Path

from flows.audit import checkpoint
from flows.audit.facts import HERE, Fact, find_table, left_out
from flows.checkout.git import Git
from flows.lineage import keys, locks, public_keys, signatures
from flows.lineage.public_keys import SIGNERS
from flows.lineage.records import TESTED
from stages.runs import record
from stages.runs.errors import InputError


@dataclasses.dataclass(frozen=True)
class SignedTests:
    """That somebody has signed the scores of a checkpoint."""

    asked: str
    checkpoint: str  # path
    md5: str
    scores: dict[str, str]  # md5 of each file of scores, by path
    signer: str  # the name in `signers.yaml`
    time: str  # ISO 8601
    record: str  # its path in the folder of records
    branch: str  # to which it was brought


def sign(root: Path, asked: str, passphrase: str | None = None) -> SignedTests:
    """Sign the scores that a checkpoint, named as in `checkpoint.ask`, has now.

    Raises InputError where there is no such checkpoint, where it has no scores or they are not here as they are
    recorded, and where the user has no key, or one that is not in the `signers.yaml` that counts.
    """
    md5, path = checkpoint.known_as(root, asked)
    signer = keys.own(root, passphrase)
    if signer is None:
        raise InputError(f"{keys.place()}: you have no key yet; `palimpsest audit key new NAME` makes one")
    who = _name(root, signer.public_key.keyid)
    damaged = locks.cut_off(root)
    scores = checkpoint.score_files(locks.every(root), md5, damaged)
    if not scores:
        rest = "".join(f"; {left_out(error)}" for error in damaged)
        raise InputError(
            f"{asked}: no dvc.lock that Git knows here has scores of it, which `dvc repro` makes; {HERE}{rest}"
        )
    for place, digest in scores.items():
        found = find_table(root, digest, place, "scores")
        if isinstance(found, Fact):
            raise InputError(found.said)
        if found.rewritten:
            raise InputError(f"{asked}: a picture was erased from {place} since; `dvc repro` makes scores to be signed")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    notes = {"checkpoint": path, "md5": md5, "scores": scores, "signer": who, "at": now}
    facts = {"inputs": {path: md5, **scores}, "outputs": {}, "params": {}, "environment": {}, "notes": notes}
    home = root / record.home()
    file = record.write(home, TESTED, facts, {"ended": now})
    try:
        done, _ = signatures.collect(root, passphrase, f"{TESTED}/{file.name}")
    except BaseException:  # signed at once, or not at all
        file.unlink()
        raise
    return SignedTests(asked, path, md5, scores, who, now, f"{TESTED}/{file.name}", done.branch)


def _name(root: Path, keyid: str) -> str:
    """Whose key it is, by the keys that count. Raises InputError where it is nobody's."""
    for name, one in public_keys.counted(Git(root)).items():
        if one.key.keyid == keyid:
            return name
    if keyid in {one.key.keyid for one in public_keys.trusted(root).values()}:
        raise InputError(f"{SIGNERS}: your key is in it, and not committed; `git add {SIGNERS}` and commit it first")
    raise InputError(
        f"{SIGNERS}: your key ({keys.place()}) is not in it; `palimpsest audit key trust NAME FILE` adds the public "
        "one; then commit it"
    )


def show(done: SignedTests) -> None:
    """What was signed, by whom and when."""
    print(f"{done.asked}: {len(done.scores)} files of scores signed by {done.signer}, {done.time}")
    for path, md5 in done.scores.items():
        print(f"  {path} {md5}")
    print(f"  noted in {record.home() / done.record}; `git push origin {done.branch}` brings it to others")
