"""One offline page of everything: data and rejections, scores, contact sheets, curves, checkpoints.

The page reads only what other stages wrote and names no time, commit or machine: the same results
give the same bytes. Pictures lie beside it as PNG files; there is no script and nothing to fetch.
"""

from __future__ import annotations

import csv
import hashlib
import html
import json
import math
import re
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field
from pydantic.dataclasses import dataclass

from stages.images import png
from stages.images.table import SPLITS, Key, Table
from stages.metrics.means import OVERALL, SUFFIX, Interval, Means, read_means
from stages.runs import command, record
from stages.runs.errors import InputError
from stages.runs.header import Header
from stages.runs.params import STRICT

TILE = 128  # pixels of a picture on a contact sheet, about: small ones are enlarged by whole numbers
SYSTEMS = 5  # on one contact sheet; more go to a second
REASONS = 20  # rejections named apart a dataset; the rest are counted together
INK, FAINT = "#1f2933", "#7b8794"


@dataclass(frozen=True, config=STRICT)
class Params:
    pictures: Annotated[int, Field(ge=1)] = 8  # rows on a contact sheet


class Metric(NamedTuple):
    """How a metric is shown: heading, number format, and what is best (high, low, or nearest to 1)."""

    heading: str
    form: str
    best: str


METRICS = {
    "psnr_hole": Metric("PSNR, hole (dB)", ".2f", "high"),
    "ssim_hole": Metric("SSIM, hole", ".3f", "high"),
    "l1_hole": Metric("L1, hole", ".4f", "low"),
    "patch_sse": Metric("patch SSE", ".1f", "low"),
    "sharpness": Metric("sharpness, hole", ".2f", "one"),
    "texture": Metric("texture off by, hole", ".2f", "low"),
    "psnr": Metric("PSNR, whole (dB)", ".2f", "high"),
    "ssim": Metric("SSIM, whole", ".3f", "high"),
    "l1": Metric("L1, whole", ".4f", "low"),
    "lpips": Metric("LPIPS, whole", ".4f", "low"),
    "mse_hole": Metric("MSE, hole", ".4f", "low"),
    "mse": Metric("MSE, whole", ".4f", "low"),
}


class Folders(NamedTuple):
    """What other stages wrote."""

    ingested: Path
    aligned: Path
    masks: Path
    models: Path
    histories: Path
    samples: Path
    inpainted: Path
    blended: Path
    scores: Path


# --- Pieces of HTML: text goes through `escape`, cells and bodies are HTML already ---


def escape(value: object) -> str:
    return html.escape(str(value))


