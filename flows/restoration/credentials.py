"""Content Credentials (C2PA 2.1): a signed statement inside of a restored photo, where the user has a certificate."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from flows.restoration.marking import VALUE
from flows.restoration.photo import Photo
from stages.runs.errors import InputError

TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "TIFF": "image/tiff", "WEBP": "image/webp", "AVIF": "image/avif",
         "GIF": "image/gif", "HEIF": "image/heic"}  # fmt: skip
KINDS = {"png": "image/png", "jpg": "image/jpeg"}  # of results
# A thumbnail of the original would show what was completed.
SETTINGS = {"builder": {"thumbnail": {"enabled": False}}}


@dataclass(frozen=True)
class Credentials:
    """A certificate and its key, in PEM."""

    chain: bytes  # the certificate, and those that vouch for it
    key: bytes
    algorithm: str  # of the key, as C2PA names it

    @property
    def digest(self) -> str:
        """The sha256 of the chain."""
        return sha256(self.chain).hexdigest()

    def sign(self, content: bytes, kind: str, photo: Photo, systems: Sequence[str]) -> bytes:
        """A restored photo (a `png` or `jpg` file's bytes) with its Content Credentials inside.

        They say that the photo was opened and a part of it completed, by which systems, and have the photo's digest.
        Raises InputError where C2PA does not take the photo's format or the certificate.
        """
        import c2pa

        held = _format(photo.data)
        if (mime := TYPES.get(held)) is None:
            raise InputError(f"--c2pa: C2PA knows no {held} files; leave it out, or give the photo as PNG")
        program = {"name": "palimpsest", "version": version("palimpsest")}
        action = {
            "action": "c2pa.edited",
            "digitalSourceType": VALUE,
            "softwareAgent": program,
            "description": f"a part was completed by {', '.join(systems)}",
        }
        manifest = {
            "claim_generator_info": [program],
            "title": photo.name,
            "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
        }
        result = io.BytesIO()
        try:
            builder = c2pa.Builder(json.dumps(manifest), c2pa.Context(c2pa.Settings.from_dict(SETTINGS)))
            builder.set_intent(c2pa.C2paBuilderIntent.EDIT)
            about = {"title": photo.name, "relationship": "parentOf"}
            builder.add_ingredient_from_stream(json.dumps(about), mime, io.BytesIO(photo.data))
            info = c2pa.C2paSignerInfo(self.algorithm, self.chain, self.key, None)
            builder.sign(c2pa.Signer.from_info(info), KINDS[kind], io.BytesIO(content), result)
        except c2pa.C2paError as error:
            raise InputError(f"--c2pa: not signed: {' '.join(str(error).split())[:300]}") from None
        return result.getvalue()


def read(chain: Path, key: Path) -> Credentials:
    """The credentials in two PEM files. Raises InputError where c2pa-python is not installed, or a file is none."""
    from importlib.util import find_spec

    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if find_spec("c2pa") is None:
        raise InputError("--c2pa: needs c2pa-python: pip install -c constraints.txt -e '.[c2pa]'")
    contents = []
    for file in (chain, key):
        try:
            contents.append(file.read_bytes())
        except OSError as error:
            raise InputError(f"--c2pa: {file}: {error.strerror}; give PEM files") from None
    if b"-----BEGIN CERTIFICATE-----" not in contents[0]:
        raise InputError(f"--c2pa: {chain}: no certificate in PEM")
    try:
        found = load_pem_private_key(contents[1], None)
    except (ValueError, TypeError):
        raise InputError(f"--c2pa-key: {key}: no private key in PEM, or one with a passphrase") from None
    if isinstance(found, ec.EllipticCurvePrivateKey):
        algorithm = {256: "es256", 384: "es384", 521: "es512"}.get(found.key_size)
    else:
        kinds = {rsa.RSAPrivateKey: "ps256", ed25519.Ed25519PrivateKey: "ed25519"}
        algorithm = next((name for kind, name in kinds.items() if isinstance(found, kind)), None)
    if algorithm is None:
        raise InputError(f"--c2pa-key: {key}: a kind of key that C2PA does not take; give ECDSA, RSA or Ed25519")
    return Credentials(contents[0], contents[1], algorithm)


def _format(data: bytes) -> str:
    """A picture file's format, as Pillow names it."""
    from PIL import Image

    with warnings.catch_warnings():  # on odd tags, which do not matter here
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data)) as picture:
            return str(picture.format)
