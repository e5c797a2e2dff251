"""The user's private key, which signs records and checkpoints.

It is P-256 in PKCS8, which openssl and model-signing can use too; or one that SSH uses, named in `PALIMPSEST_KEY`.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import TYPE_CHECKING

from flows.checkout.git import Git
from flows.lineage import public_keys
from flows.lineage.public_keys import SIGNERS
from stages.runs.errors import InputError

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner

KEY = "PALIMPSEST_KEY"  # names the file of the private key
PASSPHRASE = "PALIMPSEST_PASSPHRASE"


def place() -> Path:
    """Where the private key lies: $PALIMPSEST_KEY, or `palimpsest/key.pem` among the user's settings."""
    own = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config", "palimpsest", "key.pem")
    return Path(os.environ.get(KEY) or own).expanduser()


def locked() -> bool:
    """Whether there is a private key that has a passphrase, as far as its file's words tell."""
    file = place()
    if not file.exists():
        return False
    data = file.read_bytes()
    return b"ENCRYPTED" in data or (b"OPENSSH PRIVATE KEY" in data and b"bcrypt" in _decoded(data))


def new(root: Path, name: str, passphrase: str) -> Path:
    """Make a key pair: the private key goes to `place()`, under a passphrase unless that is empty; the public one into
    `signers.yaml`, under the signer's name.

    Raises InputError where there is a key already, or another of that name.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    file = place()
    if file.exists():
        raise InputError(f"{file}: there is a key already; move it away, or name another file in {KEY}")
    private = ec.generate_private_key(ec.SECP256R1())
    locked = serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption()
    text = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    public_keys.refuse_another(root, name, public.decode())
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file.touch(mode=0o600, exist_ok=False)
        file.write_bytes(text)
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}; name another file in {KEY}") from None
    public_keys.add(root, name, public.decode())
    return file


def own(root: Path, passphrase: str | None) -> CryptoSigner | None:
    """The user, by the private key, to sign in the project at `root`; None where there is no key.

    Raises InputError as `signer` does, and where the key is revoked.
    """
    found = signer(passphrase)
    if found is None:
        return None
    git, key = Git(root), found.public_key
    known = public_keys.trusted(root), public_keys.counted(git)
    revoked = next(filter(None, (public_keys.revoked_name(each, key) for each in known)), None)
    where, more = SIGNERS, ""
    if revoked is None and (others := public_keys.elsewhere(git).revoked.get(key.keyid)):
        revoked, where = others[0].name, f"{SIGNERS} of commit {others[0].commit[:10]}"
        more = "; if that commit is wrong, remove the branch that has it"
    if revoked is not None:
        raise InputError(
            f"{place()}: the key of '{revoked}', which is revoked in {where}; move it away, then `palimpsest audit key "
            f"new NAME` makes another{more}"
        )
    return found


def signer(passphrase: str | None) -> CryptoSigner | None:
    """The user, by the private key; None where there is none.

    Raises InputError where the passphrase is wrong or missing, or where the file holds no private key.
    """
    from cryptography.hazmat.primitives import serialization
    from securesystemslib.signer import CryptoSigner, SSlibKey

    file = place()
    if not file.exists():
        if os.environ.get(KEY):
            raise InputError(f"{KEY}: {file}: no such file; mend it, or unset the variable")
        return None
    data = file.read_bytes()
    load = serialization.load_pem_private_key
    if b"OPENSSH PRIVATE KEY" in data:
        load = serialization.load_ssh_private_key
    try:
        private = load(data, passphrase.encode() if passphrase else None)
        return CryptoSigner(private, SSlibKey.from_crypto(private.public_key()))
    except TypeError:  # a passphrase is asked for and was not given, or the reverse
        said = f"has no passphrase; unset {PASSPHRASE}" if passphrase else f"needs its passphrase; set {PASSPHRASE}"
        raise InputError(f"{file}: {said}") from None
    except Exception as error:  # cryptography's own kinds, ValueError among them
        if isinstance(error, ValueError) and passphrase:
            raise InputError(f"{file}: the passphrase is wrong, or it is no private key") from None
        raise InputError(f"{file}: no private key that can be used ({' '.join(str(error).split())[:100]})") from None


def _decoded(data: bytes) -> bytes:
    """What stands between the lines BEGIN and END."""
    try:
        return base64.b64decode(b"".join(line for line in data.splitlines() if not line.startswith(b"-----")))
    except ValueError:
        return b""
