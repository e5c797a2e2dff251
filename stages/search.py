"""Complete pictures by searching a DCGAN's latent space: Yeh et al. 2016/2017, reports 1 and 2.

For each picture and hole, find z that minimises the context loss on the known pixels plus lambda
times the prior loss; G(z) then fills the hole. All pictures of a batch are searched at once, the
weights frozen and batch normalisation in eval mode, so that no picture depends on its neighbours:
their losses are summed, and Adam works on each number of z by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from pydantic import Field
from pydantic.dataclasses import dataclass

from stages.runs import command
from stages.runs.errors import InputError
from stages.runs.params import STRICT, Name, Runtime, refuse_idle

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

    from stages.images.batches import Batch


@dataclass(frozen=True, config=STRICT)
class Params:
    model: Name  # the entry of train_dcgan whose checkpoint is searched
    dataset: Name  # the dataset whose pictures are completed
    context: Literal["weighted", "plain"] = "weighted"  # report 2's loss, or report 1's
    window: Annotated[int, Field(ge=1)] = 7  # pixels, odd: the reach of the weighted loss
    prior_weight: Annotated[float, Field(ge=0)] = 0.003  # lambda; 0.003 in the paper, 0.1 in report 1
    iterations: Annotated[int, Field(ge=1)] = 300  # steps of Adam; 1500 in the paper
    lr: Annotated[float, Field(gt=0)] = 0.3  # Adam's first learning rate; 0.01 in the paper's manner
    lr_schedule: Literal["linear", "constant"] = "linear"  # the learning rate falls to 0, or stays as in the paper
    # Adam's second decay; 0.999 in the paper's manner, which takes 1.5 times as many iterations to the same loss.
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.9
    starts: Annotated[int, Field(ge=1)] = 256  # random z tried; each picture starts from the best by context loss
    batch: Annotated[int, Field(ge=1)] = 32  # pictures searched at once
    count: Annotated[int, Field(ge=1)] | None = None  # test pictures, those of the smallest keyed hash; null: all
    # training pictures beside them, so that memorising shows: chosen alike, of those that mask.train_sample gives holes
    train_count: Annotated[int, Field(ge=0)] = 0
    kinds: tuple[str, ...] | None = None  # kinds of hole; null: all of datasets.<dataset>.mask
    seed: Annotated[int, Field(ge=0)] = 3  # of the random starts

    def __post_init__(self) -> None:
        if self.window % 2 == 0:
            raise ValueError("window must be odd")
        if self.context == "plain":
            refuse_idle(self, "context: plain", ["window"])


class Networks(NamedTuple):
    """What a checkpoint of train_dcgan holds, frozen and in eval mode, and the shape of its z."""

    generator: nn.Module
    discriminator: nn.Module
    latent: int
    prior: str
    size: int


class SearchResult(NamedTuple):
    """The outcome of a search over N pictures."""

    z: Tensor  # N x latent
    losses: Tensor  # iterations x N: context + lambda * prior, before each step
    contexts: Tensor  # iterations x N: the context loss alone


def load_networks(path: Path, device: torch.device) -> Networks:
    """The frozen networks of a checkpoint. Raises InputError if it is no DCGAN's."""
    import torch

    from stages.models.dcgan import PRIORS, Discriminator, Generator
    from stages.runs.header import short
    from stages.training import checkpoint

    found = checkpoint.Checkpoint(path)
    if found.inputs.get("network") != "dcgan":
        said = short(found.inputs.get("network"))
        raise InputError(f"{path}: holds a {said}, and latent search needs a dcgan")
    shape, params = found.mapping("arguments"), found.mapping("params")
    generator = found.build("generator", Generator, shape)
    if (prior := params.get("prior")) not in PRIORS:
        raise found.wrong(f"params: prior is {short(prior)}, and not one of {', '.join(PRIORS)}")
    d_arguments = {"size": shape["size"], "width": params.get("d_width") or shape["width"], "kernel": shape["kernel"]}
    discriminator = found.build("discriminator", Discriminator, d_arguments | {"norm": params.get("d_norm", "batch")})
    for module in (generator, discriminator):
        module.requires_grad_(False).eval().to(device).to(memory_format=torch.channels_last)
    return Networks(generator, discriminator, shape["latent"], prior, shape["size"])


def weigh(hole: Tensor, params: Params) -> Tensor:
    """The weight of each known pixel in the context loss: N x H x W, bool -> float32."""
    from stages.losses.latent import context_weights, known_weights

    return context_weights(hole, params.window) if params.context == "weighted" else known_weights(hole)


def draw_candidates(
    networks: Networks, params: Params, runtime: Runtime, device: torch.device
) -> tuple[Tensor, Tensor]:
    """`starts` random z and their pictures, the same for every image, so that none depends on its batch.

    Raises InputError where a picture is not a number: its loss would pass for the least of all.
    """
    import torch

    from stages.images.tensors import check_finite
    from stages.models.dcgan import sample_prior
    from stages.training.device import autocast, keyed_generator

    z = sample_prior(params.starts, networks.latent, networks.prior, keyed_generator(params.seed)).to(device)
    with torch.no_grad(), autocast(runtime, device):
        pictures = torch.cat([networks.generator(part).float() for part in z.split(params.batch)])
    check_finite(pictures, lambda row: f"what the generator of '{params.model}' makes of random z number {row}")
    return z, pictures


