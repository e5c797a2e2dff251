"""What `--json` prints is what `docs/audit.schema.json` says."""

import json
import runpy
from pathlib import Path

import pytest
from audited import Laboratory
from dvc_project import ROOT
from pydantic import TypeAdapter

from flows.audit import checkpoint, diff, file, image, log, splits, verify
from flows.audit.facts import machine

SCHEMA = json.loads((ROOT / "docs" / "audit.schema.json").read_text())["$defs"]
ANSWERS = runpy.run_path(str(ROOT / "docs" / "audit_schema.py"))["ANSWERS"]


@pytest.mark.parametrize("command", ["checkpoint", "diff", "file", "image", "log", "splits", "verify"])
def test_an_answer_is_as_the_schema_says(lab: Laboratory, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(lab.home)
    root = Path(lab.home)
    answer = {
        "checkpoint": lambda: checkpoint.ask(root, "net"),
        "diff": lambda: diff.ask(root, "net", "more"),
        "file": lambda: file.ask(root, "data/models/net.safetensors"),
        "image": lambda: image.ask(root, "0" * 64),
        "log": lambda: log.ask(root),
        "splits": lambda: splits.ask(root, None, None),
        "verify": lambda: verify.ask(root),
    }[command]()
    text = machine(answer)
    TypeAdapter(ANSWERS[command]).validate_json(text)
    said = SCHEMA[f"audit {command}"]
    first = json.loads(text)
    if said.get("type") == "array":
        (first, *_), said = first, SCHEMA[said["items"]["$ref"].rpartition("/")[2]]
    elif "$ref" in said:
        said = SCHEMA[said["$ref"].rpartition("/")[2]]
    assert first.keys() == said["properties"].keys() == set(said["required"])
