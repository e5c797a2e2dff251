"""Fits and prints `stages/images/covered_fit.py`: `python tests/bench/fit_covered.py > stages/images/covered_fit.py`.

On LFW and CelebA photos (../shared) of people that `bench_covered.py` does not measure, their eyes covered in every
style. Each covered face counts twice, as it is and mirrored. Takes minutes.
"""

import sys

import cv2
import numpy as np
from covered_photos import COLOURS, MODEL, covered, of, photos, wobbly

from stages.images import covered as stage
from stages.images.faces import COVERED_SCORE, YuNet, find_faces
from stages.images.landmarks import apply, crop

PHOTOS = 360
RIDGE = 1e-5

HEAD = '''"""How landmarks are read from what is seen of a covered face: a linear fit; written by tests/bench/fit_covered.py.

Least squares with a ridge of {ridge:g} over {rows} covered faces of {photos} photos of LFW and CelebA and their mirror images.
A row a feature (`covered.features`), a column a coordinate of a landmark; both as shares of the crop, from its middle.
"""

import numpy as np

COEFFICIENTS = np.array(
    [
'''


def mirrored(find: np.ndarray, bar: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    last = stage.CROP - 1
    turned = np.array([last - bar[0], bar[1], bar[2], -bar[3], bar[4]])
    swapped = points[[1, 0, 2, 4, 3]] * [-1, 1] + [last, 0]
    return stage._mirrored(find), turned, swapped


def main() -> int:
    cv2.setNumThreads(1)
    yunet = YuNet(MODEL)
    rows, targets = [], []
    for number, photo in enumerate(photos(yunet, fitting=True, count=PHOTOS)):
        for style in (*COLOURS, "pixelated", "blurred"):
            rng = np.random.default_rng([number, len(style)])
            picture, hole = covered(photo, style, realistic=True, rng=rng)
            if number % 2:
                hole = wobbly(hole, photo.apart, rng)
            face = of(photo, find_faces(picture, yunet, COVERED_SCORE))
            if face is None:
                continue
            transform = stage.upright(face)
            seen = stage.looks(crop(picture, transform, stage.CROP), yunet)
            if len(seen) < stage.LEAST_LOOKS:
                continue
            one = np.median(seen, axis=0), stage.cover(hole, transform), apply(transform, photo.face.landmarks)
            for find, bar, points in (one, mirrored(*one)):
                rows.append(stage.features(find, bar))
                targets.append(points.ravel() / stage.CROP - 0.5)
    x, y = np.array(rows), np.array(targets)
    ridge = np.eye(x.shape[1]) * RIDGE * len(x)
    ridge[-1, -1] = 0
    coefficients = np.linalg.solve(x.T @ x + ridge, x.T @ y)
    print(HEAD.format(ridge=RIDGE, rows=len(x) // 2, photos=PHOTOS), end="")
    for row in coefficients:
        print(f"        [{', '.join(f'{value:.3f}' for value in row)}],")
    print("    ]\n)")
    errors = np.hypot(*((x @ coefficients.round(3) - y).reshape(-1, 5, 2)).transpose(2, 0, 1))
    apart = np.hypot(*(y[:, 2:4] - y[:, :2]).T)
    print(f"eyes within 0.15: {np.mean(errors[:, :2].max(1) <= 0.15 * apart):.3f}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
