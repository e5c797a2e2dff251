"""Annex IV of Regulation (EU) 2024/1689, numbers 3 to 9: what the model can do, what becomes of it, declarations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from flows.dossier import tests_made, words
from flows.dossier.annex import handovers, said, started_from
from flows.dossier.material import Material
from flows.dossier.sources import Part, Row, Section, Table, recorded
from flows.lineage import entries


def sections(m: Material) -> list[Section]:
    """The sections, in the law's order."""
    return [
        Section("3", "Monitoring, functioning and control", [
            *_inputs(m), *tests_made.by_kind(m), *tests_made.by_group(m), *said(m, "limits", "misuse", "oversight"),
        ]),
        Section("4", "Whether the metrics are the right ones", [*tests_made.metrics(m), *said(m, "metrics")]),
        Section("5", "Risk management", [*said(m, "risks")]),
        Section("6", "Changes through the lifecycle", [
            *started_from(m), *_decisions(m), *_erased(m), *_descendants(m), *said(m, "planned_changes"),
        ]),
        Section("7", "Standards that were applied", [*said(m, "standards")]),
        Section("8", "EU declaration of conformity", [*said(m, "conformity")]),
        Section("9", "After it was placed on the market", [*said(m, "monitoring"), *handovers(m)]),
    ]  # fmt: skip


def _inputs(m: Material) -> Iterator[Part]:
    """Which pictures and holes it was trained for, by the parameters of the runs before."""
    for run in m.of.runs:
        stage, _, name = run.stage.partition("@")
        source = m.shelf.run(run)
        if stage == "align":
            found = entries.renamed(stage, run.section(f"datasets.{name}.align"))
            if side := found.get("side"):
                how = f" ({found['mode']})" if "mode" in found else ""
                text = f"Pictures of {name} were cut to {side} x {side} pixels{how} before training."
                yield source.says(text, "params")
        for section in run.params.values() if stage.startswith("train_") else ():
            holes = section.get("holes") if isinstance(section, dict) else None
            if isinstance(holes, Mapping | list) and holes:
                drawn = words.several(_kind(label, holes) for label in holes)
                yield source.says(f"{run.stage} drew these kinds of hole: {drawn}.", "params")


def _kind(label: Any, holes: Mapping[str, Any] | list[Any]) -> str:
    """A label with the kind behind it, where that is another word."""
    options = holes[label] if isinstance(holes, Mapping) else None
    kind = options.get("kind", label) if isinstance(options, Mapping) else label
    return str(label) if kind == label else f"{label} ({kind})"


def _decisions(m: Material) -> Iterator[Part]:
    rows = [
        Row(
            [words.time(one["time"]), one["outcome"], one["why"], one["who"], one["commit"][:10]],
            [source.at(key) for key in ("time", "outcome", "why", "who", "commit")],
        )
        for one, source in m.decisions
    ]
    if rows:
        caption = recorded("What retrain has decided about it.", [source.at("outcome") for _, source in m.decisions])
        yield Table(caption, ["Time", "Outcome", "Why", "By", "Commit"], rows)
    else:
        yield m.answer.says("No decision of retrain is about it.", "facts", word="not recorded")


def _erased(m: Material) -> Iterator[Part]:
    for one in m.erased:
        said = one.fact.said
        text = f"It was {said}." if said.startswith("removed") else f"{said[0].upper()}{said[1:]}."
        yield m.shelf.record(one.found).says(text, "notes", "ended", word=one.fact.word)


def _descendants(m: Material) -> Iterator[Part]:
    for one in m.descendants:
        yield one.source.says(
            f"{one.path}, md5 {one.md5}, has gone on from it ({one.stage}).", "inputs", "outputs", "stage"
        )
    if not m.descendants:
        text = "No dvc.lock that Git knows here has a checkpoint that has gone on from it."
        yield m.answer.says(text, "md5", word="not recorded")
