"""A file that others read is written whole or not at all, whatever kills the writer."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write(path: Path, content: str | bytes, draft: Path | None = None) -> None:
    """Replace `path`, or make it, with its folder. Raises OSError where that fails; `path` is then as it was.

    `draft` is where it is written first, on the same disk; by default a hidden file beside `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = draft or path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:  # on a full disk, half a draft would take the place that is wanted
        with contextlib.suppress(OSError):
            if draft.is_file():  # not a device
                draft.unlink()
        raise
