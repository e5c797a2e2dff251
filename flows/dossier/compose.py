"""The dossier of a checkpoint: an offline folder for whoever signs for the model."""

from __future__ import annotations

import dataclasses
from importlib import metadata
from pathlib import Path

from flows.audit import facts
from flows.dossier import annex, annex_use, folder, material, page, tests_made, training_data, words
from flows.dossier.material import Material
from flows.dossier.sources import Chapter, Part, Section, Sentence, Source, numbered, sentences
from flows.lineage.public_keys import SIGNERS
from flows.lineage.records import PATCH
from flows.process.command import Say
from stages.runs.errors import InputError


@dataclasses.dataclass(frozen=True)
class Dossier:
    """What was written."""

    asked: str
    md5: str
    folder: str
    files: list[str]  # in it
    sentences: dict[str, int]  # by the word that says what they rest on; a table's rows count as its caption
    records: int  # that they refer to
    empty: list[str]  # headings under which nothing is recorded, with their chapter's title
    differs: list[str]  # sentences that are not as it is recorded

    @property
    def found(self) -> bool:
        """Whether something is not as it is recorded."""
        return bool(self.differs)


def write(root: Path, asked: str, output: Path, say: Say) -> Dossier:
    """Write the dossier of a checkpoint, named as for `audit checkpoint`, into a folder.

    Raises InputError where there is no such checkpoint, where `audit.yaml` is wrong, and where the folder is there and
    is no dossier: then nothing is changed.
    """
    folder.refuse(output)  # before the work
    m = material.gather(root, asked, say)
    chapters = chapters_of(m)
    sources = numbered(chapters)
    title = f"Dossier of {m.name or m.of.model.file.path}"
    head = page.Head(title, m.of.answer.md5, metadata.version("palimpsest"), _newest(sources))
    files = {
        "index.html": page.index(head, chapters, sources).encode("utf-8", "replace"),
        "records.html": page.records(head, sources).encode("utf-8", "replace"),
        **{source.file: source.content for source in sources},
        **_beside(m, sources),
    }
    folder.write(output, files)
    return _answer(m, asked, output, files, chapters, sources)


def chapters_of(m: Material) -> list[Chapter]:
    """All that there is to say, in the order of the law."""
    law = "Regulation (EU) 2024/1689"
    template = f"In the order of the European Commission's template for {law}, Article 53(1)(d)."
    digests = "What went into the model, each part by its digest."
    chapters = [
        Chapter(
            "Technical documentation", f"In the order of {law}, Annex IV.", [*annex.sections(m), *annex_use.sections(m)]
        ),
        Chapter("Summary of training data", template, training_data.sections(m)),
        Chapter("Bill of materials", digests, training_data.materials(m), short=True),
    ]
    again = [
        Section("R.1", "Made again, bit for bit", [*tests_made.made_again(m)]),
        Section("R.2", "What cannot be told, and what is not as it was recorded", _doubts(m, chapters)),
    ]
    title, about = "Can it be made again, and what cannot be told", "By records, and by what was checked now."
    return [*chapters, Chapter(title, about, again, short=True)]


def _doubts(m: Material, chapters: list[Chapter]) -> list[Part]:
    """What `audit checkpoint` cannot tell or finds altered, then the sentences above that say such."""
    found = [
        m.answer.says(f"{fact.about}: {fact.said.rstrip('.')}.", "facts", word=fact.word) for fact in material.doubts(m)
    ]
    found += [one for one in sentences(chapters) if isinstance(one, Sentence) and one.word in material.DOUBTS]
    if not found:
        text = "Nothing in this dossier cannot be told, and nothing is found to be other than recorded."
        return [m.answer.says(text, "facts", word="verified")]
    return [*{one.text: one for one in found}.values()]


def _newest(sources: list[Source]) -> str:
    times = [str(source.values["ended"]) for source in sources if "ended" in source.values]
    return words.time(max(times)) if times else "none is here"


def _beside(m: Material, sources: list[Source]) -> dict[str, bytes]:
    """What makes the records checkable without the repository: signatures, public keys, uncommitted edits."""
    found = {f"attestations/{name}": data for name, data in m.shelf.attestations(sources).items()}
    signers = m.root / SIGNERS
    if found and signers.is_file():
        found[SIGNERS] = signers.read_bytes()
    for source in sources:
        name = (source.values.get("git") or {}).get("diff") if isinstance(source.values.get("git"), dict) else None
        if isinstance(name, str) and PATCH.fullmatch(name):
            try:
                patch = m.shelf.records.diff(source.values)
            except InputError:  # altered: `audit verify` tells
                continue
            if patch is not None:
                found[name] = patch
    return found


def _answer(
    m: Material, asked: str, output: Path, files: dict[str, bytes], chapters: list[Chapter], sources: list[Source]
) -> Dossier:
    counts: dict[str, int] = {}
    differs = []
    for one in sentences(chapters):
        if isinstance(one, Sentence):
            counts[one.word] = counts.get(one.word, 0) + 1
            if one.word == "DIFFERS":
                differs.append(one.text)
    empty = [f"{c.title}: {s.number} {s.title}" for c in chapters for s in c.sections if s.empty]
    return Dossier(
        asked, m.of.answer.md5, str(output), sorted([*files, folder.LISTING]), counts, len(sources), empty,
        list(dict.fromkeys(differs)),
    )  # fmt: skip


def show(done: Dossier) -> None:
    """What was written, in a few lines."""
    number = sum(done.sentences.values())
    print(f"{done.folder}/index.html: {number} sentences, {done.records} records behind them, {len(done.files)} files")
    print(
        "  " + ", ".join(f"{count} {word}" for word, count in sorted(done.sentences.items(), key=lambda one: -one[1]))
    )
    if done.empty:
        print(f"  nothing is recorded under {len(done.empty)} headings; what people must add goes into audit.yaml")
    for text in done.differs:
        print(f"  DIFFERS  {facts.printed(text)}")
