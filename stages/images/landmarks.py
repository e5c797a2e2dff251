"""Where a face is, and the similarity that brings it to the template.

Landmarks are five points (x, y), float64, 5 x 2: the eye at image left, the eye at image right, the
nose, the mouth's corner at image left, the one at image right. The CENTRE of pixel (0, 0) is the
coordinate (0, 0). A transform is 2 x 3: it takes original coordinates to those of the crop.

The arithmetic is written element by element: BLAS and LAPACK sum in another order on each type of CPU.

Two detectors: YuNet (Wu et al. 2023, "YuNet: a tiny millisecond-level face detector") through
`cv2.FaceDetectorYN`, and the Haar cascades of report 3 (Viola and Jones 2001), which find the eyes
alone: nose and mouth are then placed as the template has them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import product
from math import ceil
from pathlib import Path

import numpy as np

from stages.images.opencv import cv2
from stages.runs import record
from stages.runs.errors import InputError

# As fractions of the crop's side. Eyes and nose lie around the middle; brow, chin and some hair are inside.
# Nose and mouth stand where CelebA's landmarks stand on average, given its eyes.
TEMPLATE = np.array([[0.335, 0.41], [0.665, 0.41], [0.5, 0.615], [0.35, 0.757], [0.65, 0.757]])

Detector = Callable[[np.ndarray], np.ndarray]  # uint8 H x W x 3 RGB -> 5 x 2; raises NoFace


class NoFace(Exception):
    """No usable face: the message is the reason, in a few words."""


def single_thread() -> None:
    """Keep OpenCV to one thread in this process: detectors then give the same bytes in any process."""
    cv2.setNumThreads(1)


# ---- transforms -------------------------------------------------------------------------------------------------


def template(size: int) -> np.ndarray:
    """The template's five points in the coordinates of a crop of `size` pixels, 5 x 2."""
    return TEMPLATE * size - 0.5


def similarity(landmarks: np.ndarray, size: int) -> np.ndarray:
    """The 2 x 3 similarity (turn, scale, shift) that puts both eyes on the template, to nine decimals."""
    from_left, from_right, to_left, to_right = (
        complex(*point) for point in (*landmarks[:2], *template(size)[:2])
    )  # in the complex plane a similarity is z -> turn * z + shift
    turn = (to_right - to_left) / (from_right - from_left)
    shift = to_left - turn * from_left
    return np.round([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]], 9)


def centre(height: int, width: int, size: int) -> np.ndarray:
    """The 2 x 3 transform that takes the largest centred square of a picture to a crop of `size` pixels."""
    side = min(height, width)
    scale = size / side
    left, top = (width - side) // 2, (height - side) // 2
    return np.array([[scale, 0, (0.5 - left) * scale - 0.5], [0, scale, (0.5 - top) * scale - 0.5]])


def apply(transform: np.ndarray, points: np.ndarray) -> np.ndarray:
    """`points`, N x 2, moved by a 2 x 3 transform."""
    return points[..., :1] * transform[:, 0] + points[..., 1:] * transform[:, 1] + transform[:, 2]


def outside(transform: np.ndarray, size: int, height: int, width: int, grid: int = 32) -> float:
    """The share of a crop that lies outside its original, 0..1, counted on a grid x grid of points."""
    steps = (np.arange(grid) + 0.5) / grid * size - 0.5
    points = (
        apply(cv2.invertAffineTransform(transform), np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)) + 0.5
    )
    return 1.0 - float(np.mean(((points >= 0) & (points <= [width, height])).all(axis=1)))


def crop(picture: np.ndarray, transform: np.ndarray, size: int) -> np.ndarray:
    """The size x size crop of a uint8 H x W x 3 picture under a similarity; outside it, the picture is mirrored.

    Antialiased: where the picture shrinks, it is sampled at a whole multiple of `size` that is no
    coarser than the original, then averaged down.
    """
    shrink = 1 / np.hypot(*transform[:, 0])
    times = max(1, ceil(shrink - 1e-6))
    fine = transform * times
    fine[:, 2] += (times - 1) / 2
    method = cv2.INTER_LINEAR if times > 1 else cv2.INTER_CUBIC
    shape = (size * times, size * times)
    warped = cv2.warpAffine(picture, fine, shape, flags=method, borderMode=cv2.BORDER_REFLECT_101)
    return cv2.resize(warped, (size, size), interpolation=cv2.INTER_AREA) if times > 1 else warped


def centre_crop(picture: np.ndarray, size: int) -> np.ndarray:
    """The largest centred square of a uint8 H x W x 3 picture at size x size; see `centre`."""
    height, width = picture.shape[:2]
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    square = picture[top : top + side, left : left + side]
    if side == size:
        return square
    return cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_CUBIC)


# ---- the shape of a face ----------------------------------------------------------------------------------------


