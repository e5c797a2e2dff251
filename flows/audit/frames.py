"""A picture brought to the frame of aligned tables, as `align` has done it: so a photo that was cropped or turned is
found by its face."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flows.lineage import dvc_lock, entries
from flows.lineage.digests import Digests
from flows.lineage.locks import NAME, Lock
from stages.runs.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from stages import align

# A detector sees the eyes a little beside, where it sees another picture. So each face is cropped in several ways: its
# landmarks scaled, and moved to the right and down by so much of the distance of the eyes.
WAYS = ((1, 0, 0), (1, 0.06, 0), (1, -0.06, 0), (1, 0, 0.06), (1, 0, -0.06), (0.97, 0, 0), (1.03, 0, 0))

Frame = Callable[["np.ndarray"], "list[np.ndarray]"]  # of a picture, uint8 H x W x 3, the crops; none: no face is found


class Known(NamedTuple):
    """The frames to which a picture can be brought."""

    frames: list[Frame]
    absent: list[str]  # weights of detectors that locks name and that cannot be used
    damaged: list[str]  # locks, by what is wrong with them


def known(root: Path, locks: Iterable[Lock], digest: Digests) -> Known:
    """A frame for each way in which a lock says that a detector has aligned faces.

    A lock may be of a fetched branch, and name any file of this machine as the detector's weights. OpenCV is given only
    what the working copy itself names.
    """
    damaged: list[str] = []
    every = entries.of_stage(locks, "align", damaged)
    if not every:
        return Known([], [], damaged)
    from stages import align
    from stages.runs.params import build

    ours = _named(root)
    found: dict[str, Frame | None] = {}  # by its parameters
    absent: dict[str, None] = {}
    for entry in every:
        name = entry.stage.partition("@")[2]
        section = f"datasets.{name}.align"
        try:
            params = build(align.Params, entries.renamed(entry.stage, entry.params.get(section)), section)
        except InputError:  # of another version of align
            absent |= dict.fromkeys(_weights(entry.params))
            continue
        weights = params.detector_model
        if params.detector == "yunet" and not (
            weights in ours and (root / weights).is_file() and digest(root / weights) == entry.deps.get(weights)
        ):
            absent[weights] = None
        elif repr(params) not in found:
            try:
                found[repr(params)] = _frame(params, root / weights, name)
            except InputError:  # they are no detector's
                absent[weights] = None
    return Known([frame for frame in found.values() if frame], [*absent], damaged)


def _named(root: Path) -> set[str]:
    """The weights that the working copy's `params.yaml` and `dvc.lock` name."""
    found = set()
    with contextlib.suppress(InputError):
        found |= _weights(dvc_lock.read(root / "params.yaml"))
    file = root / NAME
    own = [Lock(None, None, file.read_bytes())] if file.is_file() else []
    return found.union(*(_weights(entry.params) for entry in entries.of_stage(own, "align", [])))


def _weights(params: Any) -> set[str]:
    values = entries.plain(params)
    return {value for key, value in values.items() if key.endswith(".align.detector_model") and isinstance(value, str)}


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
                found = align.aligned_face(picture, points, params.side, params.max_outside, params.min_frontality)
                crops.append(found.pixels)
        return crops

    return frame


def _ways(found: np.ndarray) -> Iterator[np.ndarray]:
    """Landmarks, 5 x 2, in each of WAYS."""
    middle, across = found[:2].mean(0), found[1] - found[0]
    eyes = (across**2).sum() ** 0.5
    for scale, right, down in WAYS:
        yield middle + (found - middle) * scale + (right * eyes, down * eyes)
