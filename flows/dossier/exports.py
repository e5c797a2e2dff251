"""The exports of `palimpsest audit export`, as files of the dossier."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from flows.dossier.shelf import Shelf
from flows.dossier.sources import Source
from flows.exports import attestations, croissant, model_card, sbom
from flows.exports.materials import Materials
from flows.lineage import signatures
from flows.lineage.owner import Owner
from stages.runs.errors import InputError


class Export(NamedTuple):
    """An export, or why there is none."""

    what: str
    sources: list[Source]
    why: str  # there are no sources


def of(shelf: Shelf, found: Materials, said: Owner) -> Iterator[Export]:
    """All of them, each with its usual name."""
    own = found.said_by(said)
    yield _made(shelf, "a model card for Hugging Face", lambda: {model_card.NAME: model_card.text(found, own)})
    yield _made(shelf, "a bill of materials in CycloneDX 1.6", lambda: {
        f"{found.model.name}{sbom.END}": sbom.text(found, own),
    })  # fmt: skip
    yield _made(shelf, "its datasets in Croissant 1.1", lambda: croissant.texts(found, said))
    yield _made(shelf, "the attestations behind it", lambda: {
        f"{found.model.name}{attestations.END}": attestations.bundle(found, signatures.counting(shelf.git)).text,
    })  # fmt: skip


def _made(shelf: Shelf, what: str, texts: Callable[[], Mapping[str, str]]) -> Export:
    try:
        return Export(what, [shelf.export(name, what, text) for name, text in texts().items()], "")
    except InputError as error:
        return Export(what, [], str(error))
