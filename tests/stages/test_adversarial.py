"""The adversarial losses by hand, with the relativistic ones and the signs of both sides; a stage that has a choice."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_training import run

from stages import train_dcgan
from stages.images import table
from stages.losses import adversarial
from stages.losses.adversarial import relativistic_discriminator_loss, relativistic_generator_loss
from stages.runs.errors import InputError
from stages.runs.params import build
from stages.search import load_networks

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


def test_adversarial_losses_by_hand() -> None:
    real, fake = torch.tensor([1.0, -1.0]), torch.tensor([0.0, 2.0])
    total, parts = adversarial.discriminator_loss(real, fake, torch.tensor([1.0, 1.2]), torch.tensor([0.0, 0.3]))

    def cross_entropy(logit: float, label: float) -> float:
        d = 1 / (1 + math.exp(-logit))
        return -label * math.log(d) - (1 - label) * math.log(1 - d)

    assert parts["d_real"].item() == pytest.approx((cross_entropy(1, 1) + cross_entropy(-1, 1.2)) / 2, abs=1e-6)
    assert parts["d_fake"].item() == pytest.approx((cross_entropy(0, 0) + cross_entropy(2, 0.3)) / 2, abs=1e-6)
    assert total.item() == pytest.approx(parts["d_real"].item() + parts["d_fake"].item())
    non_saturating = (-math.log(0.5) - math.log(1 / (1 + math.exp(-2)))) / 2
    assert adversarial.generator_loss(fake).item() == pytest.approx(non_saturating, abs=1e-6)
    saturating = (math.log(0.5) + math.log(1 - 1 / (1 + math.exp(-2)))) / 2
    assert adversarial.generator_loss(fake, saturating=True).item() == pytest.approx(saturating, abs=1e-6)


def test_noisy_labels_lie_in_report_1s_ranges() -> None:
    real, fake = adversarial.noisy_labels(20_000, smoothing=True, flip=0.0, rng=torch.Generator().manual_seed(0))
    assert adversarial.REAL[0] <= real.min() < 0.71
    assert 1.19 < real.max() <= adversarial.REAL[1]
    assert adversarial.FAKE[0] <= fake.min() < 0.01
    assert 0.29 < fake.max() <= adversarial.FAKE[1]


def test_labels_are_flipped_at_the_asked_rate() -> None:
    real, fake = adversarial.noisy_labels(20_000, smoothing=True, flip=0.25, rng=torch.Generator().manual_seed(0))
    assert (real <= adversarial.FAKE[1]).float().mean().item() == pytest.approx(0.25, abs=0.015)
    assert (fake >= adversarial.REAL[0]).float().mean().item() == pytest.approx(0.25, abs=0.015)
    plain = adversarial.noisy_labels(10, smoothing=False, flip=0.0, rng=torch.Generator())
    assert (plain[0].tolist(), plain[1].tolist()) == ([1.0] * 10, [0.0] * 10)


def test_hinge_by_hand() -> None:
    total, parts = adversarial.discriminator_hinge(torch.tensor([0.5, 2.0, -1.0]), torch.tensor([-3.0, 0.5]))
    assert parts["d_real"].item() == pytest.approx((0.5 + 0 + 2) / 3)
    assert parts["d_fake"].item() == pytest.approx((0 + 1.5) / 2)
    assert total.item() == pytest.approx(2.5 / 3 + 0.75)


def test_gradient_penalty_by_hand() -> None:
    """D(x) = sum of w x has the gradient w everywhere: half of |w|^2, whose own gradient is w."""
    weight = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
    real = torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    penalty = adversarial.gradient_penalty(lambda x: (x * weight[:, None, None]).sum(dim=(1, 2, 3)), real)
    assert penalty.item() == pytest.approx(4 * (1 + 4 + 9) / 2)  # four pixels a channel
    penalty.backward()
    assert torch.allclose(weight.grad, 4 * weight.detach())


@pytest.mark.parametrize("change", [{"objective": "hinge", "r1": 1.0, "d_norm": "none"}, {"saturating": True}])
def test_other_objectives_train(change: dict, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    with table.writing_pictures(tmp_path / "train.arrow", (16, 16), table.ALIGNED) as writer:
        for i, picture in enumerate(pixels):
            writer.append(picture, f"id{i}", f"{i}.png", None, None)
    section = {"dataset": "x", "steps": 4, "batch": 4, "width": 4, "log_every": 2, **change}
    outputs = run("train_dcgan", tmp_path, tmp_path, section)
    rows = outputs.history.read_text().splitlines()
    assert rows[0] == ("step,d_fake,d_real,g_loss,r1" if "r1" in change else "step,d_fake,d_real,g_loss")
    assert len(rows) == 3
    networks = load_networks(outputs.model, torch.device("cpu"))
    assert networks.discriminator(networks.generator(torch.zeros(2, 100))).isfinite().all()


def test_the_penalty_and_batch_normalisation_exclude_each_other() -> None:
    with pytest.raises(InputError, match="r1: the penalty needs d_norm: none"):
        build(train_dcgan.Params, {"dataset": "x", "r1": 1.0}, "train_dcgan.x")
