"""What lies under a hole is never read, and what lies outside a loss's region: be it NaN, not a bit changes.

A product with 0 does not do: 0 times NaN is NaN, forward and, where the product comes after the derivative, backward.
"""

import pkgutil
from collections.abc import Callable
from importlib import import_module

import pytest
import torch
from torch import Tensor, nn

from stages import models
from stages.losses import context_encoder, latent, matching, reconstruction
from stages.models.partial_conv import PartialConv2d, spread

FILLS = (float("nan"), float("inf"), -1e30)

# Every file of stages/models that has a Network, and how it is built: a new one fails below until it is here.
NETWORKS: dict[str, list[dict[str, object]]] = {
    "autoencoder": [{"size": 32, "width": 2}],
    "context_encoder": [
        {"size": 64, "encoder": encoder, "objective": objective, "bottleneck": 8, "width": 2, "overlap": overlap}
        for encoder, objective, overlap in (("alexnet", "gan", 4), ("vgg", "vae", 0), ("resnet", "vae", 4))
    ],
    "dmfn": [{"size": 16, "width": 4, "blocks": 1}],
    "partial_conv": [{"size": 32, "width": 4}, {"size": 32, "width": 4, "refine": 1, "residual": True}],
}
CASES = [(name, arguments) for name, built in NETWORKS.items() for arguments in built]


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_every_network_is_here() -> None:
    names = [found.name for found in pkgutil.iter_modules(models.__path__)]
    assert {name for name in names if hasattr(import_module(f"stages.models.{name}"), "Network")} == set(NETWORKS)


def passed(network: nn.Module, image: Tensor, hole: Tensor) -> list[Tensor]:
    """The output for pictures with a hole, the gradient by the picture and by every weight."""
    image = image.clone().requires_grad_(True)
    network.zero_grad()
    output = network(image, hole)
    (output * rand(*output.shape, seed=9)).sum().backward()
    learnt = [weight.grad.clone() for weight in network.parameters() if weight.grad is not None]
    return [output.detach(), image.grad, *learnt]


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize(("name", "arguments"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_a_network_reads_nothing_under_the_hole(name: str, arguments: dict[str, object], fill: float) -> None:
    torch.manual_seed(0)
    network = import_module(f"stages.models.{name}").Network(**arguments)
    size = int(str(arguments["size"]))
    image, hole = rand(2, 3, size, size), torch.zeros(2, 1, size, size, dtype=torch.bool)
    hole[0, :, size // 4 : -size // 4, size // 4 : -size // 4] = True
    hole[1, :, size // 2 : -size // 4, size // 4 : size // 2] = True
    for mode in (True, False):
        network.train(mode)
        state = {key: value.clone() for key, value in network.state_dict().items()}
        blank = passed(network, image.masked_fill(hole, 0), hole)
        network.load_state_dict(state)  # running statistics
        filled = passed(network, image.masked_fill(hole, fill), hole)
        assert all(torch.equal(a, b) for a, b in zip(blank, filled, strict=True))
        assert all(value.isfinite().all() for value in filled)
        assert not filled[1][hole.expand_as(image)].any(), "no gradient by what is not read"


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_a_partial_convolution_reads_nothing_invalid(kind: torch.dtype, fill: float) -> None:
    """Forward and backward, each group of channels by its mask; an infinite gradient at an invalid value is none."""
    torch.manual_seed(0)
    layer = PartialConv2d(5, 4, 3, 1, 1, groups_of_channels=(3, 2)).to(kind)
    valid = rand(2, 2, 9, 9, seed=1) < 0.2
    masks = valid.repeat_interleave(torch.tensor([3, 2]), 1)
    found = []
    for value in (0.0, fill):
        x = rand(2, 5, 9, 9).to(kind).masked_fill(~masks, value).requires_grad_(True)
        layer.zero_grad()
        output, _ = layer(x, valid)
        output.square().sum().backward()
        assert not x.grad[~masks].any()
        found.append([output.detach(), x.grad, layer.weight.grad.clone(), layer.bias.grad.clone()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert all(value.isfinite().all() for value in found[1])


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("side", [5, 12, 32])
def test_spreading_reads_nothing_unknown(side: int, fill: float) -> None:
    known = (rand(2, 1, side, side, seed=1) < 0).float()
    image = rand(2, 3, side, side)
    blank, filled = (spread(torch.where(known > 0, image, value), known) for value in (0.0, fill))
    assert torch.equal(blank, filled)
    assert filled.isfinite().all()


SIDE, BORDER = 12, 2
HOLE = torch.zeros(2, 1, SIDE, SIDE, dtype=torch.bool)
HOLE[0, :, 3:8, 4:9] = HOLE[1, :, 5:6, 2:10] = True
GROWN = torch.nn.functional.max_pool2d(HOLE.float(), 3, 1, 1) > 0
INSIDE = torch.zeros_like(HOLE)
INSIDE[..., BORDER:-BORDER, BORDER:-BORDER] = True
WEIGHTS = latent.context_weights(HOLE.squeeze(1), 3)
Z = torch.zeros(2, 4)


def composited_error(output: Tensor, target: Tensor) -> Tensor:
    return reconstruction.errors(output, target, HOLE)["mse_composited"]


def liu(term: str) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda output, target: reconstruction.liu(output, target, HOLE, None)[1][term]


def context(verdict: bool) -> Callable[[Tensor, Tensor], Tensor]:
    weights = context_encoder.overlap_weights(SIDE, BORDER, 0.0)
    if verdict:
        return lambda output, target: context_encoder.gan(output, target, weights, Z[:, 0], 0.9, 0.1)[0]
    return lambda output, target: context_encoder.vae(output, target, weights, Z, Z, 0.1)[0]


def guided(output: Tensor, target: Tensor) -> Tensor:
    return matching.self_guided(INSIDE.float(), [output], [target])


# loss of (output, target), and the region that it is of
LOSSES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Tensor]] = {
    "mse_composited": (composited_error, HOLE),
    "liu, valid": (liu("valid"), ~HOLE),
    "liu, hole": (liu("hole"), HOLE),
    "liu, tv": (liu("tv"), GROWN),
    "self_guided": (guided, INSIDE),
    "vae": (context(False), INSIDE),
    "gan": (context(True), INSIDE),
    "patch_sse": (lambda output, target: context_encoder.patch_sse(output, target, BORDER).sum(), INSIDE),
    "context": (lambda output, target: latent.context_loss(output, target, WEIGHTS).sum(), WEIGHTS[:, None] > 0),
    "plain context": (
        lambda output, target: latent.context_loss(output, target, latent.known_weights(HOLE.squeeze(1))).sum(), ~HOLE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_reads_nothing_outside_its_region(name: str, fill: float) -> None:
    """Of the output and of the target; the gradient inside is the same, outside it is 0."""
    loss, region = LOSSES[name]
    found = []
    for value in (0.0, fill):
        output, target = (rand(2, 3, SIDE, SIDE, seed=seed).masked_fill(~region, value) for seed in (1, 2))
        output.requires_grad_(True)
        total = loss(output, target)
        if total.requires_grad:
            total.backward()
            assert not output.grad[~region.expand_as(output)].any()
        found.append([total.detach(), *([output.grad] if total.requires_grad else [])])
    assert found[0][0] > 0
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert all(value.isfinite().all() for value in found[1])
