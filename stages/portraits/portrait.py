"""A drawn portrait: the picture of a `Person` (`stages/portraits/person.py`) and its exact landmarks.

Head and hair are shells (`stages/portraits/shell.py`), painted unrolled feature by feature; neck,
shoulders, ears, glasses and backdrop are laid into the picture around them.
"""

from __future__ import annotations

import math
from copy import copy

import numpy as np

from stages.images.opencv import cv2
from stages.portraits.person import Array, Hair, Person, Pose, Skull
from stages.portraits.shell import TURN, Canvas, Shell, bell, edge, enlarge, lay, sample

UNIT = 0.245  # a head's unit as a share of the picture's side, at scale 1
OVER = 2  # supersampling, each way
DENSITY = 1.7  # canvas pixels to a pixel of the final picture


def render(person: Person, size: int) -> tuple[Array, Array]:
    """The portrait, uint8 RGB size x size x 3, and its landmarks, float64 5 x 2.

    Landmarks are (x, y) in pixels, pixel (0, 0)'s centre being (0, 0): the eye at the image's left,
    the eye at its right, the tip of the nose, the mouth's corners at the left and at the right.
    """
    rng = np.random.default_rng(person.seed)
    view = View(person.pose, size)
    picture = _backdrop(person, view, rng)
    head = _head(person, view, rng)
    hair = None if person.hair.bare else _hair(person, view, rng)
    if hair is not None:  # what is seen of its far side
        part = view.crop(hair.outline)
        cover = part.cover(hair.outline) * part.grow(edge(person.hair.end - part.y, 0.3))
        lay(part.of(picture), cover, person.hair.colour * (person.light.sky * 0.55 + person.light.key * 0.05))
    _bust(picture, person, view, view.cover(head.outline))
    _ears(picture, person, view, head)
    part = view.crop(head.outline)
    lit = head.lit(person.light, _cast(person, head.canvas))
    lay(part.of(picture), part.cover(head.outline), part.bend(head, lit))
    if hair is not None:
        part = view.crop(hair.outline)
        opaque = hair.canvas.gloss[None].copy()  # `_hair` leaves its opacity there
        hair.canvas.gloss *= 0.25
        seen = part.bend(hair, np.concatenate([hair.lit(person.light), opaque]))
        lay(part.of(picture), part.cover(hair.outline) * seen[3], seen[:3])
    if person.glasses:
        _glasses(picture, person, view, head)
    return view.develop(picture, person, rng), view.landmarks(person, head)


