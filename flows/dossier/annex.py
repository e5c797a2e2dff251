"""Annex IV of Regulation (EU) 2024/1689, numbers 1 and 2: what the model is, and how it was made."""

from __future__ import annotations

from collections.abc import Iterator

from flows.audit import evidence
from flows.dossier import data, tests_made, words
from flows.dossier.material import Material
from flows.dossier.sources import Part, Rests, Row, Section, Sentence, Table, recorded
from flows.exports.materials import Run
from flows.lineage.entries import plain


def sections(m: Material) -> list[Section]:
    """The sections, in the law's order."""
    return [
        Section("1", "General description", None),
        Section("1(a)", "Purpose, provider, version", [
            *said(m, "purpose", "intended_use", "owner", "contact", "url", "released"), *_identity(m),
        ], 3),
        Section("1(b)", "Hardware and software that it works with", [*said(m, "interaction")], 3),
        Section("1(c)", "Versions of software", [*_versions(m)], 3),
        Section("1(d)", "Forms in which it is given out", [
            *_form(m), *handovers(m), *said(m, "licence"),
        ], 3),
        Section("1(e)", "Hardware that it is to run on", [*said(m, "hardware"), *_ran_on(m)], 3),
        Section("1(f)", "Product that it is a part of", [*said(m, "appearance")], 3),
        Section("1(g)", "User interface", [*said(m, "interface")], 3),
        Section("1(h)", "Instructions for use", [*said(m, "instructions")], 3),
        Section("2", "Elements, and how they were made", None),
        Section("2(a)", "Methods and steps; what was taken from others", [
            *_steps(m), *started_from(m), *_weights(m), *_code(m),
        ], 3),
        Section("2(b)", "Design", [*_design(m), *said(m, "design")], 3),
        Section("2(c)", "Architecture and computation", [*_architecture(m), *_compute(m)], 3),
        Section("2(d)", "Data", [part for one in m.data for part in data.parts(one)], 3),
        Section("2(e)", "Human oversight", [*said(m, "oversight")], 3),
        Section("2(f)", "Changes that are settled in advance", [*said(m, "planned_changes")], 3),
        Section("2(g)", "Validation and tests", [*tests_made.parts(m)], 3),
        Section("2(h)", "Security", [*_integrity(m), *said(m, "security")], 3),
    ]  # fmt: skip


NAMES = {
    "owner": "Who answers for it", "contact": "Contact", "purpose": "Purpose", "intended_use": "Intended use",
    "misuse": "Not for", "released": "Released", "interaction": "Works with", "hardware": "Hardware",
    "appearance": "Part of", "interface": "Interface", "instructions": "Instructions",
    "design": "Reasons for the design", "oversight": "Human oversight", "planned_changes": "Planned changes",
    "security": "Security", "limits": "Limits", "metrics": "Why these metrics", "risks": "Risk management",
    "standards": "Standards", "conformity": "Declaration of conformity", "monitoring": "Monitoring",
    "licence": "Licence of the model", "url": "Page", "reserved_rights": "Reservations of rights",
    "unlawful": "Unlawful content",
}  # fmt: skip


def said(m: Material, *keys: str) -> Iterator[Sentence]:
    """What the owner says under these keys."""
    for key in keys:
        if m.owner and key in m.said:
            yield m.owner.says(f"{NAMES[key]}: {m.said[key].strip()}", key)


def _identity(m: Material) -> Iterator[Part]:
    if m.name is not None:
        yield m.answer.says(f"The model is called {m.name}, and is the file {m.of.model.file.path}.", "checkpoint")
    word: Rests = "verified" if m.of.model.file.here else "recorded"
    sha256 = f", the sha256 {m.of.model.file.sha256}" if m.of.model.file.sha256 else ""
    yield m.answer.says(f"Its bytes have the md5 {m.of.answer.md5}{sha256}.", "md5", "sha256", word=word)
    if m.of.runs:
        run = m.of.runs[0]
        if run.found:
            ended = words.time(run.record["ended"])
            yield m.shelf.record(run.found).says(f"Its training, {run.stage}, ended on {ended}.", "ended")
        yield m.shelf.entry(run).says(f"It is the output of {run.stage} in {_lock(run)}.", "stage", "lock", "outputs")
    for decision, source in m.decisions:
        if versions := source.values["versions"]:
            text = f"As {decision['artifact']} it has the version {words.several(versions)}."
            yield source.says(text, "versions", "artifact")
    if m.promoted:
        for decision, source in m.decisions:
            if decision["commit"] == m.promoted.commit:
                since = words.time(m.promoted.time)
                yield source.says(f"It is the promoted one of {m.promoted.system}, since {since}.", "outcome", "time")


