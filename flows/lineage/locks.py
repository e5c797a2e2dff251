"""Every `dvc.lock` that Git knows, and the outputs in them, by their digests.

A hundred locks are searched for a digest in a hundredth of a second, and parsed in half a minute: so their bytes are
searched, and only those in which the digest occurs are parsed.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from flows.checkout.git import Git, GitError
from flows.lineage import dvc_lock

NAME = "dvc.lock"
# An output or an input, as DVC writes it.
OUTS = re.compile(rb"^    outs:\n(?P<files>(?:    [- ] .*\n)+)", re.M)  # of an entry
FILE = re.compile(rb"^ *- path: (?P<path>.+)\n(?: +hash: md5\n)? +md5: (?P<md5>[0-9a-f]{32}(?:\.dir)?)$", re.M)


class Lock(NamedTuple):
    """A `dvc.lock`, and where it stands."""

    commit: str | None  # that brought it first; None: it is the working copy's, and in no commit
    time: datetime | None  # of that commit
    text: bytes

    def content(self) -> dict[str, Any]:
        """It, parsed. Raises InputError where it is damaged."""
        return dvc_lock.parse(self.text.decode(errors="replace"), self.name, self.remedy)

    @property
    def name(self) -> str:
        """What to call it."""
        return f"{NAME} of " + (f"commit {self.commit[:10]}" if self.commit else "the working copy")

    @property
    def remedy(self) -> str:
        """What to do where it is damaged; nothing mends what a commit has."""
        return "" if self.commit else "; mend or restore it"

    def files(self) -> dict[str, str]:
        """md5 by path of all outputs, without parsing it."""
        return files(self.text)


def files(text: bytes) -> dict[str, str]:
    """md5 by path of all outputs in a `dvc.lock`.

    Of an input the lock may have an older md5: where a stage alone was run, those that read its outputs are stale.
    """
    blocks = (block["files"] for block in OUTS.finditer(text))
    found = (file for block in blocks for file in FILE.finditer(block))
    return {file["path"].decode(errors="replace"): file["md5"].decode() for file in found}


def every(root: Path) -> list[Lock]:
    """All locks, oldest first: of every branch, tag and experiment, of what the reflog still knows, and last that of
    the working copy where no commit has it.

    Raises GitError outside of a Git repository.
    """
    git = Git(root)
    first: dict[str, tuple[str, datetime]] = {}  # the commit that brought a blob
    try:
        lines = git("log", "--all", "--reflog", "--full-history", "-m", "--reverse", "--raw", "--no-abbrev",
                    "--no-renames", "--format=commit %H %ct", "--", NAME).splitlines()  # fmt: skip
    except GitError as error:
        if "does not have any commits yet" not in str(error):
            raise
        lines = []
    commit, time = "", datetime.fromtimestamp(0, UTC)
    for line in lines:
        if line.startswith("commit "):
            _, commit, seconds = line.split()
            time = datetime.fromtimestamp(int(seconds), UTC)
        elif line.startswith(":"):
            blob = line.split()[3]
            if blob.strip("0"):  # else it was removed
                first.setdefault(blob, (commit, time))
    texts = git.blobs(sorted(first, key=lambda blob: first[blob][1]))
    locks = [Lock(*first[blob], text) for blob, text in texts.items()]
    file = root / NAME
    if file.is_file() and (own := file.read_bytes()) not in {lock.text for lock in locks}:
        locks.append(Lock(None, None, own))
    return locks


def cut_off(root: Path) -> list[str]:
    """Why locks of older commits are not here, in one line; none where Git has its whole history."""
    if Git(root)("rev-parse", "--is-shallow-repository") != "true":
        return []
    return ["older commits: this clone is shallow; `git fetch --unshallow` brings their dvc.lock"]
