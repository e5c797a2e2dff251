"""Partial convolution against its equations, and what its U-Net keeps to."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from stages.models.partial_conv import PartialConv2d, PartialConvUNet, spread
from stages.runs.errors import InputError


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def equation(x: Tensor, masks: Tensor, layer: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Liu et al. 2018, eq. 1 and 2, window by window, with a mask value for every channel."""
    (k, _), (stride, _), pad = layer.kernel_size, layer.stride, layer.padding[0]
    x, masks = (F.pad(v.double(), [int(pad)] * 4) for v in (x, masks))
    side = (x.shape[2] - k) // stride + 1
    output = torch.zeros(len(x), layer.out_channels, side, side, dtype=torch.double)
    updated = torch.zeros(len(x), 1, side, side)
    for n in range(len(x)):
        for i in range(side):
            for j in range(side):
                window = slice(i * stride, i * stride + k), slice(j * stride, j * stride + k)
                m = masks[(n, slice(None), *window)]
                if m.sum() > 0:
                    total = (layer.weight.double() * x[(n, slice(None), *window)] * m).sum((1, 2, 3))
                    output[n, :, i, j] = total * (m.numel() / m.sum())
                    output[n, :, i, j] += 0 if layer.bias is None else layer.bias.double()
                    updated[n, 0, i, j] = 1
    return output, updated


def test_a_window_worked_out_by_hand():
    """Two of nine values are known, 2 and 5, then 5 alone; where none is, 0 without the bias."""
    layer = PartialConv2d(1, 1, 3)
    nn.init.ones_(layer.weight)
    nn.init.constant_(layer.bias, 0.5)
    x = torch.tensor([[2.0, 7.0, 7.0, 7.0], [7.0, 5.0, 7.0, 7.0], [7.0, 7.0, 7.0, 7.0]])[None, None]
    valid = torch.zeros(1, 1, 3, 4, dtype=torch.bool)
    valid[0, 0, 0, 0] = valid[0, 0, 1, 1] = True
    output, updated = layer(x, valid)
    assert output.flatten().tolist() == [7 * 9 / 2 + 0.5, 5 * 9 + 0.5]
    assert updated.dtype == torch.bool
    assert updated.all()
    output, updated = layer(x, torch.zeros_like(valid))
    assert not output.any()
    assert not updated.any()


