"""A study's numbers as tables: for programs (CSV, JSON), for a paper (LaTeX), and for a terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flows.studies import outcome
from flows.studies.outcome import MISSING, Number, Results, Source
from flows.studies.study import Published
from flows.studies.verdict import Estimate, digits

COLUMNS = (
    "arm", "measure", "metric", "kind", "split", "blending", "unit", "mean", "low", "high", "seeds", "pictures",
    "missing_seeds", "published", "source", "comparable", "experiments", "checkpoints",
)  # fmt: skip
TEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
}


def as_csv(results: Results) -> str:
    """A row for each arm and measure (and another for each further published number), `COLUMNS` across.

    `mean` is "missing" where there is no number. Experiments and checkpoints (md5) are those of the seeds, in order,
    parted by spaces; several checkpoints of one run are joined by +.
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    for number in results.numbers:
        measure = outcome.taken(results.study.measures[number.measure], results.study.arms[number.arm])
        behind = _behind(results, number)
        found = number.estimate
        every: list[Published | None] = [*number.published]
        for published in every or [None]:
            rows.writerow(
                [
                    number.arm, number.measure, measure.metric, measure.kind or "all", measure.split,
                    measure.blending, outcome.unit(measure),
                    *((found.mean, _or(found.low), _or(found.high), found.seeds, found.pictures) if found
                      else (MISSING, "", "", 0, 0)),
                    " ".join(map(str, number.gaps)),
                    *((published.value, published.source, published.comparable) if published else ("", "", "")),
                    " ".join(source.experiment for source in behind),
                    " ".join("+".join(source.checkpoints.values()) or "none" for source in behind),
                ]
            )  # fmt: skip
    return text.getvalue()


def _or(value: float | None) -> float | str:
    return "" if value is None else value


def _behind(results: Results, number: Number) -> list[Source]:
    """The runs that a number is of."""
    return [source for source in results.sources[number.arm] if source.seed in number.by_seed]


def as_tex(results: Results) -> str:
    """A table for LaTeX with booktabs, measure by measure."""
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{tabular}{lllrrl}",
        r"\toprule",
        r"arm & mean & 95\,\% interval & seeds & pictures & published \\",
    ]
    notes: list[str] = []
    for name, measure in results.study.measures.items():
        unit = outcome.unit(measure)
        title = f"{name}: {outcome.described(measure)}{f', in {unit}' if unit else ''}"
        lines += [r"\midrule", rf"\multicolumn{{6}}{{l}}{{{_tex(title)}}} \\"]
        for number in (each for each in results.numbers if each.measure == name):
            mean, interval, seeds, pictures = _cells(results, number)
            said = []
            for published in number.published:
                if published.comparable != "yes" and published.comparable not in notes:
                    notes.append(published.comparable)
                raised = "" if published.comparable == "yes" else f"$^{{{notes.index(published.comparable) + 1}}}$"
                said.append(f"{published.value:g}{raised}")
            cells = [_tex(number.arm), mean, interval, seeds, pictures, ", ".join(said)]
            lines.append(" & ".join(cells) + r" \\")
    lines.append(r"\bottomrule")
    for mark, why in enumerate(notes, 1):
        footnote = _tex(f"not comparable: {why.removeprefix('no: ')}")
        lines.append(rf"\multicolumn{{6}}{{l}}{{\footnotesize $^{{{mark}}}$ {footnote}}} \\")
    return "\n".join([*lines, r"\end{tabular}", ""])


def _tex(text: str) -> str:
    return "".join(TEX.get(character, character) for character in text)


def _cells(results: Results, number: Number) -> tuple[str, str, str, str]:
    """Mean, interval, seeds and pictures, as text."""
    found = number.estimate
    if not found:
        return MISSING, "", "0", "0"
    number_of = formatter(results, number.measure)
    ends = [number_of(end) for end in (found.low, found.high) if end is not None]
    return number_of(found.mean), " to ".join(ends), str(found.seeds), str(found.pictures)


def formatter(results: Results, measure: str) -> Callable[[float], str]:
    """How numbers of a measure are written: with the same digits for all arms."""
    of = [number.estimate for number in results.numbers if number.measure == measure]
    return f"{{:.{digits(outcome.metric(results.study.measures[measure]).form, *of)}f}}".format


