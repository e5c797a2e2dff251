"""Is a new checkpoint better than the promoted one? Both complete the same holes in pictures that neither knows.

The holes are the frozen ones of the validation split; of its pictures, those that either of the two has trained on are
left out. The metric is of the composited result, as `evaluate` has it for raw ones; a picture's number is the mean over
its holes. The interval is of the mean gain over pictures: percentiles of a bootstrap of the paired differences.

`palimpsest retrain` runs this as a command in its worktree, so that the code of the commit decides.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import Field
from pydantic.dataclasses import dataclass

from stages import infer, search
from stages.runs import kernels, params
from stages.runs.errors import InputError
from stages.runs.params import STRICT, Runtime

if TYPE_CHECKING:
    import numpy as np

    from stages.images.batches import Work

GAIN = {  # metric -> the sign of an improvement
    "psnr": 1, "ssim": 1, "psnr_hole": 1, "ssim_hole": 1,
    "l1": -1, "mse": -1, "l1_hole": -1, "mse_hole": -1, "patch_sse": -1,
}  # fmt: skip
UNIT = {"psnr": " dB", "psnr_hole": " dB"}  # the others have none
DRAWS = 10_000  # resamples of the bootstrap
BLOCK = 100  # of them at once: bounds memory
SEED = 0


@dataclass(frozen=True, config=STRICT)
class Rule:
    """Section `retrain` of params.yaml."""

    system: str  # an entry of `search` or `infer`, whose checkpoint is promoted
    # of the composited picture; with _hole, of the hole alone
    metric: Literal["psnr", "ssim", "psnr_hole", "ssim_hole", "l1", "mse", "l1_hole", "mse_hole", "patch_sse"]
    margin: float  # the interval's low end has to lie above it; below 0: somewhat worse will do
    minimum: Annotated[int, Field(ge=2)]  # pictures, to decide at all
    confidence: Annotated[float, Field(gt=0, lt=1)]  # of the interval
    warm: bool  # training goes on from the promoted checkpoint
    count: Annotated[int, Field(ge=1)] | None = None  # validation pictures, those of the smallest keyed hash; null: all


class Unfit(Exception):
    """The promoted checkpoint is of another shape than the system now; the message says in what, in one line."""


class Contender(NamedTuple):
    """A checkpoint, and lists of the pictures that it, and what it has gone on from, have trained on."""

    checkpoint: Path
    members: Sequence[Path]


def rule(values: dict[str, Any]) -> Rule:
    """The section of params.yaml. Raises InputError as `params.section` does."""
    return params.section(values, "retrain", Rule)


def system(values: dict[str, Any], name: str) -> search.Params | infer.Params:
    """The parameters of a system. Raises InputError where there is no such learned one."""
    if name in (values.get("search") or {}):
        return params.section(values, f"search.{name}", search.Params)
    if name in (values.get("infer") or {}):
        found = params.section(values, f"infer.{name}", infer.Params)
        if found.network in ("classical", "onnx"):
            raise InputError(f"params.yaml: retrain.system: '{name}' is {found.network}: no checkpoint to promote")
        return found
    raise InputError(f"params.yaml: retrain.system: no '{name}' in `search` or `infer`")


def checkpoint(found: search.Params | infer.Params) -> str:
    """The path of the system's checkpoint, from the project's root."""
    return f"data/models/{found.model}.safetensors" if isinstance(found, search.Params) else found.checkpoint


def decide(
    values: dict[str, Any], candidate: Contender, promoted: Contender, aligned: Path, masks: Path
) -> dict[str, Any]:
    """`promote` (bool), `why` (one line) and the numbers behind it; `validation` has those of each picture: its
    image_id, the candidate's and the promoted one's.

    A promoted checkpoint that does not fit the system or the pictures any more rejects the candidate. Raises InputError
    for a candidate that does not.
    """
    bar = rule(values)
    work = unseen(values, bar, [*candidate.members, *promoted.members], aligned, masks)
    pictures = len(set(work.keys)) if work else 0
    if work is None or pictures < bar.minimum:
        why = f"{pictures} validation pictures that neither has trained on, and retrain.minimum is {bar.minimum}"
        return {"promote": False, "why": why, "metric": bar.metric, "pictures": pictures}
    try:
        ids, numbers = measure(values, bar, work, [candidate.checkpoint, promoted.checkpoint])
    except Unfit as error:
        why = (
            f"cannot be compared with the promoted checkpoint: {error}; a network of another shape counts as a new "
            f"system: rename '{bar.system}' in params.yaml and its artifact in dvc.yaml, and the candidate will be the "
            "new system's first"
        )
        return {"promote": False, "why": why, "metric": bar.metric, "pictures": pictures}
    rows = [[one, *both] for one, both in zip(ids, numbers.tolist(), strict=True)]
    return {**verdict(numbers, bar), "validation": rows}


def unseen(values: dict[str, Any], bar: Rule, members: Sequence[Path], aligned: Path, masks: Path) -> Work | None:
    """The validation holes whose pictures no training has read; None where there are none."""
    import numpy as np

    from stages.images import batches
    from stages.images.table import Table

    if not len(Table(masks / "val.arrow")):
        return None
    chosen = system(values, bar.system)
    work = batches.select(aligned, masks, count=bar.count, kinds=chosen.kinds, split="val")
    read = set().union(*(read_members(path) for path in members))
    rows = np.array([row for row, key in enumerate(work.keys) if key[0] not in read], np.int64)
    return work.only(rows) if len(rows) else None


def read_members(path: Path) -> set[str]:
    """The image_ids in a members file. Raises InputError where it is none."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source:
            return set(pa.ipc.open_file(source).read_all().column("image_id").to_pylist())
    except (pa.ArrowException, OSError, KeyError):
        raise InputError(f"{path}: not a list of the pictures of a training; `dvc repro` or `dvc pull`") from None