def test_two_channels_of_two_masks_worked_out_by_hand():
    """After a concatenation: k^2 C_in = 3 values, of which the pair's two are known, or the single one."""
    layer = PartialConv2d(3, 1, 1, bias=False, groups_of_channels=(2, 1))
    nn.init.ones_(layer.weight)
    x = torch.tensor([1.0, 2.0, 4.0]).reshape(1, 3, 1, 1).expand(1, 3, 1, 4)
    valid = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0]]).reshape(1, 2, 1, 4)
    output, updated = layer(x, valid)
    torch.testing.assert_close(output.flatten(), torch.tensor([7.0, 3 * 3 / 2, 4 * 3 / 1, 0.0]))
    assert updated.flatten().tolist() == [1, 1, 1, 0]
    assert updated.shape == (1, 1, 1, 4)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 2),
    bias=st.booleans(),
    share=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    groups=st.sampled_from([(4,), (3, 1), (1, 2, 1), (1, 1, 1, 1)]),
)
def test_is_the_equation(seed, kernel, stride, bias, share, groups):
    torch.manual_seed(seed)
    layer = PartialConv2d(4, 3, kernel, stride, kernel // 2, bias, groups)
    x, valid = torch.randn(2, 4, 7, 7), torch.rand(2, len(groups), 7, 7) < share
    output, updated = layer(x, valid)
    expected, expected_mask = equation(x, valid.repeat_interleave(torch.tensor(groups), 1), layer)
    torch.testing.assert_close(output.double(), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(updated.float(), expected_mask)
    assert not output[~updated.expand_as(output)].any()


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), groups=st.sampled_from([(6,), (4, 2), (1, 5)]))
def test_one_mask_a_group_is_exactly_a_mask_on_every_channel(seed, groups):
    torch.manual_seed(seed)
    layer = PartialConv2d(6, 8, 3, 1, 1, groups_of_channels=groups)
    every = PartialConv2d(6, 8, 3, 1, 1, groups_of_channels=(1,) * 6)
    every.load_state_dict(layer.state_dict())
    x, valid = torch.randn(2, 6, 9, 9), torch.rand(2, len(groups), 9, 9) < 0.4
    for mine, theirs in zip(layer(x, valid), every(x, valid.repeat_interleave(torch.tensor(groups), 1)), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("mask", [torch.float32, torch.bool])
def test_fully_valid_it_is_a_convolution_wherever_the_window_lies_inside(stride, mask):
    torch.manual_seed(0)
    plain = nn.Conv2d(5, 7, 5, stride, 2)
    layer = PartialConv2d(5, 7, 5, stride, 2)
    layer.load_state_dict(plain.state_dict())
    x = torch.randn(2, 5, 16, 16)
    output, updated = layer(x, torch.ones(2, 1, 16, 16, dtype=mask))
    inside = slice(2 // stride, 14 // stride)
    expected = plain(x)
    torch.testing.assert_close(output[..., inside, inside], expected[..., inside, inside], rtol=0, atol=1e-6)
    assert updated.dtype == mask
    assert updated.all()
    # At a corner 3 x 3 of 5 x 5 values are inside: zero padding counts as invalid.
    corner = (expected - plain.bias[:, None, None])[..., 0, 0] * 25 / 9 + plain.bias
    torch.testing.assert_close(output[..., 0, 0], corner)


def test_fully_valid_without_a_bias_to_the_last_bit():
    plain = nn.Conv2d(4, 4, 3, bias=False)
    layer = PartialConv2d(4, 4, 3, bias=False)
    layer.load_state_dict(plain.state_dict())
    x = torch.randn(1, 4, 8, 8, generator=rng())
    assert torch.equal(layer(x, torch.ones(1, 1, 8, 8))[0], plain(x))


def test_counts_are_exact_in_bfloat16():
    """99 channels of 24 known values are 2,376; bfloat16 has 2,368 and 2,384."""
    layer = PartialConv2d(99, 1, 5, bias=False)
    seen = []
    layer.window_sum.register_forward_hook(lambda *hooked: seen.append(hooked[2]))
    valid = torch.ones(1, 1, 5, 5)
    valid[..., 2, 2] = 0
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = layer(torch.ones(1, 99, 5, 5), valid)
    assert output.dtype == torch.bfloat16
    assert [value.item() for value in seen] == [2376.0]


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16])
def test_the_scale_is_as_exact_as_the_features(kind):
    """The equation to the last bit, worked out in float64 and each factor rounded to the features' type.

    Sums are of small whole numbers, which every type holds; of the scales, such as 27 / 7, no type holds most. They are
    27 (1 / 7) in float32, or in float64 where the features are: bfloat16, by autocast, takes float32's.
    """
    layer = PartialConv2d(3, 4, 3, 1, 1, groups_of_channels=(2, 1))
    layer.weight.data = torch.randint(-2, 3, layer.weight.shape, generator=rng()).float()
    layer.bias.data = torch.tensor([0.0, 1.0, 2.0, -4.0])
    x = torch.randint(-3, 4, (2, 3, 9, 9), generator=rng(1)).float()
    valid = torch.rand(2, 2, 9, 9, generator=rng(2)) < 0.4
    masks = valid.repeat_interleave(torch.tensor([2, 1]), 1).double()
    sums = F.conv2d(x.double() * masks, layer.weight.double(), padding=1)
    counts = F.conv2d(masks, torch.ones(1, 3, 3, 3).double(), padding=1)
    wide = torch.float64 if kind is torch.float64 else torch.float32
    scale = ((1 / counts).to(wide) * 27).to(kind)
    expected = torch.where(counts > 0, sums.to(kind) * scale + layer.bias.to(wide)[:, None, None], 0)
    if kind is torch.bfloat16:
        with torch.autocast("cpu", kind):
            output, _ = layer(x, valid)
    else:
        output, _ = layer.to(kind)(x.to(kind), valid)
    assert torch.equal(output, expected)
    if kind is torch.float64:
        exact = torch.where(counts > 0, sums * 27 / counts + layer.bias[:, None, None], 0)
        assert (output - exact).abs().max() < 1e-13, "off by 2.4e-7 with a scale of float32"


