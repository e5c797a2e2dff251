"""What the page's pictures have in common: colours and file names."""

from __future__ import annotations

import re

INK, FAINT = "#1f2933", "#7b8794"


def filename(*parts: str) -> str:
    """A safe PNG name of these parts."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", "-".join(parts)) + ".png"
