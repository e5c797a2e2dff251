"""The commands `palimpsest audit export ...`. What one needs is imported when it runs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.operations.command_line import for_people, key_passphrase
from flows.process.words import say

if TYPE_CHECKING:
    from flows.exports.materials import Materials
    from flows.exports.output import Kind

export = typer.Typer(no_args_is_help=True, help="What stands behind a checkpoint, in the formats of others, signed.")

WHAT = Annotated[str, typer.Argument(help="A checkpoint, named as for `audit checkpoint`.")]
OUTPUT = Annotated[Path, typer.Option("-o", "--output", help="A file; or a folder, in which it gets its usual name.")]
UNSIGNED = Annotated[bool, typer.Option("--unsigned", help="Do not sign it with your key.")]


@export.command("croissant")
def export_croissant(what: WHAT, output: OUTPUT, unsigned: UNSIGNED = False) -> None:
    """The datasets behind a checkpoint, as Croissant 1.1 (JSON-LD): terms, provenance, files with digests, columns.

    Exit code 1 where something about the checkpoint is not as it is recorded; 0 otherwise.
    """
    with for_people("audit export croissant"):
        from flows.checkout.root import repository
        from flows.exports import croissant, materials
        from flows.lineage import owner

        root = repository()
        found = materials.of(root, what)
        _write(root, found, croissant.KIND, output, croissant.texts(found, owner.read(root)), "Croissant 1.1", unsigned)


@export.command("model-card")
def export_model_card(what: WHAT, output: OUTPUT, unsigned: UNSIGNED = False) -> None:
    """A model card as Hugging Face reads it: README.md, whose front matter has the scores.

    Exit code 1 where something about the checkpoint is not as it is recorded; 0 otherwise.
    """
    with for_people("audit export model-card"):
        from flows.checkout.root import repository
        from flows.exports import materials, model_card
        from flows.lineage import owner

        root = repository()
        found = materials.of(root, what)
        text = model_card.text(found, found.said_by(owner.read(root)))
        _write(root, found, model_card.KIND, output, {model_card.NAME: text}, "a model card", unsigned)


@export.command("attestations")
def export_attestations(what: WHAT, output: OUTPUT, unsigned: UNSIGNED = False) -> None:
    """The signed attestations behind a checkpoint: its training, what that comes from, and its evaluation.

    Exit code 1 where something about the checkpoint is not as it is recorded; 0 otherwise.
    """
    with for_people("audit export attestations"):
        from flows.checkout.git import Git
        from flows.checkout.root import repository
        from flows.exports import attestations, materials
        from flows.lineage import signatures

        root = repository()
        found = materials.of(root, what)
        bundle = attestations.bundle(found, signatures.counting(Git(root)))
        said = f"{bundle.many} attestations" + (f"; none of {', '.join(bundle.without)}" if bundle.without else "")
        texts = {f"{found.model.name}{attestations.END}": bundle.text}
        _write(root, found, attestations.KIND, output, texts, said, unsigned)


@export.command("sbom")
def export_sbom(what: WHAT, output: OUTPUT, unsigned: UNSIGNED = False) -> None:
    """The bill of materials as CycloneDX 1.6: data, models, code and packages with digests, terms and sensitivity.

    Exit code 1 where something about the checkpoint is not as it is recorded; 0 otherwise.
    """
    with for_people("audit export sbom"):
        from flows.checkout.root import repository
        from flows.exports import materials, sbom
        from flows.lineage import owner

        root = repository()
        found = materials.of(root, what)
        texts = {f"{found.model.name}{sbom.END}": sbom.text(found, found.said_by(owner.read(root)))}
        _write(root, found, sbom.KIND, output, texts, "CycloneDX 1.6", unsigned)


def _write(
    root: Path, found: Materials, kind: Kind, output: Path, texts: Mapping[str, str], said: str, unsigned: bool
) -> None:
    """Write an export's files, by their usual names, and say so."""
    from flows.exports import output as out

    files = dict(zip(out.places(output, [*texts]), texts.values(), strict=True))
    passphrase = None if unsigned else key_passphrase(ask=sys.stdin.isatty())
    done = out.write(root, kind, files, passphrase, not unsigned)
    if found.answer.found:
        asked = found.answer.asked
        say(f"{asked}: something is not as it is recorded; `palimpsest audit checkpoint {asked}` says what")
    out.show(done, said, not unsigned)
    raise typer.Exit(int(found.answer.found))
