"""find_faces: faces of all sizes, each once; what align's detector makes of a group photo."""

import cv2
import numpy as np
import pytest

from stages.images import landmarks
from stages.images.faces import COVERED_SCORE, find_faces, merged


def find(x, y, side, score):
    return np.array([x, y, side, side, *np.zeros(10), score], float)


def photo(path):
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


@pytest.fixture(scope="module")
def group(celeba):
    """One face of some 1000 px, and three of 40 to 80 px, in 2400 x 3000 px; and the faces' middles, large to small."""
    picture = np.full((2400, 3000, 3), 90, np.uint8)
    middles = []
    places = [
        (celeba[0], 12.0, 800, 0),
        (celeba[10], 1.0, 60, 60),
        (celeba[20], 0.8, 60, 700),
        (celeba[31], 0.6, 60, 1300),
    ]
    for path, scale, left, top in places:
        one = cv2.resize(photo(path), None, fx=scale, fy=scale)[: 2400 - top]
        picture[top : top + one.shape[0], left : left + one.shape[1]] = one
        middles.append([left + 89 * scale, top + 115 * scale])  # CelebA's faces lie there
    return picture, np.array(middles)


def test_two_finds_of_one_face_are_one():
    """By hand: IoU of boxes 100 px wide and 60 apart is 40 / 160 = .25, and 50 apart 50 / 150 = .33."""
    kept = merged(np.array([find(0, 0, 100, 0.9)]), np.array([find(60, 0, 100, 0.95)]))
    assert kept[:, 14].tolist() == [0.95, 0.9]
    kept = merged(np.array([find(0, 0, 100, 0.9)]), np.array([find(50, 0, 100, 0.95)]))
    assert kept[:, 14].tolist() == [0.95]


def test_a_find_inside_of_a_better_one_is_none_of_its_own():
    """By hand: a box of 20 px, of which 14 columns lie inside: .7 of it; of 10 columns, .5."""
    large = np.array([find(0, 0, 100, 0.9)])
    assert len(merged(large, np.array([find(86, 40, 20, 0.8)]))) == 1
    assert len(merged(large, np.array([find(90, 40, 20, 0.8)]))) == 2
    assert len(merged(np.empty((0, 15)), large)) == 1


def test_a_large_face_and_three_small_ones(yunet, group):
    picture, middles = group
    faces = find_faces(picture, yunet)
    found = np.array([[f.box[0] + f.box[2] / 2, f.box[1] + f.box[3] / 2] for f in faces])
    assert len(faces) == 4
    sides = np.array([f.box[3] for f in faces])
    assert (np.diff(sides) < 0).all()
    assert (np.hypot(*(found - middles).T) < sides / 3).all()
    for face in faces:
        left, top, width, height = face.box
        inside = (face.landmarks > [left, top]) & (face.landmarks < [left + width, top + height])
        assert inside.all()
        assert face.score >= 0.8


def test_align_takes_the_foremost_of_a_group(yunet, group):
    """The large one; without it the largest of the small ones, all three too small for the first look."""
    picture, middles = group
    assert np.hypot(*(yunet(picture)[:2].mean(0) - middles[0])) < 500
    small = picture.copy()
    small[:, 800:] = 90
    assert np.hypot(*(yunet(small)[:2].mean(0) - middles[1])) < 40


def test_a_face_that_a_hole_lies_on_may_score_lower(yunet, celeba):
    """With a bar over its eyes this face scores .79. A hole elsewhere does not help it."""
    picture = photo(celeba[20])
    hole = np.zeros(picture.shape[:2], bool)
    hole[98:124, 45:133] = True
    picture[hole] = 0
    assert find_faces(picture, yunet) == []
    assert len(find_faces(picture, yunet, COVERED_SCORE)) == 1
    assert len(find_faces(picture, yunet, hole=hole)) == 1
    assert find_faces(picture, yunet, hole=np.roll(hole, 110, axis=0)) == []


def test_the_nearest_similarity_is_the_one_that_moved_the_points():
    points = landmarks.template(100)
    turn = np.array([[1.2, -0.5, 30.0], [0.5, 1.2, -4.0]])
    np.testing.assert_allclose(landmarks.nearest_similarity(points, landmarks.apply(turn, points)), turn, atol=1e-9)
    mirrored = points * [-1, 1]
    found = landmarks.nearest_similarity(points, mirrored)  # it turns and scales, and never mirrors
    assert np.linalg.det(found[:, :2]) > 0


def test_nothing_to_find(yunet):
    for picture in (np.zeros((1, 1, 3), np.uint8), np.full((700, 900, 3), 128, np.uint8)):
        assert find_faces(picture, yunet) == []
