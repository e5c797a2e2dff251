"""The commands `palimpsest audit ...`. What one needs is imported when it runs: help and refusals are quick."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.operations.command_line import for_people, key_passphrase
from flows.process.words import say

audit = typer.Typer(no_args_is_help=True, help="Which data produced which checkpoint, and the reverse.")
key = typer.Typer(no_args_is_help=True, help="Who signs records, and whose signatures count.")
audit.add_typer(key, name="key")


@audit.command("checkpoint")
def audit_checkpoint(
    what: Annotated[
        str, typer.Argument(help="A checkpoint's file, NAME (in data/models/), NAME@VERSION or NAME@COMMIT.")
    ],
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """What a checkpoint comes from: its training, the pictures that were read, evaluations and decisions.

    Exit code 1 where something is not as it is recorded; 0 otherwise.
    """
    with for_people("audit checkpoint"):
        from flows.audit import checkpoint, facts
        from flows.checkout.root import repository

        answer = checkpoint.ask(repository(), what)
        print(facts.machine(answer)) if json else checkpoint.show(answer)
        raise typer.Exit(int(answer.found))


@audit.command("collect")
def audit_collect(json: Annotated[bool, typer.Option("--json", help="For machines.")] = False) -> None:
    """Bring the records of stage runs to the Git branch by which they travel, together with those of other clones.

    `rebuild` and `retrain` do so at their end; after a plain `dvc repro`, and after `git fetch`, this does.
    """
    with for_people("audit collect"):
        from flows.audit import collect, facts
        from flows.checkout.root import repository

        done = collect.collect(repository(), key_passphrase(ask=sys.stdin.isatty()))
        print(facts.machine(done)) if json else collect.show(done)


@audit.command("image")
def audit_image(
    what: Annotated[str, typer.Argument(help="A picture's file, the sha256 of one, or a folder of pictures.")],
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Which checkpoints were trained on a picture, or on a copy of it: saved anew, resized, grey or mirrored.

    Exit code 1 where there are some, or where a picture, list or table that would tell cannot be read; 0 otherwise.
    """
    with for_people("audit image"):
        from flows.audit import facts, image
        from flows.checkout.root import repository

        answer = image.ask(repository(), what)
        print(facts.machine(answer)) if json else image.show(answer)
        raise typer.Exit(int(answer.found))


@audit.command("log")
def audit_log(
    last: Annotated[int, typer.Option("--last", "-n", min=1, help="So many events.")] = 30,
    json: Annotated[bool, typer.Option("--json", help="For machines; all of them.")] = False,
) -> None:
    """What has happened, in the order of time: stage runs, rebuilds, handovers, signed tests, decisions of retrain."""
    with for_people("audit log"):
        from flows.audit import facts, log
        from flows.checkout.root import repository

        events = log.ask(repository())
        print(facts.machine(events)) if json else log.show(events, last)


