"""Signing a checkpoint for those who have neither the repository nor Palimpsest, in a file that goes with it."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from flows.audit import checkpoint
from flows.audit.facts import absent
from flows.checkout.git import Git
from flows.lineage import bundle, cache, keys
from flows.process import atomic_file
from flows.registry import history
from stages.runs import record
from stages.runs.errors import InputError
from stages.runs.header import Header


def sign(root: Path, asked: str, output: Path | None = None, passphrase: str | None = None) -> tuple[Path, Path]:
    """Sign a checkpoint, named as in `checkpoint.ask`: where its bytes lie, and the file with the signature.

    That is `output`; or, in the current folder or where `output` is a folder, the checkpoint's file name with `.sig`.

    Raises InputError where there is no such checkpoint, where the user has no key that will do, or where the file is
    there and is no signature of a checkpoint.
    """
    file, name = _bytes(root, asked)
    signer = keys.own(root, passphrase)
    if signer is None:
        raise InputError(f"{keys.place()}: you have no key yet; `palimpsest audit key new NAME` makes one")
    text = bundle.sign(name, record.digests(file, "sha256")[0], signer)
    signature = output or Path()
    if signature.is_dir():
        signature /= f"{name}{bundle.END}"
    if signature.resolve() == file.resolve():
        raise InputError(f"{signature}: is the checkpoint itself; name another file with -o")
    refuse_another(signature)
    try:
        atomic_file.write(signature, text)
    except OSError as error:
        raise InputError(f"{signature}: {error.strerror}; name another file with -o") from None
    return file, signature


def refuse_another(signature: Path) -> None:
    """Raise InputError where a file is there and is no signature."""
    if os.path.lexists(signature) and not bundle.is_one(signature):
        raise InputError(f"{signature}: exists, and is no signature of a checkpoint; name another file with -o")


def _bytes(root: Path, asked: str) -> tuple[Path, str]:
    """Where the bytes of a checkpoint lie, and its file name."""
    file = Path(asked)
    if file.is_file():
        Header(file, "name a checkpoint's file")  # refuses what is none
        return file, file.name
    git = Git(root)
    md5, path = checkpoint.named(root, git, asked, history.read(git, fetched=True))
    found = cache.find(root, md5, path)
    if found is None:
        raise InputError(absent(md5, path))
    return found, Path(path).name


def show(file: Path, signature: Path) -> None:
    """What was signed, and how others check it."""
    print(f"{signature}: your signature of {_short(file)}; others check it with your public key, here in KEY.pem:")
    # The tool takes no symbolic link, as DVC may make them.
    words = ["verify", "key", str(_short(file.resolve())), "--signature", str(signature), "--public_key", "KEY.pem"]
    print(f"  model_signing {shlex.join(words)}")


def _short(file: Path) -> Path:
    here = Path.cwd()
    return file.relative_to(here) if file.is_relative_to(here) else file
