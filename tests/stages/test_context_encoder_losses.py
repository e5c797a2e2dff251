"""The losses of context encoders: the divergence, the overlap's weights, the two objectives, all by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from stages.losses import context_encoder
from stages.metrics import fidelity

LATENT = st.tuples(st.floats(-5, 5), st.floats(-8, 4))  # mean, log-variance


def test_kl_by_hand():
    """N(1, 1): 1/2. N(0, e): (e - 1 - 1) / 2. Summed over the latent numbers, one value a picture."""
    mean = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    log_variance = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    assert context_encoder.kl_to_standard_normal(mean, log_variance).tolist() == pytest.approx(
        [0.5 + (math.e - 2) / 2, 0.0], abs=1e-6
    )


@settings(max_examples=25)
@given(st.lists(LATENT, min_size=1, max_size=5))
def test_kl_is_the_closed_form(latents):
    mean, log_variance = torch.tensor(latents, dtype=torch.float64).T
    closed = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(torch.zeros(()).double(), 1.0)).sum()
    ours = context_encoder.kl_to_standard_normal(mean[None], log_variance[None])
    assert ours.tolist() == pytest.approx([closed.item()], rel=1e-9, abs=1e-12)
    assert ours.item() >= -1e-12


def test_report_4s_first_equation_lacks_a_minus_sign():
    """Its integral of p log(q / p), summed numerically, is the divergence's negative."""
    p, q = Normal(torch.tensor(0.7, dtype=torch.float64), 0.5), Normal(torch.tensor(0.0, dtype=torch.float64), 1.0)
    x = torch.linspace(-8, 8, 100001, dtype=torch.float64)
    printed = torch.trapezoid(p.log_prob(x).exp() * (q.log_prob(x) - p.log_prob(x)), x).item()
    ours = context_encoder.kl_to_standard_normal(torch.tensor([[0.7]]), torch.tensor([[2 * math.log(0.5)]])).item()
    assert printed == pytest.approx(-ours, rel=1e-6)
    assert ours == pytest.approx((0.49 + 0.25 - 1 + 2 * math.log(2)) / 2, rel=1e-6)


def test_overlap_weights_by_hand():
    assert context_encoder.overlap_weights(4, 1, 10.0).tolist() == [
        [10, 10, 10, 10],
        [10, 1, 1, 10],
        [10, 1, 1, 10],
        [10, 10, 10, 10],
    ]
    assert context_encoder.overlap_weights(3, 0, 10.0).tolist() == [[1] * 3] * 3


def test_pathaks_overlap():
    """64 pixels with 7 more around them: 78^2 - 64^2 pixels weigh ten times."""
    weights = context_encoder.overlap_weights(78, 7, 10.0)
    assert weights.sum().item() == 64**2 + 10 * (78**2 - 64**2)
    assert (weights[7:71, 7:71] == 1).all()


def patches() -> tuple[torch.Tensor, torch.Tensor]:
    """Two patches of 4 x 4 with a border of one: the first is wrong in one pixel of each sort, by 0.5 in red."""
    target = torch.zeros(2, 3, 4, 4)
    patch = target.clone()
    patch[0, 0, 0, 0] = patch[0, 0, 1, 1] = 0.5
    return patch, target


def test_weighted_l2_by_hand():
    weights = context_encoder.overlap_weights(4, 1, 10.0)
    assert context_encoder.weighted_l2(*patches(), weights).tolist() == [10 * 0.25 + 0.25, 0.0]


def test_patch_sse_counts_the_hole_alone_in_unit_scale():
    """0.5 in [-1, 1] is 0.25 in [0, 1]; the border's pixel does not count."""
    assert context_encoder.patch_sse(*patches(), 1).tolist() == [0.0625, 0.0]
    assert context_encoder.patch_sse(*patches(), 0).tolist() == [0.125, 0.0]


def test_patch_sse_is_evaluates():
    rng = np.random.default_rng(0)
    output, target = rng.integers(0, 256, (2, 3, 12, 12, 3), np.uint8)
    hole = np.zeros((3, 12, 12), bool)
    hole[:, 3:9, 3:9] = True
    inner = [torch.from_numpy(x[:, 1:11, 1:11]).permute(0, 3, 1, 2) / 127.5 - 1 for x in (output, target)]
    ours = context_encoder.patch_sse(*inner, overlap=2)
    assert ours.tolist() == pytest.approx(fidelity.patch_sse(output, target, hole).tolist(), rel=1e-5)


def test_vae_by_hand():
    """(2.75 + 0) / 2 and 0.1 times (1/2 + 0) / 2."""
    mean, log_variance = torch.tensor([[1.0], [0.0]]), torch.zeros(2, 1)
    weights = context_encoder.overlap_weights(4, 1, 10.0)
    total, parts = context_encoder.vae(*patches(), weights, mean, log_variance, kl_weight=0.1)
    assert {name: part.item() for name, part in parts.items()} == {"l2": 1.375, "kl": 0.25}
    assert total.item() == pytest.approx(1.375 + 0.025)


def test_gan_by_hand():
    """L2 is 2.75 / 2 a picture, of 48 values; a verdict of 0 costs log 2, which pushes the logit up."""
    verdict = torch.zeros(2, requires_grad=True)
    weights = context_encoder.overlap_weights(4, 1, 10.0)
    total, parts = context_encoder.gan(*patches(), weights, verdict, reconstruction=0.999, adversarial=0.001)
    assert parts["l2"].item() == 1.375
    assert parts["adversarial"].item() == pytest.approx(math.log(2))
    assert total.item() == pytest.approx(0.999 * 1.375 / 48 + 0.001 * math.log(2))
    total.backward()
    assert verdict.grad.tolist() == pytest.approx([-0.001 / 4] * 2)
