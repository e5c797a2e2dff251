"""DMFN's feature losses, each worked out by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stages.losses import matching as m


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# --- VGG and discriminator feature matching ---


def test_a_layer_counts_by_the_square_of_its_channels():
    assert [m.layer_weight(c) for c in (64, 128, 256, 512)] == pytest.approx([1e3 / c**2 for c in (64, 128, 256, 512)])


def test_matching_by_hand():
    """Two layers of 2 and 10 channels: 1e3 / 4 times a mean difference of 1/2, plus 1e3 / 100 times 3."""
    truth = [torch.zeros(1, 2, 2, 2), torch.ones(1, 10, 1, 1)]
    output = [torch.tensor([[1.0, -1.0], [0.0, 2.0]]).expand(1, 1, 2, 2).repeat(1, 2, 1, 1), truth[1] - 3]
    output[0][0, 1] = 0  # differences 1, 1, 0, 2 in one channel of two: a mean of 1/2
    assert m.feature_matching(output, truth).item() == pytest.approx(250 * 0.5 + 10 * 3)
    assert m.feature_matching(truth, truth).item() == 0


def test_matching_is_of_float32_in_whatever_precision_the_features_are():
    truth = torch.full((1, 1, 1, 1), 256.0).bfloat16()
    assert m.feature_matching([truth], [truth.float() + 0.5]).item() == pytest.approx(500)


def test_layers_that_are_missing_are_refused():
    with pytest.raises(ValueError, match="zip"):
        m.feature_matching([torch.ones(1, 1, 1, 1)], [])


# --- the self-guided map ---


def test_guidance_by_hand():
    """Mean over the channels of the squares, over the picture's own maximum."""
    truth = torch.zeros(2, 3, 1, 2)
    output = truth.clone()
    output[0, :, 0, 0] = torch.tensor([1.0, 2.0, -1.0])  # E = 6/3
    output[0, :, 0, 1] = torch.tensor([0.0, 1.0, 0.0])  # E = 1/3
    output[1, 0, 0, 1] = 1e-3  # another picture: its own maximum, however small
    expected = torch.tensor([[[[1.0, 1 / 6]]], [[[0.0, 1.0]]]])
    torch.testing.assert_close(m.guidance(output, truth), expected)


def test_guidance_of_pictures_that_are_right_is_zero_and_not_nan():
    picture = rand(2, 3, 4, 4)
    assert not m.guidance(picture, picture).any()


def test_guidance_carries_no_gradient():
    output = rand(1, 3, 4, 4).requires_grad_()
    assert not m.guidance(output, rand(1, 3, 4, 4, seed=1)).requires_grad


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.floats(1e-3, 1e3))
def test_guidance_lies_in_0_to_1_and_does_not_depend_on_scale(seed: int, scale: float):
    output, truth = rand(2, 3, 4, 4, seed=seed), rand(2, 3, 4, 4, seed=seed + 1)
    guide = m.guidance(output, truth)
    assert guide.min() >= 0
    torch.testing.assert_close(guide.amax((1, 2, 3)), torch.ones(2))
    torch.testing.assert_close(m.guidance(output * scale, truth * scale), guide, rtol=1e-4, atol=1e-6)


# --- self-guided regression ---


def test_self_guided_by_hand():
    """The second layer has half the side: its map is average-pooled."""
    guide = torch.tensor([[1.0, 0.5], [0.0, 0.0]])[None, None]
    first, second = torch.tensor([[2.0, 4.0], [8.0, 16.0]])[None, None], torch.tensor([[[[8.0]]]])
    zeros = [torch.zeros_like(first), torch.zeros_like(second)]
    expected = 1e3 * (1.0 * 2 + 0.5 * 4) / 4 + 1e3 * (1.5 / 4) * 8
    assert m.self_guided(guide, [first, second], zeros).item() == pytest.approx(expected)


def test_self_guided_beside_matching_is_the_published_codes_one_weight():
    """Weight 1 + guide on the two first layers, and matching once on the others: nothing is counted twice."""
    shapes = [(2, 4, 8, 8), (2, 8, 4, 4), (2, 8, 2, 2)]
    output, truth = ([rand(*shape, seed=s + i) for i, shape in enumerate(shapes)] for s in (0, 10))
    guide = m.guidance(rand(2, 3, 8, 8, seed=20), rand(2, 3, 8, 8, seed=21))
    halved = torch.nn.functional.avg_pool2d(guide, 2)
    fused = sum(
        1e3 / o.shape[1] ** 2 * (o * weight - t * weight).abs().mean()
        for o, t, weight in zip(output, truth, (1 + guide, 1 + halved, torch.ones(1)), strict=True)
    )
    apart = m.self_guided(guide, output[:2], truth[:2]) + m.feature_matching(output, truth)
    torch.testing.assert_close(apart, fused)


# --- geometrical alignment ---


def test_centroid_on_both_axes():
    """All of the mass in row 2 of 3 and column 1 of 4: x = 2 * 1/4 - 1, y = 2 * 2/3 - 1."""
    features = torch.zeros(1, 1, 3, 4)
    features[0, 0, 2, 1] = 5.0
    torch.testing.assert_close(m.centroids(features), torch.tensor([[[-0.5, 1 / 3]]]), atol=1e-5, rtol=0)


def test_centroid_of_two_places_by_weight():
    """3 at (row 0, column 3), 1 at (row 2, column 0) of 4 x 4: x = 3/4 * 1/2 - 1/4, y = -3/4 + 1/4 * 0."""
    features = torch.zeros(1, 1, 4, 4)
    features[0, 0, 0, 3], features[0, 0, 2, 0] = 3.0, 1.0
    torch.testing.assert_close(m.centroids(features), torch.tensor([[[0.125, -0.75]]]), atol=1e-5, rtol=0)


def test_turned_features_change_places_of_the_axes():
    features = rand(2, 3, 5, 5)
    torch.testing.assert_close(m.centroids(features.mT), m.centroids(features).flip(2))


def test_each_axis_alone_costs():
    truth = torch.zeros(1, 1, 4, 4)
    truth[0, 0, 1, 1] = 1.0
    across, down = truth.roll(1, 3), truth.roll(1, 2)  # by 2/4 in x, in y: a square of 1/4, over two axes
    assert m.alignment(across, truth).item() == pytest.approx(1 / 8, abs=1e-5)
    assert m.alignment(down, truth).item() == pytest.approx(1 / 8, abs=1e-5)
    assert m.alignment(truth * 7, truth).item() == pytest.approx(0, abs=1e-9), "how strong a feature is does not matter"


def test_a_dead_channel_is_finite_with_its_gradient():
    output = torch.zeros(1, 2, 3, 3, requires_grad=True)
    truth = torch.zeros(1, 2, 3, 3)
    loss = m.alignment(output, truth)
    loss.backward()
    assert loss.item() == 0
    assert output.grad.isfinite().all()
    torch.testing.assert_close(m.centroids(truth), torch.full((1, 2, 2), -1 / 3), atol=1e-6, rtol=0)


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 9))
def test_centroids_lie_in_the_picture(seed: int, height: int, width: int):
    found = m.centroids(rand(2, 3, height, width, seed=seed))
    assert found.min() >= -1
    assert found.max() < 1
