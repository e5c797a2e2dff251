"""A surface around a vertical axis, painted unrolled, lit, and bent into a picture.

A point of a shell has an angle `t` (0 in front, growing to the image's right) and a height `v`
(down). A canvas over (t, v) holds its colour, relief and gloss; it is lit there from the relief's
normals, and sampled by the inverse of the camera's projection. Whatever is painted at a (t, v) is
therefore seen exactly where `Shell.project` says. Colours are linear light in [0, 1].

All is float64: two types of CPU differ in the last bits of a sine, and the one rounding at the very
end (`View.develop`) hides that, where it would not hide float32's errors. Nothing on the way may jump.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from stages.images.opencv import cv2
from stages.portraits.person import Array, Light, Pose

TURN = 2.05  # a canvas covers the angles -TURN..TURN, all that a head turned by 25 degrees shows


def edge(distance: Array, soft: float) -> Array:
    """0 outside (negative), 1 inside, a ramp of width `soft` between."""
    return np.clip(distance * (1 / soft) + 0.5, 0, 1)


def bell(x: Array, middle: Array | float, width: Array | float) -> Array:
    return np.exp(-0.5 * ((x - middle) / width) ** 2)


def lay(picture: Array, cover: Array, colour: ArrayLike) -> None:
    """Lay `colour`, (3,) or 3 x H x W, over `picture` 3 x H x W with opacity `cover` H x W, in place."""
    for plane, shade in zip(picture, np.asarray(colour, np.float64), strict=True):
        plane += cover * (shade - plane)


class Canvas:
    """A shell unrolled: float64 `colour` 3 x H x W, `relief` and `gloss` H x W over angle t and height v."""

    def __init__(self, top: float, bottom: float, pixels: float, colour: Array):
        """`pixels` is the number of canvas pixels in a unit."""
        self.step = 1 / pixels
        self.t = np.arange(-TURN, TURN, self.step)[None, :]
        self.v = np.arange(top, bottom, self.step)[:, None]
        shape = (self.v.size, self.t.size)
        self.colour = np.empty((3, *shape))
        self.colour[:] = colour[:, None, None]
        self.relief = np.zeros(shape)
        self.gloss = np.zeros(shape)

    def part(self, left: float, right: float, top: float, bottom: float) -> Canvas:
        """The same pixels, a window of them: painting in it paints here."""
        columns = slice(*np.searchsorted(self.t[0], (left, right)))
        rows = slice(*np.searchsorted(self.v[:, 0], (top, bottom)))
        view = object.__new__(Canvas)
        view.step = self.step
        view.t, view.v = self.t[:, columns], self.v[rows]
        view.colour = self.colour[:, rows, columns]
        view.relief = self.relief[rows, columns]
        view.gloss = self.gloss[rows, columns]
        return view

    def bump(self, t: float, v: float, width: float, height: float, rise: float) -> None:
        """A Gaussian hill of `rise` units."""
        self.relief += bell(self.v, v, height) * (rise * bell(self.t, t, width))

    def blush(self, t: float, v: float, width: float, height: float, factor: ArrayLike) -> None:
        """Colour multiplied by `factor` (3,) in the middle of a Gaussian spot."""
        spot = bell(self.v, v, height) * bell(self.t, t, width)
        for plane, share in zip(self.colour, np.asarray(factor) - 1, strict=True):
            plane *= 1 + share * spot

    def paint(self, cover: Array, colour: ArrayLike) -> None:
        """`colour`, (3,) or 3 x H x W, laid over with opacity `cover` H x W."""
        lay(self.colour, cover, colour)

    def row(self, v: Array) -> Array:
        return (v - self.v[0, 0]) / self.step

    def column(self, t: Array) -> Array:
        return (t - self.t[0, 0]) / self.step


class Shell:
    """(a(v) sin t, v, d(v) cos t + relief(t, v)), seen under a pose; z points to the viewer."""

    ROWS = 4096

    def __init__(self, canvas: Canvas, a: Array, d: Array, pose: Pose):
        """`a` and `d` are half width and depth at `ROWS` heights from the canvas's first to its last."""
        self.canvas = canvas
        self.top, self.bottom = float(canvas.v[0, 0]), float(canvas.v[-1, 0])
        self.a, self.d = a, d
        self.pose = pose
        sin, cos = math.sin(pose.yaw), math.cos(pose.yaw)
        # a sin t cos(yaw) + d cos t sin(yaw) = reach * sin(t + lead)
        self.reach = np.hypot(self.a * cos, self.d * sin)
        self.lead = np.arctan2(self.d * sin, self.a * cos)

    def at(self, v: Array) -> Array:
        scale = (self.ROWS - 1) / (self.bottom - self.top)
        return np.clip((v - self.top) * scale + 0.5, 0, self.ROWS - 1).astype(np.int32)

    def project(self, t: Array, v: Array) -> Array:
        """Points of the surface (t, v), each (n,), as seen: n x 2 in units, before roll and scale."""
        row = self.at(v)
        relief = sample(self.canvas.relief, self.canvas.column(t), self.canvas.row(v))
        x, z = self.a[row] * np.sin(t), self.d[row] * np.cos(t) + relief
        sin, cos = math.sin(self.pose.yaw), math.cos(self.pose.yaw)
        depth = z * cos - x * sin
        return np.stack([x * cos + z * sin, v * math.cos(self.pose.pitch) - depth * math.sin(self.pose.pitch)], -1)

    def locate(self, x: Array, y: Array) -> tuple[Array, Array]:
        """The inverse of `project` for points in the outline, by fixed-point steps; (t, v)."""
        sin, cos = math.sin(self.pose.yaw), math.cos(self.pose.yaw)
        rise, run = math.tan(self.pose.pitch), 1 / math.cos(self.pose.pitch)
        # With s = sin(t + lead) and c = cos(t + lead): d cos t cos(yaw) - a sin t sin(yaw) = c near + s far.
        cos_lead, sin_lead = np.cos(self.lead), np.sin(self.lead)
        near = self.d * cos_lead * cos + self.a * sin_lead * sin
        far = self.d * sin_lead * cos - self.a * cos_lead * sin
        reach = np.maximum(self.reach, 1e-3)
        v, relief = y * run, np.zeros_like(y)
        for _ in range(6):
            row = self.at(v)
            s = np.clip((x - relief * sin) / reach[row], -1, 1)
            t = np.arcsin(s) - self.lead[row]
            relief = sample(self.canvas.relief, self.canvas.column(t), self.canvas.row(v))
            depth = np.sqrt(1 - s * s) * near[row] + s * far[row] + relief * cos
            v = y * run + depth * rise
        return t, v

    @cached_property
    def outline(self) -> Array:
        """The silhouette, a closed polygon n x 2 in units."""
        rows = np.linspace(0, self.ROWS - 1, 160).astype(int)
        v = np.linspace(self.top, self.bottom, self.ROWS)[rows]
        sides = []
        for sign in (1, -1):
            t = sign * np.pi / 2 - self.lead[rows]
            depth = self.d[rows] * np.cos(t) * math.cos(self.pose.yaw) - self.a[rows] * np.sin(t) * math.sin(
                self.pose.yaw
            )
            y = v * math.cos(self.pose.pitch) - depth * math.sin(self.pose.pitch)
            sides.append(np.stack([sign * self.reach[rows], y], -1))
        return np.concatenate([sides[0], sides[1][::-1]])

    def lit(self, light: Light, shadow: Array | None = None) -> Array:
        """The canvas's colour under `light`, 3 x H x W; `shadow` H x W scales the key light."""
        canvas = self.canvas
        rows = self.at(canvas.v[:, 0])
        a, d = self.a[rows, None], self.d[rows, None]
        apart = (self.bottom - self.top) / (self.ROWS - 1)
        slope_a, slope_d = (np.gradient(curve, apart)[rows, None] for curve in (self.a, self.d))
        sin, cos = np.sin(canvas.t), np.cos(canvas.t)
        along = cv2.Sobel(canvas.relief, cv2.CV_64F, 1, 0, scale=0.125 / canvas.step)
        down = cv2.Sobel(canvas.relief, cv2.CV_64F, 0, 1, scale=0.125 / canvas.step)
        # The normal is the cross product of the tangents (p, 0, q) along t and (r, 1, s) along v.
        p, q, r, s = a * cos, along - d * sin, slope_a * sin, slope_d * cos + down
        ny = q * r - p * s
        length = 1 / np.sqrt(q * q + ny * ny + p * p + 1e-6)
        nx, ny, nz = -q * length, ny * length, p * length

        towards = _unturned(light.direction, self.pose)
        half = light.direction + np.array([0, 0, 1])
        shine = _unturned(half / math.sqrt(half @ half), self.pose)
        up = _unturned(np.array([0, -1.0, 0]), self.pose)
        facing = nx * towards[0] + ny * towards[1] + nz * towards[2]
        # Wrapped: skin scatters light past the terminator.
        diffuse = np.clip((facing + 0.3) * (1 / 1.3), 0, 1)
        glint = np.clip(nx * shine[0] + ny * shine[1] + nz * shine[2], 0, 1) ** 2
        glint = (glint * glint) ** 2
        glint = glint * glint * canvas.gloss
        if shadow is not None:
            diffuse, glint = diffuse * shadow, glint * shadow
        above = 0.5 + 0.5 * (nx * up[0] + ny * up[1] + nz * up[2])
        small = cv2.resize(canvas.relief, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
        around = cv2.resize(cv2.GaussianBlur(small, (0, 0), 0.1 / canvas.step / 4), canvas.relief.shape[::-1])
        hollow = np.clip(1 - 4 * (around - canvas.relief), 0.55, 1.1)
        energy = np.empty_like(canvas.colour)
        for plane, colour, key, sky, ground in zip(
            energy, canvas.colour, light.key, light.sky, light.ground, strict=True
        ):
            np.multiply(colour, (ground + (sky - ground) * above) * hollow + key * diffuse, out=plane)
            plane += key * glint
        return energy


def _unturned(direction: Array, pose: Pose) -> Array:
    """A direction of the picture, in the shell's own axes."""
    x, y, z = direction
    sin, cos = np.sin(pose.roll), np.cos(pose.roll)
    x, y = x * cos + y * sin, y * cos - x * sin
    sin, cos = np.sin(pose.pitch), np.cos(pose.pitch)
    y, z = y * cos + z * sin, z * cos - y * sin
    sin, cos = np.sin(pose.yaw), np.cos(pose.yaw)
    x, z = x * cos - z * sin, z * cos + x * sin
    return np.array([x, y, z])


def sample(image: Array, column: Array, row: Array) -> Array:
    """`image`, H x W or channels x H x W, between its pixels, bilinear; beyond its border, the border.

    `column` and `row` have one shape, that of each channel of the result. (`cv2.remap` would round
    them to 1/32 pixel: a jump, on which the last bit decides.)
    """
    height, width = image.shape[-2:]
    x, y = np.clip(column, 0, width - 1), np.clip(row, 0, height - 1)
    left, top = np.minimum(x.astype(np.intp), width - 2), np.minimum(y.astype(np.intp), height - 2)
    x -= left
    y -= top
    corner = top * width + left
    seen = np.empty((*image.shape[:-2], *x.shape))
    for pixels, out in zip(image.reshape(-1, height * width), seen.reshape(-1, *x.shape), strict=True):
        upper, lower = pixels.take(corner), pixels[width:].take(corner)
        upper += (pixels[1:].take(corner) - upper) * x
        lower += (pixels[width + 1 :].take(corner) - lower) * x
        np.add(upper, (lower - upper) * y, out=out)
    return seen


def enlarge(image: Array, height: int, width: int) -> Array:
    """A small image, H x W, enlarged by cubic convolution (Keys 1981); beyond its border, the border.

    (`cv2.resize` does the same, but its weights are float32.)
    """
    return _longer(_longer(image.T, width).T, height)


def _longer(image: Array, many: int) -> Array:
    """`image` with `many` rows in place of its own."""
    place = (np.arange(many) + 0.5) * (len(image) / many) - 0.5
    row = np.floor(place).astype(int) + np.array([[-1], [0], [1], [2]])  # the four around each place
    away = np.abs(place - row)
    near = (1.25 * away - 2.25) * away * away + 1
    far = -0.75 * (((away - 5) * away + 8) * away - 4)
    weights = np.where(away < 1, near, far)[..., None]
    taps = np.clip(row, 0, len(image) - 1)
    return sum(weight * image[tap] for weight, tap in zip(weights, taps, strict=True))
