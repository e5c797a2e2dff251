"""Colours as a file declares them, by an ICC profile, to sRGB: by LittleCMS, which Pillow brings.

The intent is perceptual, LittleCMS's own default: for the profiles of cameras and screens it equals
the colorimetric one, and those of printers hold a table made for it.
"""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

from stages.images.decode.picture import MAX_PROFILE

SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}  # of a picture's mode, as a profile names it

SAME = 2  # levels: a profile that changes no colour by more is sRGB, and its pixels are left alone

BROKEN = "broken colour profile ignored"


def to_srgb(pixels: np.ndarray, mode: str, profile: bytes | None) -> tuple[np.ndarray, list[str]]:
    """uint8 pixels of mode L, RGB or CMYK as uint8 sRGB, H x W x 3, with remarks.

    `profile` is an ICC profile, or None. One that cannot be used, or is for another kind of colours, is ignored.
    """
    remarks = []
    if profile is not None:
        transform, remark = _transform(profile, mode)
        remarks = [remark] if remark else []
        if transform:
            return np.asarray(ImageCms.applyTransform(Image.fromarray(pixels, mode), transform)), remarks
    if mode == "L":
        return np.repeat(pixels[..., None], 3, axis=2), remarks
    if mode == "CMYK":
        return np.asarray(Image.fromarray(pixels, mode).convert("RGB")), [*remarks, "CMYK converted without a profile"]
    return pixels, remarks


def from_srgb(pixels: np.ndarray, mode: str, profile: bytes | None) -> np.ndarray:
    """uint8 sRGB pixels, H x W x 3, in the colours of a picture of mode L or RGB: what `to_srgb` undoes.

    Where `to_srgb` leaves a picture's colours as they are, so does this; grey is then Rec. 601's luma.
    """
    picture = Image.fromarray(pixels, "RGB")
    if profile is not None and _transform(profile, mode)[0]:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(
            ImageCms.createProfile("sRGB"), opened, "RGB", mode, ImageCms.Intent.PERCEPTUAL
        )
        return np.asarray(ImageCms.applyTransform(picture, transform))
    return np.asarray(picture if mode == "RGB" else picture.convert("L"))


@lru_cache(maxsize=64)  # the photos of a camera share a profile
def _transform(profile: bytes, mode: str) -> tuple[ImageCms.ImageCmsTransform | None, str]:
    """The transform of a picture's colours to sRGB, or None where they stay as they are, and the remark."""
    if not 0 < len(profile) <= MAX_PROFILE:
        return None, BROKEN
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if opened.profile.xcolor_space.strip() != SPACES[mode]:
            return None, BROKEN
        transform = ImageCms.buildTransform(
            opened, ImageCms.createProfile("sRGB"), mode, "RGB", ImageCms.Intent.PERCEPTUAL
        )
        colours = _colours(mode)
        if mode != "CMYK":
            changed = np.asarray(ImageCms.applyTransform(Image.fromarray(colours, mode), transform)).astype(int)
            if np.abs(changed - (colours if mode == "RGB" else colours[..., None])).max() <= SAME:
                return None, ""
        name = "".join(filter(str.isprintable, ImageCms.getProfileDescription(opened))).strip()
    except Exception:  # on broken profiles LittleCMS and Pillow's reader raise nearly anything
        return None, BROKEN
    return transform, f"colours from {name[:60] or 'an unnamed profile'} to sRGB"


def _colours(mode: str) -> np.ndarray:
    """All greys, and for RGB below them colours from the whole cube, as a picture."""
    greys = np.arange(256, dtype=np.uint8)[None]
    if mode != "RGB":
        return greys
    steps = np.linspace(0, 255, 16).astype(np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(16, 256, 3)
    return np.concatenate([np.repeat(greys[..., None], 3, axis=2), cube])
