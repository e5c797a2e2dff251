"""From plain values to HTML: the templates beside this file escape every value that they are given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


class Section(NamedTuple):
    """A titled part of the page: `template` makes its HTML of `content`. Without content it is left out."""

    title: str
    template: str
    content: Any


def results_page(sections: Sequence[Section], counts: dict[str, int], random_weights: Sequence[str]) -> str:
    """The whole document.

    `counts` holds how many of each thing there are; `random_weights` names the parameters that a note warns of.
    """
    kept = [section for section in sections if section.content]
    return TEMPLATES.get_template("page.html.j2").render(sections=kept, counts=counts, random_weights=random_weights)


def costs_page(rows: Sequence[Any]) -> str:
    """The document of what the systems' runs took on this machine."""
    return TEMPLATES.get_template("costs.html.j2").render(rows=rows)