class View:
    """The camera: from units in front of the head to a picture that is supersampled `OVER` times.

    `crop` and `window` give the same camera on a part of the picture.
    """

    def __init__(self, pose: Pose, size: int):
        self.size = size
        self.scale = UNIT * pose.scale * size  # pixels in a unit
        self.rows = self.columns = slice(0, size)
        self.middle = np.array([(0.5 + pose.x) * size - 0.5, (0.48 + pose.y) * size - 0.5])
        self.turn = np.array([[np.cos(pose.roll), -np.sin(pose.roll)], [np.sin(pose.roll), np.cos(pose.roll)]])
        pixels = np.arange(size)
        x, y = ((pixels - m) / self.scale for m in self.middle.tolist())
        c, s = math.cos(pose.roll), math.sin(pose.roll)
        # Every pixel of the final picture in the head's upright units.
        self.x, self.y = x[None] * c + y[:, None] * s, y[:, None] * c - x[None] * s

    def pixels(self, points: Array) -> Array:
        """n x 2 upright units as pixels of the final picture."""
        turned = points[:, :1] * self.turn[:, 0] + points[:, 1:] * self.turn[:, 1]
        return turned * self.scale + self.middle

    def crop(self, polygon: Array, margin: int = 3) -> View:
        """The part of the picture that `polygon`, in units, lies in."""
        corners = self.pixels(polygon)
        low = np.clip(np.floor(corners.min(0)).astype(int) - margin, 0, self.size - 1)
        high = np.clip(np.ceil(corners.max(0)).astype(int) + margin, low + 1, self.size)
        return self.window(slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0])))

    def window(self, rows: slice, columns: slice) -> View:
        """Some rows and columns of the whole picture."""
        part = copy(self)
        part.rows, part.columns = rows, columns
        part.x, part.y = self.x[rows, columns], self.y[rows, columns]
        return part

    def of(self, picture: Array) -> Array:
        """This view's part of the supersampled picture, channels first."""
        rows, columns = (slice(s.start * OVER, s.stop * OVER) for s in (self.rows, self.columns))
        return picture[:, rows, columns]

    def corners(self, points: Array) -> Array:
        """n x 2 units as OpenCV's drawing functions take them, in sixteenths of a supersampled pixel."""
        found = self.pixels(points) - (self.columns.start, self.rows.start)
        return np.round(((found + 0.5) * OVER - 0.5) * 16).astype(np.int32)

    def cover(self, polygon: Array) -> Array:
        """The opacity of a polygon in units, supersampled."""
        mask = np.zeros((self.x.shape[0] * OVER, self.x.shape[1] * OVER), np.uint8)
        cv2.fillPoly(mask, [self.corners(polygon)], 255, cv2.LINE_AA, 4)
        return mask / 255

    def grow(self, small: Array) -> Array:
        """Anything smooth, H x W or channels x H x W, enlarged to the supersampled view."""
        height, width = (side * OVER for side in self.x.shape)
        large = np.empty((*small.shape[:-2], height, width))
        for plane, out in zip(small.reshape(-1, *small.shape[-2:]), large.reshape(-1, height, width), strict=True):
            cv2.resize(plane, (width, height), dst=out, interpolation=cv2.INTER_LINEAR)
        return large

    def bend(self, shell: Shell, unrolled: Array) -> Array:
        """What is painted over a shell's canvas, channels x H x W, as seen: supersampled."""
        t, v = shell.locate(self.x, self.y)
        column, row = self.grow(shell.canvas.column(t)), self.grow(shell.canvas.row(v))
        return sample(unrolled, column, row)

    def landmarks(self, person: Person, head: Shell) -> Array:
        eyes, nose, mouth = person.eyes, person.nose, person.mouth
        t = [-eyes.apart, eyes.apart, 0, -mouth.width, mouth.width]
        v = [eyes.middle, eyes.middle, nose.tip, mouth.corner, mouth.corner]
        return self.pixels(head.project(np.array(t), np.array(v)))

    def develop(self, picture: Array, person: Person, rng: np.random.Generator) -> Array:
        """Downsampled, gamma 2, a lens's blur and light grain; uint8."""
        planes = [cv2.resize(plane, (self.size, self.size), interpolation=cv2.INTER_AREA) for plane in picture]
        picture = np.stack(planes, axis=-1)
        picture = np.sqrt(np.clip(picture, 0, None))
        bright = picture > 0.8
        picture[bright] = 0.8 + 0.2 * np.tanh((picture[bright] - 0.8) / 0.2)  # soft highlights
        if person.blur * self.size > 0.15:
            picture = cv2.GaussianBlur(picture, (0, 0), person.blur * self.size)
        grain = rng.standard_normal((self.size, self.size, 1)) * person.grain
        return np.clip(picture * 255 + grain + 0.5, 0, 255).astype(np.uint8)


# --- the head ----------------------------------------------------------------------------------


def _profile(skull: Skull, top: float, bottom: float, extra: float = 0.0) -> tuple[Array, Array]:
    """Half width and depth of a head at `Shell.ROWS` heights."""
    v = np.linspace(top, bottom, Shell.ROWS)
    up, down = np.clip(-v / (skull.crown + extra), 0, 1), np.clip(v / skull.chin, 0, 1)
    width = skull.width * (1 - up**2.5) ** 0.45 * (1 - down**2.5) ** skull.jaw
    depth = (1 - up**2.8) ** 0.5 * (1 - down**5) ** 0.5
    return width, depth


def _head(person: Person, view: View, rng: np.random.Generator) -> Shell:
    skull = person.skull
    canvas = Canvas(-skull.crown, skull.chin, view.scale * DENSITY, person.skin)
    canvas.gloss += 0.10 + 0.06 * (person.skin.mean() < 0.2)
    _flesh(canvas, person, rng)
    _nose(canvas, person)
    _beard(canvas, person, rng)
    _mouth(canvas, person)
    for side in (-1, 1):
        _eye(canvas, person, side)
        _brow(canvas, person, side, rng)
    top, bottom = float(canvas.v[0, 0]), float(canvas.v[-1, 0])
    return Shell(canvas, *_profile(skull, top, bottom), person.pose)


