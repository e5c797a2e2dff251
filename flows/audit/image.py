"""Which checkpoints were trained on a picture."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from pathlib import Path
from typing import Any

from flows.audit.checkpoint import CHECKPOINT
from flows.audit.facts import Fact, page, read_list, since, whole
from flows.lineage import locks
from flows.registry import history
from stages.runs.errors import InputError


@dataclasses.dataclass(frozen=True)
class Image:
    """Where a picture's file has been used."""

    asked: str
    image_id: str  # sha256 of the file
    uses: list[dict[str, Any]]  # `checkpoint`, `md5`, `path` of the picture, `commit`, `time`
    lists: int  # lists of pictures that were searched
    missing: list[dict[str, str]]  # lists that are not here, or altered: `md5`, `path`, and `why` nothing is known

    @property
    def found(self) -> bool:
        return bool(self.uses or self.missing)


def ask(root: Path, asked: str) -> Image:
    """Which checkpoints were trained on a picture: a file, or the sha256 of one. Exactly these bytes are looked for.

    Raises InputError where `asked` is neither.
    """
    import pyarrow.compute as pc

    if (file := Path(asked)).is_file():
        with file.open("rb") as stream:
            wanted = hashlib.file_digest(stream, "sha256").hexdigest()
    elif re.fullmatch("[0-9a-fA-F]{64}", asked):
        wanted = asked.lower()
    else:
        raise InputError(f"{asked}: neither a file nor the sha256 of one, which has 64 digits of 0-9 and a-f")
    every = locks.every(root)
    named = [(lock, lock.files()) for lock in every]
    lists = {md5: path for _, files in named for path, md5 in files.items() if path.endswith(history.MEMBERS)}
    uses: list[dict[str, Any]] = []
    missing = []
    for members, path in lists.items():
        kept = whole(root, members, path, "trained on")
        if isinstance(kept, Fact):
            missing.append({"md5": members, "path": path, "why": kept.said})
            continue
        rows = read_list(kept)
        at = pc.index(rows["image_id"], wanted).as_py()
        if at < 0:
            continue
        name = rows["path"][at].as_py()
        made: dict[str, dict[str, Any]] = {}
        for lock, files in named:
            for list_path, md5 in files.items():
                trained = list_path.removesuffix(history.MEMBERS) + CHECKPOINT
                if md5 == members and list_path.endswith(history.MEMBERS) and trained in files:
                    made.setdefault(
                        files[trained],
                        {"checkpoint": trained, "md5": files[trained], "path": name, "commit": lock.commit,
                         "time": lock.time},
                    )  # fmt: skip
        uses += made.values()
    return Image(asked, wanted, uses, len(lists), missing)


def show(answer: Image) -> None:
    """An answer on the terminal: in one line first, then what it rests on."""
    searched = f"{answer.lists - len(answer.missing)} of {answer.lists} lists of training pictures were searched"
    if answer.uses:
        print(f"{answer.asked}: trained on by {len(answer.uses)} checkpoints ({searched})")
    elif answer.missing:
        print(f"{answer.asked}: cannot tell ({searched})")
    else:
        print(f"{answer.asked}: no checkpoint was trained on these bytes ({searched})")
    rows = []
    for use in answer.uses:
        said = f"{use['md5'][:10]}, as {use['path']}; {since(use['commit'], use['time'])}"
        rows.append((use["checkpoint"], "recorded", said))  # the list was hashed; that it is this one's, the lock says
    rows += [(f"list {gone['md5'][:10]}", "cannot tell", gone["why"]) for gone in answer.missing]
    page(rows)