def as_text(results: Results) -> str:
    """Verdicts, numbers and runs, for a terminal."""
    lines = [results.study.question, *filter(None, [outcome.notes(results)]), ""]
    for judged in results.findings:
        lines += [f"{judged.finding.claim}", f"  {judged.verdict.sentence}"]
        lines += [f"  {sentence}" for sentence in (judged.seen, *judged.remarks) if sentence]
    rows: list[tuple[str, ...]] = [("measure", "arm", "mean", "95 % interval", "seeds", "pictures", "published")]
    for number in results.numbers:
        measure = results.study.measures[number.measure]
        mean, *rest = _cells(results, number)
        said = ", ".join(
            f"{each.value:g}{'' if each.comparable == 'yes' else ' (not comparable)'}" for each in number.published
        )
        rows.append(
            (
                number.measure,
                number.arm,
                f"{mean} {outcome.unit(measure) if number.estimate else ''}".rstrip(),
                *rest,
                said,
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines += [
        "",
        *("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows),
    ]
    for arm, sources in results.sources.items():
        lines += [f"{arm} (seed {source.seed}): {_what(source)}" for source in sources]
    for number in results.numbers:
        told = {source.failure for source in results.sources[number.arm]}  # of the whole run, above
        gaps = [(seeds, why) for seeds, why in outcome.gaps(number) if why not in told]
        lines += [f"{number.measure} of {number.arm} ({seeds}): {MISSING}: {why}" for seeds, why in gaps]
    return "\n".join(lines)


def _what(source: Source) -> str:
    if source.commit is None or source.failure:
        return f"{MISSING}: {source.failure}"
    return f"{source.experiment}, commit {source.commit[:10]}"


def as_json(results: Results) -> dict[str, Any]:
    """All of it as plain values."""
    study = results.study
    return {
        "study": study.name,
        "question": study.question,
        "report": study.report,
        "notes": study.notes,
        "scale": results.scale,
        "scale_notes": outcome.notes(results),
        "commit": results.base,
        "findings": [
            {
                **{key: getattr(judged.finding, key) for key in ("claim", "better", "worse", "measure")},
                "verdict": judged.verdict.word,
                "sentence": judged.verdict.sentence,
                "difference": _plain(judged.verdict.difference),
                "smallest": judged.verdict.difference and judged.verdict.difference.smallest,
                "remarks": [*judged.remarks],
            }
            for judged in results.findings
        ],
        "numbers": [_of_number(results, number) for number in results.numbers],
        "runs": [
            {
                "arm": arm,
                "seed": source.seed,
                "experiment": source.experiment,
                "commit": source.commit,
                "failure": source.failure,
                "checkpoints": dict(source.checkpoints),
            }
            for arm, sources in results.sources.items()
            for source in sources
        ],
    }


def _of_number(results: Results, number: Number) -> dict[str, Any]:
    measure = outcome.taken(results.study.measures[number.measure], results.study.arms[number.arm])
    return {
        "arm": number.arm,
        "measure": number.measure,
        "metric": measure.metric,
        "kind": measure.kind,
        "split": measure.split,
        "blending": measure.blending,
        "unit": outcome.unit(measure),
        **(_plain(number.estimate) or {"mean": None, "low": None, "high": None, "seeds": 0, "pictures": 0}),
        "by_seed": {str(seed): value for seed, value in number.by_seed.items()},
        "missing": {str(seed): why for seed, why in number.gaps.items()},
        "remark": number.remark,
        "published": [
            {key: getattr(each, key) for key in ("value", "source", "comparable")} for each in number.published
        ],
    }


def _plain(found: Estimate | None) -> dict[str, Any] | None:
    return found and {key: getattr(found, key) for key in ("mean", "low", "high", "seeds", "pictures")}


def differing(results: Results) -> tuple[list[str], list[tuple[str, Sequence[str]]]]:
    """The arms, and the parameters in which they differ: of each its way, and each arm's value as text.

    Seeds aside, which every run sets.
    """
    first: dict[str, Mapping[str, object]] = {
        arm: next((source.parameters for source in sources if source.parameters), {})
        for arm, sources in results.sources.items()
    }
    first = {arm: values for arm, values in first.items() if values}
    ways = sorted(set().union(*first.values()) - {*results.study.seed}) if first else []
    rows = [(way, [_value(values[way]) if way in values else "–" for values in first.values()]) for way in ways]
    return [*first], [(way, values) for way, values in rows if len(set(values)) > 1]


def _value(value: object) -> str:
    return {True: "true", False: "false", None: "null"}[value] if isinstance(value, bool | None) else str(value)