@audit.command("rebuild")
def audit_rebuild(
    what: Annotated[str, typer.Argument(help="A checkpoint, named as for `audit checkpoint`.")],
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Make a checkpoint again from the commit that has it, with an empty cache, and compare all that comes out.

    Exit code 0 where everything is identical; 1 where it is different, or not comparable.
    """
    with for_people("audit rebuild"):
        from flows.audit import facts, rebuild
        from flows.checkout.root import repository

        answer = rebuild.ask(repository(), what, say)
        print(facts.machine(answer)) if json else rebuild.show(answer)
        raise typer.Exit(int(answer.found))


@audit.command("sign")
def audit_sign(
    what: Annotated[str, typer.Argument(help="A checkpoint, named as for `audit checkpoint`.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The signature's file; default: NAME.safetensors.sig, here.")
    ] = None,
) -> None:
    """Sign a checkpoint with your key, in a file that `model_signing verify key` checks, without the repository."""
    with for_people("audit sign"):
        from flows.audit import sign
        from flows.checkout.root import repository

        sign.show(*sign.sign(repository(), what, output, key_passphrase(ask=sys.stdin.isatty())))


@key.command("new")
def key_new(name: Annotated[str, typer.Argument(help="Whose key it is: `Ada Lovelace <ada@example.org>`.")]) -> None:
    """Make a key that signs your records; its public half goes into signers.yaml, to be committed.

    The passphrase is asked for, or taken from PALIMPSEST_PASSPHRASE; an empty one leaves the key unlocked.
    """
    with for_people("audit key new"):
        from flows.checkout.root import repository
        from flows.lineage import keys, public_keys

        passphrase = os.environ.get(keys.PASSPHRASE)
        if passphrase is None:
            passphrase = typer.prompt(
                "Passphrase", default="", hide_input=True, confirmation_prompt=True, show_default=False
            )
        file = keys.new(repository(), name, passphrase)
        print(
            f"{file}: keep it to yourself; `git add {public_keys.SIGNERS}` and commit, so that others can check what "
            "you sign"
        )


@key.command("trust")
def key_trust(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    file: Annotated[Path, typer.Argument(help="The public key: PEM, or a file such as id_ed25519.pub.")],
) -> None:
    """Let somebody's signatures count: their public key goes into signers.yaml, to be committed."""
    with for_people("audit key trust"):
        from flows.checkout.root import repository
        from flows.lineage import public_keys

        public_keys.trust(repository(), name, file)
        print(f"{name}: trusted; `git add {public_keys.SIGNERS}` and commit")


@key.command("revoke")
def key_revoke(
    name: Annotated[str, typer.Argument(help="Whose key it is, as in signers.yaml.")],
    every: Annotated[bool, typer.Option("--all", help="What it has signed until now counts no more, too.")] = False,
) -> None:
    """Let no new signature of a key count: it was lost or stolen, or its owner has left.

    What it has signed until now, as far as this clone has it, still counts. The key's entry in signers.yaml says so. To
    undo it, put that entry back as it was before, and commit.
    """
    with for_people("audit key revoke"):
        from flows.checkout.git import Git
        from flows.checkout.root import repository
        from flows.lineage import public_keys, signatures

        count = signatures.revoke(Git(repository()), name, every)
        print(
            f"{name}: revoked; of its signatures {count or 'none'} still count{'' if count > 1 else 's'}; "
            f"`git add {public_keys.SIGNERS}` and commit"
        )


@key.command("list")
def key_list() -> None:
    """Whose signatures count, and where your own key is."""
    with for_people("audit key list"):
        from flows.checkout.root import repository
        from flows.lineage import keys, public_keys

        for name, (public, revoked) in public_keys.trusted(repository()).items():
            counts = "what it had signed by then" if all(revoked) else "nothing"
            until = f"; revoked: {counts} counts" if revoked else ""
            print(f"{name}: {public.keytype}, {public.keyid[:10]}{until}")
        print(
            f"your key: {keys.place()}" if keys.place().exists() else "your key: none; `palimpsest audit key new NAME`"
        )


@audit.command("file")
def audit_file(
    what: Annotated[str, typer.Argument(help="Any file: a checkpoint, a table, a picture sheet, code.")],
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Where a file comes from, by its bytes alone: which stage made it, from what.

    Exit code 1 where something is not as it is recorded; 0 otherwise.
    """
    with for_people("audit file"):
        from flows.audit import facts, file
        from flows.checkout.root import repository

        answer = file.ask(repository(), what)
        print(facts.machine(answer)) if json else file.show(answer)
        raise typer.Exit(int(answer.found))


@audit.command("diff")
def audit_diff(
    one: Annotated[str, typer.Argument(help="A checkpoint's file, NAME, NAME@VERSION or NAME@COMMIT.")],
    other: Annotated[str, typer.Argument(help="The same, of another.")],
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """What differs between two checkpoints: pictures, parameters, code, environment, start.

    Exit code 1 where something differs; 0 otherwise.
    """
    with for_people("audit diff"):
        from flows.audit import diff, facts
        from flows.checkout.root import repository

        answer = diff.ask(repository(), one, other)
        print(facts.machine(answer)) if json else diff.show(answer)
        raise typer.Exit(int(answer.found))


@audit.command("verify")
def audit_verify(json: Annotated[bool, typer.Option("--json", help="For machines.")] = False) -> None:
    """Hash and check all that stands under a promise: outputs, cache, tables, checkpoints, locks, records.

    Exit code 1 where there is a fault; 0 otherwise, also where something is missing and cannot be checked.
    """
    with for_people("audit verify"):
        from flows.audit import facts, verify
        from flows.checkout.root import repository
        from flows.operations import run_log

        root = repository()
        with run_log.run(root, "audit") as entry:
            answer = verify.ask(root)
            entry.end("failed" if answer.found else "completed", verify.summary(answer))
        print(facts.machine(answer)) if json else verify.show(answer)
        raise typer.Exit(int(answer.found))


@audit.command("splits")
def audit_splits(
    dataset: Annotated[str | None, typer.Argument(help="Its name in params.yaml; default: all.")] = None,
    rev: Annotated[str | None, typer.Option("--rev", help="A commit; default: the working copy's dvc.lock.")] = None,
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Whether train, val and test are disjoint: by bytes, pixels, near copies and identity.

    Exit code 1 where something is shared, or where a table is missing; 0 otherwise.
    """
    with for_people("audit splits"):
        from flows.audit import facts, splits
        from flows.checkout.root import repository

        answer = splits.ask(repository(), dataset, rev)
        print(facts.machine(answer)) if json else splits.show(answer)
        raise typer.Exit(int(answer.found))
