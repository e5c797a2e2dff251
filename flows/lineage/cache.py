"""DVC's cache, read without DVC, which takes long to import: where an object lies, and whether it is whole."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from configobj import ConfigObj, ConfigObjError

from stages.runs import record
from stages.runs.errors import InputError


def folder(root: Path) -> Path:
    """The folder of the cache, by DVC's four configuration files."""
    own, system = os.environ.get("XDG_CONFIG_HOME") or "~/.config", os.environ.get("XDG_CONFIG_DIRS") or "/etc/xdg"
    files = [
        root / ".dvc" / "config.local",
        root / ".dvc" / "config",
        Path(os.environ.get("DVC_GLOBAL_CONFIG_DIR") or Path(own, "dvc")).expanduser() / "config",
        Path(os.environ.get("DVC_SYSTEM_CONFIG_DIR") or Path(system.split(os.pathsep)[0], "dvc")) / "config",
    ]
    for file in files:
        with contextlib.suppress(OSError, ConfigObjError, KeyError):
            lines = file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
            return file.parent / Path(ConfigObj(lines, interpolation=False)["cache"]["dir"]).expanduser()
    return root / ".dvc" / "cache"


def objects(root: Path) -> Iterator[tuple[str, Path]]:
    """Every object of the cache: the digest that its name promises, and where it lies."""
    return within(folder(root))


def within(place: Path) -> Iterator[tuple[str, Path]]:
    """The same, of the cache in this folder."""
    for file in sorted((place / "files" / "md5").glob("[0-9a-f][0-9a-f]/*")):
        md5 = file.parent.name + file.name
        if re.fullmatch(r"[0-9a-f]{32}(\.dir)?", md5) and file.is_file():  # else a draft of DVC's
            yield md5, file


def listing(file: Path) -> dict[str, str]:
    """What DVC's listing of a folder says: md5 by path inside of it. Raises InputError where it is no such listing."""
    return listed(file.read_bytes(), str(file))


def listed(data: bytes, name: str) -> dict[str, str]:
    """The same, of a listing's bytes; `name` is for the error's line."""
    try:
        found = {entry["relpath"]: entry["md5"] for entry in json.loads(data)}
        if not all(isinstance(each, str) for item in found.items() for each in item):
            raise TypeError
        return found
    except (ValueError, TypeError, KeyError, RecursionError):
        raise InputError(f"{name}: not a listing of a folder") from None


class Altered(InputError):
    """An object of the cache has not the bytes that its name promises."""


def place(root: Path, md5: str) -> Path:
    """Where the cache keeps the bytes of this digest, if it has them."""
    return inside(folder(root), md5)


def inside(place: Path, md5: str) -> Path:
    """Where the cache in this folder keeps them."""
    return place / "files" / "md5" / md5[:2] / md5[2:]


def find(root: Path, md5: str, path: str, digest: Callable[[Path], str] = record.digest) -> Path | None:
    """Where the bytes of a file with this digest lie: in the working copy, else in the cache; None where in neither.

    They are hashed now, or by a `digest` that remembers. Raises Altered where the cache has other bytes under this
    digest.
    """
    file = root / path
    if file.is_file() and digest(file) == md5:
        return file
    kept = place(root, md5)
    if not kept.is_file():
        return None
    # Of a folder the cache has the listing, whose digest is the folder's.
    if (found := digest(kept)) != md5.removesuffix(".dir"):
        raise Altered(
            f"{kept}: its bytes have the digest {found[:10]}, and should have {md5[:10]}; remove it, then "
            "`dvc fetch --all-commits` brings it from a remote"
        )
    return kept


class FoundTable(NamedTuple):
    """A table, a list of pictures, or the listing of a folder."""

    file: Path
    rewritten: bool  # a picture was erased from it: these are not the bytes of the digest, but what is left of them


def find_table(root: Path, md5: str, path: str, digest: Callable[[Path], str] = record.digest) -> FoundTable | None:
    """The table with this digest, as `find`; of one from which a picture was erased, what stands in its place."""
    from flows.lineage import erasures

    if whole := find(root, md5, path, digest):
        return FoundTable(whole, False)
    new = erasures.replaced(root).get(md5)
    for file in (root / path, place(root, new)) if new else ():
        if file.is_file() and digest(file) == str(new).removesuffix(".dir"):
            return FoundTable(file, True)
    return None
