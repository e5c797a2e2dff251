"""How a checkpoint was tested, with which scores, who answers for them, and whether it could be made again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flows.dossier import words
from flows.dossier.by_group import METRICS
from flows.dossier.evaluations import Scored
from flows.dossier.material import Material
from flows.dossier.sources import Part, Row, Table, recorded
from flows.lineage.entries import plain
from stages.metrics.means import OVERALL

BLENDINGS = ("raw", "blended")
SHARED = {  # what splits may have in common, in the words of `audit splits`
    "bytes": "pictures with the same bytes",
    "pixels": "pictures with the same pixels",
    "near copies": "pairs of pictures that look nearly the same",
    "identity": "people who are shown in both",
}


def parts(m: Material) -> Iterator[Part]:
    """The test pictures, the scores, the signatures, the decisions that rest on validation pictures, the rebuilds."""
    for scored in m.scored:
        yield from _tested(m, scored)
        yield from _means(scored)
    for source in m.other_scores:
        numbers = {
            key: value for key, value in plain(source.values["scores"]).items() if isinstance(value, int | float)
        }
        rows = [source.row([key, f"{value:g}"], "scores") for key, value in numbers.items()]
        yield Table(source.says("Scores, as their file has them.", "scores"), ["Score", "Value"], rows)
    yield from signatures(m)
    yield from selections(m)
    yield from splits(m)
    yield from made_again(m)


def _tested(m: Material, scored: Scored) -> Iterator[Part]:
    one, source = scored.evaluation, scored.groups_source
    run = next(
        run for run in m.of.after if run.stage.partition("@")[2] == one.system and run.stage.startswith("evaluate@")
    )
    record = m.shelf.run(run)
    on = f" of {one.dataset}" if one.dataset else ""
    if one.pictures is not None:
        text = f"As the system {one.system} it completed {words.count(one.pictures, 'test picture')}{on}."
        files = [source.at("scores"), *[file.at("md5") for file in scored.files]]
        yield source.says(text)._replace(links=files)
    else:
        yield record.says(
            f"As the system {one.system} it completed test pictures{on}; the scores are not here.", "outputs"
        )
    if run.found:
        yield record.says(f"They were scored on {words.time(run.record['ended'])}.", "ended")


def _means(scored: Scored) -> Iterator[Part]:
    source, means = scored.means_source, scored.means
    if source is None or not means:
        return
    rows = []
    for metric in next(iter(means.values())):
        cells = [metric]
        keys = []
        for blending in BLENDINGS:
            found = means.get((blending, *OVERALL), {}).get(metric)
            cells.append(words.interval(found.mean, found.low, found.high) if found else "the same")
            keys.append(" ".join((blending, *OVERALL)))
        rows.append(source.row(cells, *keys))
    number = means["raw", *OVERALL]
    count = words.count(next(iter(number.values())).n, "completion")
    text = f"Mean scores of {scored.evaluation.system} over {count}, each with its interval of 95 %."
    yield Table(source.says(text, " ".join(("raw", *OVERALL))), ["Metric", *map(str.capitalize, BLENDINGS)], rows)


def by_group(m: Material) -> Iterator[Part]:
    """Scores per group of pictures, and how far they lie apart."""
    for scored in m.scored:
        source, system = scored.groups_source, scored.evaluation.system
        if scored.groups is None:
            yield source.says(
                f"Scores of {system} by group are not recorded: {scored.why}.", "why", word="not recorded"
            )
            continue
        metrics = [name for name in METRICS if any(name in group["raw"] for group in scored.groups)]
        rows = []
        for group in scored.groups:
            cells = [group["group"] or "none is said", str(group["pictures"])]
            rows.append(source.row([*cells, *[_interval(group, name) for name in metrics]], "groups"))
        head = ["Group", "Test pictures", *[f"{name}, raw" for name in metrics]]
        text = f"Mean scores of {system} by group of pictures, each with its interval of 95 % over pictures."
        yield Table(source.says(text, "groups", "ingested"), head, rows)
        named = [group for group in scored.groups if group["group"] and metrics[0] in group["raw"]]
        if len(named) > 1:
            named.sort(key=lambda group: group["raw"][metrics[0]]["mean"])
            low, high = named[0], named[-1]
            apart = high["raw"][metrics[0]]["mean"] - low["raw"][metrics[0]]["mean"]
            unit = " dB" if metrics[0].startswith("psnr") else ""
            text = (
                f"Between groups, {metrics[0]} of {system} differs by {apart:.3g}{unit} at most: it is lowest for "
                f"{low['group']} and highest for {high['group']}."
            )
            yield source.says(text, "groups")


def _interval(group: dict[str, Any], metric: str) -> str:
    found = group["raw"].get(metric)
    return words.interval(found["mean"], found["low"], found["high"]) if found else "none"


def by_kind(m: Material) -> Iterator[Part]:
    """For which holes it is worst, and best."""
    for scored in m.scored:
        source, means = scored.means_source, scored.means or {}
        kinds = {
            key[2]: found["psnr_hole"]
            for key, found in means.items()
            if key[:2] == ("raw", "kind") and "psnr_hole" in found
        }
        if source is None or len(kinds) < 2:
            continue
        order = sorted(kinds, key=lambda kind: kinds[kind].mean)
        worst, best = kinds[order[0]], kinds[order[-1]]
        text = (
            f"Of the kinds of hole that {scored.evaluation.system} completed, psnr_hole is lowest for '{order[0]}' "
            f"({worst.mean:.2f} dB [{worst.low:.2f}, {worst.high:.2f}]) and highest for '{order[-1]}' "
            f"({best.mean:.2f} dB [{best.low:.2f}, {best.high:.2f}])."
        )
        yield source.says(text)


def signatures(m: Material) -> Iterator[Part]:
    """Who has signed the scores, and whether that is right."""
    for one in m.tests:
        source = m.shelf.record(one.found)
        text = (
            one.fact.said if one.fact.word in ("DIFFERS", "cannot tell") else f"The scores were signed {one.fact.said}"
        )
        yield source.says(f"{text}.", "notes", "ended", word=one.fact.word)
    if not m.tests:
        scored = m.scored or m.other_scores
        text = "Nobody has signed its scores." if scored else "Git knows no dvc.lock here that has scores of it."
        yield m.answer.says(text, "facts", word="not recorded")


def selections(m: Material) -> Iterator[Part]:
    """The validation pictures on which decisions rest."""
    for decision, source in m.decisions:
        gate = decision["gate"]
        if gate and "pictures" in gate:
            yield source.says(
                f"Retrain compared it by {gate.get('metric')} on {words.count(gate['pictures'], 'validation picture')}"
                f": {decision['why']}.",
                "gate", "why",
            )  # fmt: skip


def splits(m: Material) -> Iterator[Part]:
    """Whether training and test pictures are disjoint, as `audit splits` finds."""
    for source in m.splits:
        name, shared = source.values["name"], source.values["shared"]
        if source.values["pictures"] is None:
            text = f"Whether the splits of {name} are disjoint cannot be told: its table is not here, or it is altered."
            yield source.says(text, "pictures", word="cannot tell")
            continue
        for kind, number in shared.items():
            text = f"Between the splits of {name} there are {number:,} {SHARED[kind]}."
            text = text if number else f"Between the splits of {name} there are no {SHARED[kind]}."
            yield source.says(text, "shared", word=source.values["table"])  # what the whole answer rests on
        for fact in source.values["not_told"]:
            yield source.says(f"Splits of {name}, {fact['about']}: {fact['said']}.", "not_told", word="cannot tell")


def made_again(m: Material) -> Iterator[Part]:
    """What came of making it again, each time."""
    for found in m.rebuilt:
        source, notes = m.shelf.record(found), found.body.get("notes") or {}
        when, where = words.time(found.body["ended"]), (found.body.get("environment") or {}).get("processor")
        text = f"It was made again on {when}, on {where}: {notes.get('verdict')}: {notes.get('why')}; {source.signed}."
        yield source.says(text, "notes", "ended")
    if not m.rebuilt:
        yield m.answer.says("No record says that it was made again.", "facts", word="not recorded")


def metrics(m: Material) -> Iterator[Part]:
    """Which metrics there are, and how their intervals come about."""
    for scored in m.scored:
        stage = f"evaluate@{scored.evaluation.system}"
        run = next(run for run in m.of.after if run.stage == stage)
        params = run.section("evaluate")
        if scored.means and scored.means_source:
            names = words.several(next(iter(scored.means.values())), 20)
            yield scored.means_source.says(
                f"{scored.evaluation.system} is scored by {names}.", " ".join(("raw", *OVERALL))
            )
        if isinstance(params.get("bootstrap"), int):
            text = f"Its intervals are of 95 %, from {words.count(params['bootstrap'], 'resample')} of the pictures."
            yield m.shelf.run(run).says(text, "params")
    rows = []
    for decision, source in m.decisions:
        gate = decision["gate"] or {}
        if {"metric", "gain", "low", "high", "confidence", "margin"} <= gate.keys():
            ends = words.interval(gate["gain"], gate["low"], gate["high"])
            cells = [decision["outcome"], str(gate["metric"]), ends, f"{gate['confidence']:g}", f"{gate['margin']:g}"]
            rows.append(Row(cells, [source.at("gate")]))
    if rows:
        text = "Decisions of retrain rest on the mean gain over the promoted checkpoint, and on its interval."
        links = [source.at("gate") for _, source in m.decisions]
        head = ["Outcome", "Metric", "Gain", "Confidence", "Above margin"]
        yield Table(recorded(text, links), head, rows)