@pytest.mark.parametrize("groups", [(4,), (3, 1)])
def test_gradients_are_those_of_the_equation(groups):
    torch.manual_seed(0)
    layer = PartialConv2d(4, 2, 3, 1, 1, groups_of_channels=groups).double()
    x, valid = torch.randn(1, 4, 5, 5, dtype=torch.double), torch.rand(1, len(groups), 5, 5) < 0.4
    assert torch.autograd.gradcheck(lambda x, *_: layer(x, valid)[0], (x.requires_grad_(), *layer.parameters()))


@pytest.mark.parametrize("share", [0.0, 0.02, 1.0])
def test_gradients_are_finite_and_none_where_nothing_is_known(share):
    torch.manual_seed(0)
    layer = PartialConv2d(2, 3, 3, 1, 1)
    x, valid = torch.randn(1, 2, 12, 12, requires_grad=True), torch.rand(1, 1, 12, 12, generator=rng(4)) < share
    output, updated = layer(x, valid)
    output.square().sum().backward()
    assert all(value.grad.isfinite().all() for value in (x, layer.weight, layer.bias))
    assert not x.grad[~valid.expand_as(x)].any()
    assert bool(updated.all()) == (share == 1)


def test_groups_that_are_not_the_channels_are_refused():
    with pytest.raises(ValueError, match="not 4 in all"):
        PartialConv2d(4, 4, 3, groups_of_channels=(2, 1))


def test_the_hole_closes_ring_by_ring():
    """A hole of 9 x 9: each 3 x 3 convolution reaches one pixel further."""
    valid = torch.ones(1, 1, 15, 15, dtype=torch.bool)
    valid[..., 3:12, 3:12] = False
    layer, x = PartialConv2d(1, 1, 3, 1, 1), torch.zeros(1, 1, 15, 15)
    missing = []
    for _ in range(5):
        x, valid = layer(x, valid)
        missing.append(int((~valid).sum()))
    assert missing == [49, 25, 9, 1, 0]


# --- the U-Net ---


def example(count: int, size: int, share: float = 0.5) -> tuple[Tensor, Tensor]:
    image = torch.rand(count, 3, size, size, generator=rng(1)) * 2 - 1
    return image, torch.rand(count, 1, size, size, generator=rng(2)) < share


def unet(size: int, width: int = 4, refine: int = 0, residual: bool = False) -> PartialConvUNet:
    torch.manual_seed(0)
    return PartialConvUNet(size, width, refine, residual)


@pytest.mark.parametrize(("size", "layers"), [(32, 5), (48, 4), (64, 6), (80, 4), (128, 7), (512, 8)])
def test_every_size_and_its_depth(size, layers):
    network = unet(size, 2).eval()
    image, hole = example(1, size)
    with torch.no_grad():
        output = network(image, hole)
    assert output.shape == image.shape
    assert output.isfinite().all()
    assert output.abs().max() <= 1
    assert len(network.encoder) == layers == len(network.decoder) + 1


@pytest.mark.parametrize("size", [0, 16, 40, 100, 528, 1024])
def test_sizes_it_cannot_take_are_refused(size):
    with pytest.raises(InputError, match=rf"from 32 to 512, not {size}: set align.side"):
        PartialConvUNet(size, 4)


@pytest.mark.parametrize("share", [0.1, 0.8, 1.0])
@pytest.mark.parametrize("residual", [False, True])
def test_what_lies_under_the_hole_changes_no_bit(share, residual):
    network = unet(32, refine=1, residual=residual)
    image, hole = example(4, 32, share)
    for mode in (True, False):
        network.train(mode)
        with torch.no_grad():
            first = network(image, hole)
            again = network(torch.where(hole, torch.randn(image.shape, generator=rng(3)), image), hole)
        assert torch.equal(first, again)
        assert first.isfinite().all()


def test_a_picture_of_which_nothing_is_known_is_grey():
    image, _ = example(2, 32)
    assert not unet(32).eval()(image, torch.ones(2, 1, 32, 32, dtype=torch.bool)).any()


