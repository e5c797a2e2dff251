"""The attestations that stand behind a checkpoint, as one file: a line for each, a DSSE envelope.

It is what in-toto calls a bundle, https://github.com/in-toto/attestation/blob/main/spec/v1/bundle.md. An envelope is
as it was signed, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import NamedTuple

from flows.exports.materials import Materials, Run
from flows.exports.output import Kind
from flows.lineage.attestation import PAYLOAD, Attestation
from stages.runs.errors import InputError

END = ".intoto.jsonl"


def is_one(content: bytes) -> bool:
    """Whether a file is such a bundle."""
    try:
        return bool(json.loads(content.partition(b"\n")[0])["payloadType"] == PAYLOAD)
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


KIND = Kind("bundle of attestations", is_one)


class Bundle(NamedTuple):
    """The file, and what it holds."""

    text: str
    many: int
    without: list[str]  # stages of whose runs there is no attestation


def bundle(materials: Materials, counting: Iterable[tuple[Attestation, bytes]]) -> Bundle:
    """The attestations of the runs behind the checkpoint, of those that have scored it, and those that decisions name.

    `counting` are all whose signatures count. Raises InputError where none of them is about the checkpoint.
    """
    every = list(counting)
    found: dict[str, bytes] = {}
    without = []
    for run in (*materials.runs, *materials.after):
        of_run = {one.name: data for one, data in every if _about(one, run)}
        found |= of_run
        if not of_run:
            without.append(run.stage)
    named = {name for decision in materials.answer.decisions for name in decision["attested"]}
    found |= {one.name: data for one, data in every if one.name in named}
    if not found:
        raise InputError(
            f"{materials.answer.asked}: no attestation that counts is here of the runs behind it; `palimpsest audit "
            "collect` signs records, `git fetch` brings what others have signed"
        )
    lines = [data.decode() for data in found.values()]  # each ends with a newline
    return Bundle("".join(lines), len(lines), without)


def _about(one: Attestation, run: Run) -> bool:
    """Whether an attestation is about a run with all of these outputs."""
    return bool(run.outputs) and run.outputs.items() <= one.outputs.items()