def measure(values: dict[str, Any], bar: Rule, work: Work, checkpoints: Sequence[Path]) -> tuple[list[str], np.ndarray]:
    """The image_ids of the pictures, and the metric of each checkpoint for each: float pictures x checkpoints.

    Holes that one of them cannot complete count for none. The first is the candidate: what does not fit the system as
    it does raises Unfit.
    """
    import numpy as np
    from tqdm import tqdm

    from stages.images.batches import composite
    from stages.metrics import fidelity

    first, *others = checkpoints
    contenders = [complete(values, bar.system, first, work.size)]
    kinds = infer.within_reach(work, contenders[0])
    if not kinds:
        raise InputError(f"params.yaml: retrain: the validation split has no holes that '{bar.system}' can complete")
    for path in others:
        was = shape(path)  # of a torn file, an InputError
        try:
            contenders.append(complete(values, bar.system, path, work.size))
        except InputError as error:
            now = shape(first)
            changed = [f"{name} was {old}, is {now[name]}" for name, old in was.items() if now.get(name, old) != old]
            raise Unfit(", ".join(changed) or "the code of its network has changed") from error
        kinds &= infer.within_reach(work, contenders[-1])
    if not kinds:
        raise Unfit("it completes other holes")
    work = work.only(np.array([row for row, kind in enumerate(work.kinds) if kind in kinds], np.int64))
    size = min(contender.rows for contender in contenders)
    scores = np.empty((len(work), len(contenders)))
    todo = tqdm(work.batches(size), total=work.count_batches(size), desc="compare", unit="batch", disable=None)
    for number, batch in enumerate(todo):
        rows = slice(number * size, number * size + len(batch.keys))
        truth = work.aligned.pictures(work.picture_rows[rows])
        for column, contender in enumerate(contenders):
            made = composite(batch.known, contender.complete(batch), batch.hole)
            scores[rows, column] = fidelity.score(made, truth, batch.hole)[bar.metric]
    keys, picture = np.unique(["\0".join(key) for key in work.keys], return_inverse=True)
    counts = np.bincount(picture)
    means = np.stack([np.bincount(picture, column) / counts for column in scores.T], axis=1)
    return [key.partition("\0")[0] for key in keys.tolist()], means