def _flesh(canvas: Canvas, person: Person, rng: np.random.Generator) -> None:
    eyes, nose, mouth, skull = person.eyes, person.nose, person.mouth, person.skull
    red = np.array([1.05, 0.80, 0.80]) ** person.blush
    for side in (-1, 1):
        canvas.bump(side * eyes.apart, -0.02, 0.24, 0.17, -0.10)  # socket
        canvas.bump(side * eyes.apart, 0.0, 0.13, 0.10, 0.05)  # eyeball
        canvas.bump(side * eyes.apart, -eyes.brow, 0.28, 0.09, 0.035)
        canvas.bump(side * 0.62, 0.52, 0.26, 0.24, skull.cheeks + 0.05 * mouth.smile / 0.1)
        canvas.blush(side * 0.62, 0.55, 0.28, 0.22, red)
        canvas.blush(side * eyes.apart, 0.20, 0.17, 0.07, np.array([0.86, 0.80, 0.82]) ** (0.4 + person.age))
        # The fold from the nose's wing to the mouth's corner.
        fold = canvas.part(0.45 * side - 0.3, 0.45 * side + 0.3, nose.tip - 0.1, mouth.v + 0.15)
        along = (fold.v - nose.tip) / (mouth.v - nose.tip)
        crease = bell(fold.t * side, 0.27 + (mouth.width - 0.16) * along, 0.045) * bell(along, 0.5, 0.35)
        fold.relief -= crease * (0.012 + 0.03 * person.age + 0.15 * max(mouth.smile, 0))
        fold.colour *= 1 - crease * (0.10 + 0.25 * person.age)
    canvas.bump(0, mouth.v, 0.30, 0.20, 0.07)
    canvas.bump(0, skull.chin - 0.24, 0.24, 0.13, 0.07)
    canvas.bump(0, mouth.v + 0.22, 0.2, 0.05, -0.03)
    canvas.bump(0, -0.75, 0.6, 0.3, 0.03)
    canvas.blush(0, nose.tip, 0.14, 0.12, red**0.7)
    if person.age > 0.6:
        for v in (-0.62, -0.75, -0.88):
            canvas.bump(0, v, 0.4, 0.018, -0.016 * person.age)
    for t, v, r in zip(
        *rng.uniform([[-0.9], [0.15], [0.012]], [[0.9], [0.7], [0.025]], (3, person.freckles)), strict=True
    ):
        spot = canvas.part(t - 0.1, t + 0.1, v - 0.1, v + 0.1)
        spot.blush(t, v, r, r, np.array([0.82, 0.7, 0.62]))


def _nose(canvas: Canvas, person: Person) -> None:
    nose = person.nose
    part = canvas.part(-0.6, 0.6, -0.35, nose.tip + 0.45)
    along = np.clip((part.v + 0.15) / (nose.tip + 0.15), 0, 1)
    rise = nose.height * (0.25 + 0.75 * along**1.6) * edge(nose.tip + 0.10 - part.v, 0.24) * edge(part.v + 0.2, 0.3)
    part.relief += rise * bell(part.t, 0, 0.075 + 0.065 * nose.width * along)
    part.bump(0, nose.tip, 0.10 * nose.width, 0.085, 0.05)
    part.gloss += 0.18 * bell(part.t, 0, 0.07) * bell(part.v, nose.tip - 0.04, 0.09)
    for side in (-1, 1):
        part.bump(side * 0.18 * nose.width, nose.tip + 0.04, 0.07, 0.08, 0.07)
        part.blush(side * 0.25 * nose.width, nose.tip + 0.04, 0.03, 0.06, np.array([0.72, 0.62, 0.6]))
        part.blush(side * 0.095 * nose.width, nose.tip + 0.115, 0.05, 0.026, np.array([0.13, 0.08, 0.08]))
    part.blush(0, nose.tip + 0.17, 0.2 * nose.width, 0.05, np.array([0.85, 0.8, 0.8]))
    part.bump(0, nose.tip + 0.24, 0.035, 0.08, -0.02)


