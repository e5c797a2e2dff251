"""The summary of training data for Article 53(1)(d) of Regulation (EU) 2024/1689, and the bill of materials."""

from __future__ import annotations

from collections.abc import Iterator

from flows.dossier import words
from flows.dossier.annex import said, started_from
from flows.dossier.data import erased, rejected, why_and_when
from flows.dossier.material import Data, Material
from flows.dossier.sources import Part, Section, Sentence, Table, recorded
from flows.exports.words import together

# By kind in `audit.yaml`: where the European Commission's template has it.
KINDS = {
    "2.1": ("Publicly available datasets", ("public",)),
    "2.2": ("Datasets from third parties, not public", ("licensed", "third party")),
    "2.3": ("Data crawled from the web", ("crawled",)),
    "2.4": ("Data of users", ("users",)),
    "2.5": ("Synthetic data", ("synthetic",)),
    "2.6": ("Other data, and data whose kind nobody has said", ("other", None)),
}


def sections(m: Material) -> list[Section]:
    """The summary, in the order of the Commission's template."""
    return [
        Section("1", "General information", None),
        Section("1.1", "Provider", [*said(m, "owner", "contact")], 3),
        Section("1.2", "Model", [*_model(m), *started_from(m), *said(m, "released")], 3),
        Section("1.3", "Modality, size and kind; latest date of acquisition", [p for d in m.data for p in _kind(d)], 3),
        Section("2", "List of data sources", None),
        *[
            Section(number, title, [p for d in m.data if _is(m, d) in kinds for p in _source(m, d)], 3)
            for number, (title, kinds) in KINDS.items()
        ],
        Section("3", "Data processing", None),
        Section("3.1", "Reservations of rights", [
            *[p for d in m.data for p in _licences(d)], *said(m, "reserved_rights"),
        ], 3),
        Section("3.2", "Unlawful content", [*said(m, "unlawful")], 3),
        Section("3.3", "Other processing", [p for d in m.data for p in (*rejected(d), *_aligned(m, d))], 3),
    ]  # fmt: skip


def _model(m: Material) -> Iterator[Part]:
    name = m.name or m.of.model.file.path
    yield m.answer.says(f"The model is {name}, md5 {m.of.answer.md5}.", "checkpoint", "md5", word="recorded")


def _kind(data: Data) -> Iterator[Part]:
    one, source, found = data.dataset, data.source, data.counted
    if not found:
        yield source.says(
            f"How many pictures of {one.name} were trained on cannot be told.", "trained", word="cannot tell"
        )
        return
    yield from erased(data)
    text = f"Modality: pictures. Of {one.name}, {found['pictures']:,} are {found['of']}."
    yield source.says(text, "trained", word=data.word)
    if found["bytes"] is not None:
        kinds = words.several([f"{number:,} {end}" for end, number in found["formats"].items()])
        yield source.says(f"Their files have {words.size(found['bytes'])} ({kinds}).", "trained", word=data.word)
    if found.get("width") and found.get("height"):
        wide, high = found["width"], found["height"]
        text = (
            f"They are {wide['smallest']} to {wide['largest']} pixels wide and {high['smallest']} to {high['largest']} "
            f"high, half of them at most {wide['median']} wide and {high['median']} high."
        )
        if wide["smallest"] == wide["largest"] and high["smallest"] == high["largest"]:
            text = f"They are {wide['median']} x {high['median']} pixels large."
        yield source.says(text, "trained", word=data.word)
    yield from why_and_when(data)


def _is(m: Material, data: Data) -> str | None:
    """The kind of a dataset: as the owner says, or synthetic where one of its inputs was drawn here."""
    said_so = m.about_data.get(data.dataset.name)
    return said_so.kind if said_so and said_so.kind else "synthetic" if _drawn(m, data) else None


def _drawn(m: Material, data: Data) -> Sentence | None:
    ingests = [run for run in m.of.runs if data.dataset.table.path in run.outputs]
    draws = [run for run in m.of.runs if run.stage.partition("@")[0] in ("draw", "draw_shapes")]
    for draw in draws:
        for ingest in ingests:
            if draw.outputs.items() & ingest.inputs.items():
                text = f"{data.dataset.name} was drawn by the program (stage {draw.stage})."
                links = [m.shelf.entry(draw).at("outputs"), m.shelf.entry(ingest).at("inputs")]
                return recorded(text, links)
    return None


