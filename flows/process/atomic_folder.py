"""A folder that others read appears whole or not at all, whatever kills the writer."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder` to write into, which takes its place at the end of the block.

    If the block raises, `folder` stays as it was. Raises OSError where the folder cannot be made.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        draft.chmod(0o755)
        yield draft
        _exchange(draft, folder)
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(draft)


def _exchange(draft: Path, folder: Path) -> None:
    """Put the draft in the folder's place; if that fails, the folder stays as it was."""
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    try:
        if folder.exists():
            folder.rename(old)  # onto an empty one
        draft.rename(folder)
    except BaseException:
        if not folder.exists():
            old.rename(folder)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