def _mouth(canvas: Canvas, person: Person) -> None:
    mouth = person.mouth
    part = canvas.part(-mouth.width - 0.15, mouth.width + 0.15, mouth.v - 0.4, mouth.v + 0.45)
    x = np.clip(part.t / mouth.width, -1.2, 1.2)
    arch = np.clip(1 - x * x, 0, 1)
    line = mouth.v - mouth.smile * (x * x - 0.35)  # at x = +-1 this is `mouth.corner`
    bow = 1 - 0.25 * bell(x, 0, 0.16)
    inner_top, inner_bottom = line - mouth.open * 0.7 * arch, line + mouth.open * 1.3 * arch
    top, bottom = inner_top - mouth.upper * arch**0.8 * bow, inner_bottom + mouth.lower * arch**0.7
    soft = 1.6 * part.step + 0.012
    lips = edge(np.minimum(part.v - top, bottom - part.v), soft) * edge(1.02 - abs(x), 0.1)
    part.paint(lips * 0.85, mouth.colour)
    part.gloss += 0.14 * lips
    part.relief += 0.035 * bell(part.v, 0.5 * (inner_bottom + bottom), mouth.lower * 0.6) * arch
    part.relief += 0.025 * bell(part.v, 0.5 * (top + inner_top), mouth.upper * 0.6) * arch
    part.relief -= 0.05 * bell(part.v, line, 0.02 + mouth.open * 0.5) * edge(1.05 - abs(x), 0.2)
    if mouth.open > 0.015:
        inside = edge(np.minimum(part.v - inner_top, inner_bottom - part.v), soft)
        part.paint(inside, [0.05, 0.012, 0.012])
        if mouth.teeth:
            teeth = inside * edge(inner_top + mouth.open * 1.5 * arch + 0.01 - part.v, soft) * edge(0.88 - abs(x), 0.2)
            part.paint(teeth, np.multiply.outer(np.array([0.78, 0.74, 0.68]), 1 - 0.5 * x * x))
            part.gloss *= 1 - inside
    else:
        part.paint(bell(part.v, line, 0.014 + part.step * 0.4) * edge(1.06 - abs(x), 0.12) * 0.8, mouth.colour * 0.18)
    for side in (-1, 1):
        part.blush(side * mouth.width * 1.03, mouth.corner, 0.035, 0.03, np.array([0.5, 0.42, 0.42]))


def _eye(canvas: Canvas, person: Person, side: int) -> None:
    eyes = person.eyes
    middle = side * eyes.apart
    part = canvas.part(middle - 0.45, middle + 0.45, -0.45, 0.4)
    x = np.clip((part.t - middle) * side / eyes.width, -1.5, 1.5)  # 1 at the outer corner
    arch = np.clip(1 - x * x, 0, 1)
    tilt = -eyes.slant * x
    upper, lower = tilt - eyes.upper * arch**0.7, tilt + eyes.lower * arch**0.9
    soft = 1.6 * part.step
    inside = edge(np.minimum(part.v - upper, lower - part.v), soft) * edge(1 - abs(x), 0.1)
    # Lid: a crease above, the shadow of the socket towards the nose.
    crease = bell(part.v, upper - 0.055 - 0.03 * arch, 0.022) * edge(1.15 - abs(x), 0.4)
    part.colour *= 1 - 0.45 * crease
    part.relief -= 0.012 * crease
    part.blush(middle - side * 0.24, -0.06, 0.09, 0.12, np.array([0.72, 0.64, 0.62]))

    shade = 1 - 0.6 * edge(upper + 0.03 - part.v, 0.06)  # the lid's shadow
    round_off = 1 - 0.35 * x * x
    part.paint(inside, np.multiply.outer(np.array([0.66, 0.63, 0.61]), shade * round_off))
    iris_t, iris_v = middle + eyes.gaze[0], eyes.middle + eyes.gaze[1]
    radius = np.hypot(part.t - iris_t, part.v - iris_v)
    ring = edge(radius - 0.078, 0.03)
    iris = np.multiply.outer(eyes.iris, (1 - 0.75 * ring) * (1.3 - 0.9 * edge(iris_v - part.v, 0.16)) * shade)
    part.paint(inside * edge(0.098 - radius, soft), iris)
    part.paint(inside * edge(0.042 - radius, soft), [0.004, 0.004, 0.005])
    light = person.light.direction
    glint = np.hypot(part.t - iris_t - 0.035 * np.sign(light[0]), part.v - iris_v + 0.035)
    part.paint(inside * edge(0.022 - glint, soft) * 0.9, [1.6, 1.6, 1.6])
    part.gloss *= 1 - inside
    lash = bell(part.v, upper, 0.014 + part.step * 0.4 + 0.012 * eyes.lash) * edge(1.08 - abs(x), 0.15)
    part.paint(lash * (0.75 + 0.25 * eyes.lash), [0.015, 0.010, 0.008])
    under = bell(part.v, lower, 0.012 + part.step * 0.4) * edge(1.05 - abs(x), 0.3)
    part.paint(under * (0.25 + 0.3 * eyes.lash), person.skin * 0.3)


