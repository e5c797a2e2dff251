"""Records and the attestations that vouch for them, held against each other: question 6, has a record been forged?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, NamedTuple

from flows.lineage import attestation
from flows.lineage.attestation import Attestation, Forged

if TYPE_CHECKING:
    from securesystemslib.signer import Key, Signer


class Checked(NamedTuple):
    """What the attestations say of the records."""

    signed: dict[str, str]  # by record: who vouches for it
    unsigned: list[str]  # records that nobody vouches for
    faults: list[str]  # what is not as it was signed, a line each


def sign_new(records: Mapping[str, str], attestations: Mapping[str, bytes], signer: Signer) -> dict[str, bytes]:
    """Attestations, by name, of the records (text by path) that have none yet; each names the one before.

    Raises Forged where one that is there is damaged: a chain does not go on over a fault.
    """
    before = [attestation.read(data, name) for name, data in attestations.items()]
    previous = attestation.heads(before)
    made: dict[str, bytes] = {}
    todo = records.keys() - {one.record for one in before}
    for path in sorted(todo, key=lambda path: (json.loads(records[path])["ended"], path)):
        data = attestation.sign(path, records[path], previous, signer)
        previous = [attestation.name_of(data)]
        made[previous[0]] = data
    return made


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
    known = {hashlib.sha256(text.encode()).hexdigest(): path for path, text in records.items()}
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
