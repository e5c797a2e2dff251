"""Unnaturalness: the fits by hand, real photos spoiled in several ways, and what it does not look at."""

from pathlib import Path

import numpy as np
import pytest

from stages.images import holes
from stages.images.opencv import cv2
from stages.metrics import naturalness
from stages.metrics.naturalness import Natural, natural, unnatural


@pytest.fixture(scope="module")
def faces(celeba: list[Path]) -> np.ndarray:
    """200 real faces at 64 pixels."""
    photos = [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)[40:178, 20:158] for path in celeba[::25][:200]]
    return np.stack([cv2.resize(photo, (64, 64), interpolation=cv2.INTER_AREA) for photo in photos])


@pytest.fixture(scope="module")
def model(faces: np.ndarray) -> Natural:
    found = natural(faces[:160])
    assert found is not None
    return found


@pytest.mark.parametrize("shape", [0.8, 1.0, 2.0, 3.0])
def test_a_distributions_shape_and_sides_are_found(shape: float) -> None:
    """Exact quantiles of |x| of a generalised normal are powers of a gamma's; the left side is twice as wide."""
    from scipy.special import gamma, gammaincinv

    size = gammaincinv(1 / shape, (np.arange(20000) + 0.5) / 20000) ** (1 / shape)
    size /= np.sqrt(gamma(3 / shape) / gamma(1 / shape))  # variance 1
    # A side's share of the values is its share of the width.
    values = np.concatenate([-2 * size, -2 * size, size])
    (found,), (left,), (right,) = naturalness._fit(values.reshape(1, 1, -1))
    assert found == pytest.approx(shape, rel=0.02)
    assert left == pytest.approx(4, rel=0.01)
    assert right == pytest.approx(1, rel=0.01)
    lean = (np.sqrt(right) - np.sqrt(left)) * naturalness._leans(np.array([found]))
    assert lean[0] == pytest.approx(values.mean(), rel=0.01)


def test_a_flat_patch_has_numbers_too() -> None:
    (found,) = naturalness._features(np.full((1, 64, 64, 3), 77, np.uint8), [np.s_[0:64, 0:64]])
    assert found.shape == (16, 36)
    assert (found[:, 1::18] == 0).all()  # no contrast at all, also of the last bit
    assert np.isfinite(found).all()


def test_the_window_is_the_papers_gaussian() -> None:
    taps = np.exp(-(np.arange(-3, 4) ** 2) / (2 * (7 / 6) ** 2))
    assert np.allclose(naturalness.TAPS, taps / taps.sum(), atol=2**-13)
    assert naturalness.TAPS.sum() == 1


def test_patches_lie_about_the_hole() -> None:
    assert naturalness._span(np.arange(26, 38), 16, 64) == slice(24, 40)  # 12 px in the middle: one patch
    assert naturalness._span(np.arange(16, 48), 16, 64) == slice(16, 48)
    assert naturalness._span(np.arange(0, 5), 16, 64) == slice(0, 16)
    assert naturalness._span(np.arange(60, 64), 16, 64) == slice(48, 64)
    assert naturalness._span(np.arange(0, 64), 16, 64) == slice(0, 64)
    assert naturalness._span(np.arange(0, 40), 10, 40) == slice(0, 40)


@pytest.mark.parametrize(("kind", "options"), [("centre", {}), ("centre", {"fraction": 12 / 64}), ("pixels", {})])
def test_spoiled_faces_are_less_natural_than_true_ones(
    kind: str, options: dict, faces: np.ndarray, model: Natural
) -> None:
    truth = faces[160:]
    rng = np.random.default_rng(0)
    hole = np.stack([holes.draw(kind, 64, rng, **options) for _ in truth])
    spoilt = {
        "blurred": np.stack([cv2.GaussianBlur(picture, (0, 0), 2) for picture in truth]),
        "noisy": np.clip(truth + rng.normal(0, 25, truth.shape), 0, 255).astype(np.uint8),
        "flat": np.broadcast_to(truth.mean((1, 2), keepdims=True).astype(np.uint8), truth.shape),
    }
    natural_ones = unnatural(truth, hole, model)
    for name, pictures in spoilt.items():
        found = unnatural(np.where(hole[..., None], pictures, truth), hole, model)
        assert found.mean() > 1.1 * natural_ones.mean(), name
        assert (found > natural_ones).mean() > 0.65, name


def test_what_is_far_from_the_hole_is_not_looked_at(faces: np.ndarray, model: Natural) -> None:
    hole = np.zeros((1, 64, 64), bool)
    hole[:, 2:14, 2:14] = True
    other = faces[161:162].copy()
    other[:, :30, :30] = faces[160:161, :30, :30]
    assert unnatural(faces[160:161], hole, model) == unnatural(other, hole, model)
    other[:, 4, 4] ^= 255
    assert unnatural(faces[160:161], hole, model) != unnatural(other, hole, model)


def test_a_pictures_number_does_not_depend_on_the_others(faces: np.ndarray, model: Natural) -> None:
    rng = np.random.default_rng(0)
    hole = np.stack([holes.draw(kind, 64, rng) for kind in ("centre", "lines", "half", "random_box") * 10])
    together = unnatural(faces[160:], hole, model)
    alone = [unnatural(faces[160 + i :][:1], hole[i : i + 1], model)[0] for i in range(40)]
    assert np.array_equal(together, alone)


def test_an_empty_hole_has_no_number_and_few_pictures_no_model(faces: np.ndarray, model: Natural) -> None:
    assert np.isnan(unnatural(faces[:1], np.zeros((1, 64, 64), bool), model)).all()
    assert natural(faces[:8]) is None
    assert natural(faces[:9]) is not None
    edges = np.zeros((1, 40, 40), bool)
    edges[:, :, [0, 39]] = True
    assert np.isnan(unnatural(faces[:1, :40, :40], edges, model)).all()
    assert unnatural(faces[:0], np.zeros((0, 64, 64), bool), model).shape == (0,)
