"""Report 5's loss and Liu et al.'s six terms, each worked out by hand."""

import pytest
import torch
from torch import Tensor

from stages.losses import reconstruction as r
from stages.losses.perceptual import Features
from stages.runs.errors import InputError

CPU = torch.device("cpu")


def flat(*rows: list[float]) -> Tensor:
    """One grey picture 1 x 3 x H x W in [-1, 1] from values in [0, 1]."""
    return (torch.tensor(rows) * 2 - 1).expand(1, 3, -1, -1)


def hole(*rows: list[int]) -> Tensor:
    return torch.tensor(rows, dtype=torch.bool)[None, None]


OUTPUT, TARGET = flat([0.5, 0.25], [1.0, 0.0]), flat([0.25, 0.25], [0.0, 0.5])  # differences 1/4, 0, 1, -1/2
HOLE = hole([0, 0], [1, 0])


def test_mse_is_of_values_from_0_to_1():
    total, parts = r.mse(OUTPUT, TARGET, HOLE)
    assert total.item() == pytest.approx((1 / 16 + 1 + 1 / 4) / 4)
    assert parts["mse"] is total


def test_mse_weighs_the_hole():
    assert r.mse(OUTPUT, TARGET, HOLE, 3.0)[0].item() == pytest.approx((1 / 16 + 3 * 1 + 1 / 4) / 4)


def test_errors_raw_and_composited():
    found = r.errors(OUTPUT.clone().requires_grad_(), TARGET, HOLE)
    assert found["mse_raw"].item() == pytest.approx((1 / 16 + 1 + 1 / 4) / 4)
    assert found["mse_composited"].item() == pytest.approx(1 / 4)
    assert not any(value.requires_grad for value in found.values())


def test_the_composite_has_the_targets_own_pixels():
    assert torch.equal(r.composited(OUTPUT, TARGET, HOLE), flat([0.25, 0.25], [1.0, 0.5]))


def test_valid_and_hole_terms_are_means_over_all_values():
    _, parts = r.liu(OUTPUT, TARGET, HOLE, None)
    assert parts["valid"].item() == pytest.approx((1 / 4 + 1 / 2) / 4)
    assert parts["hole"].item() == pytest.approx(1 / 4)


def test_total_variation_counts_neighbours_in_the_grown_hole():
    """The hole at (0, 0) grows to the upper left 2 x 2: four pairs of 3 x 3's twelve lie in it."""
    picture = torch.tensor([[1.0, 0.5, 9.0], [0.25, 0.0, 9.0], [9.0, 9.0, 9.0]]).expand(2, 3, 3, 3)
    mask = hole([1, 0, 0], [0, 0, 0], [0, 0, 0]).expand(2, -1, -1, -1)
    pairs = 0.5 + 0.25 + 0.75 + 0.5  # across in each row, down in each column
    assert r.total_variation(picture, mask).item() == pytest.approx(pairs / 9)


def test_total_variation_without_a_hole_is_nothing():
    assert r.total_variation(torch.rand(1, 3, 4, 4), torch.zeros(1, 1, 4, 4, dtype=torch.bool)).item() == 0


def test_total_variation_is_of_the_composite():
    """Away from the hole the output may be as rough as it likes."""
    smooth, mask = flat([0.5] * 6), hole([1, 0, 0, 0, 0, 0])
    rough = torch.where(mask, smooth, flat([0.0, 1.0, 0.0, 1.0, 0.0, 1.0]))
    assert r.liu(rough, smooth, mask, None)[1]["tv"].item() == 0
    stepped = torch.where(mask, flat([1.0] * 6), smooth)
    assert r.liu(stepped, smooth, mask, None)[1]["tv"].item() == pytest.approx(0.5 / 6)


def test_gram_is_over_c_h_w():
    """Two channels of two places: products (1 1 + 2 2, 1 3 + 2 4; ..., 3 3 + 4 4), over 2 x 1 x 2."""
    features = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 1, 2)
    assert (r.gram(features) * 4).tolist() == [[[5.0, 11.0], [11.0, 25.0]]]