def test_the_frozen_encoder_changes_its_statistics_no_more():
    """The second stage; the decoder's go on, and evaluation and training afterwards change nothing of it."""
    network = unet(32)
    image, hole = example(4, 32)
    network(image, hole)
    network.freeze_encoder()
    network.eval()
    network.train()
    before = {key: value.clone() for key, value in network.state_dict().items() if "running" in key}
    network(image * 0.5, hole)
    after = network.state_dict()
    changed = {key for key, value in before.items() if not torch.equal(value, after[key])}
    assert changed == {key for key in before if key.startswith("decoder")}
    assert sum(key.startswith("encoder") for key in before) == 2 * 4, "four of five layers are normalised"


def test_the_affine_parameters_of_the_encoder_are_those_of_its_normalisation():
    network = unet(64)
    named = {id(value): key for key, value in network.named_parameters()}
    found = {named[id(value)] for value in network.encoder_affine()}
    assert found == {f"encoder.{i}.norm.{kind}" for i in range(1, 6) for kind in ("weight", "bias")}


def test_spreading_worked_out_by_hand():
    """Three pixels of 4 x 4 are known: one in the upper left quarter, two in the lower right."""
    image = torch.zeros(1, 1, 4, 4)
    known = torch.zeros(1, 1, 4, 4)
    for row, column, value in [(0, 0, 0.8), (2, 2, -0.4), (3, 3, 0.2)]:
        image[0, 0, row, column], known[0, 0, row, column] = value, 1
    filled = spread(image, known)
    assert filled[known == 1].tolist() == pytest.approx([0.8, -0.4, 0.2])
    # The quarters' means are [[.8, ?], [?, -.1]]; the mean of those two, .35, stands for the unknown ones.
    expected = F.interpolate(torch.tensor([[[[0.8, 0.35], [0.35, -0.1]]]]), scale_factor=2, mode="bilinear")
    torch.testing.assert_close(filled[known == 0], expected[known == 0])


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), side=st.sampled_from([5, 12, 32]), share=st.sampled_from([0.02, 0.5, 1.0]))
def test_spreading_keeps_what_is_known_and_stays_between_its_extremes(seed, side, share):
    image = torch.rand(1, 3, side, side, generator=rng(seed)) * 2 - 1
    known = (torch.rand(1, 1, side, side, generator=rng(seed + 1)) < share).float()
    filled = spread(image * known, known)
    assert torch.equal(filled * known, image * known)
    if side != 5 and known.any():
        values = [image[0, c][known[0, 0] == 1] for c in range(3)]
        for channel, found in zip(filled[0], values, strict=True):
            assert channel.min() >= min(found.min(), 0) - 1e-6
            assert channel.max() <= max(found.max(), 0) + 1e-6


def test_the_residual_network_corrects_the_smooth_filling_inside_the_range():
    network = unet(32, residual=True)
    image, hole = example(2, 32, 0.8)
    nn.init.zeros_(network.last.weight)
    nn.init.zeros_(network.last.bias)
    known = (~hole).float()
    torch.testing.assert_close(network(image, hole), spread(image * known, known))
    nn.init.constant_(network.last.bias, 1.5)
    output = network(image, hole)
    assert output.max() == 1
    output.mean().backward()
    torch.testing.assert_close(network.last.bias.grad, torch.full((3,), 1 / 3), msg="gradients pass the clamp")


@pytest.mark.parametrize("residual", [False, True])
def test_it_learns_to_fill(residual):
    """Thirty steps on pictures of one colour each: the colour spreads into the hole."""
    network = unet(32, 8, 0, residual).to(memory_format=torch.channels_last)
    adam = torch.optim.Adam(network.parameters(), 5e-3)
    colours = torch.rand(8, 3, 1, 1, generator=rng(5)) * 1.6 - 0.8
    image, (_, hole) = colours.expand(8, 3, 32, 32), example(8, 32, 0.8)
    losses = []
    for _ in range(30):
        loss = F.mse_loss(network(image, hole), image)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]  # over 10 seeds 0.006 to 0.025
