"""From plain values to HTML: the templates beside this file escape every value that they are given."""

from __future__ import annotations

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


class Section(NamedTuple):
    """A titled part of the page: `template` makes its HTML of `content`. Without content it is left out."""

    title: str
    template: str
    content: Any


def results_page(sections: Sequence[Section], counts: dict[str, int], random_weights: Sequence[str]) -> str:
    """The whole document.

    `counts` says how many there are of "dataset", "trained model" and "system"; `random_weights` names the parameters
    that a note warns of.
    """
    page = TEMPLATES.get_template("page.html.j2")
    return page.render(sections=sections, counts=counts, random_weights=random_weights)


def costs_page(rows: Sequence[Costs]) -> str:
    """The document of what the systems' runs took on this machine."""
    return TEMPLATES.get_template("costs.html.j2").render(rows=rows)
