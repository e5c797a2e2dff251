"""Write `docs/parameters.md` from the code: `python -m docs.parameters`, from the project's root.

A parameter's meaning is the comment beside its field, or on the lines above it. Its type, range and default are the
field's. What a section is for is the stage's `desc` in `dvc.yaml`. So the page says nothing that the code does not.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import json
import re
import textwrap
import tokenize
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter
from ruamel.yaml import YAML

from flows.registry.gate import Rule
from stages.images.holes import KINDS
from stages.runs.params import Runtime

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "parameters.md"

HEAD = """# Parameters

<!-- Written by `python -m docs.parameters`; a test keeps it true. Change the comments in the code, not this page. -->

This page lists every section and every key of `params.yaml`. `NAME` stands for a name that you choose: of a dataset, a
model or a system. A key without a default is required. An unknown key, a wrong type or a value out of range is an error
that names the key.

[params.yaml](../params.yaml) holds the default pipeline's values. The files in [profiles/](../profiles) are ready-made
parameters for real data. "Report 1" to "report 5" are five student reports on inpainting, whose systems Palimpsest
implements; "the paper" is the paper behind a report. [CITATION.cff](../CITATION.cff) names the papers.
"""

HOLES = """## Kinds of hole

The keys of `datasets.NAME.mask.kinds`, and of `holes` in a training, are kinds of hole. The value of each key holds the
kind's options, or `{}` for its defaults. A key may also be a label of your own, if the options name the kind. So one
kind may stand there twice, with other options: `{centre: {}, small: {kind: centre, fraction: 0.25}}`.
"""

Row = tuple[str, str, str, str]  # key, type, default, meaning


def page() -> str:
    """The page's text."""
    return "\n".join([HEAD, *(section(*each) for each in sections()), HOLES, *map(kind, KINDS)])


def sections() -> Iterator[tuple[str, str, type]]:
    """Every section of the file, with NAME for the entries' names: its key, what it is for, and its dataclass."""
    yield "runtime", first_line(Runtime), Runtime
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    for name, entry in stages.items():
        body = entry.get("do", entry)
        key = body["params"][0].replace("${key}", "NAME")  # the stage's own; what else it reads comes behind
        text = f"{body['desc'][:1].upper()}{body['desc'][1:]}. Read by the stage `{name}`."
        yield key, text, import_module(f"stages.{name}").Params
    yield "retrain", "What `palimpsest retrain` compares, and when it promotes.", Rule


def section(key: str, text: str, params: type) -> str:
    """A section of the page, with a table of its fields."""
    return f"## `{key}`\n\n{text}\n\n{table(rows(params))}"


def kind(name: str) -> str:
    """A kind of hole and its options."""
    function = KINDS[name]
    hints = get_type_hints(function, include_extras=True)
    options = [
        (p.name, words(TypeAdapter(hints[p.name]).json_schema()), default(p.default, p.default is p.empty), "")
        for p in inspect.signature(function).parameters.values()
        if p.kind is p.KEYWORD_ONLY
    ]
    text = textwrap.fill(" ".join(inspect.getdoc(function).split()), 118, break_on_hyphens=False)
    return f"### `{name}`\n\n{text}\n" + (f"\n{table(options)}" if options else "")


def rows(params: type, prefix: str = "") -> Iterator[Row]:
    """Every field of the dataclass, those of one inside it as `outer.inner`."""
    hints = get_type_hints(params, include_extras=True)
    said = {name: text for each in reversed(params.__mro__[:-1]) for name, text in comments(each).items()}
    for field in dataclasses.fields(params):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from rows(hint, f"{prefix}{field.name}.")
            continue
        value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        meaning = said[field.name] or (first_line(params) if prefix else "")
        required = value is dataclasses.MISSING
        yield f"{prefix}{field.name}", words(TypeAdapter(hint).json_schema()), default(value, required), meaning


def comments(params: type) -> dict[str, str]:
    """Of each field that the class itself declares, its comment."""
    source = inspect.getsource(params)
    beside: dict[int, str] = {}  # line -> comment behind code
    alone: dict[int, str] = {}  # and on a line of its own
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            place = beside if token.line[: token.start[1]].strip() else alone
            place[token.start[0]] = token.string.lstrip("# ")
    (tree,) = ast.parse(source).body
    found = {}
    for node in tree.body:
        if isinstance(node, ast.AnnAssign):
            behind = [beside[line] for line in range(node.lineno, node.end_lineno + 1) if line in beside]
            first = node.lineno
            while first - 1 in alone:
                first -= 1
            found[node.target.id] = " ".join(behind or [alone[line] for line in range(first, node.lineno)])
    return found


def words(schema: dict[str, Any]) -> str:
    """A JSON schema in words."""
    if "anyOf" in schema:  # something or null
        some, _ = schema["anyOf"]
        return words({"enum": [*some["enum"], "null"]}) if "enum" in some else f"{words(some)} or `null`"
    if "enum" in schema:
        *most, last = (f"`{value}`" for value in schema["enum"])
        return f"{', '.join(most)} or {last}"
    match schema["type"]:
        case "integer" | "number" as name:
            bounds = [("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<")]
            limits = [f"{sign} {number(schema[key])}" for key, sign in bounds if key in schema]
            multiple = f", a multiple of {schema['multipleOf']}" if "multipleOf" in schema else ""
            return f"{name} {' and '.join(limits)}".strip() + multiple
        case "string":
            return "text, not empty" if schema.get("minLength") else "text"
        case "array":
            return f"list of {words(schema['items'])}"
        case "object":
            inner = schema.get("additionalProperties")
            plain = isinstance(inner, dict) and inner.get("type") == "number"
            return f"mapping to {words(inner)}" if plain else "mapping"
        case other:
            return {"boolean": "`true` or `false`"}[other]


def number(value: float) -> str:
    """As a person would write it."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def default(value: Any, required: bool) -> str:
    """A default as `params.yaml` would have it."""
    if required:
        return "required"
    return f"`{number(value) if isinstance(value, float) else json.dumps(value).replace(chr(34), '')}`"


def table(found: Iterable[Row]) -> str:
    """Rows as Markdown; a column that is empty throughout is left out."""
    every = [("key", "type", "default", "meaning"), *found]
    if not any(row[3] for row in every[1:]):
        every = [row[:3] for row in every]
    every = [(f"`{row[0]}`", *row[1:]) if i else row for i, row in enumerate(every)]
    # A bar would end the cell, and "<name" would be HTML.
    lines = ["| " + " | ".join(re.sub(r"\||<(?=\w)", r"\\\g<0>", cell) for cell in row) + " |" for row in every]
    return "\n".join([lines[0], "|---" * len(every[0]) + "|", *lines[1:], ""])


def first_line(thing: type) -> str:
    """The first line of a docstring."""
    return inspect.getdoc(thing).splitlines()[0]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