def _lock(run: Run) -> str:
    return f"dvc.lock of commit {run.commit[:10]}" if run.commit else "dvc.lock of the working copy, not committed"


def _versions(m: Material) -> Iterator[Part]:
    run = m.of.runs[0] if m.of.runs else None
    if not run or not run.found or not m.of.environment:
        return
    source, env = m.shelf.record(run.found), m.of.environment
    libraries = {name: version for name, version in (env.get("libraries") or {}).items() if version}
    system = f"{env.get('system')} ({env.get('machine')}, {env.get('libc')})"
    yield source.says(f"It was trained with Python {env.get('python')} on {system}.", "environment")
    if libraries:
        yield source.says(f"Libraries: {words.several([f'{n} {v}' for n, v in libraries.items()], 40)}.", "environment")


def _form(m: Material) -> Iterator[Part]:
    if m.of.model.file.size is not None:
        text = f"It is one file in the format safetensors, of {words.size(m.of.model.file.size)}."
        yield m.answer.says(text, "size", word="verified")


def handovers(m: Material) -> Iterator[Part]:
    """Who received it."""
    for one in m.handovers:
        source, notes = m.shelf.record(one.found), one.found.body.get("notes") or {}
        if one.fact.word == "DIFFERS":
            yield source.says(f"A handover: {one.fact.said}.", word="DIFFERS")
        else:
            more = f" ({notes['note']})" if notes.get("note") else ""
            text = f"{notes.get('to')} received it on {words.time(one.found.body['ended'])}{more}; {source.signed}."
            yield source.says(text, "notes", "ended")


def _ran_on(m: Material) -> Iterator[Part]:
    for stages, runs in (("It was trained", m.of.runs[:1]), ("It completed test pictures", m.of.after)):
        for run in runs:
            env = run.record.get("environment") or {}
            if run.found and run.stage.partition("@")[0] not in ("blend", "evaluate", "report") and env:
                where = f"on {env.get('processor')}, {env.get('accelerator') or 'without a GPU'}"
                yield m.shelf.record(run.found).says(f"{stages} ({run.stage}) {where}.", "environment")


def _steps(m: Material) -> Iterator[Part]:
    rows = []
    for run in m.of.runs:
        outputs = words.several([f"{path} {md5[:10]}" for path, md5 in run.outputs.items()])
        when = words.time(run.record["ended"]) if run.found else "not recorded"
        links = [m.shelf.entry(run).at("outputs"), *([m.shelf.record(run.found).at("ended")] if run.found else [])]
        rows.append(Row([run.stage, when, outputs], links))
    if rows:
        caption = m.answer.says("The runs that made it, the last one first.", "made_by")
        yield Table(caption, ["Stage", "Ended", "Outputs, with the first digits of their md5"], rows)
    for path, md5 in m.of.unknown.items():
        yield m.answer.says(f"Which run made its input {path} {md5[:10]} is not known.", "unknown", word="cannot tell")


def started_from(m: Material) -> Iterator[Part]:
    """Which checkpoints it has gone on from."""
    for before in m.of.before:
        text = f"It has gone on from the checkpoint {before.file.path}, md5 {before.file.md5}."
        yield m.answer.says(text, "gone_on_from", word="recorded")
    if m.of.runs and not m.of.before:
        yield m.shelf.entry(m.of.runs[0]).says("Its training began anew: it has read no other checkpoint.", "inputs")


