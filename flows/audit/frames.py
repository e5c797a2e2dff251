"""A picture brought to the frame of aligned tables, as `align` has done it: so a photo that was cropped or turned is
found by its face."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from flows.lineage import entries
from flows.lineage.digests import Digests
from flows.lineage.entries import SCHEMA
from flows.lineage.locks import Lock
from stages.runs.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from stages import align

STAGE = b"  align@"  # begins its entries in a lock

# A detector sees the eyes a little beside, where it sees another picture. So each face is cropped in several ways: its
# landmarks scaled, and moved to the right and down by so much of the distance of the eyes.
WAYS = ((1, 0, 0), (1, 0.06, 0), (1, -0.06, 0), (1, 0, 0.06), (1, 0, -0.06), (0.97, 0, 0), (1.03, 0, 0))

Frame = Callable[["np.ndarray"], "list[np.ndarray]"]  # of a picture, uint8 H x W x 3, the crops; none: no face is found


class Known(NamedTuple):
    """The frames to which a picture can be brought."""

    frames: list[Frame]
    absent: list[str]  # weights of detectors that locks name and that are not here, or others


def known(root: Path, locks: Iterable[Lock], digest: Digests) -> Known:
    """A frame for each way in which a lock says that a detector has aligned faces."""
    blocks = {block: lock for lock in locks for block in entries.split(lock.text) if block.startswith(STAGE)}
    if not blocks:
        return Known([], [])
    from stages import align
    from stages.runs.params import build

    found: dict[str, Frame | None] = {}  # by its parameters
    absent: dict[str, None] = {}
    for block, lock in blocks.items():
        with contextlib.suppress(InputError):  # a damaged entry, parameters of another version, or no such detector
            for entry in entries.of(lock._replace(text=SCHEMA + block)):
                name = entry.stage.partition("@")[2]
                section = f"datasets.{name}.align"
                params = build(align.Params, entry.params.get(section), section)
                weights = root / params.detector_model
                recorded = entry.deps.get(params.detector_model)
                if params.detector == "yunet" and not (weights.is_file() and digest(weights) == recorded):
                    absent[params.detector_model] = None
                elif repr(params) not in found:
                    found[repr(params)] = _frame(params, weights, name)
    return Known([frame for frame in found.values() if frame], [*absent])


def _frame(params: align.Params, weights: Path, name: str) -> Frame | None:
    from stages import align
    from stages.images import landmarks

    landmarks.single_thread()
    detector = align.make_detector(params, weights, name)
    if detector is None:
        return None

    def frame(picture: np.ndarray) -> list[np.ndarray]:
        crops = []
        with contextlib.suppress(landmarks.NoFace, align.Unalignable):
            for points in _ways(detector(picture)):
                found = align.aligned_face(picture, points, params.size, params.max_outside, params.min_frontality)
                crops.append(found.pixels)
        return crops

    return frame


def _ways(found: np.ndarray) -> Iterator[np.ndarray]:
    """Landmarks, 5 x 2, in each of WAYS."""
    middle, across = found[:2].mean(0), found[1] - found[0]
    eyes = (across**2).sum() ** 0.5
    for scale, right, down in WAYS:
        yield middle + (found - middle) * scale + (right * eyes, down * eyes)
