"""Poisson blending: the guide's gradients inside the hole, the known picture around it.

Pérez, Gangnet and Blake, "Poisson Image Editing" (2003), eq. 3, as Yeh et al. 2016 and report 2 use
it: minimise |grad x - grad g|^2 with x = y on the known pixels y, g being the system's own picture.
In forward differences that is a sum over all pairs of neighbours p, q inside the picture,

    sum ((x_p - x_q) - (g_p - g_q))^2 = sum (u_p - u_q)^2    with  u = x - g,

so the correction u is y - g on known pixels and harmonic in the hole: every missing pixel's u is the
mean of its neighbours' (fewer at the picture's border, which is free). Only the known pixels that
touch the hole enter. Methods, all of which keep the known pixels bit for bit:

exact    the minimiser: a sine/cosine transform for rectangles, a Cholesky factor for other holes.
sobel    report 2's: Adam on |S(x) - S(g)|^2, S the Sobel operator. It leaves dots: patterns that
         alternate from pixel to pixel, (-1)^column f(row) and (-1)^row f(column), are S's null space.
coupled  report 2's proposal, to tie the channels: Adam on
             sum_p sqrt(sum_c |S(x_c) - S(g_c)|^2(p) + eps^2),
         convex, one norm a pixel over all channels. (A quadratic term between channels, say
         |S(u_c) - S(u_d)|^2, would have the same minimisers as none: it would test nothing.)

The stage works in float64: BLAS adds in another order on each type of CPU, and the descents enlarge what
that changes. In float64 it stays far below the last rounding, so the bytes are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from stages.images import table
from stages.runs import command
from stages.runs.errors import InputError
from stages.runs.params import STRICT, Name, refuse_idle

Method = Literal["exact", "sobel", "coupled"]
Links = list[tuple[np.ndarray, np.ndarray]]
Solver = Callable[[np.ndarray], np.ndarray]  # A^-1 b, float64 n x m

FFT_SIDES = 400  # height + width from which a fast transform beats two matrix products
CHUNK = 2**15  # numbers of a batch of rectangles worked on at once: larger ones fault pages in anew
FACTOR_MANY = 12  # images of one hole from which CHOLMOD's slow factor and fast solve pay
BAND_ENTRIES = 2**23  # of a banded factor; larger holes go to CHOLMOD, which fills in less
SYSTEM_ENTRIES = 2**20  # of the right-hand sides of an irregular hole, solved at once
HAIR = 1e-6  # levels
EPSILON = 0.01  # intensity per pixel; rounds the coupled norm off at zero


@dataclass(frozen=True, config=STRICT)
class Params:
    system: Name  # the entry of `search` or `infer` whose pictures are blended
    dataset: Name  # whose pictures and holes the system completed
    method: Method = "exact"  # or report 2's descent on Sobel gradients, or that with its channels coupled
    iterations: Annotated[int, Field(ge=1)] = 500  # of Adam; sobel and coupled only
    lr: Annotated[float, Field(gt=0)] = 0.01  # Adam's learning rate, intensity (0 to 1) a step; sobel and coupled only

    def __post_init__(self) -> None:
        if self.method == "exact":
            refuse_idle(self, "method: exact", ["iterations", "lr"])


def poisson_blend(
    known: np.ndarray,
    guide: np.ndarray,
    hole: np.ndarray,
    method: Method = "exact",
    *,
    iterations: int = 500,
    lr: float = 0.01,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """`known` outside the hole, bit for bit; inside it the guide's gradients, fitted to the known rim.

    known, guide: N x H x W x 3 in [0, 1], both float32 or both float64, the type that is worked in; hole:
    bool N x H x W, True = missing. Returns N x H x W x 3 of that type, not clipped, in `out` where given
    (a reused array saves page faults).
    What `known` holds under the hole is never read, be it NaN. A hole that covers the whole picture
    leaves u free by a constant; u's mean is taken as 0, which returns the guide.
    `iterations` and `lr` are of the methods that descend. Raises ValueError for other shapes or types.
    """
    _check(known, guide, hole)
    if out is None:
        out = np.empty(known.shape, known.dtype)
    elif out.shape != known.shape or out.dtype != known.dtype or not out.flags.c_contiguous:
        raise ValueError(f"out must be a contiguous {known.dtype} {known.shape}")
    elif np.may_share_memory(out, guide):
        raise ValueError("out must not be the guide's memory")
    np.copyto(out, known)
    if method == "exact":
        for rows, shape in _groups(hole):
            _solve(known, guide, shape, rows, out)
    elif method in ("sobel", "coupled"):
        _descend(known, guide, hole, method == "coupled", iterations, lr, out)
    else:
        raise ValueError(f"method must be exact, sobel or coupled, not {method!r}")
    return out


def _check(known: np.ndarray, guide: np.ndarray, hole: np.ndarray) -> None:
    if known.ndim != 4 or known.shape[3] != 3 or guide.shape != known.shape or hole.shape != known.shape[:3]:
        raise ValueError(f"known {known.shape}, guide {guide.shape}, hole {hole.shape}: N x H x W x 3 twice, N x H x W")
    if known.dtype not in (np.float32, np.float64) or guide.dtype != known.dtype or hole.dtype != np.bool_:
        raise ValueError(
            f"known {known.dtype}, guide {guide.dtype}, hole {hole.dtype}: must be float32 or float64 twice, bool"
        )


def _groups(hole: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows, hole H x W) for every different hole of the batch that is not empty."""
    if len(hole) and (hole == hole[0]).all():
        members = {b"": list(range(len(hole)))}
    else:
        members = {}
        for row, one in enumerate(hole):
            members.setdefault(one.tobytes(), []).append(row)
    for rows in members.values():
        if hole[rows[0]].any():
            yield np.array(rows), hole[rows[0]]