def _source(m: Material, data: Data) -> Iterator[Part]:
    one, told = data.dataset, m.about_data.get(data.dataset.name)
    if m.owner and told and told.kind:
        yield m.owner.says(f"Kind of {one.name}: {told.kind}.", f"datasets.{one.name}")
    for key in ("about", "description", "url", "creator", "published"):
        if m.owner and told and getattr(told, key):
            text = f"{key.capitalize()} ({one.name}): {getattr(told, key).strip()}"
            yield m.owner.says(text, f"datasets.{one.name}")
    if drawn := _drawn(m, data):
        yield drawn
    origins = words.shares(one.origins) if one.origins else "not recorded"
    text = f"{one.name}: {origins}."
    yield data.source.says(text, "origins", word=None if one.origins else "not recorded")


def _licences(data: Data) -> Iterator[Part]:
    if found := together((term.licence, term.pictures) for term in data.dataset.terms):
        yield data.source.says(f"Licences of {data.dataset.name}: {words.shares(found)}.", "terms")


def _aligned(m: Material, data: Data) -> Iterator[Part]:
    for run in m.of.runs:
        if run.stage == f"align@{data.dataset.name}":
            found = run.section(f"datasets.{data.dataset.name}.align")
            values = ", ".join(f"{key} {words.value(value)}" for key, value in found.items())
            yield m.shelf.run(run).says(f"{data.dataset.name} was aligned and cut: {values}.", "params")


def materials(m: Material) -> list[Section]:
    """The bill of materials: what went in, by digests."""
    return [
        Section("M.1", "Data", [*_tables(m)], 2),
        Section("M.2", "Checkpoints and weights that it rests on", [*started_from(m), *_weights(m)], 2),
        Section("M.3", "Dependencies", [*_packages(m)], 2),
        Section("M.4", "Code", [*_sources(m)], 2),
        Section("M.5", "The same in the formats of others", [*_exports(m)], 2),
    ]


def _tables(m: Material) -> Iterator[Part]:
    rows = []
    for data in m.data:
        one = data.dataset
        licences = words.several(together((term.licence, None) for term in one.terms)) or "not recorded"
        number = f"{one.pictures:,}" if one.pictures is not None else "not recorded"
        cells = [one.name, one.table.md5, number, licences, one.sensitivity or "not recorded"]
        rows.append(data.source.row(cells, "md5", "kept", "terms", "sensitivity"))
    if rows:
        lost = any(data.erased for data in m.data)
        text = (
            "The datasets, as they were ingested; the number is that of the pictures that are left."
            if lost
            else "The datasets, as they were ingested."
        )
        caption = recorded(text, [data.source.at("md5") for data in m.data])
        yield Table(caption, ["Dataset", "md5 of its table", "Pictures", "Licences", "Sensitivity"], rows)
    for path, md5 in m.answer.values["members"].items():
        text = f"The list of the pictures that {path} was trained on has the md5 {md5}."
        yield m.answer.says(text, "members", word="recorded" if md5 else "not recorded")


def _weights(m: Material) -> Iterator[Part]:
    rows = [
        m.shelf.record(run.found).row([file, sha256, run.stage], "weights")
        for run in m.of.runs
        if run.found
        for file, sha256 in (run.record.get("weights") or {}).items()
    ]
    if rows:
        caption = Sentence(
            "Weights of others that were read.", "recorded", [link for row in rows for link in row.links]
        )
        yield Table(caption, ["File", "sha256", "Stage"], rows)


def _packages(m: Material) -> Iterator[Part]:
    if not m.of.packages or not m.of.runs[0].found:
        return
    source = m.shelf.record(m.of.runs[0].found)
    rows = [source.row([name, version], "packages") for name, version in sorted(m.of.packages.imported.items())]
    yield Table(
        source.says("Packages of which the training imported something.", "packages"), ["Package", "Version"], rows
    )


def _sources(m: Material) -> Iterator[Part]:
    if not m.of.runs:
        return
    if not m.of.code or not m.of.runs[0].found:
        source = m.shelf.entry(m.of.runs[0])
        read = {path: md5 for path, md5 in m.of.runs[0].inputs.items() if path.startswith("stages/")}
        if read:
            caption = source.says("Source files of the training, as dvc.lock names them.", "inputs")
            yield Table(caption, ["File", "md5"], [source.row(list(each), "inputs") for each in read.items()])
        return
    source = m.shelf.record(m.of.runs[0].found)
    rows = [source.row([path, sha256], "sources") for path, sha256 in sorted((m.of.code.sources or {}).items())]
    yield Table(source.says("Source files of the training, in stages/.", "sources"), ["File", "sha256"], rows)


def _exports(m: Material) -> Iterator[Part]:
    for export in m.exports:
        if export.sources:
            files = words.several([source.file for source in export.sources])
            links = [source.at("text") for source in export.sources]
            yield recorded(f"This folder has {export.what}: {files}.", links)
        else:
            text = f"There is no export of {export.what}: {export.why.rstrip('.')}."
            yield m.answer.says(text, "facts", word="cannot tell")
