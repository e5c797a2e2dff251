"""What each `dvc.lock` says of each stage: an entry with a command, inputs, parameters and outputs.

From lock to lock most entries stay the same, and to parse one takes milliseconds. So a lock is cut into its entries
first, and each is parsed once.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from flows.lineage import dvc_lock
from flows.lineage.locks import Lock
from stages.runs.errors import InputError

SCHEMA = b"schema: '2.0'\nstages:\n"  # begins every lock that DVC has written since version 1.0
ENTRY = re.compile(rb"^  [^\s#].*\n(?:   .*\n|\n)*", re.M)  # as DVC indents it


class Entry(NamedTuple):
    """A stage's entry, in the first lock that has it."""

    stage: str
    lock: Lock
    content: dict[str, Any]  # `cmd`, `deps`, `params`, `outs`

    @property
    def outs(self) -> dict[str, str]:
        """md5 by path."""
        return _files(self.content, "outs")

    def at(self, md5: str) -> list[str]:
        """The paths of its outputs that have this digest."""
        return [path for path, digest in self.outs.items() if digest == md5]

    @property
    def deps(self) -> dict[str, str]:
        """md5 by path."""
        return _files(self.content, "deps")

    @property
    def params(self) -> dict[str, Any]:
        """Sections and values of `params.yaml`, by their dotted names."""
        return self.content.get("params", {}).get("params.yaml", {})


def renamed(stage: str, section: Any) -> Any:
    """A section of parameters by today's names: older locks call the side of a picture `size`."""
    if stage.partition("@")[0] not in ("draw", "draw_shapes", "align"):
        return section
    if not isinstance(section, dict) or "side" in section:
        return section
    return {"side" if key == "size" else key: value for key, value in section.items()}


def _files(content: dict[str, Any], key: str) -> dict[str, str]:
    return {file["path"]: file.get("md5", "") for file in content.get(key, [])}


def split(text: bytes) -> list[bytes]:
    """The entries of a lock, each as its lines; none where it is not written as DVC writes it."""
    if not text.startswith(SCHEMA):
        return []
    found = ENTRY.findall(text, len(SCHEMA))
    return found if SCHEMA + b"".join(found) == text else []


def of(lock: Lock) -> list[Entry]:
    """The entries of a lock. Raises InputError where it is damaged."""
    try:
        parts = [_parse(block) for block in split(lock.text)]
        stages = {name: content for part in parts for name, content in part.items()}
    except InputError:  # an entry may refer to another (`*id001`), or the lock is damaged
        stages = {}
    if not stages:
        stages = lock.content().get("stages") or {}
        check(stages, lock)
    return [Entry(name, lock, content) for name, content in stages.items()]


def files(lock: Lock, damaged: list[str]) -> dict[str, str]:
    """md5 by path of all outputs of a lock. Only one that is not written as DVC writes it is parsed for that; if it is
    damaged, what is wrong with it is added to `damaged`, and the outputs are those that can be seen."""
    if not split(lock.text):
        try:
            return {path: md5 for entry in of(lock) for path, md5 in entry.outs.items()}
        except InputError as error:
            damaged.append(str(error))
    return lock.files()


def check(stages: Any, lock: Lock) -> None:
    """Raise InputError unless these are a lock's stages, so far as an audit reads them."""
    try:
        for name, content in stages.items():
            name.encode()
            for key in ("deps", "outs"):
                for file in content.get(key, []):
                    file["path"].encode()  # YAML can say what no text can hold, as "\ud800"
                    file.get("md5", "").encode()
            content.get("params", {}).get("params.yaml", {}).items()
    except (AttributeError, TypeError, KeyError, UnicodeEncodeError):
        raise InputError(f"{lock.name}: not a lock file{lock.remedy}") from None


@functools.lru_cache(maxsize=1 << 16)
def _parse(block: bytes) -> dict[str, Any]:
    found = dvc_lock.parse(block.decode(errors="replace"), "dvc.lock")
    check(found, Lock(None, None, block))
    return found


