"""The command `palimpsest audit erase`."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.operations.command_line import for_people, key_passphrase, share_records
from flows.process.words import say
from stages.runs.errors import InputError


def erase(
    what: Annotated[
        list[str] | None, typer.Argument(help="Pictures: files, or the sha256 of their files (the first digits do).")
    ] = None,
    identity: Annotated[str | None, typer.Option("--identity", help="All pictures of this person.")] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="The person of that name in this dataset, if several have one.")
    ] = None,
    purge: Annotated[bool, typer.Option("--purge", help="Remove them. Without it, only look.")] = False,
    receipt: Annotated[
        Path | None, typer.Option("--receipt", help="Write a signed letter for the person into this file.")
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Leave pictures that only look the same; do not refuse them later.")
    ] = False,
    shared: Annotated[
        bool, typer.Option("--shared", help="Remove it also where others may use it: outside of the repository.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Take pictures out of everything that the repository keeps, and show that they are out.

    Without --purge it changes nothing, and lists what it would do. A picture gets a tombstone, so that no copy of it
    comes back. Run it again if it was interrupted. Exit code 1 where something in reach is left; 0 otherwise.
    """
    with for_people("audit erase"):
        from flows.audit import facts
        from flows.checkout.root import repository
        from flows.erasure import erase as erasing
        from flows.erasure import receipt as letter
        from flows.erasure import turn
        from flows.erasure.pictures import Person

        root = repository()
        if dataset is not None and identity is None:
            raise InputError("--dataset: says of which dataset a person is; name the person by --identity")
        person = None if identity is None else Person(identity, dataset)
        passphrase = key_passphrase(ask=sys.stdin.isatty()) if receipt else None
        if receipt:
            letter.check(root, receipt, passphrase)
            if not purge:
                letter.write(root, what or [], identity, receipt, passphrase, say)
                return
        if not purge:
            answer = erasing.look(root, what or [], person, exact, shared, say)
            print(facts.machine(answer)) if json else erasing.show(answer)
            return
        try:
            with turn.taken(root, say):
                every = erasing.all_of(root, what or [], person, exact, say)
                if not yes:
                    _ask([picture.image_id[:10] for wanted in every for picture in wanted.pictures])
                done = [erasing.do(root, wanted, shared, say) for wanted in every]
        except sqlite3.Error as error:  # of DVC's own databases
            raise InputError(f"DVC cannot write what it remembers ({error}); make room, and run this again") from None
        share_records(root, "audit erase")
        if json:
            print(facts.machine(done[-1]))  # of what was asked for
        for one in () if json else done:
            erasing.show_done(one)
        if receipt and not done[-1].left:
            letter.write(root, every[-1].ids, None, receipt, passphrase, say)
        raise typer.Exit(int(any(one.left for one in done)))


def _ask(names: list[str]) -> None:
    """Raise InputError unless the user says yes."""
    if not sys.stdin.isatty():
        raise InputError("--purge asks before it removes anything; add --yes where nobody can answer")
    if not typer.confirm(f"Erase {len(names)} pictures ({', '.join(names[:5])}) for good?", err=True):
        raise InputError("nothing was changed")
