"""What of a photo is missing: a mask picture of the user's, or a kind of hole placed on its faces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flows.restoration.detection import Detector, chosen
from flows.restoration.frames import Frame, of_face
from stages.images import holes, landmarks
from stages.images.faces import Face
from stages.images.opencv import cv2
from stages.runs.errors import InputError

COVERED = "covered"  # a bar that lies on the eyes already
KINDS = (COVERED, *(kind for kind in holes.KINDS if kind != "file"))
ON_FACES = ("eye_bar",)  # kinds that need faces
HALO = 5  # px around a bar that JPEG has changed, by up to 14 levels
LARGEST = 2048  # px; holes are drawn at this size at most, and scaled to the photo's


def parse(text: str) -> tuple[str, dict[str, Any]] | None:
    """A kind of hole and its options from `KIND` or `KIND:option=value,...`; None where the text names no kind.

    Raises InputError for options that the kind has not.
    """
    from ruamel.yaml import YAML, YAMLError

    kind, _, rest = text.partition(":")
    if kind not in KINDS:
        return None
    options = {}
    for one in filter(None, rest.split(",")):
        key, equals, value = one.partition("=")
        try:
            options[key.strip()] = YAML(typ="safe").load(value) if equals else None
        except YAMLError:
            raise InputError(f"--hole {text}: '{value}' is no value; write {kind}:option=number") from None
    if kind == COVERED:
        if options:
            raise InputError(f"--hole {text}: {COVERED} takes no options")
        return kind, {}
    holes.validate(kind, options)
    return kind, options


def from_file(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """The mask in a picture file as a hole, bool H x W: missing where it is brighter than 127.

    Raises InputError where it is no picture, not of the photo's (upright) shape, black everywhere or white everywhere.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        kinds = ", ".join(KINDS)
        raise InputError(f"--hole {path}: {error.strerror}; give a mask picture, or one of {kinds}") from None
    return from_bytes(data, shape, f"--hole {path}")


def from_bytes(data: bytes, shape: tuple[int, int], where: str, *, smaller: bool = False) -> np.ndarray:
    """The same, of a file's bytes; errors begin with `where`. A `smaller` mask may be the photo's, scaled down."""
    from stages.images.decode.picture import BadPicture
    from stages.images.decode.read import decode

    try:
        mask = decode(data)
    except BadPicture as error:
        raise InputError(f"{where}: {error}") from None
    (height, width), (tall, wide) = shape, mask.shape[:2]
    if smaller and tall <= height and abs(tall * width - wide * height) <= max(shape):  # the same but for rounding
        mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    if mask.shape[:2] != shape:
        raise InputError(
            f"{where}: {wide} x {tall} px, and the upright photo {width} x {height}; draw it on the photo itself"
        )
    hole = cv2.cvtColor(mask, cv2.COLOR_RGB2GRAY) > 127
    if not hole.any():
        raise InputError(f"{where}: black everywhere; white marks what is missing")
    if hole.all():
        raise InputError(f"{where}: white everywhere; leave something to go by")
    return hole


def place(
    kind: str,
    options: dict[str, Any],
    view: np.ndarray,
    detect: Detector,
    *,
    face: str | None = None,
    seed: int = 0,
    jpeg: bool = False,
) -> tuple[list[Face], np.ndarray, dict[str, Any]]:
    """The faces of a photo that count, a hole of a kind on them, and what a record says of it.

    `face` chooses one, as in `detection.chosen`. A bar that is there already is grown over the halo that a `jpeg` has
    around it. Raises InputError where the hole cannot be placed.
    """
    if kind != COVERED:
        faces = chosen(detect.faces(view), face)
        return faces, preset(kind, view, faces, seed, options), {"kind": kind, **options, "seed": seed}
    found = detect.covered(view)
    faces = chosen([one for one, _ in found], face)
    if not faces:
        raise InputError(
            "no bar found over the eyes of a face, or too little of the face is seen: paint the hole (pixelated and "
            "blurred eyes always need that)"
        )
    grow = HALO if jpeg else 0
    bars = [bar for one, bar in found if any(one is each for each in faces)]
    hole = np.logical_or.reduce([bar.mask(view.shape, grow) for bar in bars])
    told = [
        {"corners": bar.corners.round(1).tolist(), "colour": list(bar.colour), "confidence": bar.confidence}
        for bar in bars
    ]
    return faces, hole, {"kind": kind, "grown_px": grow, "bars": told}


def preset(
    kind: str, view: np.ndarray, faces: Sequence[Face], seed: int = 0, options: dict[str, Any] | None = None
) -> np.ndarray:
    """A hole of a kind (not `covered`) on each face, or, without faces, in the photo's middle: bool H x W.

    True is missing. `view` is uint8 H x W x 3. Raises InputError where it cannot be placed.
    """
    height, width = view.shape[:2]
    if not faces and kind in ON_FACES:
        raise InputError(f"no face found, and {kind} needs one: paint the hole, or take another kind (centre, lines)")
    hole = np.zeros((height, width), bool)
    for number in range(max(1, len(faces))):
        frame = _frame(faces[number] if faces else None, number, height, width)
        points = frame.to_crop(faces[number].landmarks) if faces else None
        rng = holes.keyed_rng(seed, kind, str(number))
        try:
            drawn = holes.draw(kind, frame.side, rng, points, **(options or {}))
        except holes.Unplaceable as error:
            raise InputError(str(error)) from None
        rows, columns = frame.box(height, width)
        transform = frame.transform.copy()
        transform[:, 2] += transform[:, :2] @ [columns.start, rows.start]
        shape = columns.stop - columns.start, rows.stop - rows.start
        flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
        placed = cv2.warpAffine(drawn.view(np.uint8), transform, shape, flags=flags, borderMode=cv2.BORDER_CONSTANT)
        hole[rows, columns] |= placed > 0
    return hole


def _frame(face: Face | None, number: int, height: int, width: int) -> Frame:
    """The face's frame, or the photo's largest square in the middle, at the photo's own scale as far as LARGEST."""
    if face is None:
        side = min(height, width, LARGEST)
        return Frame(landmarks.centre(height, width, side), side)
    unit = of_face(face, number, 64)
    side = int(np.clip(round(64 * unit.enlargement), 32, LARGEST))
    return of_face(face, number, side)
