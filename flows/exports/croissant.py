"""Datasets in the format Croissant 1.1: JSON-LD that says what they are, where they come from, and how to read them.

https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html, and for the keys that begin with `rai:`
https://docs.mlcommons.org/croissant/docs/croissant-rai-spec.html. Keys that begin with `prov:` are those of PROV-O,
https://www.w3.org/TR/prov-o/.
"""

from __future__ import annotations

import json
import re
from pathlib import PurePosixPath
from typing import Any

from flows.audit.facts import HERE
from flows.exports import words
from flows.exports.datasets import Dataset
from flows.exports.licences import url_of
from flows.exports.materials import Materials, Run
from flows.exports.output import Kind
from flows.exports.pieces import Piece
from flows.lineage import owner
from flows.lineage.owner import Owner
from stages.runs.errors import InputError

CONFORMS = ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]
END = ".croissant.json"
PARQUET = "application/x-parquet"

# The prefixes and short names that the specification recommends, and PROV-O's.
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    **{
        name: f"cr:{name}"
        for name in (
            "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field", "fileObject",
            "fileProperty", "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5",
            "parentField", "path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate",
            "separator", "source", "subField", "transform",
        )
    },
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    "prov": "http://www.w3.org/ns/prov#",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
}  # fmt: skip

# The ingested table's columns: type, and what they hold. A column that is not here is described by its type alone.
COLUMNS = {
    "image": ("sc:ImageObject", "the picture's file; none of a rejected one"),
    "image_id": ("sc:Text", "sha256 of the picture's file"),
    "path": ("sc:Text", "where the file lay, relative to the folder that was read"),
    "pixel_sha256": ("sc:Text", "sha256 of the upright RGB pixels and their shape"),
    "source": ("sc:Text", "how the folder was read"),
    "identity": ("sc:Text", "who is shown"),
    "split": ("sc:Text", "train, val or test; none of a rejected picture"),
    "near": ("sc:Text", "image_id of the picture of another split that looks nearly the same"),
    "width": ("sc:Integer", "pixels, upright"),
    "height": ("sc:Integer", "pixels, upright"),
    "landmarks": ("sc:Float", "x, y of eyes, nose and mouth corners, in upright pixels"),
    "licence": ("sc:Text", "of this picture"),
    "consent": ("sc:Text", "of those who are shown"),
    "origin": ("sc:Text", "where it comes from"),
    "status": ("sc:Text", "kept or rejected"),
    "reason": ("sc:Text", "why it was rejected, or what is odd about it"),
}


def is_one(content: bytes) -> bool:
    """Whether a file says that it is in this format."""
    try:
        return CONFORMS[0] in json.loads(content)["conformsTo"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


KIND = Kind("Croissant file", is_one)


def texts(materials: Materials, said: Owner) -> dict[str, str]:
    """The text of a file for each dataset behind the checkpoint, by its name.

    Raises InputError where something that the format requires is not recorded and its owner has not said it.
    """
    if not materials.datasets:
        raise InputError(
            f"{materials.answer.asked}: it is not recorded which datasets it comes from; `palimpsest audit checkpoint "
            f"{materials.answer.asked}` says more"
        )
    found = {}
    for dataset in materials.datasets:
        twice = sum(one.name == dataset.name for one in materials.datasets) > 1
        name = f"{dataset.name}.{dataset.table.md5[:10]}" if twice else dataset.name
        name = re.sub(r"[^\w.-]", "_", name)  # a fetched dvc.lock may have a stranger's
        found[f"{name}{END}"] = json.dumps(of(materials, dataset, said), indent=1, ensure_ascii=False) + "\n"
    return found


def of(materials: Materials, dataset: Dataset, said: Owner) -> dict[str, Any]:
    """A dataset as JSON-LD. Raises InputError as `texts` does."""
    if not dataset.files:
        raise InputError(f"{dataset.table.path} {dataset.table.md5[:10]}: the table is not here, or altered; {HERE}")
    own = said.datasets.get(dataset.name, owner.Dataset())
    wanted = {"url": own.url, "creator": own.creator, "published": own.published}
    if missing := [key for key, value in wanted.items() if value is None]:
        raise InputError(
            f"{owner.FILE}: datasets.{dataset.name}: {', '.join(missing)}: Croissant requires it, and no record can "
            "know it; write it as docs/exports.md says"
        )
    licences = [one for one in dict.fromkeys(one.licence for one in dataset.terms) if one]
    if not licences:
        raise InputError(
            f"params.yaml: datasets.{dataset.name}.ingest.licence: Croissant requires it, and it is not recorded; set "
            "it and run `dvc repro`"
        )
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS,
        "name": dataset.name,
        "description": " ".join([*_said(own.description), words.describe(dataset)]),
        "url": own.url,
        "license": [_licence(one) for one in licences],
        # The format wants to know whether it is a person; nobody has said so.
        "creator": {"@type": "sc:Organization", "name": own.creator},
        "datePublished": own.published,
        "identifier": [
            f"md5:{dataset.table.md5}",
            *([f"sha256:{dataset.table.sha256}"] if dataset.table.sha256 else []),
        ],
        **_responsible(materials, dataset, own),
        **_provenance(materials, dataset),
        "distribution": [_file(piece) for piece in dataset.files],
        "recordSet": [
            _records(piece, "pictures" if len(dataset.files) == 1 else f"pictures-{number:05}")
            for number, piece in enumerate(dataset.files)
        ],
    }


