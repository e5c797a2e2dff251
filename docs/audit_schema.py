"""Write `docs/audit.schema.json` from the code: `python -m docs.audit_schema`, from the project's root.

It says what `palimpsest audit COMMAND --json` prints, of each command.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from flows.audit import checkpoint, collect, diff, file, image, log, rebuild, splits, verify
from flows.dossier import compose, handover, sign_tests
from flows.erasure import plan, purge

FILE = Path(__file__).with_name("audit.schema.json")
ANSWERS = {
    "checkpoint": checkpoint.Checkpoint,
    "collect": collect.Collection,
    "diff": diff.Difference,
    "dossier": compose.Dossier,
    "erase": plan.Plan | purge.Done,  # without --purge, and with it
    "file": file.File,
    "handover": handover.Handover,
    "image": image.Answer,
    "log": list[log.Event],
    "rebuild": rebuild.Rebuilt,
    "sign-tests": sign_tests.SignedTests,
    "splits": splits.Splits,
    "verify": verify.Verification,
}


def schema() -> dict[str, Any]:
    """A JSON schema that has each answer's among its definitions, as `audit COMMAND`."""
    asked = [(name, "serialization", TypeAdapter(answer)) for name, answer in ANSWERS.items()]
    found, shared = TypeAdapter.json_schemas(asked)
    answers = {f"audit {name}": found[name, "serialization"] for name in ANSWERS}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": "Written by `python -m docs.audit_schema`; a test keeps it true.",
        "$defs": {**answers, **shared["$defs"]},
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(schema(), indent=1) + "\n", encoding="utf-8")
