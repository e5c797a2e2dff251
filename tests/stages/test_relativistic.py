"""The relativistic average losses, by hand; the signs of both sides."""

import math

import pytest
import torch
import torch.nn.functional as F

from stages.losses.adversarial import relativistic_discriminator_loss, relativistic_generator_loss

REAL, FAKE = torch.tensor([1.0, 3.0]), torch.tensor([0.0, -2.0])  # means 2 and -1


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_discriminator_by_hand():
    total, parts = relativistic_discriminator_loss(REAL, FAKE)
    real = (softplus(-(1 + 1)) + softplus(-(3 + 1))) / 2  # BCE(l, 1) = softplus(-l) of 1 - (-1) and 3 - (-1)
    fake = (softplus(0 - 2) + softplus(-2 - 2)) / 2  # BCE(l, 0) = softplus(l) of 0 - 2 and -2 - 2
    assert parts["d_real"].item() == pytest.approx(real / 2)
    assert parts["d_fake"].item() == pytest.approx(fake / 2)
    assert total.item() == pytest.approx((real + fake) / 2)


def test_generator_by_hand():
    real = (softplus(1 + 1) + softplus(3 + 1)) / 2
    fake = (softplus(-(0 - 2)) + softplus(-(-2 - 2))) / 2
    assert relativistic_generator_loss(REAL, FAKE).item() == pytest.approx((real + fake) / 2)


def test_both_are_the_cross_entropies_of_the_report():
    rng = torch.Generator().manual_seed(0)
    real, fake = torch.randn(7, generator=rng), torch.randn(7, generator=rng)
    bce, one, zero = F.binary_cross_entropy_with_logits, torch.ones(7), torch.zeros(7)
    more, less = real - fake.mean(), fake - real.mean()
    total, _ = relativistic_discriminator_loss(real, fake)
    assert total.item() == pytest.approx(((bce(more, one) + bce(less, zero)) / 2).item(), rel=1e-6)
    generator = relativistic_generator_loss(real, fake)
    assert generator.item() == pytest.approx(((bce(more, zero) + bce(less, one)) / 2).item(), rel=1e-6)


def test_neither_can_tell_pictures_apart_that_are_judged_alike():
    same = torch.full((4,), 2.5)
    assert relativistic_discriminator_loss(same, same)[0].item() == pytest.approx(math.log(2))
    assert relativistic_generator_loss(same, same).item() == pytest.approx(math.log(2))


def test_signs():
    """Descending, the discriminator raises real logits and lowers fake ones; the generator raises fake ones."""
    real, fake = REAL.clone().requires_grad_(), FAKE.clone().requires_grad_()
    relativistic_discriminator_loss(real, fake)[0].backward()
    assert (real.grad < 0).all()
    assert (fake.grad > 0).all()
    real.grad = fake.grad = None
    relativistic_generator_loss(real, fake).backward()
    assert (fake.grad < 0).all()
    # Each fake logit f_i is moved by the average too: -(mean sigmoid(r - mean f) + sigmoid(mean r - f_i)) / 2N.
    by_average = torch.sigmoid(REAL - FAKE.mean()).mean()
    torch.testing.assert_close(fake.grad, -(by_average + torch.sigmoid(REAL.mean() - FAKE)) / 4)


def test_saturated_logits_stay_finite():
    real, fake = torch.full((3,), 1e4, requires_grad=True), torch.full((3,), -1e4, requires_grad=True)
    loss = relativistic_discriminator_loss(real, fake)[0] + relativistic_generator_loss(real, fake)
    loss.backward()
    assert loss.isfinite()
    assert fake.grad.isfinite().all()
