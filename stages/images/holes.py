"""Holes: what is missing of a picture. One generator for the frozen evaluation holes and for training.

A hole is boolean, H x W, True = missing. Each kind is a function below; its keyword-only
parameters are the kind's options, checked by name, type and range (`validate`). Shares are of the
picture's side, so that one option serves every size.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field, ValidationError, create_model

from stages.runs.errors import InputError
from stages.runs.params import STRICT

Size = tuple[int, int]  # height, width in pixels
Share = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Side = Literal["left", "right", "top", "bottom"]
Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")]
# Several kinds side by side, for evaluation or for training: a label is the kind itself, unless its options name one
# as `kind`. So a kind may stand there twice, with other options: {box: {kind: centre}, small: {kind: centre, ...}}.
Kinds = dict[Label, dict[str, Any]]
OVERLOOKED = ("size", "nfiles")  # by DVC: a hole of this name that is changed would count as unchanged (dvc#10296)

TRIES = 100


class BadHole(InputError, ValueError):
    """An unknown kind, an unknown or unfit option; a ValueError too, so that a `Params` may raise it."""


class Unplaceable(BadHole):
    """The kind needs something that this picture has not: landmarks with both eyes in the crop."""


def draw(
    kind: str,
    size: int | Size,
    rng: np.random.Generator,
    landmarks: np.ndarray | None = None,
    **options: Any,
) -> np.ndarray:
    """A hole of `kind`: bool H x W, True = missing, with something missing and something known.

    `size` is the side or (height, width); `landmarks` 5 x 2 (x, y in pixels of the picture, NaN
    for none), read by `eye_bar` alone. The same `rng` state gives the same hole. Everything is
    missing only where the options say so (`centre` or `pixels` of fraction 1, a white `file`).
    Raises BadHole, for `eye_bar` without landmarks Unplaceable.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 2:
        raise BadHole(f"a picture of {height} x {width} is too small for a hole")
    checked = validate(kind, options)
    shape = (height, width)
    if kind in PLAIN:
        return PLAIN[kind](shape, **checked)
    if kind in PLACED:
        return PLACED[kind](shape, landmarks, **checked)
    for _ in range(TRIES):  # wide brushes may leave nothing known: draw again
        hole = RANDOM[kind](shape, rng, **checked)
        if not hole.all() or checked.get("fraction") == 1:
            return hole
    raise BadHole(f"{kind}: with these options nothing of a {height} x {width} picture stays known")


