"""Real photos of ../shared, and the same with their eyes covered, for measuring `stages/images/covered.py`.

People are either fitted on or measured on, never both.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from stages.images.faces import SCORE, Face, YuNet, find_faces

SHARED = Path(__file__).parents[3] / "shared"
MODEL = SHARED / "weights/face_detection_yunet_2023mar.onnx"
COLOURS = {"black": 0, "grey": 128, "white": 255}


@dataclass(frozen=True)
class Photo:
    name: str
    picture: np.ndarray  # uint8 H x W x 3 RGB
    face: Face  # as found uncovered: its landmarks are the truth

    @property
    def apart(self) -> float:
        """px between the eyes."""
        return float(np.hypot(*(self.face.landmarks[1] - self.face.landmarks[0])))


def paths(fitting: bool) -> list[Path]:
    """The photos of one half of the people, a CelebA and an LFW one in turn, in an order that is always the same."""
    lines = (SHARED / "data/celeba/identity_CelebA.txt").read_text().splitlines()
    celeba = {SHARED / "data/celeba/img_align_celeba" / name: person for name, person in map(str.split, lines)}
    lfw = {path: path.parent.name for path in (SHARED / "data/lfw").rglob("*.jpg")}
    halves = [
        sorted((p for p, who in people.items() if zlib.crc32(who.encode()) % 2 == fitting), key=_hash)
        for people in (celeba, lfw)
    ]
    return [path for pair in zip(*halves, strict=False) for path in pair]


def _hash(path: Path) -> int:
    return zlib.crc32(path.name.encode())


def read(path: Path) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def photos(yunet: YuNet, fitting: bool, count: int, skip: int = 0, enlarged: float = 1) -> Iterator[Photo]:
    """`count` photos with one face that YuNet is sure of."""
    for path in paths(fitting)[skip:]:
        picture = read(path)
        if enlarged != 1:
            picture = cv2.resize(picture, None, fx=enlarged, fy=enlarged, interpolation=cv2.INTER_CUBIC)
        faces = find_faces(picture, yunet, SCORE)
        if len(faces) == 1 and faces[0].score >= 0.85:
            count -= 1
            yield Photo(path.name, picture, faces[0])
        if not count:
            return


def bar(photo: Photo, realistic: bool, rng: np.random.Generator, taller: float = 0) -> np.ndarray:
    """The corners, 4 x 2, of a bar over both eyes, `taller` eye distances higher than usual."""
    left, right = photo.face.landmarks[:2]
    across, centre = (right - left) / photo.apart, (left + right) / 2
    if realistic:
        length, height = rng.uniform(1.6, 2.6), rng.uniform(0.4, 0.8)
        down = np.array([-across[1], across[0]])
        centre = centre + photo.apart * (rng.uniform(-0.15, 0.15) * across + rng.uniform(-0.1, 0.1) * down)
        if rng.random() < 0.5:
            across = np.array([1.0, 0.0])
    else:
        length, height = rng.uniform(1.6, 2.0), 0.5
    half = across * length * photo.apart / 2
    up = np.array([across[1], -across[0]]) * height * photo.apart / 2
    top = up * (1 + 2 * taller / height)
    return np.array([centre - half + top, centre + half + top, centre + half - up, centre - half - up])


def filled(corners: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The pixels, bool H x W, whose centre lies in the quadrilateral."""
    rows, columns = np.indices(shape[:2])
    inside = np.ones(shape[:2], bool)
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        inside &= (b[0] - a[0]) * (rows - a[1]) - (b[1] - a[1]) * (columns - a[0]) >= -1e-9
    return inside


def covered(photo: Photo, style: str, realistic: bool, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The photo with a bar of `style` over its eyes, as it comes from a file, and the bar's pixels.

    "forehead" is a grey one that reaches up over the forehead, by up to 0.8 eye distances.
    """
    taller = rng.uniform(0.2, 0.8) if style == "forehead" else 0
    mask = filled(bar(photo, realistic, rng, taller), photo.picture.shape)
    picture = photo.picture.copy()
    if style in COLOURS:
        picture[mask] = COLOURS[style] + (rng.integers(-30, 31) if style == "grey" and realistic else 0)
    elif style == "forehead":
        picture[mask] = rng.integers(0, 256)
    elif style == "pixelated":
        step = max(2, round(photo.apart / 4))
        small = cv2.resize(picture, None, fx=1 / step, fy=1 / step, interpolation=cv2.INTER_AREA)
        picture[mask] = cv2.resize(small, picture.shape[1::-1], interpolation=cv2.INTER_NEAREST)[mask]
    elif style == "blurred":
        picture[mask] = cv2.GaussianBlur(picture, (0, 0), photo.apart / 5)[mask]
    if realistic:
        data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].copy()
    return picture, mask


def of(photo: Photo, faces: list[Face]) -> Face | None:
    """The find that is the photo's face, if there is one."""
    middle = np.array(photo.face.box[:2]) + np.array(photo.face.box[2:]) / 2
    for face in faces:
        if np.hypot(*(np.array(face.box[:2]) + np.array(face.box[2:]) / 2 - middle)) < photo.face.box[2] / 2:
            return face
    return None


def wobbly(mask: np.ndarray, apart: float, rng: np.random.Generator) -> np.ndarray:
    """The mask as a hand would paint it: edges up to some tenth of the eyes' distance outside."""
    noise = cv2.GaussianBlur(rng.standard_normal(mask.shape), (0, 0), apart / 6)
    away = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)
    return away <= apart * (0.05 + 0.04 * np.clip(noise / noise.std(), -1.2, 2))
