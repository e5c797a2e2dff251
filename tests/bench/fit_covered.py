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

HEAD = '''"""How landmarks are read from what is seen of a covered face: linear fits, by tests/bench/fit_covered.py.

Least squares with a ridge of {ridge:g} over {rows} covered faces of {photos} photos of LFW and CelebA, and their mirror
images. A row a feature (`covered.features`), a column a coordinate of a landmark; both as shares of the crop, from its
middle.
"""

import numpy as np
'''


def mirrored(find: np.ndarray, bar: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    last = stage.CROP - 1
    turned = np.array([last - bar[0], bar[1], bar[2], -bar[3], bar[4]])
    swapped = points[[1, 0, 2, 4, 3]] * [-1, 1] + [last, 0]
    return stage._mirrored(find), turned, swapped


def fit(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    ridge = np.eye(x.shape[1]) * RIDGE * len(x)
    ridge[-1, -1] = 0
    return np.linalg.solve(x.T @ x + ridge, x.T @ y).round(3) + 0.0


def main() -> int:
    cv2.setNumThreads(1)
    yunet = YuNet(MODEL)
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray, bool]] = []  # without and with the cover, truth, a bar
    for number, photo in enumerate(photos(yunet, fitting=True, count=PHOTOS)):
        for style in (*COLOURS, "pixelated", "blurred", "forehead"):
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
                truth = points.ravel() / stage.CROP - 0.5
                rows.append((stage.features(find), stage.features(find, bar), truth, style != "forehead"))
    alone, together, y, bars = (np.array(column) for column in zip(*rows, strict=True))
    print(HEAD.format(ridge=RIDGE, rows=len(y) // 2, photos=PHOTOS), end="")
    fits = {"BY_FACE": (alone, y), "BY_FACE_AND_BAR": (together[bars], y[bars])}
    for name, (x, target) in fits.items():
        coefficients = fit(x, target)
        print(f"\n{name} = np.array(\n    [")
        for row in coefficients:
            print(f"        [{', '.join(f'{value:.3f}' for value in row)}],")
        print("    ]\n)")
        errors = np.hypot(*((x @ coefficients - target).reshape(-1, 5, 2)).transpose(2, 0, 1))
        apart = np.hypot(*(target[:, 2:4] - target[:, :2]).T)
        share = np.mean(errors[:, :2].max(axis=1) <= 0.15 * apart)
        print(f"{name}: both eyes within 0.15: {share:.3f}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
