"""What the owner of the models says of them in `audit.yaml`: what no record can know.

It may be said for all checkpoints, and for one of them; the latter counts. Nothing of it is ever shown as recorded.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import field
from datetime import date
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from stages.runs import params
from stages.runs.errors import InputError
from stages.runs.params import STRICT

FILE = "audit.yaml"  # in the project's folder

Words = Annotated[str, Field(min_length=1)]
Url = Annotated[str, Field(pattern=r"^https?://\S+$")]
Day = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$"), AfterValidator(lambda text: str(date.fromisoformat(text)))]


@dataclass(frozen=True, config=STRICT)
class Said:
    """About all checkpoints, or about one."""

    owner: Words | None = None  # the person or organisation that answers for the model
    contact: Words | None = None  # how to reach them
    purpose: Words | None = None  # what the model is for
    intended_use: Words | None = None  # by whom, and on which pictures
    misuse: Words | None = None  # uses that can be foreseen, and that it is not for
    released: Words | None = None  # when it was placed on the market, or put into service
    interaction: Words | None = None  # hardware and software that it works with
    hardware: Words | None = None  # on which it is to run
    appearance: Words | None = None  # of a product that it is a part of: photographs, markings
    interface: Words | None = None  # what its users see and set
    instructions: Words | None = None  # for those who use or install it, or where they are
    design: Words | None = None  # why it is built so, what was assumed, what was traded for what
    oversight: Words | None = None  # which people watch over it, and how
    planned_changes: Words | None = None  # changes that are settled in advance
    security: Words | None = None  # how it is protected
    limits: Words | None = None  # what it cannot do, for whom it is worse, what can go wrong
    metrics: Words | None = None  # why the metrics are the right ones
    risks: Words | None = None  # how risks are managed
    standards: Words | None = None  # standards that were applied
    conformity: Words | None = None  # the declaration of conformity, or where it is
    monitoring: Words | None = None  # how it is watched once it is in use
    reserved_rights: Words | None = None  # how reservations of rights against text and data mining were kept
    unlawful: Words | None = None  # how unlawful content was kept out of the data
    licence: Words | None = None  # of the checkpoint itself; best an identifier of https://spdx.org/licenses
    url: Url | None = None  # the page of the model


@dataclass(frozen=True, config=STRICT)
class Dataset:
    """About a dataset."""

    # where its pictures come from, in the kinds of the European Commission's template
    kind: Literal["public", "licensed", "third party", "crawled", "users", "synthetic", "other"] | None = None
    about: Words | None = None  # what else there is to say of its source: address, licensor, period
    # Croissant requires these; docs/exports.md tells more
    description: Words | None = None  # what it is; where this is not said, an export says what is recorded
    url: Url | None = None  # its page
    creator: Words | None = None  # the person or organisation that has made it
    published: Day | None = None  # the day, as "2026-11-27"


@dataclass(frozen=True, config=STRICT)
class Owner(Said):
    """The file."""

    checkpoints: dict[str, Said] = field(default_factory=dict)  # by name: NAME of data/models/NAME.safetensors
    datasets: dict[str, Dataset] = field(default_factory=dict)  # by name, as in params.yaml

    def of(self, name: str | None) -> dict[str, str]:
        """What is said of the checkpoint of this name, by key; the name is None where it has none."""
        every = {one.name: getattr(self, one.name) for one in dataclasses.fields(Said)}
        own = self.checkpoints.get(name or "")
        every |= {} if own is None else {key: words for key in every if (words := getattr(own, key)) is not None}
        return {key: words for key, words in every.items() if words is not None}


def read(root: Path) -> Owner:
    """What `audit.yaml` says; nothing where there is no such file.

    Raises InputError, in one line, for a file that is not YAML, an unknown key and what is no text.
    """
    file = root / FILE
    if not os.path.lexists(file):
        return Owner()
    try:
        values = params.plain(file)
    except InputError as error:
        said = str(error).replace(f"{file}", FILE, 1)
        if "must be a mapping" in said:  # the words go on with the sections of params.yaml
            said = f"{FILE}: must be a mapping, of some of these keys: {_keys(Owner)}"
        raise InputError(said) from None
    try:
        return TypeAdapter(Owner).validate_json(json.dumps(values))
    except ValidationError as error:
        raise InputError(f"{FILE}: {_fault(dict(error.errors(include_url=False)[0]))}") from None


def _fault(item: dict[str, object]) -> str:
    way = item["loc"]
    assert isinstance(way, tuple)
    where = ".".join(map(str, way))
    if item["type"] == "unexpected_keyword_argument":
        kind = {1: Owner, 3: Dataset if way[0] == "datasets" else Said}.get(len(way), Said)
        return f"unknown key '{where}'; one of: {_keys(kind)}"
    message = str(item["msg"])
    return f"{where}: {message[:1].lower()}{message[1:]}; write it as docs/dossier.md says"


def _keys(kind: type[Said] | type[Dataset]) -> str:
    return ", ".join(one.name for one in dataclasses.fields(kind))
