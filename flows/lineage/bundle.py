"""A checkpoint's signature in a file of its own, as the tool `model_signing` writes and reads it.

It is a Sigstore bundle: the public key by its sha256, and a DSSE envelope with an in-toto statement that names every
file of the model (here one) by its sha256. https://github.com/sigstore/model-transparency,
https://docs.sigstore.dev/about/bundle/ and https://github.com/secure-systems-lab/dsse
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.lineage import keys
from flows.lineage.attestation import PAYLOAD, STATEMENT
from stages.runs.errors import InputError
from stages.runs.record import canonical

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner

END = ".sig"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SIGNATURE = "https://model_signing/signature/v1.0"
P256 = "ecdsa-sha2-nistp256"


def statement(name: str, sha256: str) -> dict[str, Any]:
    """What is signed about the file `name`, whose digest is `sha256` (64 hexadecimal digits)."""
    return {
        "_type": STATEMENT,
        # Of the digests of the model's files, one after the other.
        "subject": [{"name": name, "digest": {"sha256": hashlib.sha256(bytes.fromhex(sha256)).hexdigest()}}],
        "predicateType": SIGNATURE,
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False},
            # Its path in the model, which is the file itself.
            "resources": [{"name": ".", "algorithm": "sha256", "digest": sha256}],
        },
    }


def is_one(file: Path) -> bool:
    """Whether a file is a bundle, also one that others have written."""
    try:
        return str(json.loads(file.read_bytes())["mediaType"]).startswith(BUNDLE.partition("+")[0])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return False


def sign(name: str, sha256: str, signer: CryptoSigner) -> str:
    """The text of a bundle. Raises InputError where the signer's key is not P-256, which the tool needs."""
    from securesystemslib.dsse import Envelope

    key = signer.public_key
    if key.scheme != P256:
        raise InputError(
            f"{keys.place()}: a key of the kind {key.scheme}, and model_signing takes P-256 alone: name such a key in "
            f"{keys.KEY}, or move this one away and make one: `palimpsest audit key new NAME`"
        )
    envelope = Envelope(canonical(statement(name, sha256)).encode(), PAYLOAD, {})
    envelope.sign(signer)
    bundle = {
        "mediaType": BUNDLE,
        "verificationMaterial": {
            "publicKey": {"hint": hashlib.sha256(key.keyval["public"].encode()).hexdigest()},  # of its PEM text
            "tlogEntries": [],
        },
        "dsseEnvelope": envelope.to_dict(),
    }
    return f"{canonical(bundle)}\n"