def test_gram_stays_in_float32():
    features = torch.full((1, 1, 64, 64), 1.0) + torch.linspace(0, 1e-3, 4096).reshape(1, 1, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        found = r.gram(features)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(features.square().mean().item(), rel=1e-6)


def test_style_and_feature_differences():
    """One layer, 1 x 2 x 1 x 2, against zeros: Grams 5/4, 11/4, 11/4, 25/4 in mean; features' mean 2.5."""
    output = {"pool1": torch.tensor([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 1, 2)}
    target = {"pool1": torch.zeros(1, 2, 1, 2)}
    assert r.style_difference(output, target).item() == pytest.approx((5 + 11 + 11 + 25) / 4 / 4)
    assert r.feature_difference(output, target).item() == pytest.approx(2.5)
    twice = [{"a": side["pool1"], "b": side["pool1"]} for side in (output, target)]
    assert r.feature_difference(*twice).item() == pytest.approx(5.0), "layers are summed"


@pytest.fixture(scope="module")
def features() -> Features:
    return Features("vgg16", r.LAYERS, "random")


def random_case() -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    output, target = (torch.rand(2, 3, 32, 32, generator=rng) * 2 - 1 for _ in range(2))
    return output, target, torch.rand(2, 1, 32, 32, generator=rng) < 0.3


def test_the_six_terms_and_their_weights(features):
    output, target, mask = random_case()
    total, parts = r.liu(output, target, mask, features)
    raw, mixed, truth = (features(x) for x in (output, r.composited(output, target, mask), target))
    assert parts["perceptual"].item() == pytest.approx(
        sum((side[k] - truth[k]).abs().mean().item() for side in (raw, mixed) for k in truth), rel=1e-5
    )
    assert parts["style_raw"].item() == pytest.approx(r.style_difference(raw, truth).item(), rel=1e-5)
    assert parts["style_composited"].item() == pytest.approx(r.style_difference(mixed, truth).item(), rel=1e-5)
    assert parts["style_raw"] > parts["style_composited"] > 0
    v = {name: part.item() for name, part in parts.items()}
    assert sorted(v) == ["hole", "perceptual", "style_composited", "style_raw", "tv", "valid"]
    expected = v["valid"] + 6 * v["hole"] + 0.05 * v["perceptual"]
    expected += 120 * (v["style_raw"] + v["style_composited"]) + 0.1 * v["tv"]
    assert total.item() == pytest.approx(expected, rel=1e-5)


def test_a_perfect_output_costs_the_truths_own_variation_alone(features):
    _, target, mask = random_case()
    _, parts = r.liu(target, target, mask, features)
    assert {name for name, part in parts.items() if part.item() != 0} == {"tv"}


def test_gradients_reach_the_output(features):
    output, target, mask = random_case()
    output.requires_grad_()
    r.liu(output, target, mask, features)[0].backward()
    assert output.grad is not None
    assert output.grad.isfinite().all()
    assert (output.grad != 0).all(dim=1).float().mean() > 0.99


def test_perceptual_terms_need_weights():
    with pytest.raises(InputError, match="needs perceptual_weights: imagenet or random"):
        r.objective("liu", 1.0, {}, "none", CPU)
    with pytest.raises(InputError, match="needs perceptual_weights"):
        r.objective("liu", 1.0, {"style": 0.0}, "none", CPU)
    total, parts = r.objective("liu", 1.0, {"style": 0.0, "perceptual": 0.0, "hole": 2.0}, "none", CPU)(
        OUTPUT, TARGET, HOLE
    )
    assert list(parts) == ["valid", "hole", "tv"]
    assert total.item() == pytest.approx(
        parts["valid"].item() + 2 * parts["hole"].item() + 0.1 * parts["tv"].item(), rel=1e-5
    )


def test_objective_builds_what_it_is_asked_for():
    output, target, mask = random_case()
    assert sorted(r.objective("liu", 1.0, {}, "random", CPU)(output, target, mask)[1]) == [
        "hole", "perceptual", "style_composited", "style_raw", "tv", "valid",
    ]  # fmt: skip
    plain = r.objective("mse", 2.0, {}, "none", CPU)(output, target, mask)[0]
    assert plain.item() == pytest.approx(r.mse(output, target, mask, 2.0)[0].item())


def test_a_term_that_does_not_exist_is_named():
    with pytest.raises(InputError, match="terms: unknown gram; one of: valid, hole, perceptual, style, tv"):
        r.objective("liu", 1.0, {"gram": 1.0}, "random", CPU)
