"""Bars over eyes, found on drawn portraits, and where covered eyes lie, on real photos."""

from functools import cache

import cv2
import numpy as np
import pytest

from stages.draw import person
from stages.images import landmarks
from stages.images.bars import Bar, find_bar
from stages.images.covered import cover, covered_landmarks, find_covered
from stages.images.faces import COVERED_SCORE, Face, find_faces
from stages.portraits import portrait


@cache
def drawn(number, size=192):
    """A portrait and its face, as a detector would find it."""
    picture, points = portrait.render(person(3, number), size)
    apart = np.hypot(*(points[1] - points[0]))
    left, top = points.mean(0) - [1.05 * apart, 1.35 * apart]
    return picture, Face((left, top, 2.1 * apart, 2.7 * apart), points, 0.9)


def rectangle(face, length, height, turned, shift=(0, 0)):
    """The corners of a bar over the eyes; lengths in eye distances."""
    left, right = face.landmarks[:2]
    apart = np.hypot(*(right - left))
    turn = np.radians(turned)
    along, down = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
    along, down = along * length * apart / 2, down * height * apart / 2
    return (left + right) / 2 + shift + np.array([-along - down, along - down, along + down, down - along])


def paint(picture, corners, colour):
    """A copy with a filled quadrilateral, and its pixels."""
    canvas = np.zeros(picture.shape[:2], np.uint8)
    cv2.fillPoly(canvas, [np.round(corners * 16).astype(np.int32)], 1, cv2.LINE_8, 4)
    copy = picture.copy()
    copy[canvas > 0] = colour
    return copy, canvas > 0


def jpeg(picture, quality=90):
    data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].copy()


def photo(path):
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


# ---- the bar ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turned", [0, -14, 9])
@pytest.mark.parametrize("colour", [(0, 0, 0), (128, 128, 128), (255, 255, 255)])
def test_a_bar_is_found_where_it_was_painted(colour, turned):
    picture, face = drawn(abs(turned))
    corners = rectangle(face, 1.9, 0.55, turned, shift=(3, -2))
    covered, painted = paint(picture, corners, colour)
    bar = find_bar(covered, face)
    assert bar is not None
    assert bar.colour == colour
    assert bar.confidence > 0.9
    assert np.abs(bar.corners - corners).max() < 2
    found = bar.mask(picture.shape)
    assert (found & painted).sum() > 0.94 * (found | painted).sum()
    assert not (painted & ~bar.mask(picture.shape, grow=1)).any()


def test_in_a_jpeg_the_grown_bar_leaves_nothing_of_it():
    picture, face = drawn(4)
    covered, painted = paint(picture, rectangle(face, 2.2, 0.6, 0), (120, 120, 120))
    covered = jpeg(covered)
    bar = find_bar(covered, face)
    assert bar is not None
    grown = bar.mask(picture.shape, grow=5)
    assert not (painted & ~grown).any()
    untouched = np.abs(covered.astype(int) - jpeg(picture)).max(axis=2)[~grown]
    assert np.mean(untouched > 8) < 0.01  # the halo lies inside


