"""Whose signatures count: the public keys in `signers.yaml`, which Git has.

An entry is a name and a public key. Where the key is revoked (`revocation.py`), it is a name with `key` and `revoked`:
the names of the attestations that were the newest then.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flows.checkout.git import Git
from flows.lineage import dvc_lock
from flows.process import atomic_file
from stages.runs.errors import InputError

if TYPE_CHECKING:
    from securesystemslib.signer import Key

SIGNERS = "signers.yaml"
ODD = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # what a name must not have: a terminal would act on it


class Trusted(NamedTuple):
    """A public key in `signers.yaml`."""

    key: Key
    revoked: tuple[tuple[str, ...], ...] = ()  # the attestations that were the newest, each time that it was revoked


class Revocation(NamedTuple):
    """That a key is revoked in a commit."""

    name: str  # the key's owner
    commit: str
    heads: tuple[str, ...]  # the attestations that were the newest then
    before: bool  # whether the commit is the one that is checked out, or in its history


class Others(NamedTuple):
    """What the commits of all branches say of keys."""

    keys: Mapping[str, Key]  # by who has them, and in which commit
    revoked: Mapping[str, Sequence[Revocation]]  # by the key's id


def trust(root: Path, name: str, file: Path) -> None:
    """Put somebody's public key into `signers.yaml`: PEM, or a line as in `id_ed25519.pub`.

    Raises InputError where the file holds none, or where there is another of that name.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: no public key ({' '.join(str(error).split())})") from None
    if revoked := revoked_name(trusted(root), _public(text, str(file))):
        raise InputError(
            f"{file}: the key of '{revoked}', which is revoked; to undo that, put its entry back as it was"
        )
    add(root, name, text)


def revoke(root: Path, name: str, heads: Sequence[str]) -> None:
    """Note in `signers.yaml` that somebody's key is revoked. `heads` are the newest attestations; with none, nothing
    that the key has signed counts any more.

    Raises InputError where there is no such key, or where it is revoked already and `heads` would let more count.
    """
    if name not in trusted(root):
        raise InputError(f"{SIGNERS}: no key of '{name}'; `palimpsest audit key list` shows the names")
    if trusted(root)[name].revoked and heads:
        raise InputError(
            f"{SIGNERS}: the key of '{name}' is revoked already; `--all` lets nothing count that it signed"
        )
    from ruamel.yaml import YAML

    written = YAML(typ="rt")  # which keeps comments
    written.preserve_quotes, written.width = True, 4096
    file = root / SIGNERS
    content = written.load(_text(file))
    text = content[name]["key"] if isinstance(content[name], dict) else content[name]  # in the style that it has
    content[name] = {"key": text, "revoked": list(heads)}
    out = io.StringIO()
    written.dump(content, out)
    atomic_file.write(file, out.getvalue())


def trusted(root: Path) -> dict[str, Trusted]:
    """The public keys in `signers.yaml` by their owners' names; none where there is no such file.

    A key with two names is revoked if it is under one of them. Raises InputError where the file is damaged.
    """
    return _trusted(dvc_lock.read(root / SIGNERS))


def counted(git: Git) -> dict[str, Trusted]:
    """The public keys by which signatures are checked: those of the commit that is checked out.

    Anybody who can write to the working copy could add one to its `signers.yaml`: that file's keys count only where
    the commit has no such file. A key that is revoked in one of the two is revoked, and where it is in both, both hold.

    Raises InputError where the file is damaged.
    """
    text = committed(git)
    if text is None:
        return trusted(git.home)
    found, here = _trusted(dvc_lock.parse(text, f"{SIGNERS} of HEAD")), {}
    with contextlib.suppress(InputError):
        here = {one.key.keyid: one.revoked for one in trusted(git.home).values()}
    return {
        name: one._replace(revoked=tuple(dict.fromkeys((*one.revoked, *here.get(one.key.keyid, ())))))
        for name, one in found.items()
    }


def committed(git: Git) -> str | None:
    """`signers.yaml` as the commit that is checked out has it, or None."""
    head = git.commit("HEAD")
    return git.file(head, SIGNERS) if head else None


def elsewhere(git: Git) -> Others:
    """The public keys of all commits, and what these say of revoked ones; damaged files are left out.

    Where the commit that is checked out follows on a revocation and has the key as it was, the revocation is undone.
    Where it has the key no more, it is not. Those of other branches stand: anybody might have undone them.
    """
    head = git.commit("HEAD")
    found: dict[str, dict[str, tuple[str, Trusted]]] = {}  # who has the key in which commit, by the key's id
    commits = git("log", "--all", "--full-history", "--format=%H", "--", SIGNERS).split()
    for commit in dict.fromkeys([*([head] if head else []), *commits]):
        with contextlib.suppress(InputError):
            for name, one in _trusted(dvc_lock.parse(git.file(commit, SIGNERS), SIGNERS)).items():
                found.setdefault(one.key.keyid, {})[commit] = name, one
    oldest = [[*states.items()][-1] for states in found.values()]
    return Others(
        {f"{name}, whose key is in commit {commit[:10]}": one.key for commit, (name, one) in oldest},
        {keyid: _revocations(git, head, each) for keyid, each in found.items()},
    )


