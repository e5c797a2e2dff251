"""How many faces `find_faces` finds in 24 megapixels, by their size: `python tests/bench/bench_faces.py`.

CelebA and LFW faces (../shared) are scaled, so that their box's longer side is a given number of px, and laid into
mosaics of scenes without people. False finds are counted in 96 megapixels of scenes alone. Exits 1 where a goal is
missed.
"""

import resource
import sys
import time

import cv2
import numpy as np
from covered_photos import MODEL, SHARED, Photo, photos, read

from stages.images.faces import YuNet, find_faces

HEIGHT, WIDTH = 4000, 6000
GOALS = {60: 0.95, 90: 1, 150: 1, 400: 1, 1500: 1}  # px: share found
COUNTS = {60: 120, 90: 120, 150: 120, 400: 60, 1500: 12}  # faces of each size


def scenes(rng: np.random.Generator) -> np.ndarray:
    """24 megapixels of scenes, each of some random size."""
    kinds = ("bamboo_forest", "desert", "kitchen", "sky", "campus")
    paths = [path for kind in kinds for path in sorted((SHARED / "data/scenes" / kind).glob("*.jpg"))]
    picture = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    for top in range(0, HEIGHT, 500):
        for left in range(0, WIDTH, 750):
            tile = cv2.resize(read(paths[rng.integers(len(paths))]), (750, 500), interpolation=cv2.INTER_CUBIC)
            picture[top : top + 500, left : left + 750] = tile[: HEIGHT - top]
    return picture


def lay(picture: np.ndarray, photo: Photo, size: int, left: int, top: int) -> np.ndarray:
    """Lay a photo's face and its surroundings into the picture; gives the face's centre."""
    x, y, w, h = photo.face.box
    start = np.maximum([x - 0.25 * w, y - 0.25 * h], 0).astype(int)
    end = np.ceil([x + 1.25 * w, y + 1.25 * h]).astype(int)
    part = photo.picture[start[1] : end[1], start[0] : end[0]]
    scale = size / max(w, h)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    scaled = cv2.resize(part, None, fx=scale, fy=scale, interpolation=method)[: HEIGHT - top, : WIDTH - left]
    picture[top : top + len(scaled), left : left + scaled.shape[1]] = scaled
    return (np.array([x + w / 2, y + h / 2]) - start) * scale + [left, top]


def main() -> int:
    cv2.setNumThreads(1)
    yunet, rng, good = YuNet(MODEL), np.random.default_rng(0), True
    people = list(photos(yunet, fitting=False, count=120))
    times = []
    for size, goal in GOALS.items():
        step = max(2 * size, 300)
        places = [(x, y) for y in range(20, HEIGHT - step + 20, step) for x in range(20, WIDTH - step + 20, step)]
        found = doubles = strange = laid = 0
        while laid < COUNTS[size]:
            picture = scenes(rng)
            some = people[laid % len(people) :][: min(len(places), COUNTS[size] - laid)]
            centres = [lay(picture, photo, size, *place) for photo, place in zip(some, places, strict=False)]
            start = time.process_time()
            faces = find_faces(picture, yunet)
            times.append(time.process_time() - start)
            middles = np.array([[f.box[0] + f.box[2] / 2, f.box[1] + f.box[3] / 2] for f in faces]).reshape(-1, 2)
            near = np.hypot(*(np.array(centres)[:, None] - middles).transpose(2, 0, 1)) < size / 3
            found += int(near.any(axis=1).sum())
            doubles += int((near.sum(axis=1) > 1).sum())
            strange += int((~near.any(axis=0)).sum())
            laid += len(centres)
        share = found / laid
        good &= share >= goal and not doubles
        print(
            f"{size:5} px: {share:.3f} of {laid} found, {doubles} twice, {strange} elsewhere; goal {goal}", flush=True
        )
    false, seconds = [], []
    for _ in range(4):
        picture = scenes(rng)
        start = time.process_time()
        false += [face.score for face in find_faces(picture, yunet)]
        seconds.append(time.process_time() - start)
    print(f"96 megapixels without a face: {len(false)} found {false}; goal 0", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"CPU for 24 megapixels: {np.mean(seconds):.2f} s without a face, up to {max(times):.2f} s with; {peak:.2f} GB"
    )
    return 0 if good and not false else 1


if __name__ == "__main__":
    sys.exit(main())
