"""What a dossier is made of: sentences and tables, each with the records behind it."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, Literal, NamedTuple

from flows.audit.facts import Word

# `not recorded`: the record is here, and does not say it.
Rests = Word | Literal["said by the owner", "not recorded"]

UNSAFE = re.compile("[^A-Za-z0-9@._-]+")  # in the name of a file: a record may be a stranger's
SHOWN = 4000  # letters of a value that the page of records shows; the file has all


@dataclasses.dataclass(eq=False)
class Source:
    """A record: a file of the dossier, and what of it a sentence may point at."""

    file: str  # its path in the dossier
    title: str  # what it is
    content: bytes
    values: Mapping[str, Any]  # by key
    word: Rests = "recorded"  # what a sentence rests on that has it from here
    signed: str = ""  # who vouches for it, in words; empty: nobody signs such
    number: int = 0  # by which sentences refer to it; 0: none does

    @property
    def sha256(self) -> str:
        return sha256(self.content).hexdigest()

    def at(self, key: str | None) -> Link:
        """A link to a key of it; to the whole for None, and where it has no such key."""
        return Link(self, key if key in self.values else None)

    def says(self, text: str, *keys: str, word: Rests | None = None) -> Sentence:
        """A sentence that has these keys of it behind it; none: the whole."""
        return Sentence(text, word or self.word, [self.at(key) for key in keys] or [Link(self, None)])

    def row(self, cells: Sequence[str], *keys: str) -> Row:
        """The same of a table's row."""
        return Row(cells, [self.at(key) for key in keys] or [Link(self, None)])

    def shown(self) -> Iterator[tuple[str, str]]:
        """Keys and values, for people."""
        for key, value in self.values.items():
            text = value if isinstance(value, str) else json.dumps(value, indent=1, ensure_ascii=False, default=str)
            yield key, text if len(text) <= SHOWN else f"{text[:SHOWN]} ... (the file has all of it)"


class Link(NamedTuple):
    """From a sentence to a record."""

    source: Source
    key: str | None

    @property
    def anchor(self) -> str:
        """On the page of records."""
        number = f"r{self.source.number}"
        return f"{number}-{UNSAFE.sub('-', self.key)}" if self.key else number


class Sentence(NamedTuple):
    """A sentence, what it rests on, and the records that stand behind it."""

    text: str
    word: Rests
    links: Sequence[Link]


def recorded(text: str, links: Sequence[Link]) -> Sentence:
    """A sentence that rests on several records; on one that was altered, and it is not as it was recorded."""
    return Sentence(text, "DIFFERS" if altered(links) else "recorded", links)


def altered(links: Iterable[Link]) -> bool:
    """Whether one of the records was altered."""
    return any(link.source.word == "DIFFERS" for link in links)


class Row(NamedTuple):
    """A row of a table, and the records behind it."""

    cells: Sequence[str]
    links: Sequence[Link]

    @property
    def altered(self) -> bool:
        return altered(self.links)


class Table(NamedTuple):
    """What is better read in rows."""

    caption: Sentence
    head: Sequence[str]
    rows: Sequence[Row]


Part = Sentence | Table


class Section(NamedTuple):
    """A heading, and what is recorded under it; nothing: the page says so."""

    number: str  # as the law counts
    title: str
    parts: Sequence[Part] | None  # None: it is the heading of those below it
    level: int = 2

    @property
    def empty(self) -> bool:
        """Whether nothing is recorded under it."""
        return self.parts is not None and not any(_tells(part) for part in self.parts)


class Chapter(NamedTuple):
    """Several sections after one text of the law."""

    title: str
    about: str  # which text
    sections: Sequence[Section]
    short: bool = False  # on paper it begins no page


def _tells(part: Part) -> bool:
    return isinstance(part, Table) or part.word != "not recorded"


def name(folder: str, said: str, content: bytes, end: str = ".json") -> str:
    """The path of a file in the dossier: of letters that every system takes, and of no other file."""
    plain = UNSAFE.sub("-", said).strip(".-")[:60] or "record"
    return f"{folder}/{plain}-{sha256(content).hexdigest()[:10]}{end}"


def sentences(chapters: Sequence[Chapter]) -> Iterator[Sentence | Row]:
    """All that says something, in the order of the page."""
    for chapter in chapters:
        for section in chapter.sections:
            for part in section.parts or ():
                if isinstance(part, Table):
                    yield part.caption
                    yield from part.rows
                else:
                    yield part


def numbered(chapters: Sequence[Chapter]) -> list[Source]:
    """Give each source that is referred to its number, in the order of the page."""
    found: dict[Source, None] = {}
    for one in sentences(chapters):
        found |= {link.source: None for link in one.links}
    for number, source in enumerate(found, 1):
        source.number = number
    return list(found)