def _brow(canvas: Canvas, person: Person, side: int, rng: np.random.Generator) -> None:
    eyes = person.eyes
    middle = side * eyes.apart
    part = canvas.part(middle - 0.5, middle + 0.5, -0.75, 0.05)
    x = (part.t - middle) * side / 0.30  # -1 at the nose
    spine = -eyes.brow - eyes.brow_arch * (1 - (x - 0.25) ** 2) - eyes.brow_tilt * x
    thick = eyes.brow_thick * np.clip(1.05 - 0.55 * edge(x - 0.3, 1.4), 0.2, 1)
    fuzz = enlarge(rng.uniform(0.7, 1, (3, 14)), *part.relief.shape)
    hair = np.exp(-(np.abs((part.v - spine) / thick) ** 2.5)) * edge(1.02 - abs(x), 0.25) * fuzz
    colour = np.minimum(person.hair.colour, 0.25) * 0.6 + 0.004
    part.paint(hair * eyes.brow_strength, colour)


def _beard(canvas: Canvas, person: Person, rng: np.random.Generator) -> None:
    beard, mouth, chin = person.beard, person.mouth, person.skull.chin
    if beard.strength == 0 and beard.moustache == 0:
        return
    t, v = canvas.t, canvas.v
    half = 0.34 if beard.chin_only else TURN
    cheek = mouth.v - 0.30 + 0.25 * np.cos(np.clip(t * 1.9, -np.pi, np.pi)) - 0.5 * edge(abs(t) - 1.15, 0.5)
    region = edge(v - cheek, 0.22) * edge(half - abs(t), 0.2) * beard.strength
    bare = np.exp(-((t / (mouth.width * 1.05)) ** 4) - ((v - mouth.v - 0.05) / 0.2) ** 4)
    region *= 1 - bare
    lip = bell(v, mouth.v - 0.19 + 0.4 * t * t, 0.055) * edge(mouth.width + 0.1 - abs(t), 0.12)
    region = np.maximum(region, lip * beard.moustache)
    region *= edge(chin + 0.3 - v, 0.1)
    strands = _strands(canvas, rng, 70, 9)
    canvas.paint(np.clip(region * (0.8 + 0.25 * strands), 0, 0.96), person.hair.colour * 0.8)
    canvas.relief += region * (0.03 + 0.008 * strands) * (beard.strength > 0.5)
    canvas.gloss *= 1 - region


def _cast(person: Person, canvas: Canvas) -> Array | None:
    """How much key light the hair lets onto the face."""
    if person.hair.bare:
        return None
    under = _opening(person.hair, canvas.t, canvas.v - 0.12, 0.0)
    return 1 - 0.55 * edge(under + 0.10, 0.35) * person.hair.cover


# --- hair --------------------------------------------------------------------------------------


def _strands(canvas: Canvas, rng: np.random.Generator, across: int, down: int) -> Array:
    """Smooth noise, about -1..1, streaked down the canvas."""
    return enlarge(rng.uniform(-1, 1, (down, across)), *canvas.relief.shape)


def _opening(hair: Hair, t: Array, v: Array, jitter: Array | float) -> Array:
    """Negative where the face looks out of the hair, positive under hair; about units."""
    low = 0.75
    height = np.clip(low - v - hair.sweep * t, 0, None) / (low - hair.top)
    inside = (np.abs(t) / hair.temple) ** hair.square + height**hair.square
    return np.maximum(inside ** (1 / hair.square), 1e-3) - 1 + jitter


