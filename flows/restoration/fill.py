"""A hole of a photo completed: blended exactly in the system's crop, then put back at the photo's full size.

To solve at full size is hundreds of times slower and no better: the crop's pixels are all that a system knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flows.restoration import frames
from flows.restoration.frames import Frame, Piece
from flows.restoration.grain import grain as made_grain
from flows.restoration.system import System
from stages.images import landmarks
from stages.images.faces import Face
from stages.images.opencv import cv2
from stages.runs.errors import InputError

EDGE = 0.97  # of a frame: what lies nearer to its border has too little around it, and gets a frame of its own
REACH = 64  # px around a piece of the hole from which its rim and grain are taken


class Cancelled(Exception):
    """The user has stopped it; nothing was changed."""


@dataclass(frozen=True, eq=False)
class Filled:
    """A completed photo."""

    pixels: np.ndarray  # uint8 H x W x 3, sRGB; outside of the hole as they were
    record: dict[str, Any]  # JSON: the frames, the seed, whether grain was added


def fill(
    view: np.ndarray,
    hole: np.ndarray,
    system: System,
    *,
    faces: Sequence[Face] = (),
    seed: int | None = None,
    grain: bool = True,
    name: str = "the photo",
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Filled:
    """Complete the hole (bool H x W, True = missing) of a photo (uint8 H x W x 3, sRGB).

    What lies in a face's frame is completed there, turned upright; the rest in upright frames around each piece.
    `seed` draws another answer where the system has several; None is its best. `progress` gets how many frames are
    done, and of how many as far as is known. Raises InputError where the system cannot complete the hole, Cancelled
    when `cancelled` says so.
    """
    _check(view, hole)
    work, left = view.copy(), hole.astype(np.float32)  # 1 = still missing
    work[hole] = 0  # nothing of what is missing reaches the system
    told: list[dict[str, Any]] = []
    todo = list(_plan(hole, left, system, faces))
    for number, (piece, tried) in enumerate(todo):
        if cancelled and cancelled():
            raise Cancelled
        if progress:
            progress(number, len(todo))
        frame, crop_hole = _fitting(left, tried, system)
        _one(work, left, piece, frame, crop_hole, system, seed, name, grain)
        left[piece.box][piece.mask] = 0
        told.append(
            {"transform": frame.transform.ravel().tolist(), "side": frame.side, "face": frame.face,
             "pixels": int(piece.mask.sum()), "enlargement": round(frame.enlargement, 3)}
        )  # fmt: skip
    if progress:
        progress(len(todo), len(todo))
    return Filled(work, {"frames": told, "seed": seed, "grain": grain})


def _check(view: np.ndarray, hole: np.ndarray) -> None:
    if hole.shape != view.shape[:2] or hole.dtype != np.bool_:
        raise InputError(
            f"the hole is {hole.shape[1]} x {hole.shape[0]} px, the photo {view.shape[1]} x {view.shape[0]}"
        )
    if not hole.any():
        raise InputError("the hole is empty: nothing to complete")
    if hole.all():
        raise InputError("the hole covers all of the photo: leave something to go by")


def _plan(
    hole: np.ndarray, left: np.ndarray, system: System, faces: Sequence[Face]
) -> Iterator[tuple[Piece, list[Frame]]]:
    """Pieces of the hole, in the order in which they are completed, each with the frames to try."""
    every = [frames.of_face(face, number, system.side) for number, face in enumerate(faces)]
    own = [frame for frame in every if not _in_crop(left, frame).all()]  # of the others nothing is to be seen
    order = sorted(range(len(own)), key=lambda number: own[number].enlargement)  # the smallest face first
    mine = frames.shares(hole, own)
    rest = hole.copy()
    for number in order:
        piece = mine[number]
        if piece and (inner := piece.near(own[number], EDGE)):
            rest[inner.box] &= ~inner.mask
            yield inner, [own[number], *frames.around(inner, system.side)]
    for piece in frames.parts(rest):
        yield piece, list(frames.around(piece, system.side))


def _fitting(left: np.ndarray, tried: list[Frame], system: System) -> tuple[Frame, np.ndarray]:
    """The first frame in which the system can complete what is left of the hole, and that in its crop."""
    for frame in tried:
        crop_hole = _in_crop(left, frame)
        if not crop_hole.all() and bool(system.completes(crop_hole[None])[0]):
            return frame, crop_hole
    raise InputError(f"system '{system.name}' cannot complete this hole: choose another system, or a smaller hole")


def _in_crop(left: np.ndarray, frame: Frame) -> np.ndarray:
    """The hole in a frame's crop, bool S x S: every pixel with a share of it, as it is mixed with what lies there."""
    found: np.ndarray = landmarks.crop(left, frame.transform, frame.side) != 0  # a cubic's share may be negative
    return found