def validate(kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `kind`, defaults filled in; raises BadHole that names what is unknown or out of range."""
    if kind not in KINDS:
        raise BadHole(f"unknown kind of hole '{kind}'; one of: {', '.join(KINDS)}")
    model = _options(kind)
    try:
        return dict(model(**options))
    except ValidationError as error:
        faults = [_fault(kind, dict(item)) for item in error.errors(include_url=False)]
        raise BadHole("; ".join(faults)) from None


def kind_of(label: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The kind and the kind's own options that stand under a label of `Kinds`."""
    rest = dict(options)
    return rest.pop("kind", label), rest


def validate_kinds(kinds: Kinds) -> None:
    """Raise BadHole unless there is at least one kind, and each has fit options and a name that DVC sees."""
    if not kinds:
        raise BadHole(f"name at least one kind of hole: {', '.join(KINDS)}")
    for label, options in kinds.items():
        if label in OVERLOOKED:
            raise BadHole(f"hole '{label}': take another name, as DVC's run-cache overlooks what is called {label}")
        validate(*kind_of(label, options))


def _fault(kind: str, item: dict[str, Any]) -> str:
    option = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        known = ", ".join(_options(kind).model_fields) or "none"
        return f"{kind}: unknown option '{option}'; it has: {known}"
    if item["type"] == "missing":
        return f"{kind}: missing option '{option}'"
    message = str(item["msg"])
    return f"{kind}: {option}: {message[:1].lower()}{message[1:]} (got {item['input']!r})"


@cache
def _options(kind: str) -> type[BaseModel]:
    parameters = inspect.signature(KINDS[kind], eval_str=True).parameters.values()
    fields: dict[str, Any] = {
        p.name: (p.annotation, ... if p.default is p.empty else p.default)
        for p in parameters
        if p.kind is p.KEYWORD_ONLY
    }
    return create_model(kind, __config__=STRICT, **fields)


def keyed_rng(seed: int, *parts: str) -> np.random.Generator:
    """A generator of its own for (seed, *parts), whatever else is drawn before or after."""
    return np.random.default_rng(int.from_bytes(keyed_hash(seed, *parts), "big"))


def keyed_hash(seed: int, *parts: str) -> bytes:
    """sha256 of (seed, *parts), written as JSON so that no two lists of parts look alike."""
    return hashlib.sha256(json.dumps([seed, *parts]).encode()).digest()


def centre(size: Size, rng: np.random.Generator, *, fraction: Share = 0.5, smallest: Share = 1.0) -> np.ndarray:
    """A centred box; `fraction` is its side over the picture's (0.5: 32 x 32 of 64 x 64).

    With `smallest` below 1 (report 2), each side's length is drawn evenly between `smallest` times that and that.
    """
    hole = np.zeros(size, bool)
    spans = []
    for side in size:
        length = _length(rng, fraction, smallest, side)
        start = (side - length) // 2
        spans.append(slice(start, start + length))
    hole[tuple(spans)] = True
    return hole


def random_box(
    size: Size, rng: np.random.Generator, *, max_fraction: Share = 0.5, smallest: Share = 0.25
) -> np.ndarray:
    """A box anywhere inside the picture.

    A side is at most `max_fraction` of the picture's side, and at least `smallest` times that; its length is drawn
    evenly between the two.
    """
    hole = np.zeros(size, bool)
    spans = []
    for side in size:
        length = _length(rng, max_fraction, smallest, side)
        start = int(rng.integers(0, side - length, endpoint=True))
        spans.append(slice(start, start + length))
    hole[tuple(spans)] = True
    return hole


def half(size: Size, rng: np.random.Generator, *, side: Side | None = None) -> np.ndarray:
    """The left, right, top or bottom half (of an odd side the smaller part), drawn where `side` is null."""
    height, width = size
    middle_row, middle_column = height // 2, width // 2
    parts: dict[str, Any] = {
        "left": np.s_[:, :middle_column],
        "right": np.s_[:, width - middle_column :],
        "top": np.s_[:middle_row],
        "bottom": np.s_[height - middle_row :],
    }
    drawn = list(parts)[rng.integers(4)]
    hole = np.zeros(size, bool)
    hole[parts[side or drawn]] = True
    return hole


def lines(size: Size, rng: np.random.Generator, *, count: Count = 10, thickness: Share = 0.08) -> np.ndarray:
    """Straight lines of random length and thickness (report 5).

    From half of `count` to `count` lines between two random points; each is from 1 px to
    `thickness` (share of the shorter side) thick.
    """
    canvas = np.zeros(size, np.uint8)
    for _ in range(rng.integers((count + 1) // 2, count, endpoint=True)):
        ends = rng.uniform(0, 1, (2, 2)) * (size[1] - 1, size[0] - 1)
        _line(canvas, ends[0], ends[1], _thickness(rng, thickness, size))
    return canvas.view(bool)


def strokes(
    size: Size,
    rng: np.random.Generator,
    *,
    count: Count = 3,
    vertices: Annotated[int, Field(ge=2)] = 8,
    length: Share = 0.4,
    thickness: Share = 0.2,
    angle: Annotated[float, Field(gt=0, le=2 * math.pi)] = 2 * math.pi / 5,
) -> np.ndarray:
    """Free-form brush strokes (Yu et al. 2019, Free-Form Image Inpainting with Gated Convolution, algorithm 1).

    1 to `count` strokes. Each is a walk of 2 to `vertices` steps with one brush, a quarter of
    `thickness` to all of it thick; a step is up to `length` long (shares of the shorter side) and turns up to `angle`
    (radians) from the vertical, to alternate sides, and ends inside the picture. At last the whole is
    flipped at random.
    """
    canvas = np.zeros(size, np.uint8)
    last = np.array([size[1] - 1, size[0] - 1])
    for _ in range(rng.integers(1, count, endpoint=True)):
        point = rng.uniform(0, 1, 2) * last
        brush = _thickness(rng, thickness, size, thinnest=0.25)
        for step in range(rng.integers(2, vertices, endpoint=True)):
            heading = rng.uniform(0, angle) * (-1 if step % 2 == 0 else 1)
            reach = rng.uniform(0, length) * min(size)
            end = np.clip(point + reach * np.array([math.sin(heading), math.cos(heading)]), 0, last)
            _line(canvas, point, end, brush)
            point = end
    flips = tuple(axis for axis in (0, 1) if rng.random() < 0.5)
    return np.ascontiguousarray(np.flip(canvas, flips)).view(bool)


def pixels(size: Size, rng: np.random.Generator, *, fraction: Share = 0.8) -> np.ndarray:
    """Single pixels, `fraction` of them all to the nearest pixel, spread at random."""
    hole = np.zeros(size[0] * size[1], bool)
    missing = hole.size if fraction == 1 else min(_pixels(fraction, hole.size), hole.size - 1)
    hole[:missing] = True
    rng.shuffle(hole)
    return hole.reshape(size)


def eye_bar(
    size: Size,
    landmarks: np.ndarray | None,
    *,
    length: Annotated[float, Field(gt=0)] = 1.8,
    height: Annotated[float, Field(gt=0)] = 0.5,
) -> np.ndarray:
    """A censor bar over both eyes, turned with them (report 3, where it stood upright).

    Its centre is midway between the eyes; `length` and `height` are in distances between the eyes.
    A pixel is missing where its centre lies in the bar, which is at least 1 px high.
    """
    if landmarks is None or np.isnan(landmarks[:2]).any():
        raise Unplaceable("eye_bar: the picture has no landmarks")
    left, right = np.asarray(landmarks[:2], np.float64)
    distance = float(np.hypot(*(right - left)))
    if distance == 0:
        raise Unplaceable("eye_bar: both eyes' landmarks are one point")
    along = (right - left) / distance
    rows, columns = np.indices(size)
    x, y = columns - (left[0] + right[0]) / 2, rows - (left[1] + right[1]) / 2
    hole = np.abs(x * along[0] + y * along[1]) <= max(length * distance, 1) / 2
    hole &= np.abs(y * along[0] - x * along[1]) <= max(height * distance, 1) / 2
    if not hole.any() or hole.all():
        raise Unplaceable("eye_bar: the bar lies outside the picture, or covers all of it")
    return hole


def file(size: Size, *, path: str, sha256: str) -> np.ndarray:
    """The user's own hole, white = missing, from a picture file scaled to `size`.

    `sha256` pins the file's bytes, so that an output depends on what the parameters say alone.
    """
    return _read(size, path, sha256).copy()


@lru_cache(maxsize=16)
def _read(size: Size, path: str, sha256: str) -> np.ndarray:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise BadHole(f"file: path: {path}: {error.strerror or error}; give an existing mask picture") from None
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise BadHole(f"file: sha256: {path} has {found}; put that there if the file is the right one")
    try:
        return from_picture(data, size)
    except BadHole as error:
        raise BadHole(f"file: path: {path}: {error}") from None


def from_picture(data: bytes, size: Size) -> np.ndarray:
    """A mask picture's bytes as a hole: scaled by nearest pixel, then missing where brighter than 127."""
    from stages.images.decode.picture import BadPicture
    from stages.images.decode.read import decode
    from stages.images.opencv import cv2

    try:
        grey = cv2.cvtColor(decode(data), cv2.COLOR_RGB2GRAY)
    except BadPicture as error:
        raise BadHole(str(error)) from None
    hole = cv2.resize(grey, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT) > 127
    if not hole.any():
        raise BadHole("the mask is black everywhere; white marks what is missing")
    return hole


def _pixels(fraction: float, side: int) -> int:
    return max(1, round(fraction * side))


def _length(rng: np.random.Generator, fraction: float, smallest: float, side: int) -> int:
    largest = _pixels(fraction, side)
    return int(rng.integers(_pixels(smallest, largest), largest, endpoint=True))


def _thickness(rng: np.random.Generator, share: float, size: Size, thinnest: float = 0) -> int:
    # Drawn before it is rounded, so that small pictures lose no larger a part than large ones.
    return max(1, round(rng.uniform(thinnest, 1) * share * min(size)))


def _line(canvas: np.ndarray, start: np.ndarray, end: np.ndarray, thickness: int) -> None:
    from stages.images.opencv import cv2  # loads in a fifth of a second, and only three kinds need it

    # LINE_8, not antialiased: a pixel is missing or it is not. Thick lines end round.
    first, last = (tuple(int(v) for v in np.rint(point)) for point in (start, end))
    cv2.line(canvas, first, last, color=1, thickness=thickness, lineType=cv2.LINE_8)


# Each kind by name: by a random generator; without one; by the eyes' landmarks.
RANDOM: dict[str, Callable[..., np.ndarray]] = {
    function.__name__: function for function in (centre, random_box, half, lines, strokes, pixels)
}
PLAIN: dict[str, Callable[..., np.ndarray]] = {"file": file}
PLACED: dict[str, Callable[..., np.ndarray]] = {"eye_bar": eye_bar}
KINDS = RANDOM | PLAIN | PLACED
