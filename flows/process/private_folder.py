"""A folder that only this user may enter, at a place whose name others can guess."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def make(folder: Path) -> None:
    """Make it, with those above it, where it is not there.

    Raises OSError where that fails, and where it, or the link at its place, is another user's.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if {folder.lstat().st_uid, folder.stat().st_uid} != {os.getuid()}:
        raise PermissionError(errno.EACCES, "belongs to another user", str(folder))