def grid(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """A table; the first cell of each row names the row."""
    top = "".join(f"<th scope=col>{cell}</th>" for cell in head)
    body = "".join(f"<tr><th scope=row>{row[0]}</th>{''.join(f'<td>{c}</td>' for c in row[1:])}</tr>\n" for row in rows)
    title = f"<caption>{caption}</caption>" if caption else ""
    return f"<div class=wide><table>{title}<thead><tr>{top}</tr></thead><tbody>\n{body}</tbody></table></div>\n"


def figure(file: str, caption: str, alt: str) -> str:
    return (
        f'<figure><div class=wide><img src="{escape(file)}" alt="{escape(alt)}"></div>'
        f"<figcaption>{caption}</figcaption></figure>\n"
    )


def folded(title: str, body: str) -> str:
    return f"<details><summary>{title}</summary>\n{body}</details>\n"


def filename(*parts: str) -> str:
    """A safe PNG name of these parts."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", "-".join(parts)) + ".png"


# --- Only what params.yaml names ---


def refuse_unjoined(completed: set[str], blended: set[str]) -> None:
    """Raise InputError for a system that is completed and never scored, or the reverse."""
    for name in sorted(completed ^ blended):
        section = "blend" if name in completed else "search or infer"
        raise InputError(f"params.yaml: {section}: no entry '{name}'; every system is completed, blended and scored")


def leftovers(folders: Folders, datasets: Iterable[str], models: Iterable[str], systems: Iterable[str]) -> list[str]:
    """Results that no entry of params.yaml makes, as another profile's: the page leaves them out."""
    datasets, models, systems = set(datasets), set(models), set(systems)
    expected = {
        **dict.fromkeys((folders.ingested, folders.aligned, folders.masks), datasets),
        **dict.fromkeys((folders.inpainted, folders.blended), systems),
        folders.scores: {f"{name}{end}" for name in systems for end in (".json", ".parquet", SUFFIX)},
        folders.models: {f"{name}{end}" for name in models for end in (".safetensors", ".members.arrow")},
        folders.histories: {f"{name}.csv" for name in models},
        folders.samples: models,
    }
    return [
        path.as_posix()
        for folder, names in expected.items()
        for path in sorted(folder.glob("*"))
        if path.name not in names and not path.name.startswith(".")
    ]


# --- Data ---


def read(path: Path, columns: list[str]) -> pa.Table:
    """Columns of a Parquet file, or of a folder of them. Raises InputError where they are not there."""
    try:
        return pq.read_table(path, columns=columns)
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        said = str(error).splitlines()[0]
        raise InputError(f"{path}: not the expected table ({said}); remove it and run `dvc repro`") from None


def data_section(folders: Folders, datasets: Mapping[str, Any]) -> str:
    """Counts per dataset, and how often each reason for a rejection and each remark on a kept file was given."""
    rows, reasons, remarks = [], [], []
    for name, entry in datasets.items():
        ingested = read(folders.ingested / name, ["status", "reason", "licence", "consent"])
        status = ingested["status"].to_pylist()
        counts = Counter(status)
        splits = [len(Table(folders.aligned / name / f"{split}.arrow")) for split in SPLITS]
        unaligned = read(folders.aligned / name / "rejected.parquet", ["reason"])
        terms = [", ".join(sorted({escape(v) for v in ingested[c].to_pylist() if v})) for c in ("licence", "consent")]
        use = entry.get("ingest", {}).get("use", "")
        numbers = [ingested.num_rows, counts["kept"], counts["rejected"], unaligned.num_rows, *splits]
        rows.append([escape(name), escape(use), *terms, *map(str, numbers)])
        said = list(zip(status, ingested["reason"].to_pylist(), strict=True))
        reasons += ranked(name, "ingest", [reason for kind, reason in said if kind == "rejected"])
        reasons += ranked(name, "align", unaligned["reason"].to_pylist())
        remarks += ranked(name, "ingest", [remark for kind, remark in said if kind == "kept"])
    counted = ("pictures", "kept", "rejected", "not aligned", *SPLITS)
    head = ("dataset", "use", "licence", "consent", *counted)
    body = grid(head, rows, "Pictures = kept + rejected; kept = not aligned + train + val + test.")
    if reasons:
        body += grid(["dataset", "stage", "reason", "pictures"], reasons, "What was rejected, and why.")
    if remarks:
        body += grid(["dataset", "stage", "remark", "pictures"], remarks, "What was odd about pictures that were kept.")
    return body


def ranked(name: str, stage: str, reasons: list[str | None]) -> list[list[str]]:
    """Rows of a dataset's most frequent reasons, and one for the rest; None is no reason."""
    found = sorted(Counter(filter(None, reasons)).items(), key=lambda item: (-item[1], item[0]))
    rows = [[escape(name), stage, escape(reason), str(n)] for reason, n in found[:REASONS]]
    if rest := sum(n for _, n in found[REASONS:]):
        rows.append([escape(name), stage, f"{len(found) - REASONS} other reasons", str(rest)])
    return rows


# --- Scores ---


def best(values: Sequence[float | None], rule: str) -> float | None:
    """The best of the values, those missing aside: the one that `rule` (high, low, one) prefers."""
    given = [value for value in values if value is not None]
    if not given:
        return None
    return {"high": max(given), "low": min(given), "one": min(given, key=lambda v: abs(math.log(max(v, 1e-9))))}[rule]


def cells(entries: Sequence[Interval | None], metric: str) -> list[str]:
    """One column of a table: mean over interval, the best in bold."""
    form = METRICS[metric].form
    winner = best([entry.mean if entry else None for entry in entries], METRICS[metric].best)
    made = []
    for entry in entries:
        if entry is None:
            made.append("–")
            continue
        mean = format(entry.mean, form)
        shown = f"<b>{mean}</b>" if winner is not None and mean == format(winner, form) else mean
        made.append(f"{shown}<small>{format(entry.low, form)} to {format(entry.high, form)}</small>")
    return made


class Line(NamedTuple):
    """A system, raw or blended: a row of a table."""

    system: str
    blending: str
    means: Means

    def group(self, group: str, label: str) -> dict[str, Interval]:
        """Metric -> mean; nothing where the system has completed no such hole."""
        return self.means.get((self.blending, group, label), {})

    @property
    def head(self) -> str:
        return f"{escape(self.system)} <i>{self.blending}</i>"


def blendings(means: Means) -> tuple[str, ...]:
    """How a system's results are shown: raw and blended; raw alone where blending changes no pixel of them."""
    changed = any(blending == "blended" for blending, *_ in means)
    return ("raw", "blended") if changed or not means else ("raw",)


def score_table(lines: Sequence[Line], group: str, label: str) -> str:
    """Every metric of one kind of hole, or of all."""
    groups = [line.group(group, label) for line in lines]
    metrics = [m for m in METRICS if any(m in g for g in groups)]
    columns = [cells([g.get(metric) for g in groups], metric) for metric in metrics]
    counts = [max((found.n for found in g.values()), default=0) for g in groups]
    rows = [[line.head, str(count), *values] for line, count, *values in zip(lines, counts, *columns, strict=True)]
    return grid(["system", "n", *(METRICS[m].heading for m in metrics)], rows)


def matrix(lines: Sequence[Line], metric: str, group: str, labels: Mapping[str, str], caption: str) -> str:
    """One metric: systems down; across the labels of a group, each under its heading."""
    columns = [cells([line.group(group, label).get(metric) for line in lines], metric) for label in labels]
    rows = [[line.head, *values] for line, *values in zip(lines, *columns, strict=True)]
    return grid(["system", *map(escape, labels.values())], rows, caption)


def gains(systems: Mapping[str, Means], kinds: Sequence[str], metric: str) -> str:
    """Blended minus raw, per system and kind; coloured where the interval leaves out 0."""
    rule, form = METRICS[metric].best, METRICS[metric].form
    rows = []
    for system, means in systems.items():
        if "blended" not in blendings(means):
            continue
        row = [escape(system)]
        for group in (OVERALL, *(("kind", kind) for kind in kinds)):
            gain = means.get(("difference", *group), {}).get(metric)
            if gain is None:
                row.append("–")
                continue
            sign = np.sign(gain.low) if gain.low * gain.high > 0 else 0
            tone = {0: "", 1: "up" if rule == "high" else "down", -1: "down" if rule == "high" else "up"}[int(sign)]
            low, high = format(gain.low, "+" + form), format(gain.high, "+" + form)
            row.append(f"<span class='{tone}'>{format(gain.mean, '+' + form)}</span><small>{low} to {high}</small>")
        rows.append(row)
    caption = f"What blending changes: {METRICS[metric].heading}, blended minus raw, hole by hole."
    table = grid(["system", "all holes", *map(escape, kinds)], rows, caption) if rows else ""
    if same := [escape(system) for system, means in systems.items() if "blended" not in blendings(means)]:
        table += (
            f"<p>Blending changes no pixel of {', '.join(same)}: around each hole the system's own picture has the "
            "known pixels themselves, and there is no seam to close. Such a system is shown raw alone.</p>\n"
        )
    return table


def score_section(systems: Mapping[str, Means], kinds: Sequence[str]) -> str:
    """The tables of one dataset's systems."""
    lines = [Line(system, blending, means) for system, means in systems.items() for blending in blendings(means)]
    present = [kind for kind in kinds if any(line.group("kind", kind) for line in lines)]
    # Only systems that complete every kind can be compared over all holes.
    able = [line for line in lines if all(line.group("kind", kind) for kind in present)]
    body = score_table(able, *OVERALL) if able else ""
    if some := sorted({line.system for line in lines} - {line.system for line in able}):
        body += f"<p>Not every kind of hole is completed by {escape(', '.join(some))}: see by kind.</p>\n"
    for metric in ("psnr_hole", "ssim_hole"):
        caption = f"{METRICS[metric].heading}, by kind of hole."
        body += matrix(lines, metric, "kind", {kind: kind for kind in present}, caption)
    if able:
        bins = sorted({label for line in able for _, group, label in line.means if group == "ratio"})
        percent = {label: "–".join(str(int(end)) for end in label.split("-")) + " %" for label in bins}
        caption = f"{METRICS['psnr_hole'].heading}, by the missing part of the picture."
        body += matrix(able, "psnr_hole", "ratio", percent, caption)
    body += gains(systems, present, "psnr_hole")
    for kind in present:
        body += folded(f"Every metric: {escape(kind)}", score_table(lines, "kind", kind))
    return body


# --- Contact sheets ---


class Shown(NamedTuple):
    """A system's two tables and where each (image_id, path, kind) lies in them."""

    raw: Table
    blended: Table
    rows: dict[Key, tuple[int, int]]


def open_system(folders: Folders, system: str) -> Shown:
    raw = Table(folders.inpainted / system / "completed.arrow")
    blended = Table(folders.blended / system / "blended.arrow")
    places = [{key: row for row, key in enumerate(table.keys())} for table in (raw, blended)]
    return Shown(raw, blended, {key: (row, places[1][key]) for key, row in places[0].items() if key in places[1]})


def sheets(
    folders: Folders, dataset: str, kinds: Sequence[str], systems: Mapping[str, Means], count: int, report: Path
) -> str:
    """A contact sheet per kind: the pictures that come first by image_id, so that a new one moves little.

    A system that blending does not change has one column.
    """
    if not systems:
        return ""
    opened = {system: open_system(folders, system) for system in systems}
    truth, holes = Table(folders.aligned / dataset / "test.arrow"), Table(folders.masks / dataset / "test.arrow")
    masked = set(holes.keys())
    body = ""
    for kind in kinds:
        done = {system: {key for key in shown.rows if key[2] == kind} for system, shown in opened.items()}
        able = [system for system in systems if done[system]]
        chosen = sorted(masked.intersection(*(done[system] for system in able)))[:count] if able else []
        if not chosen:
            continue
        picture, hole = truth.pictures(truth.find([key[:2] for key in chosen])), holes.holes(holes.find(chosen))
        holed = np.where(hole[..., None], np.uint8(255), picture)
        for start in range(0, len(able), SYSTEMS):
            groups = [("truth", [("original", picture), ("hole", holed)])]
            for system in able[start : start + SYSTEMS]:
                raw, blended, rows = opened[system]
                columns = list(zip(blendings(systems[system]), (raw, blended), strict=False))
                made = [table.pictures([rows[key][i] for key in chosen]) for i, (_, table) in enumerate(columns)]
                groups.append((system, [(name, one) for (name, _), one in zip(columns, made, strict=True)]))
            file = filename("sheet", dataset, kind, *([str(start // SYSTEMS + 1)] if start else []))
            save_sheet(groups, report / file)
            names = ", ".join(escape(key[1]) for key in chosen)
            body += figure(file, f"<b>{escape(kind)}</b>. Test pictures, from the top: {names}.", f"{dataset}, {kind}")
    return body


def save_sheet(groups: Sequence[tuple[str, Sequence[tuple[str, np.ndarray]]]], path: Path) -> None:
    """Columns of pictures (uint8 N x H x W x 3) under their labels, grouped under the group's name."""
    from PIL import Image, ImageDraw, ImageFont

    height, width = groups[0][1][0][1].shape[1:3]
    scale = max(1, TILE // max(height, width))
    shrink = min(1.0, 2 * TILE / max(height, width))
    high, wide = round(height * scale * shrink), round(width * scale * shrink)
    near, far, head = 3, 14, 40
    count = len(groups[0][1][0][1])
    total = sum(len(columns) * (wide + near) - near for _, columns in groups) + far * (len(groups) + 1)
    sheet = Image.new("RGB", (total, head + count * (high + near) + far), "white")
    pen, bold, plain = ImageDraw.Draw(sheet), ImageFont.load_default(15), ImageFont.load_default(13)
    left = far
    for title, columns in groups:
        room = len(columns) * (wide + near) - near
        while title and pen.textlength(title, bold) > room:
            title = title[:-2].rstrip() + "…" if len(title) > 2 else ""
        pen.text((left, 4), title, INK, bold)
        for label, pictures in columns:
            pen.text((left, 22), label, FAINT, plain)
            for row, picture in enumerate(pictures):
                method = Image.Resampling.NEAREST if shrink == 1 else Image.Resampling.BOX
                tile = Image.fromarray(picture).resize((wide, high), method)
                sheet.paste(tile, (left, head + row * (high + near)))
            left += wide + near
        left += far - near
    path.write_bytes(png.encode(np.asarray(sheet)))


# --- Curves ---

PLOT: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.titlecolor": INK,
    "axes.titlesize": 9,
    "font.size": 8,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
}


def panels(titles: Sequence[str], path: Path, draw: Any, label: str) -> None:
    """Small plots, four a row: `draw(axes, title)` fills each. Same bytes from the same numbers."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = min(4, len(titles))
    down = -(-len(titles) // across)
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(PLOT)
        drawing = Figure(figsize=(2.7 * across, 2.0 * down), dpi=120, layout="constrained")
        grid = drawing.subplots(down, across, squeeze=False).reshape(-1)
        for axes, title in zip(grid, titles, strict=False):
            draw(axes, title)
            axes.set_title(title, loc="left")
            axes.margins(x=0.02)
        for axes in grid[len(titles) :]:
            axes.set_axis_off()
        drawing.supxlabel(label, fontsize=8, color=FAINT)
        canvas = FigureCanvasAgg(drawing)
        canvas.draw()
        path.write_bytes(png.encode(np.asarray(canvas.buffer_rgba())[..., :3]))


def read_history(path: Path) -> dict[str, np.ndarray]:
    """The numeric columns of a training's history, NaN where a cell is empty."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error):
        raise InputError(f"{path}: not a training's history; remove it and run `dvc repro`") from None
    columns = {}
    for name in rows[0] if rows else ():
        try:
            columns[name] = np.array([float(row[name] or "nan") for row in rows])
        except ValueError:
            continue
    return columns


def training_section(folders: Folders, models: Iterable[str], report: Path) -> str:
    """Each model's curves and its last sheet of samples, where there are any."""
    body = ""
    for model in models:
        part, history = "", folders.histories / f"{model}.csv"
        columns = read_history(history) if history.exists() else {}
        steps = columns.pop("step", None)
        if columns:
            x = np.arange(len(next(iter(columns.values())))) if steps is None else steps

            def draw(axes: Any, name: str, x: np.ndarray = x, columns: dict[str, np.ndarray] = columns) -> None:
                axes.plot(x, columns[name], color="#2f6f9f", linewidth=1)

            file = filename("training", model)
            panels(list(columns), report / file, draw, "step" if steps is not None else "row")
            part += figure(file, "Training curves.", f"training curves of {model}")
        if drawn := sorted((folders.samples / model).glob("*.png")):
            file = filename("samples", model)
            shutil.copyfile(drawn[-1], report / file)
            part += figure(file, f"Samples: {escape(drawn[-1].stem)}, the last.", f"samples of {model}")
        body += f"<h3>{escape(model)}</h3>\n{part}" if part else ""
    return body


def convergence(folders: Folders, systems: Iterable[str], report: Path) -> str:
    """Loss over iteration of each latent search: median and quartiles over pictures, by kind of hole."""
    body = ""
    for system in systems:
        path = folders.inpainted / system / "curves.parquet"
        if not path.exists():
            continue
        table = read(path, ["kind", "losses", "context"])
        if not table.num_rows:
            continue
        kinds = table["kind"].to_numpy(zero_copy_only=False)
        lines = {name: _padded(table[name]) for name in ("losses", "context")}

        def draw(axes: Any, kind: str, kinds: np.ndarray = kinds, lines: dict[str, np.ndarray] = lines) -> None:
            for name, colour in (("losses", "#2f6f9f"), ("context", "#c0742b")):
                low, middle, high = np.percentile(lines[name][kinds == kind], [25, 50, 75], axis=0)
                axes.plot(middle, color=colour, linewidth=1, label={"losses": "loss"}.get(name, name))
                axes.fill_between(np.arange(len(middle)), low, high, color=colour, alpha=0.2, linewidth=0)
            axes.legend(frameon=False)

        file = filename("search", system)
        panels(sorted(set(kinds)), report / file, draw, "iteration")
        caption = f"<b>{escape(system)}</b>: the loss and its context part; median and quartiles over pictures."
        body += figure(file, caption, f"convergence of {system}")
    return body


def _padded(column: pa.ChunkedArray) -> np.ndarray:
    """Lists of numbers as one array, rows x longest; a search that ended early keeps its last value."""
    rows = [np.asarray(row, np.float64) for row in column.to_pylist()]
    longest = max(map(len, rows))
    return np.stack([np.pad(row, (0, longest - len(row)), "edge" if len(row) else "constant") for row in rows])


# --- Checkpoints and systems ---


def read_checkpoint(path: Path) -> tuple[dict[str, int], dict[str, Any]]:
    """Numbers in each tensor, and what the metadata say. Raises InputError for a corrupt file."""
    found = Header(path)
    return {name: math.prod(form.shape) for name, form in found.forms.items()}, found.inputs


def checkpoint_section(folders: Folders, models: Iterable[str]) -> str:
    """Every checkpoint by the sha256 of its file, with what it was made from. Raises InputError for a corrupt one."""
    rows, made_from = [], ""
    for model in models:
        path = folders.models / f"{model}.safetensors"
        if not path.exists():
            continue
        numbers, inputs = read_checkpoint(path)
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        members = folders.models / f"{model}.members.arrow"
        seen = count_members(members) if members.exists() else "–"
        rows.append(
            [
                escape(model),
                f"<code>{digest}</code>",
                f"{sum(numbers.values()):,}",
                f"{path.stat().st_size:,}",
                str(seen),
            ]
        )
        text = json.dumps(inputs, indent=1, sort_keys=True)
        made_from += folded(f"What {escape(model)} was made from", f"<pre>{escape(text)}</pre>\n")
    if not rows:
        return ""
    return grid(["checkpoint", "sha256 of the file", "numbers", "bytes", "pictures read in training"], rows) + made_from


def count_members(path: Path) -> int:
    """How many pictures a training has read. Raises InputError for a damaged file."""
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all().num_rows
    except (OSError, pa.ArrowInvalid):
        raise InputError(f"{path}: not a table of members; remove it and run `dvc repro`") from None


COSTS = "../../.palimpsest/costs.html"  # from the page: measured on this machine, so no part of what DVC hashes


def model_of(system: str, search: Mapping[str, Any], infer: Mapping[str, Any]) -> str | None:
    """The trained model that a system completes with; None for a baseline."""
    if system in search:
        return search[system].get("model")
    path = Path(infer.get(system, {}).get("checkpoint", ""))
    return path.stem if path.suffix == ".safetensors" else None


def system_section(
    folders: Folders, blend: Mapping[str, Any], search: Mapping[str, Any], infer: Mapping[str, Any]
) -> str:
    """What each system is, its parameters, dataset and blending; and where what it took can be seen."""
    rows = []
    for name, entry in blend.items():
        given, model = infer.get(name, {}), model_of(name, search, infer)
        how = f"latent search through {model}" if name in search else given.get("method") or given.get("network", "–")
        how += f" {model}" if model and name in infer and model != how else ""
        options = ", ".join(f"{key} {value}" for key, value in entry.items() if key not in ("dataset", "method"))
        blending = f"{entry.get('method', '')}{f' ({options})' if options else ''}"
        path = folders.models / f"{model}.safetensors"
        weights = f"{parameters(read_checkpoint(path)[0]):,}" if model and path.exists() else "–"
        rows.append([escape(name), escape(how), weights, escape(entry.get("dataset")), escape(blending)])
    costs = f'<iframe src="{COSTS}" title="seconds and memory"></iframe>\n'
    note = "<p>What each run took lies beside the project, not in this page, which is the same on every machine.</p>\n"
    heads = ["system", "completes by", "parameters", "tried on", "blending"]
    return grid(heads, rows) + folded("Seconds and memory", note + costs)


def parameters(numbers: Mapping[str, int]) -> int:
    """How many weights complete a picture: the network's or generator's, running statistics aside."""
    parts, statistics = ("network.", "generator."), ("running_mean", "running_var", "num_batches_tracked")
    return sum(n for name, n in numbers.items() if name.startswith(parts) and not name.endswith(statistics))


def write_costs(
    folders: Folders, trainings: Mapping[str, Any], search: Mapping[str, Any], infer: Mapping[str, Any]
) -> None:
    """.palimpsest/costs.html: seconds and peak memory of each system, from the records of its runs."""
    rows = []
    for name in (*search, *infer):
        model = model_of(name, search, infer)
        stage = next((stage for stage, entries in trainings.items() if model in entries), "")
        trained = (
            record.made(record.home(), f"{stage}@{model}", folders.models / f"{model}.safetensors") if stage else None
        )
        by = "search" if name in search else "infer"
        ran = record.made(record.home(), f"{by}@{name}", folders.inpainted / name)
        pictures = len(Table(folders.inpainted / name / "completed.arrow"))
        rows.append([escape(name), str(pictures), *took(trained), *took(ran)])
    heads = ["system", "pictures", "training, s", "peak, MiB", "completion, s", "peak, MiB"]
    caption = "Each run with the start of its process, on the machine of its record; – where no record is here."
    file = Path(".palimpsest/costs.html")
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"<!doctype html>\n<meta charset=utf-8>\n<style>{STYLE}</style>\n{grid(heads, rows, caption)}")


def took(made: Mapping[str, Any] | None) -> list[str]:
    return [f"{made['seconds']:.1f}", f"{made['peak_memory_mib']:,}"] if made else ["–", "–"]


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


# --- The page ---

STYLE = """
:root { color-scheme: light dark; --ink: #1f2933; --faint: #616e7c; --line: #d9dfe5; --paper: #fff; --band: #f5f7f9;
  --up: #1b7a43; --down: #b3372f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --faint: #9aa5b1; --line: #3a4550; --paper: #15191e;
  --band: #1e242b; --up: #63c58a; --down: #ef8a80; } }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  max-width: 76rem; padding: 2rem 1.5rem 4rem; }
h1 { font-size: 2rem; margin: 0 0 .3rem; } h2 { margin: 3rem 0 .6rem; border-bottom: 1px solid var(--line); }
h3 { margin: 2rem 0 .5rem; } p { max-width: 46rem; } .lead, figcaption, caption, i { color: var(--faint); }
nav a { margin-right: 1.2rem; color: inherit; } i { font-size: .9em; }
.wide { overflow-x: auto; } table { border-collapse: collapse; margin: 1rem 0 1.4rem; font-size: .88rem;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .4rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .8rem .35rem .3rem;
  border-bottom: 1px solid var(--line); }
thead th { color: var(--faint); font-weight: 600; vertical-align: bottom; } tbody th { font-weight: 500; }
tbody th { white-space: nowrap; } tbody tr:hover { background: var(--band); }
td small { display: block; color: var(--faint); font-size: .76rem; white-space: nowrap; }
.up { color: var(--up); font-weight: 600; } .down { color: var(--down); font-weight: 600; }
figure { margin: 1.2rem 0 2rem; } figure img { display: block; max-width: 100%; height: auto; background: #fff;
  border: 1px solid var(--line); border-radius: 6px; box-sizing: border-box; }
figcaption { font-size: .88rem; margin-top: .4rem; }
iframe { border: 0; width: 100%; height: 24rem; }
details { margin: .4rem 0; } summary { cursor: pointer; } pre, code { font-size: .82rem; }
pre { background: var(--band); padding: .8rem; overflow-x: auto; } .note { border-left: 4px solid var(--down);
  background: var(--band); padding: .6rem 1rem; }
"""

READING = """<p>Scores are of the saved 8-bit pictures, in [0, 1], against the truth; <i>hole</i> counts the missing
pixels alone, <i>whole</i> the composited picture, <i>n</i> the completed pictures. Below each mean stands its 95 %
bootstrap interval over pictures; the best of a column is bold. PSNR is the mean of the pictures' own, at most 120 dB.
Sharpness is the gradient energy inside the hole over the truth's: 1 is right, less is blurred, more is noisy. Patch
SSE is the sum of squared differences over the hole.</p>
"""


def page(sections: Sequence[tuple[str, str]], lead: str, notes: Sequence[str]) -> str:
    """The whole document from its titled sections; an empty one is left out."""
    kept = [(f"s{number}", title, body) for number, (title, body) in enumerate(sections) if body]
    links = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title, _ in kept)
    bodies = "".join(f'<section id="{anchor}">\n<h2>{title}</h2>\n{body}</section>\n' for anchor, title, body in kept)
    warned = "".join(f"<p class=note>{note}</p>\n" for note in notes)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>Palimpsest: results</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>Palimpsest: results</h1>\n<p class=lead>{lead}</p>\n"
        f"<nav>{links}</nav>\n{warned}{bodies}</body>\n</html>\n"
    )


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
    refuse_unjoined({*search, *infer}, set(blend))
    if left := leftovers(folders, datasets, trained, blend):
        said = "are made by no entry of params.yaml and left out; remove them"
        print(f"report: {len(left)} results {said}: rm -r {shlex.join(left)}", file=sys.stderr)
    report.mkdir()

    sections = [("Data", data_section(folders, datasets)), ("Systems", system_section(folders, blend, search, infer))]
    for dataset, entry in datasets.items():
        systems = [name for name, system in blend.items() if system.get("dataset") == dataset]
        kinds = list(entry.get("mask", {}).get("kinds", {}))
        if systems:
            numbers = {system: read_means(scores / f"{system}{SUFFIX}") for system in systems}
            made = sheets(folders, dataset, kinds, numbers, params.pictures, report)
            sections.append((f"Pictures: {escape(dataset)}", made))
            sections.append((f"Scores: {escape(dataset)}", READING + score_section(numbers, kinds)))
    sections += [
        ("Training", training_section(folders, trained, report)),
        ("Latent search", convergence(folders, search, report)),
        ("Checkpoints", checkpoint_section(folders, trained)),
    ]
    given = random_weights({**trainings, "evaluate": evaluate})
    notes = [f"Perceptual weights are random, not ImageNet's: {escape(', '.join(given))}."] if given else []
    counts = (("dataset", datasets), ("trained model", trained), ("system", blend))
    lead = ", ".join(f"{len(items)} {noun}{'' if len(items) == 1 else 's'}" for noun, items in counts)
    lead += "; each system's pictures as it made them (raw) and after Poisson blending (blended)."
    (report / "index.html").write_text(page(sections, lead, notes), encoding="utf-8")
    return partial(write_costs, folders, trainings, search, infer)


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
