"""From plain values to HTML: the templates beside this file escape every value that they are given."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from stages.pages.systems import Costs

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
TEMPLATES.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}

# What the page may do: show the files beside it, and run this one script. It opens as a file or from a server.
SCRIPTS = [Path(__file__).with_name(name) for name in ("tables.js", "zoom.js", "grid.js", "compare.js")]
SCRIPT = "\n".join(path.read_text(encoding="utf-8") for path in SCRIPTS)
POLICY = (
    "default-src 'none'; img-src 'self' file:; frame-src 'self' file:; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'"
)


class Section(NamedTuple):
    """A titled part of the page: `template` makes its HTML of `content`. Without content it is left out."""

    title: str
    template: str
    content: Any


def results_page(
    sections: Sequence[Section],
    counts: dict[str, int],
    random_weights: Sequence[str],
    compared: dict[str, Any] | None = None,
) -> str:
    """The whole document.

    `counts` says how many there are of "dataset", "trained model" and "system"; `random_weights` names the parameters
    that a note warns of; `compared` is what the script is told of the pictures to compare.
    """
    page = TEMPLATES.get_template("page.html.j2")
    policy = f"{POLICY}; script-src 'sha256-{base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()}'"
    return page.render(
        sections=sections,
        counts=counts,
        random_weights=random_weights,
        compared=compared,
        script=SCRIPT,
        policy=policy,
    )


def costs_page(rows: Sequence[Costs]) -> str:
    """The document of what the systems' runs took on this machine."""
    return TEMPLATES.get_template("costs.html.j2").render(rows=rows)
