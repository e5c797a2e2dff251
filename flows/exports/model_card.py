"""A model card as Hugging Face reads it: a README.md whose front matter is YAML.

https://github.com/huggingface/hub-docs/blob/main/modelcard.md
"""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.audit.facts import Fact
from flows.exports import words
from flows.exports.licences import identifier
from flows.exports.materials import Evaluation, Materials
from flows.exports.output import Kind

NAME = "README.md"
MARK = "<!-- palimpsest audit export model-card -->"  # tells such a file from any other README.md
TASK = {"type": "image-to-image", "name": "Image inpainting"}

# What the owner may say that a reader of the card wants first, by its heading.
SAID = {
    "owner": "Owner", "contact": "Contact", "url": "Page", "purpose": "Purpose", "intended_use": "Intended use",
    "misuse": "Not for", "limits": "Limits", "risks": "Risks", "oversight": "Oversight", "instructions": "Instructions",
}  # fmt: skip

# What a card tells of the lines of `audit checkpoint`; and those of them that name files, or pictures behind a colon.
ABOUT = (
    "bytes", "made by", "gone on from", "trained on", "evaluated on", "selected on", "record", "code", "environment",
    "seeds", "weights", "comes from", "terms", "rejected", "network", "rebuilt", "promoted", "rolled back",
    "tests signed", "erased",
)  # fmt: skip
FILES = ("bytes", "trained on", "evaluated on", "selected on")

KIND = Kind("model card of this command", lambda content: MARK.encode() in content)


def text(materials: Materials, said: Mapping[str, str]) -> str:
    """The card. `said` is what the owner has said of the checkpoint, by key."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    # Nothing is HTML here: what is filled in goes through `line`.
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, finalize=line,
    )  # fmt: skip
    return templates.get_template("model_card.md.j2").render(
        front=Front(_yaml(front_matter(materials, said))),
        mark=Front(MARK),
        m=materials,
        owner={heading: said[key] for key, heading in SAID.items() if key in said},
        words=words,
        facts=_facts(materials),
    )


def _facts(materials: Materials) -> list[Fact]:
    """The lines of `audit checkpoint` for strangers: without names of pictures, which may be people's, without places
    on this machine, and without those to whom it was handed over."""
    return [
        dataclasses.replace(fact, said=_for_strangers(fact)) for fact in materials.answer.facts if fact.about in ABOUT
    ]


def _for_strangers(fact: Fact) -> str:
    if fact.about not in FILES or fact.word == "cannot tell":
        return fact.said
    if fact.word == "DIFFERS":
        return "what lies there is not what is recorded"
    return "those whose digests stand above" if fact.about == "bytes" else fact.said.partition(": ")[0]


class Front(str):
    """Text that goes into the card as it is."""


def line(value: Any) -> Any:
    """What is filled in, as text of one line of Markdown in which nothing has a meaning of its own."""
    if isinstance(value, Front):
        return value
    if value is None:
        return "not recorded"
    return re.sub(r"([\\`*_{}\[\]<>|#~&])", r"\\\1", " ".join(str(value).split()))


def front_matter(materials: Materials, said: Mapping[str, str]) -> dict[str, Any]:
    """What machines read of the card."""
    licence: dict[str, str] = {}
    if name := said.get("licence"):
        known = identifier(name)
        licence = {"license": known.lower()} if known else {"license": "other", "license_name": name}
    scored = [each for each in materials.evaluations if each.scores]
    index = {"model-index": [{"name": materials.model.name, "results": [_result(each) for each in scored]}]}
    return {
        **licence,
        "library_name": "palimpsest",
        "pipeline_tag": TASK["type"],
        "tags": ["image-inpainting", *([materials.model.network] if materials.model.network else [])],
        **(index if scored else {}),
    }


def _result(evaluation: Evaluation) -> dict[str, Any]:
    digests = {
        f"{name}_{kind}": digest
        for name, piece in {"pictures": evaluation.aligned, "scores": evaluation.table}.items()
        if piece
        for kind, digest in {"md5": piece.md5, "sha256": piece.sha256}.items()
        if digest
    }
    name = evaluation.dataset or "not recorded"
    metrics = [
        {
            "type": each.metric,
            "name": f"{each.metric}, {each.blending}",
            "value": each.mean,
            "config": each.blending,
            "args": {"interval": "95 %", "low": each.low, "high": each.high, "completions": each.count},
        }
        for each in evaluation.scores or []
    ]
    dataset = {"type": name, "name": f"{name}, completed by {evaluation.system}", "split": "test", "args": digests}
    return {"task": TASK, "dataset": dataset, "metrics": metrics}


def _yaml(values: Mapping[str, Any]) -> str:
    from ruamel.yaml import YAML

    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.width = 1000
    yaml.representer.ignore_aliases = lambda data: True  # readers of cards need not know them
    yaml.dump(dict(values), stream)
    return stream.getvalue()
