"""Contract tests that every network must pass (one row a network)."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from stages.models.autoencoder import Autoencoder
from stages.models.context_encoder import ContextEncoder
from stages.models.dcgan import Discriminator, Generator, sample_prior
from stages.models.dmfn import DMFN
from stages.models.dmfn import Discriminator as Adversary
from stages.models.partial_conv import PartialConvUNet
from stages.runs.errors import InputError

Inputs = tuple[Tensor, ...]


def noise(count: int) -> Inputs:
    return (sample_prior(count, 100, "uniform", torch.Generator().manual_seed(0)),)


def pictures(size: int) -> Callable[[int], Inputs]:
    return lambda n: (torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1,)


def holed(size: int) -> Callable[[int], Inputs]:
    """Pictures and their holes: the centre, another part missing in each picture."""

    def make(count: int) -> Inputs:
        hole = torch.zeros(count, 1, size, size, dtype=torch.bool)
        for number, own in enumerate(hole):
            own[:, size // 4 : size // 2 + number % (size // 4) + 1, size // 4 : -size // 4] = True
        return (*pictures(size)(count), hole)

    return make


def drawn(count: int) -> Inputs:
    """With noise: without it, what a variational network learns of its variance would not show."""
    return (*holed(64)(count), torch.randn(count, 10, generator=torch.Generator().manual_seed(1)))


# build, inputs, output shape for 2, parameter count worked out by hand
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Inputs], tuple[int, ...], int]] = {
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
    "a generator without chequers": (
        lambda: Generator(64, 100, 8, 4, "resize"), noise, (2, 3, 64, 64),
        100 * 1024 + 2 * (64 + 32 + 16 + 8 + 4) + 9 * (64 * 32 + 32 * 16 + 16 * 8 + 8 * 4 + 4 * 3) + 3,
    ),
    "report 1's discriminator": (
        lambda: Discriminator(64, 64, 5), pictures(64), (2,),
        25 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512) + 64 + 2 * (128 + 256 + 512) + 8192 + 1,
    ),
    "report 2's discriminator": (
        lambda: Discriminator(64, 64, 4), pictures(64), (2,),
        16 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512) + 64 + 2 * (128 + 256 + 512) + 8192 + 1,
    ),
    "a discriminator without normalisation": (
        lambda: Discriminator(64, 8, 4, "none"), pictures(64), (2,),
        16 * (3 * 8 + 8 * 16 + 16 * 32 + 32 * 64) + 8 + 16 + 32 + 64 + 1024 + 1,
    ),
    "report 5's autoencoder": (
        lambda: Autoencoder(32, 32), holed(32), (2, 3, 32, 32),
        2 * 9 * (3 * 32 + 32 * 64 + 64 * 128 + 128 * 256 + 256 * 512) + 32 * (1 + 2 + 4 + 8 + 16) + 32 * 15 + 3,
    ),
    "an autoencoder without chequers": (
        lambda: Autoencoder(32, 8, "resize"), holed(32), (2, 3, 32, 32),
        9 * (3 * 8 + 8 * 16 + 16 * 32 + 32 * 64 + 64 * 128) + 8 * (1 + 2 + 4 + 8 + 16)
        + 9 * (128 * 64 + 64 * 32 + 32 * 16 + 16 * 8 + 8 * 4 + 4 * 3) + 8 * (8 + 4 + 2 + 1) + 4 + 3,
    ),
    "report 5's partial convolutions": (
        lambda: PartialConvUNet(32, 32), holed(32), (2, 3, 32, 32),
        49 * 3 * 32 + 32 + 25 * (32 * 64 + 64 * 128) + 9 * (128 * 256 + 256 * 256)
        + 9 * (512 * 256 + 384 * 128 + 192 * 64 + 96 * 32) + 2 * (64 + 128 + 256 + 256 + 256 + 128 + 64 + 32)
        + 9 * 35 * 3 + 3,
    ),
    "partial convolutions, refined and residual": (
        lambda: PartialConvUNet(64, 32, 2, True), holed(64), (2, 3, 64, 64),
        49 * 3 * 32 + 32 + 25 * (32 * 64 + 64 * 128) + 9 * (128 * 256 + 2 * 256 * 256) + 2 * (64 + 128 + 3 * 256)
        + 9 * (2 * 512 * 256 + 384 * 128 + 192 * 64 + 96 * 32) + 2 * (2 * 256 + 128 + 64 + 32)
        + 2 * (9 * 35 * 32 + 32) + 9 * 35 * 3 + 3,
    ),
    "a small DMFN": (
        lambda: DMFN(32, 4, 2), holed(32), (2, 3, 32, 32),
        25 * 4 * 4 + 4 + 9 * (4 * 8 + 8 * 8 + 8 * 16) + 2 * (9 * 16 * 4 + 7 * 9 * 4**2 + 16**2)
        + 9 * 16**2 + 16 * 16 * 8 + 9 * 8**2 + 16 * 8 * 4 + 9 * 4**2 + 9 * 4 * 3 + 3,
    ),
    "a DMFN without chequers": (
        lambda: DMFN(32, 4, 2, upsampling="resize"), holed(32), (2, 3, 32, 32),
        25 * 4 * 4 + 4 + 9 * (4 * 8 + 8 * 8 + 8 * 16) + 2 * (9 * 16 * 4 + 7 * 9 * 4**2 + 16**2)
        + 9 * 16**2 + 9 * 16 * 8 + 9 * 8**2 + 9 * 8 * 4 + 9 * 4**2 + 9 * 4 * 3 + 3,
    ),
    "DMFN's discriminator": (
        lambda: Adversary(32, 4), holed(32), (2,),
        25 * (3 * 4 + 4 * 8 + 8 * 16) + 2 * (4 + 8 + 16) + 16 * 16 * 32 + 32
        + 25 * (3 * 4 + 4 * 8) + 2 * (4 + 8) + 8 * 16 * 32 + 32 + 64 + 1,
    ),
    "a context encoder with a discriminator": (
        lambda: ContextEncoder(64, "alexnet", "gan", 10, 8), holed(64), (2, 3, 64, 64),
        121 * 3 * 8 + 25 * 8 * 16 + 9 * (16 * 32 + 32 * 64) + 2 * 120 + 64 * 16 * 10 + 20
        + 10 * 32 * 25 + 2 * 56 + 16 * (32 * 16 + 16 * 8 + 8 * 3) + 3,
    ),
    "a variational context encoder": (
        lambda: ContextEncoder(64, "alexnet", "vae", 10, 8), drawn, (2, 3, 64, 64),
        121 * 3 * 8 + 25 * 8 * 16 + 9 * (16 * 32 + 32 * 64) + 2 * 120 + 64 * 16 * 10 + 20 + 2 * (10 * 10 + 10)
        + 10 * 32 * 25 + 2 * 56 + 16 * (32 * 16 + 16 * 8 + 8 * 3) + 3,
    ),
    "a context encoder without chequers": (
        lambda: ContextEncoder(64, "alexnet", "vae", 10, 8, upsampling="resize"), drawn, (2, 3, 64, 64),
        121 * 3 * 8 + 25 * 8 * 16 + 9 * (16 * 32 + 32 * 64) + 2 * 120 + 64 * 16 * 10 + 20 + 2 * (10 * 10 + 10)
        + 10 * 32 * 25 + 2 * (56 + 4) + 9 * (32 * 16 + 16 * 8 + 8 * 4 + 4 * 3) + 3,
    ),
}  # fmt: skip


@pytest.fixture(params=NETWORKS)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Callable[[int], Inputs], tuple[int, ...], int]:
    torch.manual_seed(0)
    build, make, shape, count = NETWORKS[request.param]
    return build(), make, shape, count


def test_shape_finite_and_every_parameter_gets_a_gradient(case) -> None:
    network, make, shape, count = case
    output = first(network(*make(2)))
    assert tuple(output.shape) == shape
    assert output.isfinite().all()
    output.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in network.parameters())
    assert sum(p.numel() for p in network.parameters()) == count


def test_one_picture_alone_is_as_in_a_batch(case) -> None:
    """A known bug: with batch normalisation in training mode one image completes badly, 63 well."""
    network, make, _, _ = case
    network(*make(8))  # some running statistics
    network.eval()
    with torch.no_grad():
        together, alone = (first(network(*(value[:count] for value in make(8)))) for count in (8, 1))
        assert (together[:1] - alone).abs().max() <= 2 / 255


COMPLETES = [name for name, (_, make, *_) in NETWORKS.items() if len(make(1)) > 1 and name != "DMFN's discriminator"]


@pytest.mark.parametrize("name", COMPLETES)
def test_what_lies_under_the_hole_does_not_matter(name: str) -> None:
    torch.manual_seed(0)
    build, make, _, _ = NETWORKS[name]
    network = build().eval()
    image, hole, *rest = make(2)
    other = torch.where(hole, torch.rand(image.shape, generator=torch.Generator().manual_seed(1)), image)
    assert not torch.equal(image, other)
    with torch.no_grad():
        assert torch.equal(network(image, hole, *rest), network(other, hole, *rest))


def first(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def test_generator_stays_in_range() -> None:
    output = Generator(32, 100, 8, 5)(noise(4)[0] * 50)
    assert output.min() >= -1
    assert output.max() <= 1


@pytest.mark.parametrize("size", [0, 8, 24, 48, 100, 1024])
def test_sizes_no_dcgan_takes_are_refused_by_name(size: int) -> None:
    with pytest.raises(InputError, match=rf"not {size}: set align.side"):
        Generator(size, 100, 8, 4)


def test_priors() -> None:
    rng = torch.Generator().manual_seed(0)
    uniform, normal = (sample_prior(1000, 100, prior, rng) for prior in ("uniform", "normal"))
    assert uniform.abs().max() <= 1
    assert uniform.std().item() == pytest.approx(3**-0.5, abs=0.01)
    assert normal.std().item() == pytest.approx(1, abs=0.01)
    assert normal.abs().max() > 3