def _weights(m: Material) -> Iterator[Part]:
    known = [(run, m.shelf.record(run.found)) for run in m.of.runs if run.found]
    for run, source in known:
        for file, sha256 in (run.record.get("weights") or {}).items():
            yield source.says(f"{run.stage} has read the weights {file} of others, sha256 {sha256}.", "weights")
    if old := [(run, source) for run, source in known if "weights" not in run.record]:
        text = f"Whether weights of others were read by {words.several([run.stage for run, _ in old])} is not recorded."
        yield Sentence(text, "not recorded", [source.at(None) for _, source in old])
    if m.of.weights == {}:
        links = [source.at("weights") for _, source in known]
        yield recorded("No weights of others were read, neither by its training nor before it.", links)


def _code(m: Material) -> Iterator[Part]:
    if not m.of.runs or not m.of.runs[0].found:
        return
    source, code = m.shelf.record(m.of.runs[0].found), m.of.code
    if code is None:
        yield source.says("Its record is of an older version, which has a digest of the code alone.", "code")
        return
    files = words.count(len(code.sources or {}), "source file")
    dirty = f"; not committed were {words.several(code.dirty)}" if code.dirty else ", and all was committed"
    yield source.says(f"The training ran {files}, each known by its sha256.", "sources")
    if code.commit:
        yield source.says(f"The commit that was checked out was {code.commit}{dirty}.", "git")


def _design(m: Material) -> Iterator[Part]:
    if not m.of.runs:
        return
    run = m.of.runs[0]
    source = m.shelf.run(run)
    rows = [source.row([key, words.value(value)], "params") for key, value in plain(run.params).items()]
    if rows:
        about = "with all defaults" if run.found else "as params.yaml had them, without defaults"
        yield Table(source.says(f"Parameters of the training, {about}.", "params"), ["Parameter", "Value"], rows)


def _architecture(m: Material) -> Iterator[Part]:
    if m.of.model.network:
        yield m.answer.says(
            f"The network is {m.of.model.network}, by the file's own metadata.", "network", word="claimed"
        )
    if m.of.model.parameters:
        parts = words.several([f"{name} {number:,}" for name, number in m.of.model.parameters.items()])
        total = f"{sum(m.of.model.parameters.values()):,}"
        yield m.answer.says(f"It has {total} numbers in its tensors ({parts}).", "parameters", word="verified")


def _compute(m: Material) -> Iterator[Part]:
    known = [run for run in m.of.runs if run.found]
    rows = []
    for run in known:
        record, env = run.record, run.record.get("environment") or {}
        assert run.found
        threads = (env.get("kernels") or {}).get("threads")
        rows.append(
            m.shelf.record(run.found).row(
                [
                    run.stage,
                    words.span(record.get("seconds")),
                    f"{env.get('cores')}" + (f", {threads} threads" if threads else ""),
                    str(env.get("processor")),
                    str(env.get("accelerator") or "none"),
                    f"{record['peak_memory_mib']} MiB" if "peak_memory_mib" in record else "not recorded",
                ],
                "seconds", "environment", "peak_memory_mib",
            )
        )  # fmt: skip
    if not rows:
        return
    sources = [m.shelf.record(run.found).at("seconds") for run in known if run.found]
    lacking = len(m.of.runs) - len(known)
    rest = f"; of {words.count(lacking, 'run')} no record is here" if lacking else ""
    taken = [run.record.get("seconds") for run in known]
    total = words.span(sum(each for each in taken if isinstance(each, int | float)))
    text = f"Its training and the {words.count(len(known) - 1, 'run')} before it took {total}{rest}."
    if known[0] is not m.of.runs[0]:
        text = f"The {words.count(len(known), 'run')} before its training took {total}{rest}."
    head = ["Stage", "Time", "Cores", "Processor", "GPU", "Memory at most"]
    yield Table(recorded(text, sources), head, rows)


def _integrity(m: Material) -> Iterator[Part]:
    if m.of.model.file.here:
        text = "The file of the model was hashed now, and has the digest that is asked for."
        yield m.answer.says(text, "md5", "facts", word="verified")
    for run in m.of.runs[:1]:
        if run.found:
            fact = evidence.signature(m.shelf.vouchers, run.record, run.found.where)
            source = m.shelf.record(run.found)
            yield source.says(f"The record of its training is {source.signed}.", word=fact.word)
