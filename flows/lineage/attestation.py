"""Signed statements about stage runs: in-toto Statement v1 with SLSA provenance v1, in a DSSE envelope.

An attestation is a file named after the sha256 of its bytes. It names the record of a stage run by sha256, and the
attestations that were the newest before it: so none can be taken out, or put in between, unseen. What is signed could
be written in more than one way (spaces, order, base64): only one of them is accepted.

https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md, https://slsa.dev/spec/v1.0/provenance and
https://github.com/secure-systems-lab/dsse/blob/master/envelope.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from stages.runs.errors import InputError
from stages.runs.record import canonical

if TYPE_CHECKING:
    from securesystemslib.signer import Key, Signer

STATEMENT = "https://in-toto.io/Statement/v1"
PROVENANCE = "https://slsa.dev/provenance/v1"
PAYLOAD = "application/vnd.in-toto+json"
BUILD = "urn:palimpsest:stage-run:v1"
BUILDER = "urn:palimpsest:stages"
PREVIOUS = "palimpsest_previous"  # in the metadata of a run; SLSA has names of one's own begin so


class Attestation(NamedTuple):
    """What an attestation says; who has signed it is another question."""

    name: str  # sha256 of the file
    record: str  # path of the record among the records, `STAGE/DIGEST.json`
    sha256: str  # of the record's file
    outputs: dict[str, str]  # md5 by path, as `dvc.lock` has it
    previous: list[str]  # names of the attestations that were the newest before this one
    keyid: str


class Forged(InputError):
    """An attestation that is not what was signed, or not signed by somebody who is trusted."""


class Stranger(Forged):
    """An attestation that is signed with a key of which it is not known whose it is."""


def name_of(data: bytes) -> str:
    """The name of an attestation: sha256 of its bytes."""
    return hashlib.sha256(data).hexdigest()


def sign(path: str, text: str, previous: Iterable[str], signer: Signer) -> bytes:
    """An attestation of a record, whose `path` among the records and whose text are given."""
    from securesystemslib.dsse import Envelope

    payload = canonical(statement(path, text, previous)).encode()
    envelope = Envelope(payload, PAYLOAD, {})
    envelope.sign(signer)
    return _written(envelope.to_dict())


def statement(path: str, text: str, previous: Iterable[str]) -> dict[str, Any]:
    """What is signed about a record."""
    record = json.loads(text)
    git = record.get("git") or {}
    dependencies = [{"name": name, "digest": digests(md5)} for name, md5 in sorted(record["inputs"].items())]
    if commit := git.get("commit"):
        dependencies.append({"uri": "git", "digest": {"gitCommit": commit}})
    return {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": digests(md5)} for name, md5 in sorted(record["outputs"].items())],
        "predicateType": PROVENANCE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD,
                "externalParameters": {"stage": record["stage"], "params": record.get("params", {})},
                "resolvedDependencies": dependencies,
            },
            "runDetails": {
                "builder": {"id": BUILDER},
                "metadata": {
                    "invocationId": record["digest"],
                    "startedOn": record.get("started", record["ended"]),
                    "finishedOn": record["ended"],
                    PREVIOUS: sorted(previous),
                },
                "byproducts": [
                    {
                        "name": path,
                        "digest": {"sha256": hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()},
                    }
                ],
            },
        },
    }


def digests(md5: str) -> dict[str, str]:
    """A digest of `dvc.lock` as in-toto writes it: that of a folder is one of DVC's own kind."""
    return {"dvcDir": md5.removesuffix(".dir")} if md5.endswith(".dir") else {"md5": md5}


def read(data: bytes, name: str) -> Attestation:
    """What an attestation says. `name` is that of its file.

    Raises Forged where it has other bytes than the name promises, or is written in another way than `sign` writes.
    """
    if name_of(data) != name:
        raise Forged(f"attestation {name[:10]}: its bytes are not those that its name promises")
    try:
        envelope = json.loads(data)
        payload = base64.b64decode(envelope["payload"], validate=True)
        (signature,) = envelope["signatures"]
        kept = {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD,
            "signatures": [{"keyid": signature["keyid"], "sig": _same(signature["sig"])}],
        }
        said = json.loads(payload)
        if _written(kept) != data or canonical(said).encode() != payload:
            raise ValueError("written in another way than it was signed")
        if (said["_type"], said["predicateType"]) != (STATEMENT, PROVENANCE):
            raise ValueError("not about a stage run")
        details = said["predicate"]["runDetails"]
        (about,) = details["byproducts"]
        outputs = {
            one["name"]: f"{digest['dvcDir']}.dir" if "dvcDir" in (digest := one["digest"]) else digest["md5"]
            for one in said["subject"]
        }
        previous, keyid = details["metadata"][PREVIOUS], signature["keyid"]
        texts = [about["name"], about["digest"]["sha256"], keyid, *outputs, *outputs.values(), *previous]
        if not isinstance(previous, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError("not about a stage run")
        return Attestation(name, about["name"], about["digest"]["sha256"], outputs, previous, keyid)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error) as error:
        said = " ".join(str(error).split())[:100] or type(error).__name__
        raise Forged(f"attestation {name[:10]}: not one that palimpsest has written ({said})") from None


def signed_by(data: bytes, trusted: Mapping[str, Key]) -> str:
    """Who of those that are trusted (key by name) has signed an attestation.

    Raises Stranger where it names another key, and Forged where the signature is not that of the key that it names.
    """
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import VerificationError
    from securesystemslib.signer import Signature

    found = json.loads(data)
    envelope = Envelope(
        base64.b64decode(found["payload"]), found["payloadType"],
        {one["keyid"]: Signature.from_dict({"keyid": one["keyid"], "sig": base64.b64decode(one["sig"]).hex()})
         for one in found["signatures"]},
    )  # fmt: skip
    for name, key in trusted.items():
        if key.keyid in envelope.signatures:
            try:
                envelope.verify([key], 1)
            except VerificationError:
                raise Forged(
                    f"attestation {name_of(data)[:10]}: the signature is not {name}'s, though it says so"
                ) from None
            return name
    raise Stranger(f"attestation {name_of(data)[:10]}: signed by somebody who is not trusted")


def heads(attestations: Iterable[Attestation]) -> list[str]:
    """The newest: those that no other one names; sorted."""
    every = list(attestations)
    return sorted({one.name for one in every} - {name for one in every for name in one.previous})


def reached(attestations: Iterable[Attestation], names: Iterable[str]) -> set[str]:
    """The names, those that these attestations name as the ones before them, and so on; also of such as are missing."""
    previous = {one.name: one.previous for one in attestations}
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += previous.get(name, [])
    return found


def missing(attestations: Iterable[Attestation], anchors: Iterable[str]) -> list[str]:
    """The attestations that others, or the anchors, name, and that are not there; sorted."""
    every = list(attestations)
    named = {name for one in every for name in one.previous} | set(anchors)
    return sorted(named - {one.name for one in every})


def _same(sig: str) -> str:
    return base64.b64encode(base64.b64decode(sig, validate=True)).decode()


def _written(envelope: Mapping[str, Any]) -> bytes:
    return f"{canonical(envelope)}\n".encode()
