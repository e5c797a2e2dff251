"""The losses of latent search, by hand; and the adversarial ones."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pretend import NO_CHECKPOINT

from stages import train_dcgan
from stages.images import table
from stages.losses.adversarial import (
    FAKE,
    REAL,
    discriminator_hinge,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    noisy_labels,
)
from stages.losses.latent import context_loss, context_weights, known_weights, prior_loss
from stages.runs.errors import InputError
from stages.runs.params import Runtime, build
from stages.search import load_networks
from stages.training.distributed import DistributedContext
from stages.training.run import Inputs, Outputs


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


def test_adversarial_losses_by_hand() -> None:
    real, fake = torch.tensor([1.0, -1.0]), torch.tensor([0.0, 2.0])
    total, parts = discriminator_loss(real, fake, torch.tensor([1.0, 1.2]), torch.tensor([0.0, 0.3]))

    def cross_entropy(logit: float, label: float) -> float:
        d = 1 / (1 + math.exp(-logit))
        return -label * math.log(d) - (1 - label) * math.log(1 - d)

    assert parts["d_real"].item() == pytest.approx((cross_entropy(1, 1) + cross_entropy(-1, 1.2)) / 2, abs=1e-6)
    assert parts["d_fake"].item() == pytest.approx((cross_entropy(0, 0) + cross_entropy(2, 0.3)) / 2, abs=1e-6)
    assert total.item() == pytest.approx(parts["d_real"].item() + parts["d_fake"].item())
    non_saturating = (-math.log(0.5) - math.log(1 / (1 + math.exp(-2)))) / 2
    assert generator_loss(fake).item() == pytest.approx(non_saturating, abs=1e-6)
    saturating = (math.log(0.5) + math.log(1 - 1 / (1 + math.exp(-2)))) / 2
    assert generator_loss(fake, saturating=True).item() == pytest.approx(saturating, abs=1e-6)


def test_noisy_labels_lie_in_report_1s_ranges() -> None:
    real, fake = noisy_labels(20_000, smoothing=True, flip=0.0, rng=torch.Generator().manual_seed(0))
    assert REAL[0] <= real.min() < 0.71
    assert 1.19 < real.max() <= REAL[1]
    assert FAKE[0] <= fake.min() < 0.01
    assert 0.29 < fake.max() <= FAKE[1]


def test_labels_are_flipped_at_the_asked_rate() -> None:
    real, fake = noisy_labels(20_000, smoothing=True, flip=0.25, rng=torch.Generator().manual_seed(0))
    assert (real <= FAKE[1]).float().mean().item() == pytest.approx(0.25, abs=0.015)
    assert (fake >= REAL[0]).float().mean().item() == pytest.approx(0.25, abs=0.015)
    plain = noisy_labels(10, smoothing=False, flip=0.0, rng=torch.Generator())
    assert (plain[0].tolist(), plain[1].tolist()) == ([1.0] * 10, [0.0] * 10)


def test_hinge_by_hand() -> None:
    total, parts = discriminator_hinge(torch.tensor([0.5, 2.0, -1.0]), torch.tensor([-3.0, 0.5]))
    assert parts["d_real"].item() == pytest.approx((0.5 + 0 + 2) / 3)
    assert parts["d_fake"].item() == pytest.approx((0 + 1.5) / 2)
    assert total.item() == pytest.approx(2.5 / 3 + 0.75)


def test_gradient_penalty_by_hand() -> None:
    """D(x) = sum of w x has the gradient w everywhere: half of |w|^2, whose own gradient is w."""
    weight = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
    real = torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    penalty = gradient_penalty(lambda x: (x * weight[:, None, None]).sum(dim=(1, 2, 3)), real)
    assert penalty.item() == pytest.approx(4 * (1 + 4 + 9) / 2)  # four pixels a channel
    penalty.backward()
    assert torch.allclose(weight.grad, 4 * weight.detach())


@pytest.mark.parametrize("change", [{"objective": "hinge", "r1": 1.0, "d_norm": "none"}, {"saturating": True}])
def test_other_objectives_train(change: dict, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    with table.writing_pictures(tmp_path / "train.arrow", (16, 16), table.ALIGNED) as writer:
        for i, picture in enumerate(pixels):
            writer.append(picture, f"id{i}", f"{i}.png", None, None)
    params = train_dcgan.Params(dataset="x", steps=4, batch=4, width=4, log_every=2, **change)
    inputs = Inputs(tmp_path / "train.arrow", NO_CHECKPOINT)
    outputs = Outputs(*(tmp_path / name for name in ("a.safetensors", "members.arrow", "a.csv", "samples")))
    train_dcgan.train_dcgan(DistributedContext(Runtime(threads=1)), inputs, outputs, params, "a")()
    rows = outputs.history.read_text().splitlines()
    assert rows[0] == ("step,d_fake,d_real,g_loss,r1" if "r1" in change else "step,d_fake,d_real,g_loss")
    assert len(rows) == 3
    networks = load_networks(outputs.model, torch.device("cpu"))
    assert networks.discriminator(networks.generator(torch.zeros(2, 100))).isfinite().all()


def test_the_penalty_and_batch_normalisation_exclude_each_other() -> None:
    with pytest.raises(InputError, match="r1: the penalty needs d_norm: none"):
        build(train_dcgan.Params, {"dataset": "x", "r1": 1.0}, "train_dcgan.x")
