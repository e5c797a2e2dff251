"""The losses of latent search, by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stages.losses.latent import context_loss, context_weights, known_weights, prior_loss


def test_weights_by_hand() -> None:
    hole = torch.zeros(1, 5, 5, dtype=torch.bool)
    hole[0, 2, 2] = True
    weights = context_weights(hole, window=3)[0]
    assert weights[2, 2] == 0, "nothing inside the hole"
    assert weights[1, 1] == pytest.approx(1 / 9)
    assert weights[2, 1] == pytest.approx(1 / 9)
    assert weights[0, 0] == 0, "farther than one pixel from the hole"
    assert weights.sum() == pytest.approx(8 / 9)


def test_window_counts_only_pixels_inside_the_image() -> None:
    hole = torch.zeros(4, 4, dtype=torch.bool)
    hole[0, 1] = True
    assert context_weights(hole, 3)[0, 0] == pytest.approx(1 / 4), "a corner has four neighbours, itself among them"
    assert context_weights(hole, 3)[0, 2] == pytest.approx(1 / 6)
    assert context_weights(hole, 3)[1, 1] == pytest.approx(1 / 9)


def test_window_of_seven_reaches_three_pixels() -> None:
    hole = torch.zeros(1, 21, 21, dtype=torch.bool)
    hole[0, 10, 10] = True
    reached = context_weights(hole)[0] > 0
    assert reached.sum() == 48
    assert reached[7:14, 7:14].sum() == 48


@settings(max_examples=30, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 3), st.integers(3, 12), st.integers(3, 12))), st.sampled_from([3, 5, 7]))
def test_weights_are_the_share_of_missing_neighbours(hole: np.ndarray, window: int) -> None:
    weights = context_weights(torch.from_numpy(hole), window).numpy()
    reach = window // 2
    for n, i, j in np.ndindex(hole.shape):
        box = hole[n, max(0, i - reach) : i + reach + 1, max(0, j - reach) : j + reach + 1]
        assert weights[n, i, j] == pytest.approx(0 if hole[n, i, j] else box.mean(), abs=1e-6)


def test_an_even_window_is_refused() -> None:
    with pytest.raises(ValueError, match="odd"):
        context_weights(torch.zeros(4, 4, dtype=torch.bool), 4)


def test_context_loss_is_a_sum_per_image_of_differences() -> None:
    output = torch.full((2, 3, 2, 2), 0.5)
    image = torch.stack([torch.full((3, 2, 2), 0.5), torch.full((3, 2, 2), -0.5)])
    hole = torch.tensor([[[True, False], [False, False]]] * 2)
    # Report 1's eq. 4 as printed, with a plus, would give 9 for the first and 0 for the second.
    assert context_loss(output, image, known_weights(hole)).tolist() == [0.0, 9.0]


def test_what_lies_under_the_hole_does_not_matter() -> None:
    hole = torch.rand(2, 8, 8) < 0.3
    image = torch.rand(2, 3, 8, 8)
    other = torch.where(hole[:, None], torch.rand_like(image), image)
    output = torch.rand(2, 3, 8, 8)
    for weights in (context_weights(hole), known_weights(hole)):
        assert torch.equal(context_loss(output, image, weights), context_loss(output, other, weights))


def test_prior_loss_is_log_one_minus_d() -> None:
    logits = torch.tensor([0.0, 2.0, -3.0])
    by_hand = [math.log(1 - 1 / (1 + math.exp(-value))) for value in (0.0, 2.0, -3.0)]
    assert prior_loss(logits).tolist() == pytest.approx(by_hand, abs=1e-6)


def test_prior_loss_of_a_saturated_discriminator_is_finite_with_a_gradient() -> None:
    logits = torch.tensor([200.0, -200.0], requires_grad=True)
    prior_loss(logits).sum().backward()
    assert prior_loss(logits).tolist() == pytest.approx([-200.0, 0.0])
    assert logits.grad.tolist() == pytest.approx([-1.0, 0.0])