def distinct(locks: list[Lock]) -> tuple[list[Entry], list[InputError]]:
    """Every entry once, in the order of the locks; and what is wrong with the locks that are damaged."""
    found: list[Entry] = []
    damaged: list[InputError] = []
    seen: set[bytes] = set()
    for lock in locks:
        blocks = split(lock.text)
        if blocks and seen.issuperset(blocks):
            continue
        known = {name for block in blocks if block in seen for name in _names(block)}
        try:
            found += [entry for entry in of(lock) if entry.stage not in known]
        except InputError as error:
            damaged.append(error)
        seen.update(blocks)
    return found, damaged


def _names(block: bytes) -> list[str]:
    try:
        return [*_parse(block)]
    except InputError:
        return []


def making(locks: list[Lock], md5: str, path: str | None = None, damaged: list[str] | None = None) -> Iterator[Entry]:
    """The entries that have an output of this digest (and path), in the order of the locks; each once.

    What is wrong with locks that name the digest and are damaged is added to `damaged`.
    """
    # Most that name it have read it. DVC writes `outs` last; what stands before it need not be parsed.
    for entry in _naming(locks, lambda block: md5.encode() in block[block.find(b"outs") :], md5, damaged):
        if any(digest == md5 and path in (None, place) for place, digest in entry.outs.items()):
            yield entry


def same(locks: list[Lock], entry: Entry) -> Iterator[Entry]:
    """An entry that has outputs, with the first of these locks that has it; nothing where none has."""
    path, md5 = next(iter(entry.outs.items()))
    return (one for one in making(locks, md5, path) if (one.stage, one.content) == (entry.stage, entry.content))


def reading(locks: list[Lock], md5: str, damaged: list[str] | None = None) -> Iterator[Entry]:
    """The entries that have read a file of this digest, in the order of the locks; each once.

    What is wrong with damaged locks is told as by `making`.
    """
    for entry in _naming(locks, lambda block: md5.encode() in block, md5, damaged):
        if md5 in entry.deps.values():
            yield entry


def _naming(locks: list[Lock], wanted: Callable[[bytes], bool], md5: str, damaged: list[str] | None) -> Iterator[Entry]:
    """The entries whose lines are `wanted`, of the locks that name a digest; those of others may be among them."""
    seen: set[bytes] = set()
    for lock in locks:
        if md5.encode() not in lock.text:
            continue
        blocks = split(lock.text)
        new = [block for block in blocks if wanted(block) and block not in seen]
        seen.update(new)
        try:
            yield from _of_blocks(lock, new) if blocks else of(lock)
        except InputError as error:
            if damaged is not None:
                damaged.append(str(error))


def of_stage(locks: Iterable[Lock], stage: str, damaged: list[str]) -> list[Entry]:
    """Every entry of a stage that has variants (`align@NAME`), once, in the order of the locks.

    What is wrong with locks that are damaged is added to `damaged`.
    """
    start = f"{stage}@"
    found: list[Entry] = []
    seen: set[bytes] = set()
    for lock in locks:
        blocks = split(lock.text)
        new = [block for block in blocks if block.startswith(f"  {start}".encode()) and block not in seen]
        seen.update(new)
        try:
            entries = _of_blocks(lock, new) if blocks else of(lock)
        except InputError as error:
            damaged.append(str(error))
        else:
            found += [entry for entry in entries if entry.stage.startswith(start)]
    return found


def _of_blocks(lock: Lock, blocks: list[bytes]) -> list[Entry]:
    try:
        return [Entry(name, lock, content) for block in blocks for name, content in _parse(block).items()]
    except InputError:
        return of(lock)


def plain(values: Any, before: str = "") -> dict[str, Any]:
    """The values of nested mappings by their dotted keys; lists count as values."""
    if not isinstance(values, dict):
        return {before: values}
    found: dict[str, Any] = {}
    for key, each in values.items():
        found |= plain(each, f"{before}.{key}" if before else str(key))
    return found