def best_start(known: Tensor, weights: Tensor, candidates: tuple[Tensor, Tensor]) -> Tensor:
    """For each of N pictures the candidate of least context loss: N x latent."""
    import torch

    from stages.losses.latent import context_loss

    z, pictures = candidates
    chosen = [context_loss(pictures, k[None], w[None]).argmin() for k, w in zip(known, weights, strict=True)]
    return z[torch.stack(chosen)]


def descend(
    networks: Networks, known: Tensor, weights: Tensor, start: Tensor, params: Params, runtime: Runtime
) -> SearchResult:
    """Adam on z from `start` (N x latent), Yeh et al. 2017, eq. 2.

    `known` is N x 3 x H x W in [-1, 1], whatever under the hole: `weights` (N x H x W) are 0 there.
    Under the uniform prior z is kept in [-1, 1]. A loss that is not finite stays in what is found.
    """
    import torch

    from stages.losses.latent import context_loss, prior_loss
    from stages.training.device import autocast

    z = start.clone().requires_grad_(True)
    adam = torch.optim.Adam([z], params.lr, (0.9, params.beta2))
    losses, contexts = [], []
    for iteration in range(params.iterations):
        if params.lr_schedule == "linear":
            adam.param_groups[0]["lr"] = params.lr * (1 - iteration / params.iterations)
        with autocast(runtime, known.device):
            output = networks.generator(z)
            # Without a weight the prior costs nothing.
            logits = networks.discriminator(output).float() if params.prior_weight else known.new_zeros(len(z))
        context = context_loss(output.float(), known, weights)
        loss = context + params.prior_weight * prior_loss(logits)
        (z.grad,) = torch.autograd.grad(loss.sum(), z)
        adam.step()
        if networks.prior == "uniform":
            z.data.clamp_(-1, 1)
        losses.append(loss.detach())
        contexts.append(context.detach())
    return SearchResult(z.detach(), torch.stack(losses), torch.stack(contexts))


def searcher(
    model: Path, size: tuple[int, int], params: Params, runtime: Runtime
) -> Callable[[Batch], tuple[SearchResult, np.ndarray]]:
    """What completes batches of `size` pictures: the outcome of the search, and G(z) as N x H x W x 3, uint8.

    Raises InputError for a checkpoint that is no DCGAN's, or of another size.
    """
    import torch

    from stages.images import tensors
    from stages.training.device import autocast, prepare

    device = prepare(runtime)
    networks = load_networks(model, device)
    if size != (networks.size, networks.size):
        raise InputError(
            f"{model}: completes {networks.size} x {networks.size} pictures, dataset '{params.dataset}' has "
            f"{size[1]} x {size[0]}: set its align.side"
        )
    candidates = draw_candidates(networks, params, runtime, device)

    def complete(batch: Batch) -> tuple[SearchResult, np.ndarray]:
        known = tensors.to_tensor(batch.known, device)
        weights = weigh(torch.from_numpy(batch.hole).to(device), params)
        found = descend(networks, known, weights, best_start(known, weights, candidates), params, runtime)
        # Every step at once: on a GPU, to look at each would make it wait.
        tensors.check_finite(
            torch.cat([found.z, found.losses.T], 1),
            lambda row: f"{batch.title(row)}: the search through {model}",
            "lower the search's lr, use fp32, or train the network again",
        )
        with torch.no_grad(), autocast(runtime, device):
            made = networks.generator(found.z)
        return found, tensors.to_pictures(made, lambda row: f"{batch.title(row)}: what {model} makes of it")

    return complete


def search(
    model: Path, aligned: Path, masks: Path, inpainted: Path, params: Params, runtime: Runtime, name: str
) -> None:
    """Write completed.arrow, guide.arrow (G(z) as it is) and curves.parquet: test pictures, then any training ones.

    Raises InputError for a checkpoint that is no DCGAN's, or of another size than the dataset, and where a loss or a
    picture is not a number.
    """
    from tqdm import tqdm

    from stages.images import batches

    works, rows = batches.to_complete(aligned, masks, params.count, params.train_count, params.kinds), params.batch
    size = works[0].size
    complete = searcher(model, size, params, runtime)
    with batches.writing_results(inpainted, size) as results, Curves(inpainted / "curves.parquet") as curves:
        for work in works:
            said = f"{name}, {work.split}"
            for batch in tqdm(
                work.batches(rows), total=work.count_batches(rows), desc=said, unit="batch", disable=None
            ):
                found, guide = complete(batch)
                results.append(batch, guide, work.split)
                curves.append(batch, found, work.split)


class Curves:
    """curves.parquet: per picture and hole, the loss and the context loss at every iteration."""

    def __init__(self, path: Path):
        import pyarrow as pa
        import pyarrow.parquet as pq

        numbers = pa.list_(pa.float32())
        texts = [(key, pa.string()) for key in ("image_id", "path", "kind", "split")]
        self._schema = pa.schema([*texts, ("losses", numbers), ("context", numbers)])
        self._writer = pq.ParquetWriter(str(path), self._schema, compression="none")

    def append(self, batch: Batch, found: SearchResult, split: str) -> None:
        import pyarrow as pa

        ids, paths = zip(*batch.keys, strict=True)
        losses, contexts = (list(t.T.cpu().numpy()) for t in (found.losses, found.contexts))
        columns = [ids, paths, batch.kinds, [split] * len(ids), losses, contexts]
        self._writer.write_table(pa.table(columns, schema=self._schema))

    def __enter__(self) -> Curves:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()


if __name__ == "__main__":
    command.run(
        search,
        sections={"params": "search.{name}", "runtime": "runtime"},
        inputs=("model", "aligned", "masks"),
        outputs=("inpainted",),
    )
