"""Who is to be drawn: every choice of a portrait, as plain values.

The unit of length is about half a face's width, 68 mm. `v` is a height, down from the eyes; `t` an
angle around the head, 0 in front, growing to the image's right. Proportions follow published
averages of adult faces: eyes 63 mm apart, the mouth about one such distance below them. Colours
are float64 (3,), linear light in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Pose:
    """Angles in radians; scale and shifts as shares of the picture's side."""

    yaw: float  # > 0 turns to the image's right
    pitch: float  # > 0 looks up
    roll: float  # > 0 turns clockwise on the screen
    scale: float
    x: float
    y: float


@dataclass(frozen=True)
class Light:
    """The key light and the surroundings' light."""

    direction: Array  # (3,), towards the light: x right, y down, z to the viewer
    key: Array  # (3,) linear RGB
    sky: Array  # (3,) from above
    ground: Array  # (3,) from below


@dataclass(frozen=True)
class Skull:
    """The bare head, in units."""

    width: float  # half width at the cheekbones
    crown: float  # from the eyes up
    chin: float  # from the eyes down
    jaw: float  # exponent: larger is a squarer jaw
    cheeks: float  # relief


@dataclass(frozen=True)
class Eyes:
    apart: float  # angle of each from the middle
    width: float  # half
    upper: float  # lid's height over the centre
    lower: float
    slant: float  # outer corner raised
    iris: Array  # (3,) linear RGB
    gaze: tuple[float, float]  # the iris off the opening's middle
    lash: float  # 0..1
    brow: float  # height over the eye
    brow_thick: float
    brow_arch: float
    brow_tilt: float
    brow_strength: float

    @property
    def middle(self) -> float:
        """v of the opening's middle."""
        return (self.lower - self.upper) / 2


@dataclass(frozen=True)
class Nose:
    tip: float  # v
    width: float
    height: float  # relief


@dataclass(frozen=True)
class Mouth:
    v: float
    width: float  # half, an angle
    upper: float
    lower: float
    smile: float  # corners raised
    open: float  # half of the gap
    colour: Array
    teeth: bool

    @property
    def corner(self) -> float:
        return self.v - 0.65 * self.smile


@dataclass(frozen=True)
class Hair:
    colour: Array
    top: float  # hairline's v in front; below the crown is no hair
    temple: float  # angle at which the opening for the face ends
    end: float  # v where the sides end
    thick: float  # over the crown
    side: float  # over the temples
    flare: float  # growth of the sides towards a long end
    sweep: float  # slant of the hairline
    square: float  # exponent of the opening
    curl: float  # 0 straight .. 1 curly
    cover: float  # opacity
    bare: bool = False  # no hair at all

    @property
    def long(self) -> bool:
        return self.end > 1.0


@dataclass(frozen=True)
class Beard:
    strength: float  # 0 none, 0.3 stubble, 1 full
    chin_only: bool
    moustache: float


@dataclass(frozen=True)
class Glasses:
    colour: Array
    width: float  # half, of a rim
    height: float
    square: float
    thick: float
    tint: float


@dataclass(frozen=True)
class Person:
    """Everything that is drawn, decided; `seed` is left for strands, freckles, blobs and grain."""

    pose: Pose
    light: Light
    skull: Skull
    skin: Array  # (3,) linear RGB
    blush: float
    freckles: int
    age: float  # 0..1, deepens folds
    eyes: Eyes
    nose: Nose
    mouth: Mouth
    hair: Hair
    beard: Beard
    glasses: Glasses | None
    clothes: Array
    collar: float
    backdrop: Array  # (n, 3) linear RGB
    blobs: int
    stripes: float
    blur: float  # share of the picture's side, standard deviation
    grain: float  # standard deviation in 8-bit levels
    seed: int