def ordered(landmarks: np.ndarray) -> np.ndarray:
    """The five points with the image-left eye and mouth corner first, as seen with the mouth below the eyes.

    So landmarks that name sides by the person, and faces upside down, come out upright, not turned over.
    """
    points = np.array(landmarks, np.float64).reshape(5, 2)
    across, down = points[1] - points[0], points[3:].mean(0) - points[:2].mean(0)
    if across[0] * down[1] - across[1] * down[0] < 0:
        points[:2] = points[1::-1]
        across = -across
    if (across * (points[4] - points[3])).sum() < 0:
        points[3:] = points[:2:-1]
    return points


def frontality(landmarks: np.ndarray) -> float:
    """Distance of the eyes over that from eyes to mouth: about 1 from the front, towards 0 in profile."""
    across, down = landmarks[1] - landmarks[0], landmarks[3:].mean(0) - landmarks[:2].mean(0)
    return float(np.hypot(*across) / max(np.hypot(*down), 1e-9))


# ---- detectors --------------------------------------------------------------------------------------------------


def foremost(boxes: np.ndarray, height: int, width: int) -> int:
    """Which box (x, y, w, h; N x 4) is the picture's face: the largest area times nearness to the centre.

    Nearness is 1 at the picture's centre and 0 in its corners.
    """
    middles = boxes[:, :2] + boxes[:, 2:4] / 2 - [width / 2, height / 2]
    near = 1 - np.hypot(*middles.T) / np.hypot(width / 2, height / 2)
    return int(np.argmax(boxes[:, 2] * boxes[:, 3] * near))