def _box(hole: np.ndarray) -> tuple[int, int, int, int]:
    """top, bottom, left, right (half open) of the missing pixels; the hole is not empty."""
    down, across = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
    return int(down[0]), int(down[-1]) + 1, int(across[0]), int(across[-1]) + 1


def _solve(known: np.ndarray, guide: np.ndarray, hole: np.ndarray, rows: np.ndarray, out: np.ndarray) -> None:
    """The exact minimiser for the images `rows`, which share `hole`, into `out`."""
    top, bottom, left, right = box = _box(hole)
    if hole.all():
        out[rows] = guide[rows]
    elif hole[top:bottom, left:right].all():
        # Only so many images at once that their spectra fit in memory that malloc keeps.
        few = max(1, CHUNK // (3 * (bottom - top) * (right - left)))
        for part in _parts(rows, few):
            run = slice(part[0], part[-1] + 1)  # a view is faster than an index, where it serves
            _solve_rectangle(known, guide, box, run if run.stop - run.start == len(part) else part, out)
    else:
        _solve_irregular(known, guide, hole, rows, out)


def _parts(rows: np.ndarray, few: int) -> Iterator[np.ndarray]:
    return (rows[start : start + few] for start in range(0, len(rows), few))


# --- Rectangles: the Laplacian is diagonal in sines and cosines.


@lru_cache(maxsize=64)
def _basis(n: int, low: bool, high: bool) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal eigenvectors (float64 n x n, a column each) and eigenvalues of the 1-D Laplacian.

    `low` and `high` tell whether a known pixel lies beyond that end (then u is given there: sines
    that vanish on it) or the picture ends (then u is free: cosines about the half pixel).
    """
    place, mode = np.arange(1, n + 1)[:, None], np.arange(n)[None, :]
    if low and high:  # DST-I
        angle = np.pi * (mode + 1) / (n + 1)
        vectors = np.sin(angle * place)
    elif low or high:  # u_0 = 0, u_{n+1} = u_n, or the mirror image
        angle = np.pi * (2 * mode + 1) / (2 * n + 1)
        vectors = np.sin(angle * place) if low else np.sin(angle * place)[::-1]
    else:  # DCT-II
        angle = np.pi * mode / n
        vectors = np.cos(angle * (place - 0.5))
    return vectors / np.linalg.norm(vectors, axis=0), 4 * np.sin(angle[0] / 2) ** 2


@lru_cache(maxsize=64)
def _spectrum(
    height: int, width: int, ends: tuple[bool, bool, bool, bool], kind: np.dtype
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The vertical basis, the horizontal one, and 1 / eigenvalue as height x 1 x width, of type `kind`."""
    vertical, tall = _basis(height, ends[0], ends[1])
    horizontal, wide = _basis(width, ends[2], ends[3])
    inverse = 1 / (tall[:, None] + wide[None, :])  # positive: at least one end is known
    return vertical.astype(kind), horizontal.astype(kind), inverse[:, None, :].astype(kind)


def _solve_rectangle(
    known: np.ndarray, guide: np.ndarray, box: tuple[int, int, int, int], rows: slice | np.ndarray, out: np.ndarray
) -> None:
    """u = V ((V' b W) / (lambda + mu)) W', where b holds y - g of the rim, next to it, and is 0 elsewhere.

    b is four strips, so its transform is four outer products; only the way back costs two matrix
    products, each one call for the whole batch: spectra lie as height x (image, channel) x width.
    """
    top, bottom, left, right = box
    height, width = bottom - top, right - left
    ends = (top > 0, bottom < known.shape[1], left > 0, right < known.shape[2])
    vertical, horizontal, inverse = _spectrum(height, width, ends, known.dtype)

    def strip(known_there: bool, y: int | slice, x: int | slice, length: int) -> np.ndarray:
        """y - g along one side, (image, channel) x length; zero where the picture ends there."""
        if not known_there:
            return np.zeros((count, length), known.dtype)
        step: np.ndarray = known[rows, y, x] - guide[rows, y, x]
        return step.transpose(0, 2, 1).reshape(count, length)

    count = 3 * len(known[rows, 0, 0])
    across, down = slice(left, right), slice(top, bottom)
    level = np.stack([strip(ends[0], top - 1, across, width), strip(ends[1], bottom, across, width)])
    steep = np.stack([strip(ends[2], down, left - 1, height), strip(ends[3], down, right, height)])
    spectra = vertical[[0, -1]].T @ (level @ horizontal).reshape(2, -1)  # height x (count width)
    spectra = spectra.reshape(height, count, width)
    spectra += (steep @ vertical).T @ horizontal[[0, -1]]
    spectra *= inverse
    if all(ends) and height + width > FFT_SIDES:
        from scipy.fft import dstn

        u = dstn(spectra, type=1, norm="ortho", axes=(0, 2), overwrite_x=True)
    else:
        u = (vertical @ spectra.reshape(height, -1)).reshape(-1, width) @ horizontal.T
    u = u.reshape(height, -1, 3, width)
    for channel in range(3):  # the long axis inside: numpy would loop over three channels
        out[rows, down, across, channel] = guide[rows, down, across, channel] + u[:, :, channel].swapaxes(0, 1)


# --- Other holes: the Laplacian of the missing pixels as a sparse, positive definite matrix.


def _solve_irregular(known: np.ndarray, guide: np.ndarray, hole: np.ndarray, rows: np.ndarray, out: np.ndarray) -> None:
    """A u = b in float64, A the Laplacian among missing pixels, b the sum of y - g over known neighbours."""
    missing, links, solve = _system(hole.tobytes(), hole.shape, len(rows) >= FACTOR_MANY)
    y, g, x = known.reshape(-1, 3), guide.reshape(-1, 3), out.reshape(-1, 3)
    for part in _parts(rows, max(1, SYSTEM_ENTRIES // (3 * len(missing)))):
        start = part * hole.size  # where each image begins in the flattened batch
        b = np.zeros((len(missing), len(part), 3))
        for unknown, neighbour in links:  # one direction: no unknown occurs twice
            at = np.add.outer(neighbour, start)
            b[unknown] += y.take(at, axis=0) - g.take(at, axis=0)
        u = solve(b.reshape(len(missing), -1)).reshape(b.shape)
        at = np.add.outer(missing, start)
        x[at] = g.take(at, axis=0) + u


@lru_cache(maxsize=4)  # a fixed hole comes again batch after batch; a factor may take 64 MB
def _system(packed: bytes, shape: tuple[int, int], many: bool) -> tuple[np.ndarray, Links, Solver]:
    """The missing pixels' places in the flattened picture, their known neighbours, and A's solver.

    Each of the four links is (unknowns, places of their known neighbours) in one direction.
    """
    hole = np.frombuffer(packed, bool).reshape(shape)
    top, bottom, left, right = _box(hole)
    # The hole's box with a margin: 0 = beyond the picture, 1 = known, 2 = missing.
    state = np.pad(hole + np.int8(1), 1)[top : bottom + 2, left : right + 2]
    place = np.add.outer(np.arange(top - 1, bottom + 1) * shape[1], np.arange(left - 1, right + 1))
    if right - left > bottom - top:  # numbered along the shorter side, A is a narrower band
        state, place = state.T, place.T
    at = np.nonzero(state == 2)
    missing = place[at]
    number = np.empty(state.shape, np.int32)
    number[at] = np.arange(len(missing))

    degree, links, pairs = np.zeros(len(missing)), [], []
    for down, across in ((-1, 0), (0, -1), (0, 1), (1, 0)):
        near = (at[0] + down, at[1] + across)
        kind = state[near]
        degree += kind > 0
        edge, inner = np.flatnonzero(kind == 1), np.flatnonzero(kind == 2)
        links.append((edge, place[near][edge]))
        pairs.append((inner, number[near][inner]))
    lower = np.concatenate([pairs[0][0], pairs[1][0]]), np.concatenate([pairs[0][1], pairs[1][1]])
    return missing, links, _factor(degree, *lower, many)


def _factor(degree: np.ndarray, row: np.ndarray, column: np.ndarray, many: bool) -> Solver:
    """The solver of A: `degree` on the diagonal, -1 at (row, column), all row > column, and mirrored.

    LAPACK's banded Cholesky factors thin holes several times faster than any sparse code, CHOLMOD
    solves faster once it has factored: it is for `many` right-hand sides, and for wide bands.
    """
    n, band = len(degree), int((row - column).max(initial=0))
    if not many and n * (band + 1) <= BAND_ENTRIES:
        from scipy.linalg import cho_solve_banded, cholesky_banded

        stored = np.zeros((band + 1, n), order="F")
        stored[0] = degree
        stored[row - column, column] = -1
        banded = cholesky_banded(stored, overwrite_ab=True, lower=True, check_finite=False)
        return lambda b: cho_solve_banded((banded, True), b, overwrite_b=True, check_finite=False)

    from cholespy import CholeskySolverD, MatrixType

    diagonal = np.arange(n)
    rows = np.concatenate([diagonal, row, column]).astype(np.int32)
    columns = np.concatenate([diagonal, column, row]).astype(np.int32)
    values = np.concatenate([degree, np.full(2 * len(row), -1.0)])
    factored = CholeskySolverD(n, rows, columns, values, MatrixType.COO)

    def solve(b: np.ndarray) -> np.ndarray:
        u = np.empty_like(b)
        factored.solve(b, u)
        return u

    return solve


# --- Report 2's descents.


def _descend(
    known: np.ndarray, guide: np.ndarray, hole: np.ndarray, coupled: bool, iterations: int, lr: float, out: np.ndarray
) -> None:
    """Adam (Kingma and Ba 2015, its published constants) on the Sobel energy of u, from u = 0 in the hole.

    Only 3 x 3 windows that lie inside the picture count. Every image's steps are its own.
    """
    if not hole.any():
        return
    if min(hole.shape[1:]) < 3:  # not one window
        np.copyto(out, guide, where=hole[..., None])
        return
    top, bottom, left, right = _box(np.any(hole, axis=0))
    # Every window that sees a missing pixel lies within two pixels of it.
    near = np.s_[:, max(top - 2, 0) : bottom + 2, max(left - 2, 0) : right + 2]
    free = hole[near][..., None]
    u = np.subtract(known[near], guide[near], where=~free, out=np.zeros_like(guide[near]))
    mean, square = np.zeros_like(u), np.zeros_like(u)
    for step in range(1, iterations + 1):
        slope = _sobel_energy_slope(u, coupled) * free
        mean += 0.1 * (slope - mean)
        square += 0.001 * (slope * slope - square)
        u -= lr * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    np.copyto(out[near], guide[near] + u, where=free)


def _sobel_energy_slope(u: np.ndarray, coupled: bool) -> np.ndarray:
    """The gradient of sum |S u|^2 / 2, or coupled: of sum_p sqrt(sum_c |S u_c|^2 + eps^2), by u (N x H x W x 3)."""
    smooth, across = np.array([1, 2, 1], u.dtype) / 4, np.array([-1, 0, 1], u.dtype) / 2
    horizontal = _windows(_windows(u, smooth, 1), across, 2)
    vertical = _windows(_windows(u, smooth, 2), across, 1)
    if coupled:
        energy = (horizontal**2 + vertical**2).sum(axis=3, keepdims=True)
        norm = np.sqrt(energy + EPSILON**2)
        horizontal, vertical = horizontal / norm, vertical / norm
    return _spread(_spread(horizontal, across, 2), smooth, 1) + _spread(_spread(vertical, across, 1), smooth, 2)


def _windows(u: np.ndarray, weights: np.ndarray, axis: int) -> np.ndarray:
    """Weighted sums of three neighbours along `axis` (1 or 2): two fewer than there were."""
    length = u.shape[axis] - 2
    first, middle, last = (u[:, k : k + length] if axis == 1 else u[:, :, k : k + length] for k in range(3))
    return weights[0] * first + weights[1] * middle + weights[2] * last


def _spread(sums: np.ndarray, weights: np.ndarray, axis: int) -> np.ndarray:
    """The adjoint of `_windows`: two more along `axis` than there were."""
    margin = [(2, 2) if k == axis else (0, 0) for k in range(4)]
    return _windows(np.pad(sums, margin), weights[::-1], axis)


# --- The stage.


def _levels(x: np.ndarray, picture: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """uint8: `x` (0 to 1) rounded and clipped in the hole, the input's own bytes elsewhere.

    Exact halves are common (the mean of four levels): a hair on top, wide against float64's errors, sends
    all of them up, whichever side the solver's last bit put them. So a result hangs neither on its batch nor
    on threads or the type of CPU.
    """
    rounded = np.floor(x * 255 + (0.5 + HAIR)).clip(0, 255).astype(np.uint8)
    return np.where(hole[..., None], rounded, picture)


class Known(NamedTuple):
    """What is known of rows of a system's table, all of one split."""

    rows: np.ndarray  # of the system's table, int64, as those of the pictures and of the holes
    pictures: table.Table
    picture_rows: np.ndarray
    holes: table.Table
    hole_rows: np.ndarray


def _known(aligned: Path, masks: Path, guides: table.Table) -> list[Known]:
    """The pictures and holes of a system's rows, split by split. Raises InputError where they are not there."""
    keys = guides.keys()
    found = []
    for split, rows in guides.splits().items():
        pictures, holes = table.Table(aligned / f"{split}.arrow"), table.Table(masks / f"{split}.arrow")
        for one in (pictures, holes):
            if one.size != guides.size:
                raise InputError(f"{one.path}: pictures of {one.size}, not {guides.size}")
        mine = [keys[row] for row in rows]
        found.append(Known(rows, pictures, pictures.find([key[:2] for key in mine]), holes, holes.find(mine)))
    return found


def blend(aligned: Path, masks: Path, inpainted: Path, blended: Path, params: Params, name: str) -> None:
    """Blend every row of `inpainted`/guide.arrow into its aligned picture and write `blended`/blended.arrow.

    Same rows, split by split. Raises InputError where a row's picture or hole is not in the dataset's tables, and where
    a descent leaves the range of numbers.
    """
    from tqdm import tqdm

    guides = table.Table(inpainted / "guide.arrow")
    keys = list(zip(*(guides.column(column) for column in table.COMPLETED), strict=True))
    try:
        todo = _known(aligned, masks, guides)
    except InputError as error:
        raise InputError(f"blend.{name}.dataset: not the one of {guides.path}? {error}") from None

    blended.mkdir(parents=True)
    # So many rows at once that a float64 batch takes 32 MB.
    step = max(1, 2**22 // (guides.size[0] * guides.size[1] * 3))
    with (
        table.writing_pictures(blended / "blended.arrow", guides.size, table.COMPLETED) as writer,
        tqdm(total=len(keys), unit="picture", mininterval=1, disable=None) as bar,
    ):
        for known, batch in ((one, slice(at, at + step)) for one in todo for at in range(0, len(one.rows), step)):
            rows = known.rows[batch]
            picture = known.pictures.pictures(known.picture_rows[batch])
            hole = known.holes.holes(known.hole_rows[batch])
            x = poisson_blend(
                picture / 255,
                guides.pictures(rows) / 255,
                hole,
                params.method,
                iterations=params.iterations,
                lr=params.lr,
            )
            for row in np.flatnonzero(~np.isfinite(x).all(axis=(1, 2, 3)))[:1]:  # NaN would be a black pixel
                _, path, kind, _ = keys[rows[row]]
                raise InputError(f"'{path}', hole '{kind}': blending left the range of numbers: lower blend.{name}.lr")
            for pixels, row in zip(_levels(x, picture, hole), rows, strict=True):
                writer.append(pixels, *keys[row])
            bar.update(len(rows))


if __name__ == "__main__":
    command.run(
        blend, sections={"params": "blend.{name}"}, inputs=("aligned", "masks", "inpainted"), outputs=("blended",)
    )
