"""Arrays that one answer leaves for the next: written whole or not at all, and none where they are damaged."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

from flows.process import atomic_file


def load(file: Path) -> dict[str, Any] | None:
    """The arrays in a file by their names; None where it is not there, or damaged."""
    import numpy as np

    # A zip archive has a checksum of every member: a changed byte is found. NumPy raises many things then.
    with contextlib.suppress(Exception), np.load(io.BytesIO(file.read_bytes())) as kept:
        return {name: kept[name] for name in kept.files}
    return None


def save(file: Path, **arrays: Any) -> None:
    """Write arrays, where the file can be written."""
    import numpy as np

    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    with contextlib.suppress(OSError):
        atomic_file.write(file, buffer.getvalue())