def _one(
    work: np.ndarray,
    left: np.ndarray,
    piece: Piece,
    frame: Frame,
    crop_hole: np.ndarray,
    system: System,
    seed: int | None,
    name: str,
    grain: bool,
) -> None:
    """Complete a piece of the hole in `work`, in one frame; `left` is 1 where anything is still missing."""
    seen = landmarks.crop(work, frame.transform, frame.side)
    seen[crop_hole] = 0
    crop = _joined(seen, system.complete(seen, crop_hole, name, seed), crop_hole)
    rows, columns = piece.box
    top, left_edge = max(0, rows.start - REACH), max(0, columns.start - REACH)
    box = np.s_[top : rows.stop + REACH, left_edge : columns.stop + REACH]
    known, picture = left[box] == 0, work[box].astype(np.float32)
    missing = np.zeros_like(known)
    missing[rows.start - top : rows.stop - top, columns.start - left_edge : columns.stop - left_edge] = piece.mask
    shifted = frame.transform.copy()
    shifted[:, 2] += frame.transform[:, :2] @ [left_edge, top]
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    made = cv2.warpAffine(crop, shifted, missing.shape[::-1], flags=flags, borderMode=cv2.BORDER_REFLECT_101)
    made += _rim(picture - made, known, missing, frame.enlargement)
    picture[missing] = made[missing]
    del made
    if grain:
        rng = np.random.default_rng([0 if seed is None else seed + 1, int(top), int(left_edge)])
        picture += made_grain(picture, missing, known, frame.enlargement, rng)
    work[box][missing] = np.clip(np.rint(picture[missing]), 0, 255).astype(np.uint8)


def _joined(known: np.ndarray, guide: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """A crop completed, float32 S x S x 3 in levels: blended exactly (Pérez et al. 2003), with the guide continued.

    A network that was trained on composites may make anything outside of the hole, and blending would take the steps
    between that and its fill into the picture. So the guide goes on outside as it is at the hole's rim: the fill then
    meets the photo without a step. For networks that do paint the surroundings this is as good (docs/restore.md).
    """
    from stages.blend import poisson_blend

    made = poisson_blend(known[None] / 255, _continued(guide, hole)[None] / 255, hole[None])[0]
    return (made * 255).clip(0, 255).astype(np.float32)


def _continued(guide: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """A guide in which every pixel beside the hole is the mean of its neighbours in the hole."""
    inside = hole.astype(np.float64)
    cross = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.float64)
    count = cv2.filter2D(inside, -1, cross, borderType=cv2.BORDER_CONSTANT)
    total = cv2.filter2D(guide * inside[..., None], -1, cross, borderType=cv2.BORDER_CONSTANT)
    rim = ~hole & (count > 0)
    result = guide.astype(np.float64)
    result[rim] = total[rim] / count[rim][:, None]
    return result


def _rim(apart: np.ndarray, known: np.ndarray, hole: np.ndarray, enlargement: float) -> np.ndarray:
    """What brings an enlarged fill to the photo at the hole's rim, float32 H x W x 3; it fades within some pixels.

    `apart` is the photo less the fill: the detail that a crop averages away. It is carried a little into the hole, by
    normalised convolution (Knutsson and Westin 1993).
    """
    if enlargement <= 1.2:
        return np.zeros_like(apart)
    reach = 2 * int(np.ceil(enlargement)) + 1
    band = cv2.dilate(hole.view(np.uint8), np.ones((reach, reach), np.uint8)).astype(bool) & known
    weight = band.astype(np.float32)
    near = cv2.GaussianBlur(weight, (0, 0), enlargement)
    carried = cv2.GaussianBlur(apart * weight[..., None], (0, 0), enlargement)
    carried *= (np.minimum(1, 2 * near) / np.maximum(near, 1e-3))[..., None]
    return carried