def test_a_level_bar_is_found_to_the_pixel_in_a_large_photo():
    """It is looked for in a smaller one, and its edges are then those of the photo."""
    small, face = drawn(2, size=128)
    picture = cv2.resize(small, None, fx=8, fy=8, interpolation=cv2.INTER_CUBIC)
    face = Face(tuple(8 * v for v in face.box), (face.landmarks + 0.5) * 8 - 0.5, 0.9)
    covered = picture.copy()
    left, right = face.landmarks[:2].round().astype(int)
    x, y, apart = left[0], left[1], right[0] - left[0]
    box = np.s_[y - apart // 4 : y + apart // 3, x - apart // 2 : x + apart * 3 // 2]
    covered[box] = 255
    painted = np.zeros(picture.shape[:2], bool)
    painted[box] = True
    bar = find_bar(covered, face)
    assert bar is not None
    np.testing.assert_array_equal(bar.mask(picture.shape), painted)


def test_no_bar_no_find():
    for number in range(4):
        picture, face = drawn(number, 128)
        assert find_bar(picture, face) is None
        mouth = (0, 1.2 * np.hypot(*(face.landmarks[1] - face.landmarks[0])))
        covered, _ = paint(picture, rectangle(face, 1.6, 0.5, 0, shift=mouth), 0)
        assert find_bar(covered, face) is None


def test_a_face_at_the_pictures_edge_raises_nothing():
    picture, _ = drawn(1, 128)
    for box in ((-200.0, -200.0, 90.0, 90.0), (120.0, 120.0, 60.0, 60.0), (-30.0, 20.0, 90.0, 90.0)):
        points = landmarks.template(round(box[2])) + np.array(box[:2])
        assert find_bar(picture, Face(box, points, 0.8)) is None


def test_a_bars_mask_by_hand():
    """4 x 2 px from the corners' pixel centres (2, 3) to (5, 4); grown by 1 px each way: 6 x 4."""
    bar = Bar(np.array([[2, 3], [5, 3], [5, 4], [2, 4]], float), (0, 0, 0), 1.0)
    expected = np.zeros((10, 12), bool)
    expected[3:5, 2:6] = True
    np.testing.assert_array_equal(bar.mask((10, 12)), expected)
    expected[2:6, 1:7] = True
    np.testing.assert_array_equal(bar.mask((10, 12), grow=1), expected)
    assert bar.mask((3, 3)).sum() == 0  # it lies outside of so small a picture


# ---- the landmarks ----------------------------------------------------------------------------------------------


def test_a_hole_as_a_bar_by_hand():
    """41 x 11 px around (50, 30): half of 41 and of 11, to a pixel's share."""
    hole = np.zeros((100, 120), bool)
    hole[25:36, 30:71] = True
    straight = np.eye(2, 3)
    np.testing.assert_allclose(cover(hole, straight), [50, 30, 20.5, 0, 5.5], atol=0.05)
    twice = np.array([[2.0, 0, 3], [0, 2, 4]])
    np.testing.assert_allclose(cover(hole, twice), [103, 64, 41, 0, 11], atol=0.1)
    np.testing.assert_allclose(cover(hole.T, straight)[[0, 1, 2, 4]], [30, 50, 0, 5.5], atol=0.05)


@pytest.mark.parametrize("style", ["black", "white", "blurred"])
def test_covered_eyes_are_located(yunet, celeba, style):
    """Within .15 of their distance; the bar is found, or painted where that cannot be."""
    good = 0
    for path in celeba[3:600:150]:
        picture = photo(path)
        (face,) = find_faces(picture, yunet)
        corners = rectangle(face, 2, 0.55, 4, shift=(2, 1))
        covered, painted = paint(picture, corners, 0 if style == "black" else 255)
        if style == "blurred":
            covered = np.where(painted[..., None], cv2.GaussianBlur(picture, (0, 0), 8), picture)
            (seen,), hole = find_faces(covered, yunet, hole=painted), painted
        else:
            ((seen, bar),) = find_covered(jpeg(covered), yunet)
            assert bar is not None
            hole = bar.mask(picture.shape, grow=5)
        points = covered_landmarks(covered, seen, hole, yunet)
        assert points is not None
        away = np.hypot(*(points - face.landmarks)[:2].T)
        good += (away < 0.15 * np.hypot(*(face.landmarks[1] - face.landmarks[0]))).all()
    assert good == 4


def test_a_forehead_painted_too_does_not_pull_the_eyes_up(yunet, celeba):
    """The hole's middle is .35 eye distances too high; on average the eyes are off by less than half of that."""
    away = []
    for path in celeba[3:600:150]:
        picture = photo(path)
        (face,) = find_faces(picture, yunet)
        apart = np.hypot(*(face.landmarks[1] - face.landmarks[0]))
        (left, top), (right, _) = face.landmarks[:2]
        hole = np.zeros(picture.shape[:2], bool)
        hole[:20] = True  # far away: of no face, or of another
        hole[round(top - apart) : round(top + 0.3 * apart), round(left - 20) : round(right + 20)] = True
        covered = np.where(hole[..., None], 90, picture).astype(np.uint8)
        (seen,) = find_faces(covered, yunet, hole=hole)
        points = covered_landmarks(covered, seen, hole, yunet)
        assert points is not None
        away.append(np.hypot(*(points - face.landmarks)[:2].T).mean() / apart)
    assert np.mean(away) < 0.17


def test_where_nothing_can_be_said_nothing_is(yunet, celeba):
    picture = photo(celeba[3])
    (face,) = find_faces(picture, yunet)
    hole = np.zeros(picture.shape[:2], bool)
    assert covered_landmarks(picture, face, hole, yunet) is None  # empty
    hole[190:] = True
    assert covered_landmarks(picture, face, hole, yunet) is None  # not over the eyes
    hole[40:] = True
    assert covered_landmarks(np.where(hole[..., None], 128, picture).astype(np.uint8), face, hole, yunet) is None


def test_an_uncovered_face_has_no_bar(yunet, celeba):
    ((face, bar),) = find_covered(photo(celeba[3]), yunet)
    assert bar is None
    assert face.score > 0.8
    assert COVERED_SCORE < 0.8