def complete(values: dict[str, Any], name: str, path: Path, size: tuple[int, int]) -> infer.System:
    """The system with a given checkpoint. Raises InputError where the two, or the pictures, do not fit."""
    runtime = params.section(values, "runtime", Runtime)
    kernels.choose(runtime.kernels)  # before torch is imported
    found = system(values, name)
    if isinstance(found, infer.Params):
        return infer.learned(found, path, size, runtime)
    searcher = search.searcher(path, size, found, runtime)
    return infer.System(lambda batch: searcher(batch)[1], infer.every, found.batch)


def shape(path: Path, remedy: str | None = None) -> dict[str, Any]:
    """What a checkpoint says that it is: `network`, and what that was built with.

    Raises InputError, with the remedy, where the file is none.
    """
    from stages.training import checkpoint

    inputs = checkpoint.Checkpoint(path, *([remedy] if remedy else [])).inputs
    return {"network": inputs.get("network"), **inputs.get("arguments", {})}


def verdict(numbers: np.ndarray, bar: Rule) -> dict[str, Any]:
    """The decision about pictures x (candidate, promoted)."""
    import numpy as np
    from scipy.stats import bootstrap

    gains = GAIN[bar.metric] * (numbers[:, 0] - numbers[:, 1])
    if not np.isfinite(gains).all():
        raise InputError(f"params.yaml: retrain.metric: {bar.metric} has no number for some pictures")
    drawn = bootstrap(
        (gains,), np.mean, n_resamples=DRAWS, batch=BLOCK, confidence_level=bar.confidence, method="percentile",
        rng=np.random.default_rng(SEED),
    )  # fmt: skip
    low, high = (float(end) for end in drawn.confidence_interval)
    gain = float(gains.mean())
    promote = low > bar.margin
    why = f"{bar.metric} {_said(gain, low, high, UNIT.get(bar.metric, ''))} over {len(gains)} pictures"
    if not promote:
        why += f": not surely {_threshold(bar.margin, UNIT.get(bar.metric, ''))}"
    means = dict(zip(("candidate", "promoted"), numbers.mean(axis=0).tolist(), strict=True))
    return {
        "promote": promote, "why": why, "metric": bar.metric, "pictures": len(gains), **means,
        "gain": gain, "low": low, "high": high, "confidence": bar.confidence, "margin": bar.margin,
    }  # fmt: skip


def _said(gain: float, low: float, high: float, unit: str) -> str:
    """The mean gain and its interval in words, rounded to two digits of the interval's half-width."""
    word = "worse" if gain < 0 else "better"
    if gain < 0:
        gain, low, high = -gain, -high, -low
    half = (high - low) / 2 or gain
    places = max(0, 1 - math.floor(math.log10(half))) if half else 0
    mean, *ends = (f"{round(number, places) + 0.0:.{places}f}" for number in (gain, low, high))  # 0.0 for -0.0
    return f"{word} by {mean}{unit} [{', '.join(ends)}]" if gain else f"the same [{', '.join(ends)}]"


def _threshold(margin: float, unit: str) -> str:
    """What a candidate is to be, in words."""
    if margin == 0:
        return "better"
    return f"better by more than {margin:g}{unit}" if margin > 0 else f"less than {-margin:g}{unit} worse"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m flows.registry.gate", description=__doc__)
    for option in ("candidate", "promoted", "verdict"):
        parser.add_argument(f"--{option}", type=Path, required=True)
    for option in ("candidate-members", "promoted-members"):
        parser.add_argument(f"--{option}", type=Path, required=True, nargs="+")
    given = parser.parse_args()
    try:
        values = params.load(Path("params.yaml"))
        dataset = system(values, rule(values).system).dataset
        result = decide(
            values,
            Contender(given.candidate, given.candidate_members),
            Contender(given.promoted, given.promoted_members),
            Path("data/aligned", dataset),
            Path("data/masks", dataset),
        )
    except InputError as error:
        print(f"compare: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    given.verdict.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
