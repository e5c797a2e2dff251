"""Each metric by hand, SSIM against scikit-image, and what lies outside a hole changes nothing inside."""

import math
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import structural_similarity

from stages.metrics import fidelity

IN_HOLE = ("l1_hole", "mse_hole", "psnr_hole", "patch_sse", "sharpness", "texture")


def flat(level: int, size: int = 16) -> np.ndarray:
    return np.full((1, size, size, 3), level, np.uint8)


def box(size: int, rows: slice, columns: slice) -> np.ndarray:
    hole = np.zeros((1, size, size), bool)
    hole[:, rows, columns] = True
    return hole


def pictures(seed: int, size: int, count: int = 1) -> np.ndarray:
    """uint8 blobs with edges and a flat white corner: what photos have, in small."""
    rng = np.random.default_rng(seed)
    soft = [cv2.GaussianBlur(rng.random((size, size, 3)), (0, 0), 3) for _ in range(count)]
    levels = np.clip((np.stack(soft) - 0.5) * 1000 + 128, 0, 255).astype(np.uint8)
    levels[:, : size // 3, : size // 3] = 255
    return levels


def test_errors_by_hand():
    target, output = flat(128), flat(128)
    output[0, 2:4, 2:6] = 179  # 8 of 256 pixels are off by 51 levels, 0.2
    hole = box(16, slice(2, 4), slice(2, 10))  # 16 pixels, half of them off
    assert fidelity.l1(output, target) == pytest.approx(0.2 * 8 / 256, rel=1e-6)
    assert fidelity.mse(output, target) == pytest.approx(0.04 * 8 / 256, rel=1e-6)
    assert fidelity.l1(output, target, hole) == pytest.approx(0.1, rel=1e-6)
    assert fidelity.mse(output, target, hole) == pytest.approx(0.02, rel=1e-6)
    assert fidelity.psnr(output, target, hole) == pytest.approx(16.9897, abs=1e-4)  # 10 log10 50
    assert fidelity.patch_sse(output, target, hole) == pytest.approx(8 * 3 * 0.04, abs=2**-16)


def test_identical_pictures():
    x = pictures(3, 32)
    scores = fidelity.score(x, x, box(32, slice(4, 9), slice(4, 9)))
    assert scores["psnr"] == scores["psnr_hole"] == fidelity.PSNR_CAP
    assert scores["ssim"] == scores["ssim_hole"] == scores["sharpness"] == 1
    assert scores["l1"] == scores["mse_hole"] == scores["patch_sse"] == 0


@pytest.mark.parametrize(("side", "decibels"), [(64, 89.025), (256, 101.067), (2264, 119.9995)])
def test_the_cap_does_not_take_one_level_in_one_value_for_a_perfect_picture(side: int, decibels: float):
    """10 log10(255^2 3 side^2) dB; the next larger picture's would be 120.003."""
    target = np.full((1, side, side, 3), 100, np.uint8)
    output = target.copy()
    output[0, side // 2, 3, 1] += 1
    by_hand = 10 * math.log10(255**2 * 3 * side**2)
    assert by_hand == pytest.approx(decibels, abs=1e-3)
    assert fidelity.psnr(output, target) == pytest.approx(by_hand, abs=2**-16)
    if side <= 256:
        assert fidelity.mse(output, target) == pytest.approx(1 / (255**2 * 3 * side**2), rel=0.1)
    assert fidelity.psnr(output, target) < fidelity.PSNR_CAP == fidelity.psnr(target, target)
    hole = np.zeros((1, side, side), bool)
    hole[0, side // 2, 3] = True  # a hole of one pixel
    assert fidelity.psnr(output, target, hole) == pytest.approx(10 * math.log10(255**2 * 3), abs=2**-16)


def test_the_report_names_the_cap():
    template = Path(fidelity.__file__).parent.parent / "pages" / "scores.html.j2"
    assert f"at most {fidelity.PSNR_CAP:g} dB" in template.read_text().replace("\n", " ")


def test_an_empty_hole_has_no_score():
    x, y = pictures(4, 32), pictures(5, 32)
    scores = fidelity.score(x, y, np.zeros((1, 32, 32), bool))
    assert np.isnan([scores[name] for name in ("l1_hole", "psnr_hole", "ssim_hole", "sharpness", "texture")]).all()
    assert scores["patch_sse"] == 0
    assert scores["psnr"] > 0


def test_sharpness_by_hand():
    # A wave of 50 levels a step, and the same wave at half the height: a quarter of the energy.
    wave = flat(100)
    wave[:, :, ::2] += 50
    half = flat(112)
    half[:, :, ::2] += 25
    hole = box(16, slice(4, 12), slice(4, 12))
    assert fidelity.sharpness(half, wave, hole) == pytest.approx(0.25, abs=1e-3)
    assert fidelity.sharpness(wave, half, hole) == pytest.approx(4, abs=1e-2)
    # A flat truth: flat is right, and anything else is finite. In 8 x 8 pixels are 56 neighbours side by side, 50
    # levels apart in three channels, and 56 above each other; rounding adds 1/2 to each.
    assert fidelity.sharpness(flat(230), flat(25), hole) == 1
    assert fidelity.sharpness(wave, flat(25), hole) == pytest.approx(1 + 56 * 3 * 50**2 / (112 / 2), rel=1e-9)
    # A seam at the hole's edge is not the inside's sharpness.
    patched = wave.copy()
    patched[hole] = 128
    assert fidelity.sharpness(patched, wave, hole) == pytest.approx(0, abs=1e-3)
    # One pixel has no neighbour in the hole.
    assert np.isnan(fidelity.sharpness(wave, half, box(16, slice(4, 5), slice(4, 5))))[0]


def test_texture_by_hand():
    # Half the height at every size of detail: a quarter of the energy, two halvings, wherever there is any.
    coarse = flat(100, 64)
    coarse[:, :, np.arange(64) // 8 % 2 == 0] += 50
    hole = box(64, slice(16, 48), slice(16, 48))
    assert fidelity.texture(coarse // 2, coarse, hole) == pytest.approx(2, abs=0.01)
    assert fidelity.texture(coarse, coarse, hole) == 0
    # A hole of one pixel has no neighbours at any size, a thin one at the finest alone.
    assert np.isnan(fidelity.texture(coarse, coarse, box(64, slice(4, 5), slice(4, 5))))[0]
    thin = box(64, slice(16, 17), slice(16, 48))
    assert fidelity.texture(coarse // 2, coarse, thin) == pytest.approx(2, abs=0.01)


def test_noise_of_the_right_energy_is_not_taken_for_texture():
    """A blur of a natural picture is nearer to it than noise whose sharpness is 1; sharpness would say otherwise."""
    rng = np.random.default_rng(0)
    levels = np.full((1, 64, 64, 3), 128.0)
    for block in (1, 2, 4, 8):  # detail of every size, stronger where it is larger
        levels += np.kron(rng.normal(0, 5 * block, (1, 64 // block, 64 // block, 3)), np.ones((1, block, block, 1)))
    truth = np.clip(levels, 0, 255).astype(np.uint8)
    hole = box(64, slice(16, 48), slice(16, 48))
    blurred = np.stack([cv2.GaussianBlur(picture, (0, 0), 1.5) for picture in truth])
    grain = rng.normal(0, 1, truth.shape)
    noise = (truth.mean() + grain * 25).round().astype(np.uint8)
    noise = (truth.mean() + grain * 25 / np.sqrt(fidelity.sharpness(noise, truth, hole))).round().astype(np.uint8)
    assert fidelity.sharpness(noise, truth, hole) == pytest.approx(1, abs=0.02)
    assert fidelity.sharpness(blurred, truth, hole) < 0.3
    assert fidelity.texture(noise, truth, hole) > fidelity.texture(blurred, truth, hole) + 1


def test_ssim_of_flat_pictures_by_hand():
    # No variance: only the luminance factor is left, (2 ab + C1) / (a^2 + b^2 + C1), of 0.2 and 0.6.
    similarity = fidelity.ssim_map(flat(51), flat(153))
    assert similarity == pytest.approx((2 * 0.2 * 0.6 + 1e-4) / (0.04 + 0.36 + 1e-4), abs=1e-5)


@pytest.mark.parametrize("size", [16, 64, 129])
@pytest.mark.parametrize("noise", [0, 2, 40])
def test_ssim_is_scikit_images(size, noise):
    x = pictures(6, size)
    rng = np.random.default_rng(7)
    y = np.clip(x + rng.normal(0, noise, x.shape) + (noise == 0) * 30, 0, 255).astype(np.uint8)
    mean, image = structural_similarity(
        x[0] / 255,
        y[0] / 255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        channel_axis=-1,
        data_range=1,
        full=True,
    )
    ours = fidelity.ssim_map(x, y)
    assert fidelity.ssim(ours) == pytest.approx(mean, abs=1e-5)
    hole = box(size, slice(1, size // 2), slice(1, size // 2))
    assert fidelity.ssim(ours, hole) == pytest.approx(image[hole[0]].mean(), abs=1e-5)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_outside_the_hole_changes_nothing_inside(seed):
    rng = np.random.default_rng(seed)
    target, output = rng.integers(0, 256, (2, 3, 24, 20, 3), np.uint8)
    hole = rng.random((3, 24, 20)) < rng.random()
    other = np.where(hole[..., None], output, rng.integers(0, 256, output.shape, np.uint8))
    known = np.where(hole[..., None], target, rng.integers(0, 256, target.shape, np.uint8))
    before, after = fidelity.score(output, target, hole), fidelity.score(other, known, hole)
    for name in IN_HOLE:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)


def test_a_batch_scores_as_one_by_one():
    x, y = pictures(8, 32, 4), pictures(9, 32, 4)
    hole = np.stack([box(32, slice(4, 9 + n), slice(4, 20))[0] for n in range(4)])
    together = fidelity.score(x, y, hole)
    for n in range(4):
        alone = fidelity.score(x[n : n + 1], y[n : n + 1], hole[n : n + 1])
        for name, value in alone.items():
            assert together[name][n] == value[0], name


def test_ssims_window_is_the_gaussian_in_few_bits():
    units = fidelity.TAPS * 2**18
    exact = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    assert (units == units.round()).all()
    assert units.sum() == 2**18
    assert np.abs(units - exact / exact.sum() * 2**18).max() < 1


def test_scores_are_exact():
    """Each number against sums of whole numbers in Python, which has no rounding: equal to the last bit."""
    x, y = (pictures(seed, 24) for seed in (10, 11))
    hole = box(24, slice(3, 12), slice(2, 20))
    scores = fidelity.score(x, y, hole)
    off = [int(a) - int(b) for a, b in zip(x[hole].ravel(), y[hole].ravel(), strict=True)]
    expected = {
        "l1_hole": Fraction(sum(map(abs, off)), 255 * len(off)),
        "mse_hole": Fraction(sum(d * d for d in off), 255**2 * len(off)),
        "patch_sse": Fraction(sum(d * d for d in off), 255**2),
        "sharpness": Fraction(energy(x[0], hole[0]), energy(y[0], hole[0])),
    }
    for name, number in expected.items():
        # A large number's sums stay exact too, and a small one is not 0.
        unit = 2**16 if name == "patch_sse" else 2**36 if name.startswith("mse") else 2**30
        assert scores[name][0] == round(number * unit) / unit, name
    psnr = -10 * math.log10(expected["mse_hole"])
    assert scores["psnr_hole"][0] == round(psnr * 2**16) / 2**16


def energy(picture: np.ndarray, hole: np.ndarray) -> int:
    """Twice the gradient energy of a picture in a hole, in squared levels, with what rounding adds."""
    levels, total = picture.astype(int), 0
    for row, column in np.argwhere(hole).tolist():
        for other in ((row + 1, column), (row, column + 1)):
            if hole[other]:
                total += 1 + 2 * int(np.square(levels[row, column] - levels[other]).sum())
    return total


def test_the_ssim_filters_are_exact():
    """The pictures that need most bits: what OpenCV filters is what whole numbers give, whatever it is compiled to."""
    rng = np.random.default_rng(0)
    squares = 2 * rng.choice([0, 254, 255], (20, 20, 3)).astype(np.float64) ** 2
    taps = [int(tap) for tap in fidelity.TAPS * 2**18]
    padded = np.pad(squares, ((5, 5), (5, 5), (0, 0)), "symmetric").astype(int).tolist()
    made = fidelity._blur(squares, np.empty_like(squares))
    for row, column in ((0, 0), (7, 19), (10, 10)):
        total = sum(
            down * across * padded[row + i][column + j][1]
            for i, down in enumerate(taps)
            for j, across in enumerate(taps)
        )
        assert Fraction(made[row, column, 1]) == Fraction(total, 2**36)
