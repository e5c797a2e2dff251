"""Score completed pictures against the truth, raw and blended, with 95 % bootstrap intervals.

One row a picture, kind of hole and blending goes to the table; means with their intervals go to a second one
(`stages/metrics/means.py`), those of training pictures, if any were completed, apart from those of test pictures. The
few that a person compares, of test pictures alone, go to the score file, for `dvc metrics show`.

Beside the scores against the truth (`stages/metrics/fidelity.py`, `perceptual.py`, `dots.py`) stand the completion's
unnaturalness and, as `unnatural_truth`, that of the true picture with the same hole (`naturalness.py`); for the first
pictures of each kind of hole, what each adds to their diversity (`diversity.py`); and, as `mse_output`, the squared
error of the system's own whole picture, before the known pixels are put back.

Where blending changes not one pixel of any picture of a split, there are raw rows and numbers alone. So it is by
construction of a system whose own picture has the known pixels around each hole, as Telea's has: there is no seam to
close.
Without LPIPS all three are the same bytes on every x86-64 CPU and with any number of threads.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field
from pydantic.dataclasses import dataclass
from tqdm import tqdm

from stages.images.table import KEY, Table
from stages.metrics import diversity, dots, fidelity, naturalness
from stages.metrics.means import KEYS, OVERALL, Means, summarise, write_means
from stages.runs import command
from stages.runs.errors import InputError
from stages.runs.params import STRICT, Runtime, refuse_idle

CHUNK = 256  # rows scored at once: bounds memory
# Training pictures that tell what is natural, spread over all: more change a score by less than it scatters.
NATURAL = 256
BLENDINGS = ("raw", "blended")
NUMBERS = 24  # in a score file, at most: `dvc metrics show` is then a table that can be read


@dataclass(frozen=True, config=STRICT)
class Params:
    lpips: Literal["none", "alex", "squeeze", "vgg"]  # LPIPS's backbone, or none
    perceptual_weights: Literal["none", "imagenet", "random"]  # LPIPS takes imagenet alone
    bootstrap: Annotated[int, Field(ge=1)]  # resamples an interval
    seed: Annotated[int, Field(ge=0)]  # of the resampling

    def __post_init__(self) -> None:
        if self.lpips != "none" and self.perceptual_weights != "imagenet":
            raise ValueError(f"lpips: {self.lpips} needs perceptual_weights: imagenet (never random ones)")
        if self.lpips == "none":
            refuse_idle(self, "lpips: none", ["perceptual_weights"])


def measure(
    raw: Table,
    blended: Table,
    truth: Table,
    holes: Table,
    guide: Table | None = None,
    split: str = "test",
    lpips: Callable[..., np.ndarray] | None = None,
    natural: naturalness.Natural | None = None,
) -> dict[str, Any]:
    """The table of scores as columns, `KEYS` and then the metrics: every row raw, then every row blended.

    `truth` and `holes` are those of the split, whose rows alone are scored. Where all its blended pictures equal the
    raw ones, there are no blended rows. Without `guide` (the system's own whole pictures), `lpips` or `natural`, what
    needs them has no number.
    Raises InputError where tables do not fit each other, and where a completed picture differs from
    the truth outside its hole: it was not composited, and its whole-picture scores would mean something else.
    """
    for table in (blended, truth, holes, *([guide] if guide else [])):
        if table.size != raw.size:
            raise InputError(f"{table.path}: {table.size} pixels, but {raw.path} has {raw.size}; run `dvc repro`")
    keys = raw.keys()
    if len(set(keys)) != len(keys) or len(blended) != len(keys):
        raise InputError(f"{blended.path}: not the rows of {raw.path}; remove both and run `dvc repro`")
    places = raw.splits().get(split, np.zeros(0, np.int64))
    keys = [keys[place] for place in places]
    pictures, masks, mixed = truth.find([key[:2] for key in keys]), holes.find(keys), blended.find(keys)
    own = guide.find(keys) if guide else None

    ratio, same = np.empty(len(keys)), True
    parts: dict[str, list[dict[str, np.ndarray]]] = {blending: [] for blending in BLENDINGS}
    for start in tqdm(range(0, max(len(keys), 1), CHUNK), desc="score", mininterval=1, disable=None):
        rows = np.arange(start, min(start + CHUNK, len(keys)))
        target, hole = truth.pictures(pictures[rows]), holes.holes(masks[rows])
        ratio[rows] = hole.mean(axis=(1, 2), dtype=np.float64)
        outputs = raw.pictures(places[rows]), blended.pictures(mixed[rows])
        of_truth = _unnatural(target, hole, natural)
        alike = np.array_equal(*outputs)
        same &= alike
        for blending, table, output in zip(BLENDINGS, (raw, blended), outputs, strict=True):
            if ((output != target).any(axis=3) & ~hole).any():
                raise InputError(f"{table.path}: known pixels were changed; remove it and run `dvc repro`")
            if alike and blending == "blended":
                parts["blended"].append(parts["raw"][-1])
                continue
            perceptual = {}
            if lpips:
                distance = lpips(output, target)
                for row in np.flatnonzero(~np.isfinite(distance))[:1]:  # it would pass for a hole without a score
                    _, path, kind = keys[start + row]
                    raise InputError(f"'{path}', hole '{kind}', {blending}: its LPIPS is not a number; set lpips: none")
                perceptual = {"lpips": fidelity.rounded(distance, fidelity.COARSE)}
            more = {
                "dots": dots.dots(output, target, hole),
                "unnatural": _unnatural(output, hole, natural),
                "unnatural_truth": of_truth,
            }
            parts[blending].append(fidelity.score(output, target, hole) | more | perceptual)

    blendings = BLENDINGS[:1] if same else BLENDINGS
    columns: dict[str, Any] = {name: [key[i] for key in keys] * len(blendings) for i, name in enumerate(KEY)}
    columns |= {"split": [split] * len(keys) * len(blendings)}
    columns |= {"blending": [blending for blending in blendings for _ in keys], "ratio": np.tile(ratio, len(blendings))}
    scored = [part for blending in blendings for part in parts[blending]]
    columns |= {name: np.concatenate([part[name] for part in scored]) for name in scored[0]}
    if guide is not None and own is not None:
        none = np.full(len(keys) * (len(blendings) - 1), np.nan)  # blending changes nothing of what a network puts out
        columns["mse_output"] = np.concatenate([_mse(guide, own, truth, pictures), none])
    tables = [(raw, places), (blended, mixed)][: len(blendings)]
    return columns | _diversity(keys, (truth, pictures), (holes, masks), tables, lpips)


Rows = tuple[Table, np.ndarray]  # a table, and its row for each key


def _diversity(
    keys: Sequence[tuple[str, ...]],
    truth: Rows,
    holes: Rows,
    outputs: Sequence[Rows],
    lpips: Callable[..., np.ndarray] | None,
) -> dict[str, np.ndarray]:
    """`diversity`, and `diversity_lpips` where there is LPIPS: a number for each key, of one output after the other.

    Of each kind of hole, the first pictures by image_id have one, which is a random choice; NaN for the rest.
    """
    measures: dict[str, Callable[..., np.ndarray]] = {"diversity": diversity.by_ssim}
    if lpips:
        measures["diversity_lpips"] = lambda pictures, hole: diversity.by_lpips(pictures, hole, lpips)
    found = {name: np.full((len(outputs), len(keys)), np.nan) for name in measures}
    for kind in dict.fromkeys(key[2] for key in keys):
        rows = np.array(sorted((row for row, key in enumerate(keys) if key[2] == kind), key=lambda row: keys[row]))
        rows = rows[: diversity.PICTURES]
        target, hole = truth[0].pictures(truth[1][rows]), holes[0].holes(holes[1][rows])
        for name, distances in measures.items():
            true = distances(target, hole)
            for values, (table, places) in zip(found[name], outputs, strict=True):
                values[rows] = diversity.by_picture(distances(table.pictures(places[rows]), hole), true)
    return {name: values.reshape(-1) for name, values in found.items()}


def _mse(guide: Table, own: np.ndarray, truth: Table, pictures: np.ndarray) -> np.ndarray:
    """Of whole pictures as a system puts them out, known pixels included: report 5's loss."""
    parts = [slice(start, start + CHUNK) for start in range(0, len(own), CHUNK)]
    found = [fidelity.mse(guide.pictures(own[part]), truth.pictures(pictures[part])) for part in parts]
    return np.concatenate([np.empty(0), *found])


def _unnatural(pictures: np.ndarray, holes: np.ndarray, natural: naturalness.Natural | None) -> np.ndarray:
    return naturalness.unnatural(pictures, holes, natural) if natural else np.full(len(pictures), np.nan)


def _natural(training: Table) -> naturalness.Natural | None:
    """What is natural in a dataset, by its own training pictures; None where there are too few."""
    if not len(training):
        return None
    rows = np.unique(np.linspace(0, len(training) - 1, NATURAL).round().astype(np.int64))
    return naturalness.natural(training.pictures(rows))


def headline(means: Means) -> dict[str, Any]:
    """The score file: `n` completions (a picture with one hole each), and the means that a person compares.

    At most `NUMBERS` in all: psnr_hole -> kind of hole -> raw, blended (dB); and over all holes ssim, l1 and lpips ->
    raw, blended. Where there are too many kinds for that, psnr_hole has the raw ones alone; where still too many, it is
    over all holes. What blending does not change has no `blended`.
    """
    if not means:
        return {"n": 0}
    there = [blending for blending in BLENDINGS if (blending, *OVERALL) in means]

    def shown(metric: str, group: tuple[str, str], digits: int, blendings: Sequence[str] = there) -> dict[str, float]:
        return {blending: round(means[blending, *group][metric].mean, digits) for blending in blendings}

    everything = means["raw", *OVERALL]
    whole = {metric: shown(metric, OVERALL, 4) for metric in ("ssim", "l1", "lpips") if metric in everything}
    kinds = [key[1:] for key, metrics in means.items() if key[:2] == ("raw", "kind") and "psnr_hole" in metrics]
    room = NUMBERS - 1 - len(there) * len(whole)
    psnr: dict[str, Any]
    if len(kinds) <= room:
        blendings = there if len(there) * len(kinds) <= room else there[:1]
        psnr = {kind[1]: shown("psnr_hole", kind, 2, blendings) for kind in kinds}
    else:
        psnr = shown("psnr_hole", OVERALL, 2)
    return {"n": everything["psnr"].n, "psnr_hole": psnr} | whole


def _written(columns: Mapping[str, Any]) -> pa.Table:
    """The columns of scores as they are written: NaN becomes null."""
    arrays = {
        key: pa.array(list(values), pa.string() if key in KEYS[:5] else pa.float64(), from_pandas=True)
        for key, values in columns.items()
    }
    return pa.table(arrays)


def evaluate(
    aligned: Path,
    masks: Path,
    inpainted: Path,
    blended: Path,
    scores: Path,
    table: Path,
    means: Path,
    params: Params,
    runtime: Runtime,
    name: str,
) -> None:
    """Score inpainted/completed.arrow, blended/blended.arrow, and the network's own pictures in inpainted/guide.arrow.

    Writes what a person compares (`scores`, JSON, of test pictures alone), every row (`table`, Parquet) and the means
    with their intervals (`means`, Parquet), split by split.
    """
    lpips = None
    if params.lpips != "none":  # torch is imported for LPIPS alone
        from stages.metrics.perceptual import Lpips
        from stages.training.device import prepare

        lpips = Lpips(params.lpips, prepare(runtime))
    raw, mixed = Table(inpainted / "completed.arrow"), Table(blended / "blended.arrow")
    guide = Table(inpainted / "guide.arrow")
    natural = _natural(Table(aligned / "train.arrow"))
    measured = {
        split: measure(
            raw, mixed, Table(aligned / f"{split}.arrow"), Table(masks / f"{split}.arrow"), guide, split, lpips, natural
        )
        for split in ("test", *(split for split in raw.splits() if split != "test"))
    }
    found = {split: summarise(columns, params.bootstrap, params.seed) for split, columns in measured.items()}
    write_means(found, means)
    scores.write_text(json.dumps(headline(found["test"]), indent=1, allow_nan=False) + "\n")
    pq.write_table(pa.concat_tables(map(_written, measured.values())), table, compression="none")


if __name__ == "__main__":
    command.run(
        evaluate,
        sections={"params": "evaluate", "runtime": "runtime"},
        inputs=("aligned", "masks", "inpainted", "blended"),
        outputs=("scores", "table", "means"),
        wiring="blend.{name}",
    )
