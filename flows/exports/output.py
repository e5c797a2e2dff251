"""Where an export is written, whole or not at all, and its signature beside it."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from flows.audit import sign
from flows.lineage import bundle, keys
from flows.process import atomic_file
from stages.runs.errors import InputError


class Kind(NamedTuple):
    """A kind of export."""

    what: str  # in words
    is_one: Callable[[bytes], bool]  # whether a file is such an export: it may be replaced


class Written(NamedTuple):
    """An export that was written."""

    file: Path
    signature: Path | None  # None: it is not signed


def places(output: Path, names: list[str]) -> list[Path]:
    """The files for exports with these names: `output` itself; or, where it is a folder, one of each name in it.

    Raises InputError where there are several and `output` is no folder, or where its own folder is missing.
    """
    if output.is_dir():
        return [output / name for name in names]
    if len(names) > 1:
        raise InputError(f"{output}: no folder, and there are {len(names)} files to write; make it, or name another")
    if not output.parent.is_dir():
        raise InputError(f"{output.parent}: no such folder; make it, or name another file with -o")
    return [output]


def write(root: Path, kind: Kind, texts: Mapping[Path, str], passphrase: str | None, signed: bool) -> list[Written]:
    """Write exports, and sign each where it is to be `signed` and the user has a key.

    Nothing is written if not all of it can be. Raises InputError where a file is there and is no such export, and as
    `keys.own` does.
    """
    signer = keys.own(root, passphrase) if signed else None
    ready: dict[Path, tuple[Path, str | None]] = {}
    for file, text in texts.items():
        signature = file.with_name(f"{file.name}{bundle.END}")
        if os.path.lexists(file) and not (
            file.is_file() and os.access(file, os.R_OK) and kind.is_one(file.read_bytes())
        ):
            raise InputError(f"{file}: exists, and is no {kind.what}; name another file with -o")
        sign.refuse_another(signature)
        digest = hashlib.sha256(text.encode()).hexdigest()
        ready[file] = signature, bundle.sign(file.name, digest, signer) if signer else None
    drafts: dict[Path, Path] = {}
    try:
        for file, (signature, bundled) in ready.items():
            for place, content in ((file, texts[file]), (signature, bundled)):
                if content is not None:
                    drafts[place] = place.with_name(f".{place.name}.{os.getpid()}.new")
                    atomic_file.write(drafts[place], content)
        for signature, _ in ready.values():
            signature.unlink(missing_ok=True)  # of what was there before
        for place, draft in drafts.items():
            draft.replace(place)
    except OSError as error:
        raise InputError(f"{place}: {error.strerror}; name another file with -o") from None
    finally:
        for draft in drafts.values():
            with contextlib.suppress(OSError):
                draft.unlink()  # it is there only if something went wrong
    return [Written(file, signature if bundled else None) for file, (signature, bundled) in ready.items()]


def show(done: list[Written], said: str, signed: bool) -> None:
    """What was written, in a line each, and how others check it, or why it is not signed."""
    for one in done:
        print(f"{one.file}: {said}")
        if one.signature:
            sign.show(one.file, one.signature)
    if not all(one.signature for one in done):
        why = (
            "you have no key; `palimpsest audit key new NAME` makes one, then run this again" if signed else "as asked"
        )
        print(f"not signed: {why}")