def changed(git: Git) -> bool:
    """Whether `signers.yaml` in the working copy is another than the committed one."""
    file, text = git.home / SIGNERS, committed(git)
    here = file.read_bytes().decode(errors="replace").splitlines() if file.exists() else None
    return here != (None if text is None else text.splitlines())


def _revocations(git: Git, head: str | None, states: Mapping[str, tuple[str, Trusted]]) -> list[Revocation]:
    """The revocations that stand. `states` has the key by the commits that have it."""
    if not any(one.revoked for _, one in states.values()):
        return []
    apart = set(git("rev-list", *states, *(["--not", head] if head else [])).split())
    before = [commit for commit in states if commit not in apart]
    last = git("merge-base", "--independent", *before).split() if before else []
    return [
        Revocation(name, commit, heads, commit not in apart)
        for commit, (name, one) in states.items()
        if commit in apart or commit in last
        for heads in one.revoked
    ]


def _trusted(content: Mapping[str, Any]) -> dict[str, Trusted]:
    found: dict[str, Key] = {}
    revoked: dict[str, tuple[tuple[str, ...], ...]] = {}
    for name, (text, heads) in _said(content).items():
        key = found[name] = _public(text, f"{SIGNERS}: {name}")
        revoked[key.keyid] = revoked.get(key.keyid, ()) + (() if heads is None else (heads,))
    return {name: Trusted(key, revoked[key.keyid]) for name, key in found.items()}


def _entries(root: Path) -> dict[str, tuple[str, tuple[str, ...] | None]]:
    return _said(dvc_lock.read(root / SIGNERS))


def _said(content: Mapping[str, Any]) -> dict[str, tuple[str, tuple[str, ...] | None]]:
    """What `signers.yaml` says: the text of the key and, where it is revoked, the newest attestations then, by name."""
    found: dict[str, tuple[str, tuple[str, ...] | None]] = {}
    for name, entry in content.items():
        if not isinstance(name, str) or ODD.search(name):  # what is no text may unfold to gigabytes if it is printed
            raise InputError(f"{SIGNERS}: a name in it is no text; `git log -p {SIGNERS}` shows what it was")
        revoked = isinstance(entry, dict) and entry.keys() == {"key", "revoked"}
        text, heads = (entry["key"], entry["revoked"]) if revoked else (entry, [])
        right = isinstance(heads, list) and all(
            isinstance(head, str) and re.fullmatch("[0-9a-f]{64}", head) for head in heads
        )
        if not isinstance(text, str) or not right:
            raise InputError(
                f"{SIGNERS}: {name}: must be a public key, or have `key` and `revoked`, a list of attestations' whole "
                f"names; `git log -p {SIGNERS}` shows what it was"
            )
        found[name] = text, tuple(heads) if revoked else None
    return found


def revoked_name(known: Mapping[str, Trusted], key: Key) -> str | None:
    """Whose revoked key it is; None where it is not revoked."""
    for name, one in known.items():
        if one.key.keyid == key.keyid and one.revoked:
            return name
    return None


def _text(file: Path) -> str:
    """What is in `signers.yaml`, or what a new one begins with. Raises InputError where it is not UTF-8."""
    try:
        return file.read_text(encoding="utf-8") if file.exists() else "# Whose signatures count: name and public key.\n"
    except UnicodeDecodeError as error:
        raise InputError(f"{file.name}: byte {error.start + 1} is not UTF-8; save it as UTF-8") from None


def refuse_another(root: Path, name: str, public: str) -> None:
    _text(root / SIGNERS)
    if ODD.search(name):
        raise InputError(f"{SIGNERS}: {name!r} has characters that are no text; choose another name")
    text, heads = _entries(root).get(name, (public, None))
    if heads is not None:
        raise InputError(
            f"{SIGNERS}: '{name}' has a revoked key, and that entry says what still counts; choose another name"
        )
    if text.strip() != public.strip():
        raise InputError(f"{SIGNERS}: '{name}' has another key; choose another name, or remove that entry")


def add(root: Path, name: str, public: str) -> None:
    file = root / SIGNERS
    found = dvc_lock.read(file)
    refuse_another(root, name, public)
    lines = "".join(f"  {line}\n" for line in public.strip().splitlines())
    text = _text(file)
    text = text if text.endswith("\n") else f"{text}\n"
    if name not in found:
        atomic_file.write(file, f"{text}{_quoted(name)}: |\n{lines}")


def _quoted(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"


def _public(text: str, where: str) -> Key:
    from cryptography.hazmat.primitives import serialization
    from securesystemslib.signer import SSlibKey

    try:
        data = text.strip().encode()
        load = serialization.load_pem_public_key if data.startswith(b"-----") else serialization.load_ssh_public_key
        return SSlibKey.from_crypto(load(data))
    except Exception as error:
        raise InputError(f"{where}: no public key that can be used ({' '.join(str(error).split())[:100]})") from None
