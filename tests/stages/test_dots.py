"""The measure of report 2's dots."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.blend import poisson_blend
from stages.metrics.dots import dots

SIZE = 32


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[None, ..., None], 3, axis=3).astype(np.uint8)


def centre(side: int = 16) -> np.ndarray:
    hole = np.zeros((1, SIZE, SIZE), bool)
    start = (SIZE - side) // 2
    hole[:, start : start + side, start : start + side] = True
    return hole


FLAT = grey(np.full((SIZE, SIZE), 100))
ROWS, COLUMNS = np.indices((SIZE, SIZE))


def test_vertical_stripes_of_four_levels() -> None:
    """Every row alternates by 4 levels, and no column: half of the energy."""
    striped = grey(100 + 4 * (-1) ** COLUMNS)
    assert dots(striped, FLAT, centre()) == pytest.approx(4 / np.sqrt(2), abs=1e-4)


def test_a_chequerboard_alternates_both_ways() -> None:
    """4 (-1)^(row + column): each row has amplitude 4, each column too."""
    assert dots(grey(100 + 4 * (-1) ** (ROWS + COLUMNS)), FLAT, centre()) == pytest.approx(4, abs=1e-4)


def test_one_row_counts_by_its_length() -> None:
    """Two rows of the hole, of 3 and 4 pixels in a line; the first alternates by 8: one triple of three, no column."""
    hole = np.zeros((1, SIZE, SIZE), bool)
    hole[0, 5, 5:8] = hole[0, 9, 5:9] = True
    made = FLAT.copy()
    made[0, 5, 5:8] = np.array([108, 92, 108])[:, None]
    assert dots(made, FLAT, hole) == pytest.approx(8 / np.sqrt(3), abs=1e-4)


@given(
    level=st.integers(-50, 50),
    down=st.integers(-3, 3),
    across=st.integers(-3, 3),
)
def test_what_is_straight_has_none(level: int, down: int, across: int) -> None:
    plane = grey(100 + level + down * (ROWS - 16) + across * (COLUMNS - 16))
    assert dots(plane, FLAT, centre()) == 0


def test_nothing_outside_of_the_hole_counts_and_a_thin_hole_has_no_number() -> None:
    made = np.where(centre()[..., None], FLAT, grey(100 + 50 * (-1) ** COLUMNS))
    assert dots(made, FLAT, centre()) == 0
    thin = np.zeros((1, SIZE, SIZE), bool)
    thin[0, 4, 4:6] = True
    assert np.isnan(dots(FLAT, FLAT, thin))[0]


def test_a_sobel_descent_keeps_them_coupled_or_not_and_the_exact_solver_has_none() -> None:
    """The steps along the rim, from the picture to a guide of other content, are rough: dots fit them best."""
    truth = grey(120 + 30 * np.sin(COLUMNS / 5) + 20 * np.cos(ROWS / 4))
    guide = grey(120 + 20 * np.cos(COLUMNS / 3)) / 255
    known, hole = np.where(centre()[..., None], 0, truth) / 255, centre()
    found = {}
    for method in ("exact", "sobel", "coupled"):
        blended = poisson_blend(known, guide, hole, method)
        found[method] = dots(np.rint(blended * 255).clip(0, 255).astype(np.uint8), truth, hole)[0]
    assert found["exact"] < 0.5
    assert found["sobel"] > 2
    assert found["coupled"] > 2
