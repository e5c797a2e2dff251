"""The bill of materials as CycloneDX writes one for machine learning: https://cyclonedx.org/capabilities/mlbom/.

The library writes all but the two parts of a component that it does not know: `modelCard` and `data`. They are added to
the JSON, by the component's `bom-ref`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from flows.exports import words
from flows.exports.datasets import Dataset
from flows.exports.materials import Materials, Model
from flows.exports.output import Kind
from flows.exports.pieces import Piece

if TYPE_CHECKING:
    from cyclonedx.model import HashType, Property
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component
    from cyclonedx.model.license import License

END = ".cdx.json"
PREFIX = "palimpsest:"  # of the names of properties that are ours


def is_one(content: bytes) -> bool:
    """Whether a file is a bill of materials of this format."""
    try:
        return bool(json.loads(content)["bomFormat"] == "CycloneDX")
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


KIND = Kind("bill of materials in CycloneDX", is_one)


def text(materials: Materials, said: Mapping[str, str]) -> str:
    """The bill of materials, as JSON. `said` is what the owner has said of the checkpoint, by key."""
    from cyclonedx.output.json import JsonV1Dot6

    bom, more = _bom(materials, said)
    found = json.loads(JsonV1Dot6(bom).output_as_string())
    for component in (found["metadata"]["component"], *found.get("components", [])):
        component.update(more.get(component["bom-ref"], {}))
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def _bom(materials: Materials, said: Mapping[str, str]) -> tuple[Bom, dict[str, dict[str, Any]]]:
    """It without what the library does not know, and that, by `bom-ref`."""
    from cyclonedx.model import ExternalReference, ExternalReferenceType, XsUri
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.contact import OrganizationalEntity

    licence = [said["licence"]] if "licence" in said else []
    model = _model(materials.model, "model", licence, _noted(materials))
    if "url" in said:
        model.external_references.add(ExternalReference(type=ExternalReferenceType.WEBSITE, url=XsUri(said["url"])))
    before = [_model(one, f"model:{one.file.md5}") for one in materials.before]
    datasets = [(f"data:{one.name}:{one.table.md5}", one) for one in materials.datasets or []]
    parts = [
        *before,
        *(_dataset(reference, one) for reference, one in datasets),
        *_weights(materials),
        *_code(materials),
        *_packages(materials),
    ]
    bom = Bom(components=parts)
    bom.metadata.component = model
    tool = Component(type=ComponentType.APPLICATION, name="palimpsest", bom_ref="tool")
    with contextlib.suppress(metadata.PackageNotFoundError):
        tool.version = metadata.version("palimpsest")
    bom.metadata.tools.components.add(tool)
    if "owner" in said:
        bom.metadata.supplier = OrganizationalEntity(name=said["owner"])
    bom.register_dependency(model, parts)
    more = {reference: {"data": [_described(one)]} for reference, one in datasets}
    return bom, more | {"model": {"modelCard": _card(materials, said, [reference for reference, _ in datasets])}}


def _model(
    model: Model, reference: str, licences: Iterable[str] = (), noted: Mapping[str, object] | None = None
) -> Component:
    from cyclonedx.model.component import Component, ComponentType

    counts = {f"parameters:{part}": count for part, count in (model.parameters or {}).items()}
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=model.name,
        version=model.file.sha256 or model.file.md5,
        bom_ref=reference,
        hashes=_hashes(model.file),
        licenses=_licences(licences),
        properties=_properties({"path": words.place(model.file.path), "stage": model.stage, **counts, **(noted or {})}),
    )


def _noted(materials: Materials) -> dict[str, object]:
    """What is recorded of the training beyond its parts; and what is not known of them."""
    packages = materials.packages
    return {
        "erased": "; ".join(fact.said for fact in materials.answer.facts if fact.about == "erased") or None,
        "training_ended": materials.trained and materials.trained.isoformat(),
        "packages_installed_sha256": packages and packages.installed,
        **{f"unknown_input:{words.place(path)}": md5 for path, md5 in materials.unknown.items()},
        "datasets": None if materials.datasets else "not recorded",
        "code": None if materials.code else "not recorded",
        "packages": None if packages else "not recorded",
        "weights": "not recorded" if materials.weights is None else None,
    }


def _dataset(reference: str, dataset: Dataset) -> Component:
    from cyclonedx.model.component import Component, ComponentType

    terms = {
        f"terms:{number}": json.dumps([one.licence, one.consent, one.pictures])
        for number, one in enumerate(dataset.terms[: words.SHOWN])
    }
    return Component(
        type=ComponentType.DATA,
        name=dataset.name,
        version=dataset.table.md5,
        bom_ref=reference,
        licenses=_licences(one.licence for one in dataset.terms if one.licence),
        properties=_properties(
            {
                "path": dataset.table.path,
                "folder_md5": dataset.table.md5,  # DVC's, of the list of files
                "folder_sha256": dataset.table.sha256,
                "pictures": dataset.pictures,
                "trained_on": dataset.trained,
                "erased": "; ".join(words.erased(dataset)) or None,
                **terms,
            }
        ),
        components=[_file(piece, reference) for piece in dataset.files or []],
    )


def _file(piece: Piece, inside: str) -> Component:
    from cyclonedx.model.component import Component, ComponentType

    return Component(
        type=ComponentType.FILE,
        name=PurePosixPath(piece.path).name,
        bom_ref=f"{inside}/{PurePosixPath(piece.path).name}",
        hashes=_hashes(piece),
        properties=_properties({"size": piece.size}),
    )


def _weights(materials: Materials) -> list[Component]:
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType

    return [
        Component(
            type=ComponentType.MACHINE_LEARNING_MODEL, name=name, version=sha256, bom_ref=f"weights:{name}",
            description="foreign weights", hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)],
        )
        for name, sha256 in (materials.weights or {}).items()
    ]  # fmt: skip


def _code(materials: Materials) -> list[Component]:
    """The source files that ran."""
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Commit, Component, ComponentType, Pedigree

    code = materials.code
    if code is None:
        return []
    files = [
        Component(
            type=ComponentType.FILE, name=f"stages/{name}", bom_ref=f"code/{name}",
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)],
        )
        for name, sha256 in (code.sources or {}).items()
    ]  # fmt: skip
    return [
        Component(
            type=ComponentType.APPLICATION,
            name="palimpsest stages",
            version=code.commit or code.digest,
            bom_ref="code",
            modified=bool(code.dirty),
            pedigree=Pedigree(commits=[Commit(uid=code.commit)]) if code.commit else None,
            properties=_properties({"code_sha256": code.digest, "not_committed": ", ".join(code.dirty) or None}),
            components=files,
        )
    ]


def _packages(materials: Materials) -> list[Component]:
    """The packages that the training imported, but for the project itself, which no index has."""
    from cyclonedx.model.component import Component
    from packageurl import PackageURL

    imported = materials.packages.imported if materials.packages else {}
    return [
        Component(
            name=name, version=version, bom_ref=f"package:{name}",
            purl=PackageURL("pypi", None, name.replace("_", "-"), version),
        )
        for name, version in imported.items() if name != "palimpsest"
    ]  # fmt: skip


def _hashes(piece: Piece) -> list[HashType]:
    from cyclonedx.model import HashAlgorithm, HashType

    found = {HashAlgorithm.MD5: piece.md5, HashAlgorithm.SHA_256: piece.sha256}
    return [HashType(alg=kind, content=digest) for kind, digest in found.items() if digest]


def _licences(names: Iterable[str]) -> list[License]:
    """By SPDX's identifiers where what is recorded is one; an expression only where it stands alone."""
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression

    every = {name: LicenseFactory().make_from_string(name) for name in names}
    if len(every) == 1:
        return [*every.values()]
    return [DisjunctiveLicense(name=name) if isinstance(one, LicenseExpression) else one for name, one in every.items()]


