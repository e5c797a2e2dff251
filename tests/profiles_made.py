"""ICC profiles made by hand (ICC.1:2022): LittleCMS, as Pillow has it, creates only sRGB, XYZ and Lab."""

from __future__ import annotations

import itertools
import struct

import numpy as np

D50 = np.array([0.9642, 1.0, 0.8249])
D65 = (0.3127, 0.3290)
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])

SRGB = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060))
P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE = ((0.640, 0.330), (0.210, 0.710), (0.150, 0.060))

SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)  # IEC 61966-2-1; Display P3 has the same
ADOBE_CURVE = 563 / 256


def xyz(x: float, y: float) -> np.ndarray:
    return np.array([x / y, 1.0, (1 - x - y) / y])


def colorants(primaries: tuple[tuple[float, float], ...], white: tuple[float, float] = D65) -> np.ndarray:
    """The matrix from linear RGB to XYZ, white as the screen's own."""
    columns = np.stack([xyz(*primary) for primary in primaries], axis=1)
    return columns * np.linalg.solve(columns, xyz(*white))


def _fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(float(value) * 65536) for value in values))


def _curve(curve: float | tuple[float, ...]) -> bytes:
    if isinstance(curve, tuple):  # (a x + b) ** g from d on, below c x
        return b"para" + bytes(4) + struct.pack(">HH", 3, 0) + _fixed(*curve)
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(curve * 256)) + bytes(2)


def _text(text: str) -> bytes:
    words = text.encode("utf-16-be")
    return b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(words), 28) + words


def _profile(kind: bytes, space: bytes, between: bytes, tags: dict[bytes, bytes]) -> bytes:
    start = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, tag in tags.items():
        table += struct.pack(">4sII", name, start + len(body), len(tag))
        body += tag + bytes(-len(tag) % 4)
    header = struct.pack(
        ">I4sI4s4s4s12s4s4sIIIQI12s4s44s",
        start + len(body), b"", 0x04300000, kind, space, between, bytes(12), b"acsp", b"", 0, 0, 0, 0, 0, _fixed(*D50),
        b"", b"",
    )  # fmt: skip
    return header + table + body


def _named(name: str) -> dict[bytes, bytes]:
    return {b"desc": _text(name), b"cprt": _text("CC0"), b"wtpt": b"XYZ " + bytes(4) + _fixed(*D50)}


def matrix(name: str, primaries: tuple[tuple[float, float], ...], curve: float | tuple[float, ...]) -> bytes:
    """The profile of a screen with these primaries, white D65, and this tone curve."""
    gain = (BRADFORD @ D50) / (BRADFORD @ xyz(*D65))
    columns = (np.linalg.inv(BRADFORD) @ np.diag(gain) @ BRADFORD @ colorants(primaries)).T
    tags = {
        letter + b"XYZ": b"XYZ " + bytes(4) + _fixed(*c) for letter, c in zip((b"r", b"g", b"b"), columns, strict=True)
    }
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _curve(curve))
    return _profile(b"mntr", b"RGB ", b"XYZ ", _named(name) | tags)


def grey(name: str, curve: float) -> bytes:
    return _profile(b"mntr", b"GRAY", b"XYZ ", _named(name) | {b"kTRC": _curve(curve)})


def cmyk(name: str) -> bytes:
    """A printer whose inks, all or none, give these Lab colours, and what lies between linearly."""
    paper = np.array(
        [(95, 0, 0), (55, -37, -50), (48, 74, -3), (24, 22, -46), (89, -5, 93), (50, -65, 27), (47, 68, 48), (23, 0, 0)]
    )
    grid = b""
    for c, m, y, k in itertools.product((0, 1), repeat=4):
        lightness, a, b = paper[c + 2 * m + 4 * y] if not k else (16 - 3 * (c + m + y), 0, 0)
        grid += bytes([round(lightness * 2.55), a + 128, b + 128])
    line = bytes(range(256))
    lut = b"mft1" + bytes(4) + struct.pack(">BBBB", 4, 3, 2, 0) + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    return _profile(b"prtr", b"CMYK", b"Lab ", _named(name) | {b"A2B0": lut + 4 * line + grid + 3 * line})


DISPLAY_P3 = matrix("Display P3", P3, SRGB_CURVE)
ADOBE_RGB = matrix("Adobe RGB (1998)", ADOBE, ADOBE_CURVE)
S_RGB = matrix("sRGB IEC61966-2.1", SRGB, SRGB_CURVE)
GREY_18 = grey("Grey gamma 1.8", 1.8)
PRINTER = cmyk("Test printer")
