"""Doubling a decoder's side: what the layers compute, and that no chequers come of it."""

import pytest
import torch
import torch.nn.functional as F

from stages.models.upsampling import ResizeConv2d, to_rgb, upsample
from stages.runs.errors import InputError


def test_resize_is_nearest_neighbour_then_a_convolution() -> None:
    """Computed as one transposed convolution: the values and the gradients are those of the two."""
    torch.manual_seed(0)
    layer = ResizeConv2d(5, 7).double()
    x = torch.randn(2, 5, 6, 4, dtype=torch.float64, requires_grad=True)
    expected = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), layer.weight, layer.bias, padding=1)
    found = layer(x)
    assert found.shape == (2, 7, 12, 8)
    torch.testing.assert_close(found, expected)
    upstream = torch.randn_like(found)
    for ours, theirs in zip(
        torch.autograd.grad(found, (x, layer.weight, layer.bias), upstream),
        torch.autograd.grad(expected, (x, layer.weight, layer.bias), upstream),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_resize_by_hand() -> None:
    """One value of 1 and a kernel of 1 to 9: the 2 x 2 square of ones, convolved."""
    layer = ResizeConv2d(1, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(1.0, 10).reshape(1, 1, 3, 3))
    found = layer(torch.ones(1, 1, 1, 1))
    # Above left the square lies below right in the window: 5 + 6 + 8 + 9.
    assert found.flatten().tolist() == [28.0, 24.0, 16.0, 12.0]


def chequers(picture: torch.Tensor) -> float:
    """Energy in the pattern that alternates from pixel to pixel over all energy about the mean; inside the borders."""
    inner = picture[..., 4:-4, 4:-4]
    a, b = inner[..., ::2, ::2], inner[..., ::2, 1::2]
    c, d = inner[..., 1::2, ::2], inner[..., 1::2, 1::2]
    return float((a - b - c + d).square().sum() / (4 * (inner - inner.mean((-2, -1), keepdim=True)).square().sum()))


@torch.no_grad()
@pytest.mark.parametrize("kernel", [3, 4, 5])
def test_a_flat_picture_stays_flat_with_resize_alone(kernel: int) -> None:
    """An even input, random weights: the transposed layers chequer it, resize leaves it even inside the border."""
    torch.manual_seed(1)
    flat = torch.ones(1, 8, 12, 12, dtype=torch.float64)
    assert chequers(upsample(8, 3, "transposed", kernel).double()(flat)) > 0.05
    even = upsample(8, 3, "resize", kernel).double()(flat)[..., 4:-4, 4:-4]
    torch.testing.assert_close(even, even[..., :1, :1].expand_as(even))


@pytest.mark.parametrize("upsampling", ["transposed", "resize"])
def test_all_double_to_three_channels(upsampling: str) -> None:
    for kernel in (3, 4, 5):
        layers = torch.nn.Sequential(*to_rgb(6, upsampling, kernel))
        assert layers(torch.zeros(2, 6, 5, 5)).shape == (2, 3, 10, 10)


def test_another_word_is_refused() -> None:
    with pytest.raises(InputError, match="upsampling: must be one of transposed, resize, not 'bilinear'"):
        upsample(1, 1, "bilinear", 4)