def _hair(person: Person, view: View, rng: np.random.Generator) -> Shell:
    hair, skull = person.hair, person.skull
    crown = skull.crown + hair.thick
    canvas = Canvas(-crown, max(hair.end + 0.1, 0.5), view.scale * DENSITY, hair.colour)
    t, v = canvas.t, canvas.v
    strands = _strands(canvas, rng, 90, 4) * (1 - hair.curl)
    strands = strands + _strands(canvas, rng, 44, 30) * hair.curl
    cover = edge(_opening(hair, t, v, 0.05 * strands), 0.10 + 0.06 * hair.curl)
    end = hair.end if hair.long else hair.end - 0.15 * edge(1.5 - abs(t), 0.3)  # shorter before the ears
    cover *= edge(end - v - 0.12 * strands, 0.16)
    canvas.relief += 0.013 * strands + 0.04 * hair.curl * _strands(canvas, rng, 30, 20)
    band = bell(v, -0.95 + 0.12 * np.cos(2 * t), 0.22)  # the ring of light
    canvas.colour *= 0.82 + 0.3 * strands + 0.5 * band
    np.clip(canvas.colour, 0, 1, out=canvas.colour)
    canvas.gloss += cover * hair.cover

    top, bottom = float(v[0, 0]), float(v[-1, 0])
    width, depth = _profile(skull, top, bottom, hair.thick)
    rows = np.linspace(top, bottom, Shell.ROWS)
    if hair.long:
        fall = skull.width * (1 + hair.flare * np.clip(rows, 0, None) / hair.end)
        width = np.where(rows > 0, fall, width)
        depth = np.where(rows > 0, 1 - 0.15 * np.clip(rows, 0, 1.2), depth)
        side = hair.side * (1 - 0.4 * np.clip(rows / hair.end, 0, 1))
        width = width * (1 - 0.45 * np.clip(rows / bottom, 0, 1) ** 8)
    else:
        side = hair.side * edge(0.25 - rows, 1.3)
    wave = 0.03 * hair.curl * np.sin(rows * 9 + rng.uniform(0, 6))
    return Shell(canvas, width * (1 + wave) + side, depth + 0.05, person.pose)


# --- around the head ---------------------------------------------------------------------------


def _backdrop(person: Person, view: View, rng: np.random.Generator) -> Array:
    side = 64
    y, x = np.mgrid[0:side, 0:side] / (side - 1)
    angle = rng.uniform(0, 2 * np.pi)
    ramp = np.clip(0.5 + (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle), 0, 1)[..., None]
    colours = person.backdrop
    canvas = colours[0] * ramp + colours[1] * (1 - ramp)
    for blob in range(person.blobs):
        cx, cy, rx, ry = rng.uniform([0, 0, 0.06, 0.06], [1, 1, 0.3, 0.4])
        spot = edge(1 - np.hypot((x - cx) / rx, (y - cy) / ry), rng.uniform(0.3, 1.2))
        canvas += 0.75 * spot[..., None] * (colours[2 + blob % (len(colours) - 2)] - canvas)
    if person.stripes:
        across = x * np.cos(angle) + y * np.sin(angle)
        canvas *= 1 + 0.22 * np.tanh(3 * np.sin(across * person.stripes))[..., None]
    canvas = cv2.GaussianBlur(canvas, (0, 0), 1.5)
    return np.clip(view.grow(np.moveaxis(canvas, -1, 0)), 0, 1)


