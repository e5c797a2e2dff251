"""Licences as other formats name them: by the identifiers of SPDX, https://spdx.org/licenses."""

from __future__ import annotations

from urllib.parse import urlsplit


def identifier(name: str) -> str | None:
    """SPDX's identifier of a licence, rightly spelled; None where what is recorded is none."""
    from cyclonedx import spdx

    return spdx.fixup_id(name)


def url_of(name: str) -> str | None:
    """A page that has the licence; None where what is recorded is neither an identifier nor a URL."""
    if urlsplit(name).scheme in ("http", "https"):
        return name
    found = identifier(name)
    return f"https://spdx.org/licenses/{found}.html" if found else None
