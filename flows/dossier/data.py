"""The sentences about a dataset: origin, size, terms, why and when it was collected, what was rejected, its groups."""

from __future__ import annotations

from collections.abc import Iterator

from flows.dossier import words
from flows.dossier.material import Data
from flows.dossier.sources import Part, Sentence, Table
from flows.exports.words import NONE


def parts(data: Data) -> Iterator[Part]:
    """All that is recorded of it."""
    one, source = data.dataset, data.source
    found = data.counted
    yield from erased(data)
    yield source.says(f"{one.name} is the table {one.table.path}, {one.table.md5}.", "table", "md5")
    if one.source:
        yield source.says(f"Its folder was read as the source {one.source}.", "source")
    if one.origins:
        yield source.says(f"Where its pictures come from: {words.shares(one.origins)}.", "origins")
    if one.pictures is not None and one.splits:
        yield source.says(
            f"It has {words.count(one.pictures, 'picture')}: {words.shares(one.splits)}.", "kept", "splits"
        )
    if found:
        yield source.says(f"Of these, {found['pictures']:,} are {found['of']}.", "trained", word=data.word)
    yield from why_and_when(data)
    for term in one.terms:
        number = "all pictures" if term.pictures is None else words.count(term.pictures, "picture")
        text = f"Terms of {number} of {one.name}: licence {term.licence or NONE}, consent: {term.consent or NONE}."
        yield _noted(data, source.says(text, "terms"))
    if one.sensitivity:
        yield source.says(f"{one.name} is {one.sensitivity}: {words.several(one.why)}.", "sensitivity")
    else:
        text = f"Whether {one.name} is personal data is not recorded."
        yield source.says(text, "sensitivity", word="not recorded")
    if one.faces is not None:
        yield source.says(
            f"Of {words.count(one.faces, 'picture')} of {one.name}, eyes, nose and mouth are marked.", "faces"
        )
    yield from rejected(data)
    yield from _groups(data)


def erased(data: Data) -> Iterator[Part]:
    """That pictures were taken out of it since, so that what is said of it is of what is left."""
    for one, source in data.erased:
        text = f"{one.fact.said[0].upper()}{one.fact.said[1:]}: what is said here is of what is left."
        yield source.says(text, "notes", "ended", word=one.fact.word)


def why_and_when(data: Data) -> Iterator[Part]:
    """Why and when the pictures that were trained on were collected."""
    one, source, found = data.dataset, data.source, data.counted or {}
    known = [each for each in found.get("purpose") or [] if each["said"]]
    for each in known:
        number = words.count(each["pictures"], "picture")
        text = f"Collected for '{each['said']}': {number} of {one.name}, of those that were trained on."
        yield source.says(text, "purpose")
    if not known:
        yield source.says(
            f"Why the pictures of {one.name} were collected is not recorded.", "purpose", word="not recorded"
        )
    when = found.get("collected") or {}
    if when.get("latest"):
        rest = f"; of {words.count(when['without'], 'picture')} no date is recorded" if when["without"] else ""
        text = f"The pictures of {one.name} were collected from {when['earliest']} to {when['latest']}{rest}."
        yield source.says(text, "collected")
    else:
        yield source.says(
            f"When the pictures of {one.name} were collected is not recorded.", "collected", word="not recorded"
        )


def rejected(data: Data) -> Iterator[Part]:
    """What was not taken in."""
    one, source = data.dataset, data.source
    if one.rejected is None:
        yield source.says(
            f"How many pictures of {one.name} were rejected is not recorded.", "rejected", word="not recorded"
        )
    elif one.rejected:
        number = words.count(sum(one.rejected.values()), "picture")
        text = f"{number} of {one.name} were rejected: {words.shares(one.rejected)}."
        yield _noted(data, source.says(text, "rejected"))
    else:
        yield _noted(data, source.says(f"No picture of {one.name} was rejected.", "rejected"))


def _groups(data: Data) -> Iterator[Part]:
    source, found = data.source, (data.counted or {}).get("group") or []
    if any(each["said"] for each in found):
        rows = [source.row([each["said"] or "none is said", f"{each['pictures']:,}"], "group") for each in found]
        text = f"Pictures of {data.dataset.name} that were trained on, by group."
        yield Table(source.says(text, "group"), ["Group", "Pictures"], rows)
    else:
        text = f"To which groups the pictures of {data.dataset.name} belong is not recorded."
        yield source.says(text, "group", word="not recorded")


def _noted(data: Data, sentence: Sentence) -> Sentence:
    """What the record of the dataset's ingestion notes, too."""
    return sentence._replace(links=[*sentence.links, data.made.at("notes")]) if data.made else sentence