def _resized(picture: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """A picture scaled, and the factors (x, y) that were reached in whole pixels."""
    height, width = picture.shape[:2]
    shape = max(1, round(width * scale)), max(1, round(height * scale))
    if shape == (width, height):
        return picture, np.ones(2)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(picture, shape, interpolation=method), np.array([shape[0] / width, shape[1] / height])


class YuNet:
    """Five landmarks by YuNet; a Detector.

    Its outputs differ by some 1e-5 px from one type of CPU to another, so they are rounded to `STEP`; about
    one landmark in several thousand lies so near a rounding's edge that another CPU may still decide otherwise.

    `model` is the .onnx file's path. A face scores at least `score_threshold` (0..1).
    Raises InputError, with `key` as the parameter to mend, where the file is no YuNet model.
    """

    # YuNet sees faces of about 10 to 300 px. A picture is first looked at with its longer side within these px,
    # then, while no face is found, at twice the scale, and a large one at four times.
    SIDES = (160, 320)
    LEAST = 64  # px, to which sides are padded: on strips of 32 px OpenCV 4.14 reads faces from foreign memory
    # The face found is looked at once more, alone, at this size (px): its landmarks then err by about half as much.
    CLOSE = 288
    AROUND = 0.3  # of the face's size, seen beside it
    STEP = 1 / 16  # px of the scaled picture

    def __init__(self, model: Path, score_threshold: float = 0.9, key: str = "detector_model"):
        try:
            content = model.read_bytes()
        except OSError as error:
            raise InputError(f"{key}: {model}: {error.strerror}; give the path of YuNet's .onnx file") from None
        network = np.frombuffer(content, np.uint8)
        level = cv2.utils.logging.getLogLevel()
        # OpenCV would print its own lines beside the one that is raised.
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        try:
            self._net = cv2.FaceDetectorYN.create("onnx", network, np.empty(0, np.uint8), (64, 64), score_threshold)
            self._net.detect(np.zeros((64, 64, 3), np.uint8))
        except cv2.error:
            raise InputError(
                f"{key}: {model}: not a YuNet model; give the path of face_detection_yunet_2023mar.onnx, "
                "or another detector (annotations, haar)"
            ) from None
        finally:
            cv2.utils.logging.setLogLevel(level)
        record.note_weights(model.name, sha256(content).hexdigest())

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        return ordered(self._closer(picture, self._find(picture)))

    def _faces(self, picture: np.ndarray, scale: float) -> np.ndarray:
        """All faces at one scale, N x 14, in the picture's coordinates: box (x, y, w, h) and five points."""
        scaled, factors = _resized(picture, scale)
        below, beside = (max(0, self.LEAST - side) for side in scaled.shape[:2])
        scaled = cv2.copyMakeBorder(scaled, 0, below, 0, beside, cv2.BORDER_CONSTANT)
        self._net.setInputSize(scaled.shape[1::-1])
        found = self._net.detect(cv2.cvtColor(scaled, cv2.COLOR_RGB2BGR))[1]
        if found is None:
            return np.empty((0, 14))
        faces = np.round(found[:, :14].astype(np.float64) / self.STEP) * self.STEP / np.tile(factors, 7)
        faces[:, 4:] += np.tile(0.5 / factors - 0.5, 5)
        return faces

    def _find(self, picture: np.ndarray) -> np.ndarray:
        height, width = picture.shape[:2]
        for scale in self._scales(max(height, width)):
            if len(faces := self._faces(picture, scale)):
                return faces[foremost(faces[:, :4], height, width)]
        raise NoFace("no face found")

    def _closer(self, picture: np.ndarray, face: np.ndarray) -> np.ndarray:
        """The landmarks of `face` (box and points) from a closer look, or its own where that shows no face."""
        box, side = face[:4], face[2:4].max()
        middle, reach = box[:2] + box[2:] / 2, side * (0.5 + self.AROUND)
        start = np.maximum(middle - reach, 0).astype(int)
        end = np.ceil(middle + reach).astype(int)
        faces = self._faces(picture[start[1] : end[1], start[0] : end[0]], self.CLOSE / side)
        away = np.hypot(*(faces[:, :2] + faces[:, 2:4] / 2 + start - middle).T)
        if not len(faces) or away.min() > side / 2:
            return face[4:].reshape(5, 2)
        return faces[np.argmin(away), 4:].reshape(5, 2) + start

    def _scales(self, longer: int) -> Iterator[float]:
        first = float(np.clip(longer, *self.SIDES)) / longer
        yield first
        yield 2 * first
        if 4 * first <= 1:
            yield 4 * first


class Haar:
    """Eyes by OpenCV's Haar cascades, nose and mouth by the template; a Detector.

    Raises InputError where this OpenCV has no cascades.
    """

    LONGER = 480  # px, larger pictures are scaled down to it
    SMALLEST = 0.12  # of the shorter side: smaller boxes are mostly no faces
    EXPECTED = np.array([[0.31, 0.39], [0.69, 0.39]])  # of the face's box: where its eyes are on average

    def __init__(self) -> None:
        self._face = self._cascade("haarcascade_frontalface_default.xml")
        self._eyes = [self._cascade(f"haarcascade_{name}.xml") for name in ("eye", "eye_tree_eyeglasses")]

    @staticmethod
    def _cascade(name: str) -> cv2.CascadeClassifier:
        folder = getattr(getattr(cv2, "data", None), "haarcascades", None)
        if not folder or not hasattr(cv2, "CascadeClassifier") or not (Path(folder) / name).is_file():
            raise InputError(
                f"detector haar: OpenCV {cv2.__version__} has no {name}; "
                "install opencv-python>=4.10,<5 or set detector: yunet"
            )
        file = Path(folder) / name
        record.note_weights(name, sha256(file.read_bytes()).hexdigest())
        return cv2.CascadeClassifier(str(file))

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        scaled, factors = _resized(picture, min(1.0, self.LONGER / max(picture.shape[:2])))
        grey = cv2.equalizeHist(cv2.cvtColor(scaled, cv2.COLOR_RGB2GRAY))
        height, width = grey.shape
        least = max(20, round(min(height, width) * self.SMALLEST))
        faces = self._face.detectMultiScale(grey, 1.1, 5, minSize=(least, least))
        if not len(faces):
            raise NoFace("no face found")
        boxes = np.asarray(faces, np.float64)
        box = boxes[foremost(boxes, height, width)]
        eyes = (self._pair(grey, box) + 0.5) / factors - 0.5
        points = apply(cv2.invertAffineTransform(similarity(eyes, 1)), template(1))
        return ordered(points)

    def _pair(self, grey: np.ndarray, box: np.ndarray) -> np.ndarray:
        """The two eyes, 2 x 2, of a face's box: the pair nearest to where eyes are expected."""
        x, y, w, h = (int(v) for v in box)
        enlarge = max(1.0, 160 / w)  # the eye cascades miss eyes below some 20 px
        upper, factors = _resized(np.ascontiguousarray(grey[y : y + round(h * 0.65), x : x + w]), enlarge)
        least = max(8, round(0.12 * upper.shape[1]))
        found = [e for cascade in self._eyes for e in cascade.detectMultiScale(upper, 1.05, 4, minSize=(least, least))]
        # An eye's box is taller than the eye; its pupil lies a little below the middle.
        spots = np.array([[ex + ew / 2, ey + eh * 0.52] for ex, ey, ew, eh in found]).reshape(-1, 2)
        spots = spots / factors / [w, h]
        sides = [spots[np.hypot(*(spots - place).T) < 0.17] for place in self.EXPECTED]
        pairs = [np.array(pair) for pair in product(*sides)]
        if not pairs:
            raise NoFace("no pair of eyes found")
        best = min(pairs, key=lambda pair: float(np.sum((pair - self.EXPECTED) ** 2)))
        return best * [w, h] + [x, y] - 0.5