def _properties(values: Mapping[str, object]) -> list[Property]:
    from cyclonedx.model import Property

    return [Property(name=f"{PREFIX}{key}", value=str(value)) for key, value in values.items() if value is not None]


def _described(dataset: Dataset) -> dict[str, Any]:
    """The `data` of a dataset's component."""
    return {
        "type": "dataset",
        "name": dataset.name,
        "description": words.describe(dataset),
        "classification": dataset.sensitivity or "not recorded",
        "sensitiveData": dataset.why if dataset.sensitivity == "personal data" else [],
    }


def _card(materials: Materials, said: Mapping[str, str], datasets: list[str]) -> dict[str, Any]:
    """The `modelCard` of the checkpoint's component."""
    metrics = [
        {
            "type": score.metric,
            "value": str(score.mean),
            "slice": f"{each.system} on {each.dataset}, test, {score.blending}",
            "confidenceInterval": {"lowerBound": str(score.low), "upperBound": str(score.high)},
        }
        for each in materials.evaluations
        for score in each.scores or []
    ]
    uses = [f"{key}: {said[key]} (said by the owner)" for key in ("purpose", "intended_use") if key in said]
    limits = [f"{said[key]} (said by the owner)" for key in ("limits", "misuse") if key in said]
    architecture = {"modelArchitecture": materials.model.network} if materials.model.network else {}
    return {
        "modelParameters": {"task": "image inpainting", **architecture, "datasets": [{"ref": ref} for ref in datasets]},
        "quantitativeAnalysis": {"performanceMetrics": metrics},
        "considerations": {"useCases": uses, "technicalLimitations": limits},
    }
