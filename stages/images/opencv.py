"""OpenCV: `from stages.images.opencv import cv2`.

On a bare server its wheel is installed and cannot be loaded: the system lacks libGL. Importing this
file is then no error, and the first use of `cv2` is the user's one line with the remedy.
"""

from __future__ import annotations

import os
from typing import NoReturn

from stages.runs.errors import InputError


class _Missing:
    """Stands for `cv2` where that cannot be loaded: any use of it raises InputError."""

    def __init__(self, error: ImportError):
        self._said = " ".join(str(error).split())

    def __getattr__(self, name: str) -> NoReturn:
        raise InputError(
            f"OpenCV cannot be loaded ({self._said}): run `apt-get install libgl1 libglib2.0-0`, "
            "or `pip install 'opencv-python-headless>=4.10,<5'`, which needs neither"
        )


try:
    import cv2
except ImportError as error:
    cv2 = _Missing(error)  # type: ignore[assignment]
else:
    # Intel's IPP computes in another way on each type of CPU, and OpenCV's own code is enough here. OpenCV looks at
    # the variable once, at the first use, for all threads (`cv2.ipp.setUseIPP` is for one), and warns of it.
    os.environ["OPENCV_IPP"] = "disabled"
    _logging = cv2.utils.logging
    _level = _logging.getLogLevel()
    _logging.setLogLevel(_logging.LOG_LEVEL_ERROR)
    cv2.ipp.useIPP()
    _logging.setLogLevel(_level)
