"""Where blending changes nothing by construction, its result is no method of its own: no rows, no numbers."""

import json
from pathlib import Path

import numpy as np
import pretend
import pyarrow.parquet as pq
import pytest
import torch

from stages import blend, evaluate, infer
from stages.images import table
from stages.metrics.means import read_means
from stages.models.context_encoder import ContextEncoder
from stages.runs import params
from stages.runs.params import Runtime
from stages.training import checkpoint

RUNTIME = Runtime(threads=1)
SIZE = 64
SCORING = evaluate.Params("none", "none", bootstrap=10, seed=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("data")
    pretend.dataset(home, count=2, size=SIZE)
    with table.writing_pictures(home / "aligned" / "faces" / "train.arrow", (SIZE, SIZE), table.ALIGNED) as writer:
        writer.append(pretend.picture(9, SIZE), *pretend.key(9), None, None)
    return home


def encoder(path: Path, overlap: int) -> Path:
    torch.manual_seed(0)
    arguments = {"size": SIZE, "encoder": "alexnet", "objective": "gan", "bottleneck": 8, "width": 2}
    network = ContextEncoder(**arguments, overlap=overlap)
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    checkpoint.save(path, tensors, {"network": "context_encoder", "arguments": arguments | {"overlap": overlap}})
    return path


# name of the system, and whether blending can change what it makes
SYSTEMS = {"telea": False, "navier_stokes": False, "no overlap": False, "overlap": True, "nearest": True, "mean": True}


@pytest.mark.parametrize(("name", "changes"), SYSTEMS.items())
@pytest.mark.parametrize("method", ["exact", "sobel"])
def test_there_is_a_blended_score_only_of_what_blending_can_change(
    name: str, changes: bool, method: str, data: Path, tmp_path: Path
) -> None:
    aligned, masks = data / "aligned" / "faces", data / "masks" / "faces"
    entry: dict[str, object] = dict(pretend.classical(name))
    if name.endswith("overlap"):
        path = encoder(tmp_path / "a.safetensors", 4 if name == "overlap" else 0)
        entry = {"network": "context_encoder", "checkpoint": str(path), "dataset": "x"}
    given = params.build(infer.Params, entry, "infer.a")
    infer.infer(Path(given.checkpoint), aligned, masks, tmp_path / "made", given, RUNTIME, "a")
    how = blend.Params("a", "x", method) if method == "exact" else blend.Params("a", "x", method, iterations=5)
    blend.blend(aligned, masks, tmp_path / "made", tmp_path / "blended", how, "a")
    raw, blended = (
        table.Table(tmp_path / folder).pictures() for folder in ("made/completed.arrow", "blended/blended.arrow")
    )
    assert np.array_equal(raw, blended) != changes

    outputs = [tmp_path / f"a{end}" for end in (".json", ".parquet", ".means.parquet")]
    evaluate.evaluate(aligned, masks, tmp_path / "made", tmp_path / "blended", *outputs, SCORING, RUNTIME, "a")
    scores, rows, means = json.loads(outputs[0].read_text()), pq.read_table(outputs[1]), read_means(outputs[2])
    there = ["raw", "blended"] if changes else ["raw"]
    assert sorted(set(rows["blending"].to_pylist())) == sorted(there)
    assert rows.num_rows == len(raw) * len(there)
    assert {blending for blending, *_ in means} == set(there) | ({"difference"} if changes else set())
    assert scores["n"] == len(raw)
    assert all(list(scores["psnr_hole"][kind]) == there for kind in scores["psnr_hole"])
    assert list(scores["ssim"]) == list(scores["l1"]) == there
