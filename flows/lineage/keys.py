"""Who signs, and who is trusted: the user's private key, and the public keys in `signers.yaml`, which Git has.

The private key is P-256 in PKCS8, which openssl and model-signing can use too; or one that SSH uses, named in
`PALIMPSEST_KEY`.
"""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.checkout.git import Git
from flows.lineage import dvc_lock
from flows.process import atomic_file
from stages.runs.errors import InputError

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner, Key

KEY = "PALIMPSEST_KEY"  # names the file of the private key
PASSPHRASE = "PALIMPSEST_PASSPHRASE"
SIGNERS = "signers.yaml"


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
    _refuse_another(root, name, public.decode())
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file.touch(mode=0o600, exist_ok=False)
        file.write_bytes(text)
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}; name another file in {KEY}") from None
    _add(root, name, public.decode())
    return file


def trust(root: Path, name: str, file: Path) -> None:
    """Put somebody's public key into `signers.yaml`: PEM, or a line as in `id_ed25519.pub`.

    Raises InputError where the file holds none, or where there is another of that name.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: no public key ({' '.join(str(error).split())})") from None
    _public(text, str(file))
    _add(root, name, text)


def trusted(root: Path) -> dict[str, Key]:
    """The public keys in `signers.yaml` by their owners' names; none where there is no such file.

    Raises InputError where the file is damaged.
    """
    return _keys(dvc_lock.read(root / SIGNERS))


def counted(git: Git) -> dict[str, Key]:
    """The public keys by which signatures are checked: those of the commit that is checked out.

    Anybody who can write to the working copy could add one there: its own count only where the commit has none.

    Raises InputError where the file is damaged.
    """
    text = committed(git)
    return trusted(git.home) if text is None else _keys(dvc_lock.parse(text, f"{SIGNERS} of HEAD"))


def committed(git: Git) -> str | None:
    """`signers.yaml` as the commit that is checked out has it, or None."""
    head = git.commit("HEAD")
    return git.file(head, SIGNERS) if head else None


def elsewhere(git: Git) -> dict[str, Key]:
    """The public keys of all commits, by who has them and in which commit; damaged files are left out."""
    found: dict[str, tuple[str, Key]] = {}
    for commit in git("log", "--all", "--format=%H", "--", SIGNERS).split():
        with contextlib.suppress(InputError):
            for name, key in _keys(dvc_lock.parse(git.file(commit, SIGNERS), SIGNERS)).items():
                found[key.keyid] = f"{name}, whose key is in commit {commit[:10]}", key
    return dict(found.values())


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


def changed(git: Git) -> bool:
    """Whether `signers.yaml` in the working copy is another than the committed one."""
    file, text = git.home / SIGNERS, committed(git)
    here = file.read_bytes().decode(errors="replace").splitlines() if file.exists() else None
    return here != (None if text is None else text.splitlines())


def _refuse_another(root: Path, name: str, public: str) -> None:
    if str(dvc_lock.read(root / SIGNERS).get(name, public)).strip() != public.strip():
        raise InputError(f"{SIGNERS}: '{name}' has another key; choose another name, or remove that entry")


def _add(root: Path, name: str, public: str) -> None:
    file = root / SIGNERS
    found = dvc_lock.read(file)
    _refuse_another(root, name, public)
    lines = "".join(f"  {line}\n" for line in public.strip().splitlines())
    text = file.read_text(encoding="utf-8") if file.exists() else "# Whose signatures count: name and public key.\n"
    text = text if text.endswith("\n") else f"{text}\n"
    if name not in found:
        atomic_file.write(file, f"{text}{_quoted(name)}: |\n{lines}")


def _decoded(data: bytes) -> bytes:
    """What stands between the lines BEGIN and END."""
    try:
        return base64.b64decode(b"".join(line for line in data.splitlines() if not line.startswith(b"-----")))
    except ValueError:
        return b""


def _quoted(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"


def _keys(found: Mapping[str, Any]) -> dict[str, Key]:
    return {str(name): _public(str(text), f"{SIGNERS}: {name}") for name, text in found.items()}


def _public(text: str, where: str) -> Key:
    from cryptography.hazmat.primitives import serialization
    from securesystemslib.signer import SSlibKey

    data = text.strip().encode()
    try:
        load = serialization.load_pem_public_key if data.startswith(b"-----") else serialization.load_ssh_public_key
        return SSlibKey.from_crypto(load(data))
    except Exception as error:
        raise InputError(f"{where}: no public key that can be used ({' '.join(str(error).split())[:100]})") from None
