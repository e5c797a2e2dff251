"""All frames of a picture file: trainings read the first alone, but another picture may be in a later one."""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
from collections.abc import Iterator

import numpy as np

# What Pillow raises for a damaged frame, by format.
DAMAGED = (OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, struct.error)


def of(data: bytes) -> Iterator[np.ndarray]:
    """The pixels of each frame or page that can be decoded, uint8 H x W x 3: of the first as trainings read it, of the
    others (TIFF, GIF, WebP, PNG, JPEG with several pictures) as Pillow gives them."""
    from PIL import Image

    from stages.images.decode.picture import BadPicture
    from stages.images.decode.read import decode

    with contextlib.suppress(BadPicture):
        yield decode(data)
    with contextlib.suppress(*DAMAGED, Image.DecompressionBombError):
        with warnings.catch_warnings(action="ignore"):
            picture = Image.open(io.BytesIO(data))
            count = getattr(picture, "n_frames", 1)
        for number in range(1, count):
            with warnings.catch_warnings(action="ignore"):
                picture.seek(number)
                pixels = np.asarray(picture.convert("RGB"))
            yield pixels
