"""One offline page of everything: data and rejections, scores, contact sheets, curves, checkpoints.

The page reads only what other stages wrote and names no time, commit or machine: the same results
give the same bytes. Pictures lie beside it as PNG files, and there is nothing to fetch. Without its script all of it
can be read; with it, pictures can be compared one by one, and tables sorted.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from stages.metrics.blends import of_systems
from stages.pages import html
from stages.pages.checkpoints import list_checkpoints
from stages.pages.compare import Strip, comparison, draw_strips
from stages.pages.curves import draw_searches, draw_trainings
from stages.pages.data import count_pictures
from stages.pages.html import Section
from stages.pages.pictures import Tried
from stages.pages.results import Folders, leftovers, refuse_unjoined
from stages.pages.scores import memorised, read_entry, score_tables
from stages.pages.sheets import draw_sheets
from stages.pages.systems import COSTS, describe_systems, model_of, read_costs
from stages.runs import command
from stages.runs.params import STRICT


@dataclass(frozen=True, config=STRICT)
class Params:
    pictures: Annotated[int, Field(ge=1)] = 8  # rows on a contact sheet
    # test pictures of a dataset to compare one by one, first by image_id, each with all of its holes; on disk a hole
    # takes about 45 kB where nine systems have completed it at 64 x 64 pixels
    compared: Annotated[int, Field(ge=0)] = 100


def report(
    ingested: Path,
    aligned: Path,
    masks: Path,
    models: Path,
    histories: Path,
    samples: Path,
    inpainted: Path,
    blended: Path,
    scores: Path,
    report: Path,
    params: Params,
    datasets: dict[str, dict[str, Any]],
    train_dcgan: dict[str, dict[str, Any]],
    train_autoencoder: dict[str, dict[str, Any]],
    train_partial_conv: dict[str, dict[str, Any]],
    train_context_encoder: dict[str, dict[str, Any]],
    train_dmfn: dict[str, dict[str, Any]],
    search: dict[str, dict[str, Any]],
    infer: dict[str, dict[str, Any]],
    blend: dict[str, dict[str, Any]],
    evaluate: dict[str, Any],
) -> Callable[[], None]:
    """Write report/index.html and its pictures. Raises InputError for results that params.yaml does not name.

    Returns what writes the costs of this machine's runs, beside the project and not into the page.
    """
    folders = Folders(ingested, aligned, masks, models, histories, samples, inpainted, blended, scores)
    trainings = {
        "train_dcgan": train_dcgan,
        "train_autoencoder": train_autoencoder,
        "train_partial_conv": train_partial_conv,
        "train_context_encoder": train_context_encoder,
        "train_dmfn": train_dmfn,
    }
    trained = [name for section in trainings.values() for name in section]
    refuse_unjoined({**search, **infer}, blend)
    if left := leftovers(folders, datasets, trained, {*search, *infer}, blend):
        said = "are made by no entry of params.yaml and left out; remove them"
        print(f"report: {len(left)} results {said}: rm -r {shlex.join(left)}", file=sys.stderr)
    report.mkdir()

    everything: list[Tried] = []
    strips: list[Strip] = []
    results: list[Section] = []
    for dataset, entry in datasets.items():
        own = of_systems({name: one for name, one in blend.items() if one.get("dataset") == dataset})
        systems = {system: {name: read_entry(folders, name) for name in names} for system, names in own.items()}
        kinds = list(entry.get("mask", {}).get("kinds", {}))
        if systems:
            means = {
                system: {name: entry.means for name, entry in entries.items()} for system, entries in systems.items()
            }
            tried = Tried(folders, dataset, means)
            drawn = draw_sheets(tried, kinds, params.pictures, report)
            results.append(Section(f"Pictures: {dataset}", "sheets.html.j2", drawn))
            results.append(Section(f"Scores: {dataset}", "scores.html.j2", score_tables(systems, kinds)))
            results.append(Section(f"Training pictures: {dataset}", "memorised.html.j2", memorised(systems, kinds)))
            strips += draw_strips(folders, tried, kinds, params.compared, report)
            everything.append(tried)

    described, checkpoints = describe_systems(folders, blend, search, infer), list_checkpoints(folders, trained)
    completed_by = {name: model_of(name, search, infer) for name in (*search, *infer)}
    compared = comparison(folders, everything, strips, described, completed_by, checkpoints)
    sections = [
        Section("Data", "data.html.j2", count_pictures(folders, datasets)),
        Section("Systems", "systems.html.j2", {"systems": described, "costs": COSTS}),
        Section("Compare", "compare.html.j2", compared),
        *results,
        Section("Training", "trainings.html.j2", draw_trainings(folders, trained, report)),
        Section("Latent search", "searches.html.j2", draw_searches(folders, search, report)),
        Section("Checkpoints", "checkpoints.html.j2", checkpoints),
    ]
    counts = {"dataset": len(datasets), "trained model": len(trained), "system": len(completed_by)}
    warned = random_weights({**trainings, "evaluate": evaluate})
    page = html.results_page(sections, counts, warned, compared.script if compared else None)
    (report / "index.html").write_text(page, encoding="utf-8")
    return partial(write_costs, folders, trainings, search, infer)


def write_costs(
    folders: Folders, trainings: Mapping[str, Any], search: Mapping[str, Any], infer: Mapping[str, Any]
) -> None:
    """.palimpsest/costs.html: seconds and peak memory of each system, from the records of its runs."""
    page = html.costs_page(read_costs(folders, trainings, search, infer))
    Path(COSTS).parent.mkdir(exist_ok=True)
    Path(COSTS).write_text(page, encoding="utf-8")


def random_weights(sections: Mapping[str, Any], where: str = "") -> list[str]:
    """Dotted names of every `perceptual_weights: random`."""
    found = []
    for key, value in sections.items():
        name = f"{where}{key}"
        if isinstance(value, dict):
            found += random_weights(value, f"{name}.")
        elif key == "perceptual_weights" and value == "random":
            found.append(name)
    return found


if __name__ == "__main__":
    command.run(
        report,
        sections={
            "params": "report",
            "datasets": "datasets",
            "train_dcgan": "train_dcgan",
            "train_autoencoder": "train_autoencoder",
            "train_partial_conv": "train_partial_conv",
            "train_context_encoder": "train_context_encoder",
            "train_dmfn": "train_dmfn",
            "search": "search",
            "infer": "infer",
            "blend": "blend",
            "evaluate": "evaluate",
        },
        inputs=Folders._fields,
        outputs=("report",),
    )