def _bust(picture: Array, person: Person, view: View, face: Array) -> None:
    """Neck and shoulders, which stay upright while the head turns."""
    light, size = person.light, view.size
    foot = view.pixels(np.array([[0.0, 1.0]]))[0].tolist()
    first = max(0, math.floor(foot[1] - 0.5 * view.scale))  # above is no neck
    part = view.window(slice(first, size), view.columns)
    row, column = np.mgrid[first:size, 0:size]
    x = (column - foot[0] + 0.5 * person.pose.roll * (row - foot[1])) / view.scale
    y = (row - foot[1]) / view.scale + 1.0
    slender = 0.54 * person.skull.width + 0.08 * np.clip(y - 1.7, 0, 1) ** 2 * 6
    step = 1 / view.scale

    def shade(nx: Array, ny: float) -> Array:
        nz = np.sqrt(np.clip(1 - nx * nx - ny * ny, 0.02, 1))
        facing = nx * light.direction[0] + ny * light.direction[1] + nz * light.direction[2]
        diffuse = np.multiply.outer(light.key, np.clip((facing + 0.3) / 1.3, 0, 1))
        return diffuse + ((light.sky + light.ground) / 2)[:, None, None]

    half = size // 2
    soft = cv2.GaussianBlur(cv2.resize(face, (half, half), interpolation=cv2.INTER_AREA), (0, 0), 0.07 * view.scale)
    down, across = ((pixels + 0.5) * (half / size) - 0.5 for pixels in (row, column))
    fallen = sample(soft, across + 0.1 * view.scale * light.direction[0], down - 0.17 * view.scale)
    shadow = 1 - 0.72 * fallen
    skin, clothes = person.skin[:, None, None], person.clothes[:, None, None]

    neck = edge(slender - abs(x), step) * edge(y - 0.6, 0.1)
    round_off = shade(np.clip(x / slender, -1, 1) * 0.95, 0.15)
    lay(part.of(picture), part.grow(neck), part.grow(skin * 0.92 * round_off * shadow))
    shoulder = 1.92 + 0.22 * abs(x) ** 1.4 + 0.9 * np.clip(abs(x) - 1.35, 0, None) ** 2
    throat = 1.85 + person.collar * np.clip(1 - (x / 0.66) ** 2, -0.2, 1)
    cloth = edge(y - np.maximum(shoulder, throat), step * 1.5)
    chest = edge(y - shoulder, step) * edge(0.75 - abs(x), 0.1)
    lay(part.of(picture), part.grow(chest), part.grow(skin * 0.9 * shade(x * 0.4, -0.2) * shadow))
    seam = 1 - 0.35 * bell(y, np.maximum(shoulder, throat) + 0.05, 0.035)
    folds = seam * (1 + 0.08 * np.sin(5 * x + 2 * y))
    cloths = clothes * folds * shade(np.clip(x / 2.4, -0.9, 0.9), -0.35) * np.sqrt(shadow)
    lay(part.of(picture), part.grow(cloth), part.grow(cloths))


def _ears(picture: Array, person: Person, view: View, head: Shell) -> None:
    angle = np.linspace(0, 2 * np.pi, 40)
    for side in (-1, 1):
        x = side * float(head.reach[head.at(np.array(0.2))]) - side * 0.01
        facing = side * person.light.direction[0] * 0.7 + person.light.direction[2] * 0.4
        shine = person.light.key * max(0.1, facing) + (person.light.sky + person.light.ground) / 2
        for rx, ry, tone in ((0.13, 0.30, 0.9), (0.08, 0.22, 0.55)):
            lean = side * 0.03 * np.cos(angle + np.pi / 2)
            oval = np.stack([x + rx * np.cos(angle) + lean, 0.2 + ry * np.sin(angle) - 0.3 * person.pose.pitch], -1)
            part = view.crop(oval)
            lay(part.of(picture), part.cover(oval), person.skin * shine * tone * np.array([1.05, 0.9, 0.88]))


def _glasses(picture: Array, person: Person, view: View, head: Shell) -> None:
    glasses, eyes = person.glasses, person.eyes
    assert glasses is not None
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    power = 2 / glasses.square
    c, s = np.cos(angle), np.sin(angle)
    loop_t, loop_v = np.sign(c) * abs(c) ** power, np.sign(s) * abs(s) ** power
    frame = person.light.sky + person.light.key * 0.5
    lines = []
    for side in (-1, 1):
        t = side * (eyes.apart + 0.02) + glasses.width * loop_t
        v = 0.05 + glasses.height * loop_v
        rim = head.project(t, v)
        lens = view.crop(rim)
        lay(lens.of(picture), lens.cover(rim) * glasses.tint, glasses.colour * 0.5)
        lines.append((rim, True))
        ends = np.array([side * (eyes.apart + 0.02 + glasses.width), side * 1.5])
        lines.append((head.project(ends, np.array([-0.02, 0.02])), False))
    inner = eyes.apart + 0.02 - glasses.width
    bridge = np.linspace(-inner, inner, 9)
    lines.append((head.project(bridge, -0.02 - 0.05 * (1 - (bridge / inner) ** 2)), False))
    part = view.crop(np.concatenate([points for points, _ in lines]), margin=5)
    mask = np.zeros(part.of(picture).shape[1:], np.uint8)
    width = max(1, round(glasses.thick * view.scale * OVER))
    for points, closed in lines:
        cv2.polylines(mask, [part.corners(points)], closed, 255, width, cv2.LINE_AA, 4)
    lay(part.of(picture), mask / 255 * 0.95, glasses.colour * frame)
