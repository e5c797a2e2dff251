"""Contract tests that every network must pass (one row a network)."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from stages.models.dcgan import Discriminator, Generator, sample_prior
from stages.runs.errors import InputError


def noise(count: int) -> Tensor:
    return sample_prior(count, 100, "uniform", torch.Generator().manual_seed(0))


def pictures(count: int, size: int) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


# build, input, output shape for 2, parameter count worked out by hand
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor], tuple[int, ...], int]] = {
    "report 1's generator": (
        lambda: Generator(64, 100, 64, 5), noise, (2, 3, 64, 64),
        100 * 8192 + 2 * (512 + 256 + 128 + 64) + 25 * (512 * 256 + 256 * 128 + 128 * 64 + 64 * 3) + 3,
    ),
    "report 2's generator": (
        lambda: Generator(64, 100, 64, 4), noise, (2, 3, 64, 64),
        100 * 8192 + 2 * (512 + 256 + 128 + 64) + 16 * (512 * 256 + 256 * 128 + 128 * 64 + 64 * 3) + 3,
    ),
    "cifar generator": (
        lambda: Generator(32, 100, 64, 4), noise, (2, 3, 32, 32),
        100 * 4096 + 2 * (256 + 128 + 64) + 16 * (256 * 128 + 128 * 64 + 64 * 3) + 3,
    ),
    "128 generator": (
        lambda: Generator(128, 100, 8, 5), noise, (2, 3, 128, 128),
        100 * 2048 + 2 * (128 + 64 + 32 + 16 + 8) + 25 * (128 * 64 + 64 * 32 + 32 * 16 + 16 * 8 + 8 * 3) + 3,
    ),
    "report 1's discriminator": (
        lambda: Discriminator(64, 64, 5), lambda n: pictures(n, 64), (2,),
        25 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512) + 64 + 2 * (128 + 256 + 512) + 8192 + 1,
    ),
    "report 2's discriminator": (
        lambda: Discriminator(64, 64, 4), lambda n: pictures(n, 64), (2,),
        16 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512) + 64 + 2 * (128 + 256 + 512) + 8192 + 1,
    ),
}  # fmt: skip


@pytest.fixture(params=NETWORKS)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Callable[[int], Tensor], tuple[int, ...], int]:
    torch.manual_seed(0)
    build, make, shape, count = NETWORKS[request.param]
    return build(), make, shape, count


def test_shape_finite_and_every_parameter_gets_a_gradient(case) -> None:
    network, make, shape, count = case
    output = network(make(2))
    assert tuple(output.shape) == shape
    assert output.isfinite().all()
    output.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in network.parameters())
    assert sum(p.numel() for p in network.parameters()) == count


def test_one_picture_alone_is_as_in_a_batch(case) -> None:
    """A known bug: with batch normalisation in training mode one image completes badly, 63 well."""
    network, make, _, _ = case
    network(make(8))  # some running statistics
    network.eval()
    with torch.no_grad():
        assert (network(make(8))[:1] - network(make(8)[:1])).abs().max() <= 2 / 255


def test_generator_stays_in_range() -> None:
    output = Generator(32, 100, 8, 5)(noise(4) * 50)
    assert output.min() >= -1
    assert output.max() <= 1


@pytest.mark.parametrize("size", [0, 8, 24, 48, 100, 1024])
def test_sizes_no_dcgan_takes_are_refused_by_name(size: int) -> None:
    with pytest.raises(InputError, match=rf"not {size}: set align.size"):
        Generator(size, 100, 8, 4)


def test_priors() -> None:
    rng = torch.Generator().manual_seed(0)
    uniform, normal = (sample_prior(1000, 100, prior, rng) for prior in ("uniform", "normal"))
    assert uniform.abs().max() <= 1
    assert uniform.std().item() == pytest.approx(3**-0.5, abs=0.01)
    assert normal.std().item() == pytest.approx(1, abs=0.01)
    assert normal.abs().max() > 3
