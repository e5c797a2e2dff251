"""The commands `palimpsest audit dossier`, `handover` and `sign-tests`. What one needs is imported when it runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.operations.command_line import for_people, key_passphrase
from flows.process.words import say

CHECKPOINT = Annotated[str, typer.Argument(help="A checkpoint, named as for `audit checkpoint`.")]
JSON = Annotated[bool, typer.Option("--json", help="For machines.")]


def dossier(
    what: CHECKPOINT,
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder: a new one, or a dossier to replace.")],
    json: JSON = False,
) -> None:
    """Write an offline folder for whoever signs for a model: what is recorded of it, each sentence with its record.

    It is ordered as the EU AI Act's Annex IV and the summary of training data (Article 53) are. Exit code 1 where
    something is not as it is recorded; 0 otherwise.
    """
    with for_people("audit dossier"):
        from flows.audit import facts
        from flows.checkout.root import repository
        from flows.dossier import compose

        answer = compose.write(repository(), what, output, say)
        print(facts.machine(answer)) if json else compose.show(answer)
        raise typer.Exit(int(answer.found))


def handover(
    what: CHECKPOINT,
    to: Annotated[str, typer.Option("--to", help="Who received it: a person or an organisation.")],
    note: Annotated[str | None, typer.Option("--note", help="What else there is to say, in one line.")] = None,
    json: JSON = False,
) -> None:
    """Record that somebody received a checkpoint; `audit collect` signs the record and brings it to others."""
    with for_people("audit handover"):
        from flows.audit import facts
        from flows.checkout.root import repository
        from flows.dossier import handover as handing

        done = handing.hand_over(repository(), what, to, note)
        print(facts.machine(done)) if json else handing.show(done)


def sign_tests(what: CHECKPOINT, json: JSON = False) -> None:
    """Answer for the scores that a checkpoint has now: a record of their digests, signed at once with your key."""
    with for_people("audit sign-tests"):
        from flows.audit import facts
        from flows.checkout.root import repository
        from flows.dossier import sign_tests as signing

        done = signing.sign(repository(), what, key_passphrase(ask=sys.stdin.isatty()))
        print(facts.machine(done)) if json else signing.show(done)
