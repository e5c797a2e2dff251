"""From a dossier's chapters and records to its two pages; the templates beside this file escape what they are given."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from flows.dossier.sources import Chapter, Link, Sentence, Source, Table, sentences

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
TEMPLATES.filters["href"] = quote  # a path in the folder
TEMPLATES.filters["by_source"] = lambda links: _by_source(links)
TEMPLATES.tests["table"] = lambda part: isinstance(part, Table)

# What the words behind sentences mean, for those who read the page.
WORDS = {
    "verified": "checked when this was made: digests, signatures or tables were compared, or counted",
    "recorded": "a record of a run, dvc.lock in Git's history, or a decision kept in Git says so",
    "claimed": "the model's own metadata say so",
    "said by the owner": "written by a person in audit.yaml; no record stands behind it",
    "not recorded": "nothing says it",
    "cannot tell": "what would tell is not here",
    "DIFFERS": "it is not as it was recorded or signed",
}


@dataclasses.dataclass(frozen=True)
class Head:
    """What stands above the chapters."""

    title: str
    md5: str
    version: str  # of Palimpsest
    newest: str  # when the last of the records was made


def _by_source(links: Sequence[Link]) -> list[tuple[Source, list[str | None]]]:
    """Each record once, with the keys of it that are meant, in the order of the links."""
    found: dict[Source, list[str | None]] = {}
    for link in links:
        found.setdefault(link.source, []).append(link.key)
    return list(found.items())


def index(head: Head, chapters: Sequence[Chapter], sources: Sequence[Source]) -> str:
    """The page to be read and signed."""
    counts = Counter(one.word for one in sentences(chapters) if isinstance(one, Sentence))
    return TEMPLATES.get_template("index.html.j2").render(
        head=head, chapters=chapters, sources=sources, counts=counts, words=WORDS
    )


def records(head: Head, sources: Sequence[Source]) -> str:
    """The page that shows each record, with an anchor for each of its keys."""
    return TEMPLATES.get_template("records.html.j2").render(head=head, sources=sources)