def _said(text: str | None) -> list[str]:
    return [f"{text} (said by the owner)"] if text else []


def _licence(name: str) -> Any:
    return url_of(name) or {"@type": "sc:CreativeWork", "name": name}


def _responsible(materials: Materials, dataset: Dataset, own: owner.Dataset) -> dict[str, Any]:
    """The keys of the extension for responsible AI, as far as something is recorded."""
    run = _run(materials, dataset)
    section = run.section(f"datasets.{dataset.name}.ingest") if run else {}
    params = json.dumps({key: value for key, value in section.items() if key != "root"}, sort_keys=True)
    known = dataset.sensitivity or "whether it is personal data is not recorded"
    model = materials.model
    digest = model.file.sha256 or model.file.md5
    uses = [f"Training of the checkpoint {model.name} ({digest})"] if dataset.trained != 0 else []
    uses += [
        f"Evaluation of it: {each.table.path} ({each.table.sha256 or each.table.md5})"
        for each in materials.evaluations
        if each.dataset == dataset.name
    ]
    return {
        "rai:dataCollection": "; ".join([*words.origins(dataset), *_said(own.about)]) or "not recorded",
        "rai:dataPreprocessingProtocol": [f"{run.stage if run else 'ingest'}: {params}", *words.rejected(dataset)],
        "rai:personalSensitiveInformation": [known, *dataset.why, *words.consents(dataset)],
        "rai:dataUseCases": uses,
    }


def _provenance(materials: Materials, dataset: Dataset) -> dict[str, Any]:
    """The run that has made the table: what it has read, when, and with which code."""
    run = _run(materials, dataset)
    if run is None:
        return {}
    record = run.record
    git, packages = record.get("git") or {}, record.get("packages") or {}
    code = [f"commit {git['commit']}"] if git.get("commit") else []
    code += [f"sha256 of the code {record['code']}"] if record.get("code") else []
    version = (packages.get("imported") or {}).get("palimpsest")
    read = [
        {"@type": "prov:Entity", "prov:label": words.place(path), "identifier": f"md5:{md5}"}
        for path, md5 in run.inputs.items()
        if not path.startswith("stages/")  # which is the code
    ]
    times = {"prov:startedAtTime": record.get("started"), "prov:endedAtTime": record.get("ended")}
    activity = {
        "@type": "prov:Activity",
        "prov:label": run.stage,
        **{key: time for key, time in times.items() if time},
        "prov:used": read,
        "prov:wasAssociatedWith": {
            "@type": "prov:SoftwareAgent",
            "prov:label": ", ".join([f"Palimpsest{f' {version}' if version else ''}", *code]),
        },
    }
    return {"prov:wasDerivedFrom": read, "prov:wasGeneratedBy": activity}


def _run(materials: Materials, dataset: Dataset) -> Run | None:
    return next((run for run in materials.runs if run.outputs.get(dataset.table.path) == dataset.table.md5), None)


def _file(piece: Piece) -> dict[str, Any]:
    name = PurePosixPath(piece.path).name
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "description": "A part of the table of pictures, which holds their files; made by ingest.",
        "contentUrl": words.place(piece.path),
        "contentSize": f"{piece.size} B",
        "encodingFormat": PARQUET,
        "sha256": piece.sha256,
    }


def _records(piece: Piece, name: str) -> dict[str, Any]:
    """The rows of one part of the table. (The format can join several files only if they are in an archive.)"""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = PurePosixPath(piece.path).name
    try:
        schema = pq.read_schema(piece.here)
    except (pa.ArrowException, OSError):
        raise InputError(f"{piece.path}: not a table of pictures; remove it and run `dvc repro`") from None
    fields = []
    for column in schema:
        if pa.types.is_binary(column.type) or pa.types.is_fixed_size_binary(column.type):
            continue  # a perceptual hash: the format has no type of it that would be read back
        kind, what = COLUMNS.get(column.name, (_kind(column.type), ""))
        field: dict[str, Any] = {
            "@type": "cr:Field",
            "@id": f"{name}/{column.name}",
            "name": column.name,
            "description": what,
            "dataType": kind,
            "source": {"fileObject": {"@id": file}, "extract": {"column": column.name}},
        }
        if pa.types.is_struct(column.type):
            field["source"]["transform"] = {"jsonPath": "bytes"}
        if pa.types.is_fixed_size_list(column.type):
            field |= {"isArray": True, "arrayShape": str(column.type.list_size)}
        fields.append(field)
    return {"@type": "cr:RecordSet", "@id": name, "name": name, "description": "A row per picture.", "field": fields}


def _kind(type_: Any) -> str:
    import pyarrow as pa

    if pa.types.is_integer(type_):
        return "sc:Integer"
    return "sc:Float" if pa.types.is_floating(type_) else "sc:Text"
