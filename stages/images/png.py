"""PNG files whose bytes are the same on every CPU.

Pillow compresses with zlib-ng, which looks for repetitions in another way on each type of CPU: same
pixels, other bytes. OpenCV's wheel brings plain zlib, whose output is fixed by the version.
"""

from __future__ import annotations

import numpy as np

from stages.images.opencv import cv2


def encode(pixels: np.ndarray) -> bytes:
    """A PNG of uint8 pixels, H x W x 3 (RGB) or H x W (grey)."""
    picture = pixels[..., ::-1] if pixels.ndim == 3 else pixels
    # zlib's usual level: OpenCV's own, 1, makes sheets of pictures six times as large.
    return cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 6])[1].tobytes()
