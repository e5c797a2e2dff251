"""`palimpsest restore --serve`: who may ask the server, what it refuses, and that it changes holes alone."""

import io
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import painted
import profiles_made as icc
import pytest
from PIL import Image
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner
from starlette.testclient import TestClient

from flows.lineage import restored
from flows.painting.app import create
from flows.painting.serve import serve
from flows.painting.session import Answer, Session
from flows.restoration.detection import ByYuNet
from flows.restoration.holes import from_bytes
from flows.restoration.photo import read_photo
from flows.restoration.system import open_system
from stages.runs.errors import InputError

HEIGHT, WIDTH = 72, 104


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def address(home: Path) -> Iterator[str]:
    with painted.serving(home) as (address, _):
        yield address


@pytest.fixture
def client(address: str) -> Iterator[painted.Client]:
    with painted.Client(address) as client:
        yield client


@pytest.fixture
def photo(client: painted.Client) -> str:
    return client.open(painted.saved(painted.picture(HEIGHT, WIDTH)))


def box(top: int, left: int, bottom: int, right: int, shape: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    hole = np.zeros(shape, bool)
    hole[top:bottom, left:right] = True
    return hole


def read_hole(data: bytes, shape: tuple[int, int]) -> np.ndarray:
    return from_bytes(data, shape, "the hole", smaller=True)


def own(data: bytes) -> np.ndarray:
    """A PNG's samples, with all their bits, by a reader that is not ours."""
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


# --- who may ask ---


def test_only_the_key_opens_anything(client: painted.Client, photo: str) -> None:
    paths = ["/api/start", photo, f"{photo}/picture.png", f"{photo}/record.json", f"/api/system?name={painted.UNET}"]
    for key in ("", "wrong", client.headers["x-palimpsest-key"][:-1], "ü"):
        for path in paths:
            assert client.get(path, headers={"x-palimpsest-key": key.encode()}).status_code == 403, (key, path)
    assert {client.get(path).status_code for path in paths} == {200}


def test_the_page_itself_tells_no_key_and_runs_its_own_script_alone(client: painted.Client) -> None:
    for path in ("/", "/page.js", "/page.css", "/icon.svg"):
        answer = client.get(path, headers={"x-palimpsest-key": ""})
        assert answer.status_code == 200
        assert client.headers["x-palimpsest-key"] not in answer.text
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert "<script>" not in client.get("/").text


def test_another_site_in_the_browser_is_refused(client: painted.Client, photo: str) -> None:
    """Also with the key: a page of another site, and a name that was let point here (DNS rebinding)."""
    for origin in ("https://evil.example", "http://localhost:1", "null"):
        assert client.delete(photo, headers={"origin": origin}).status_code == 403, origin
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", ""):
        assert client.get("/", headers={"host": host}).status_code == 400, host
    port = client.base_url.port
    for host in (f"127.0.0.1:{port}", f"localhost:{port}"):
        assert client.get(photo, headers={"host": host, "origin": f"http://{host}"}).status_code == 200


def test_nobody_outside_of_the_machine_reaches_it(client: painted.Client) -> None:
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines() if line.split()[3] == "0A"]
    assert [place for place in listening if place.endswith(f":{client.base_url.port:04X}")] == [
        f"0100007F:{client.base_url.port:04X}"
    ]


# --- what is too much, or wrong ---


def test_what_is_too_large_is_refused_announced_or_not(client: painted.Client, photo: str) -> None:
    def chunks() -> Iterator[bytes]:
        yield from [bytes(1 << 20)] * 33

    for path in ("/api/photos", f"{photo}/run?system={painted.UNET}"):
        with socket.create_connection((client.base_url.host, client.base_url.port), 30) as plain:
            head = (
                f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Palimpsest-Key: {client.headers['x-palimpsest-key']}\r\n"
            )
            plain.sendall(f"{head}Content-Length: {1 << 40}\r\n\r\n".encode())
            assert plain.recv(12) == b"HTTP/1.1 413"
    answer = client.post(f"{photo}/run", params={"system": painted.UNET}, content=chunks())
    assert answer.status_code == 413
    assert answer.json() == {"error": "too large: more than 32 MiB"}


def test_an_upload_that_breaks_off_is_no_error_of_the_server(client: painted.Client, home: Path) -> None:
    with socket.create_connection((client.base_url.host, client.base_url.port), 30) as plain:
        key = client.headers["x-palimpsest-key"]
        plain.sendall(f"POST /api/photos HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Palimpsest-Key: {key}\r\n"
                      "Content-Length: 99\r\n\r\nabc".encode())  # fmt: skip


BOMB = cv2.imencode(".png", np.zeros((1, 1), np.uint8))[1].tobytes()
BOMB = BOMB[:16] + (60_000).to_bytes(4, "big") * 2 + BOMB[24:]


@pytest.mark.parametrize("data", [b"", b"<svg/>", BOMB], ids=["empty", "no picture", "bomb"])
def test_a_photo_that_is_none_is_one_line(client: painted.Client, data: bytes) -> None:
    answer = client.post("/api/photos", params={"name": "a.png"}, content=data)
    assert answer.status_code == 400
    assert re.fullmatch(r"a\.png: [^\n]+", answer.json()["error"])


@pytest.mark.parametrize(
    ("hole", "said"),
    [
        (box(0, 0, 0, 0), "the hole: black everywhere; white marks what is missing"),
        (box(0, 0, HEIGHT, WIDTH), "the hole: white everywhere; leave something to go by"),
        (
            box(1, 1, 9, 9, (40, 40)),
            "the hole: 40 x 40 px, and the upright photo 104 x 72; draw it on the photo itself",
        ),
    ],
)
def test_a_hole_that_is_none_is_one_line(client: painted.Client, photo: str, hole: np.ndarray, said: str) -> None:
    answer = client.post(f"{photo}/run", params={"system": painted.UNET}, content=painted.mask(hole))
    assert (answer.status_code, answer.json()) == (400, {"error": said})
    assert client.state(photo)["run"] is None


def test_wrong_words_are_one_line(client: painted.Client, photo: str) -> None:
    for path in ("/api/system?name=nobody", f"{photo}/preset?kind=nothing", f"{photo}/preset?kind=eye_bar",
                 f"{photo}/preset", f"{photo}/edits/7/0.png"):  # fmt: skip
        answer = client.get(path)
        assert answer.status_code == 400, path
        assert re.fullmatch(r"[^\n]+", answer.json()["error"]), path
    assert client.put(f"{photo}/applied?edits=1").status_code == 400
    assert client.put(f"{photo}/answer?number=0").status_code == 400
    state = client.fill(photo, box(4, 4, 9, 9), system="nobody")
    assert state["run"]["state"] == "failed"
    assert state["run"]["error"].startswith("no system 'nobody' here; one of ")
    assert client.get("/api/photos/nobody").status_code == 404


def test_a_name_is_a_name_alone(client: painted.Client, home: Path) -> None:
    """It becomes no path: nothing is written, whatever the photo is called."""
    before = sorted(home.rglob("*"))
    for name in ("../../evil.png", "/etc/passwd", "<img src=x onerror=alert(1)>.png", "a\0b\r\nX: y.png"):
        photo = client.open(painted.saved(painted.picture(9, 9)), name)
        assert client.state(photo)["name"] == name
        assert client.get(f"{photo}/record.json").json()["photo"]["name"] == name
    assert sorted(home.rglob("*")) == before


def test_a_fifth_photo_closes_the_first(client: painted.Client) -> None:
    photos = [client.open(painted.saved(painted.picture(9, 9))) for _ in range(5)]
    assert [client.get(photo).status_code for photo in photos] == [404, 200, 200, 200, 200]
    assert client.delete(photos[4]).status_code == 204
    assert client.get(photos[4]).status_code == 404


# --- what it does ---


def sixteen_bits() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 1 << 16, (HEIGHT, WIDTH, 3), np.uint16, endpoint=False)
    return cv2.imencode(".png", pixels)[1].tobytes()


def seen_through() -> bytes:
    alpha = np.random.default_rng(1).integers(0, 255, (HEIGHT, WIDTH, 1), np.uint8)
    return painted.saved(np.dstack([painted.picture(HEIGHT, WIDTH), alpha]))


PHOTOS: dict[str, Callable[[], bytes]] = {
    "16 bits": sixteen_bits,
    "alpha": seen_through,
    "Display P3": lambda: painted.saved(painted.picture(HEIGHT, WIDTH), icc_profile=icc.DISPLAY_P3),
}


@pytest.mark.parametrize("kind", PHOTOS)
def test_ten_edits_leave_what_is_outside_of_their_holes(client: painted.Client, kind: str) -> None:
    """In the file that is saved: all samples of it, with the photo's own depth and colours."""
    data, rng = PHOTOS[kind](), np.random.default_rng(2)
    photo, union = client.open(data), np.zeros((HEIGHT, WIDTH), bool)
    for number in range(10):
        top, left = rng.integers(0, HEIGHT - 12), rng.integers(0, WIDTH - 12)
        hole = box(top, left, top + rng.integers(1, 12), left + rng.integers(1, 12))
        union |= hole
        state = client.fill(photo, hole)
        assert state["run"]["state"] == "done", state
        assert (len(state["edits"]), state["applied"]) == (number + 1, number + 1)
    result = client.get(f"{photo}/picture.png").content
    before, after = own(data), own(result)
    assert after.dtype == before.dtype
    assert np.array_equal(after[~union], before[~union])
    assert (after[union] != before[union]).mean() > 0.5
    assert np.array_equal(read_hole(client.get(f"{photo}/hole.png").content, (HEIGHT, WIDTH)), union)
    with Image.open(io.BytesIO(data)) as asked, Image.open(io.BytesIO(result)) as given:
        assert asked.info.get("icc_profile") == given.info.get("icc_profile")
        assert "compositeWithTrainedAlgorithmicMedia" in given.info["XML:com.adobe.xmp"]
    record = client.get(f"{photo}/record.json").json()
    assert record["files"]["photo.png"] == sha256(result).hexdigest()
    assert len(record["answers"]) == 10
    assert record["hole"] == {"painted": True, "pixels": int(union.sum()), "share": round(float(union.mean()), 6)}


def test_an_edit_sees_those_before_it_and_a_box_alone_is_sent(client: painted.Client, photo: str) -> None:
    first, second = box(10, 10, 30, 30), box(20, 20, 40, 44)
    client.fill(photo, first)
    one = read_photo(client.get(f"{photo}/picture.png").content, "one").view
    state = client.fill(photo, second)
    two = read_photo(client.get(f"{photo}/picture.png").content, "two").view
    assert np.array_equal(one[~second], two[~second])  # of the first edit what the second did not cover
    edit = state["edits"][1]
    left, top, width, height = edit["box"]
    assert (left, top, width, height) == (19, 19, 26, 22)
    patch = own(client.get(f"{photo}/edits/{edit['number']}/0.png").content)
    assert np.array_equal(patch[..., 3] > 0, second[top : top + height, left : left + width])
    shown = one.copy()
    inside = patch[..., 3] > 0
    shown[top : top + height, left : left + width][inside] = patch[inside][:, 2::-1]
    assert np.array_equal(shown, two)  # what the page shows is what is saved
    hole = client.get(f"{photo}/edits/{edit['number']}/hole.png").content
    assert np.array_equal(read_hole(hole, (HEIGHT, WIDTH)), second)


def test_steps_back_and_forward(client: painted.Client, photo: str) -> None:
    untouched = client.get(f"{photo}/picture.png").content
    pictures = [untouched]
    for hole in (box(4, 4, 20, 20), box(30, 50, 60, 90)):
        client.fill(photo, hole)
        pictures.append(client.get(f"{photo}/picture.png").content)
    assert len(set(pictures)) == 3
    for edits in (1, 0, 2, 1):
        assert client.put(f"{photo}/applied", params={"edits": edits}).json()["applied"] == edits
        assert client.get(f"{photo}/picture.png").content == pictures[edits]
        assert len(client.get(f"{photo}/record.json").json()["answers"]) == edits
    state = client.fill(photo, box(2, 2, 8, 8))  # after a step back: the second edit is gone, and its number with it
    assert [edit["number"] for edit in state["edits"]] == [0, 2]
    assert state["applied"] == 2


def test_several_answers_and_the_one_that_is_chosen(client: painted.Client, photo: str, tmp_path: Path) -> None:
    hole = box(26, 40, 42, 62)
    facts = client.get("/api/system", params={"name": "vae"}).json()
    assert facts["samples"] is True
    assert len(facts["facts"]["checkpoint"]["sha256"]) == 64
    state = client.fill(photo, hole, system="vae", answers=3, seed=5)
    assert state["run"]["state"] == "done", state
    assert state["edits"][0]["answers"] == 3
    number = state["edits"][0]["number"]
    patches = [own(client.get(f"{photo}/edits/{number}/{answer}.png").content) for answer in range(3)]
    assert len({patch.tobytes() for patch in patches}) == 3
    assert client.put(f"{photo}/answer?number=2").json()["edits"][0]["chosen"] == 2
    pixels = read_photo(client.get(f"{photo}/picture.png").content, "chosen").view
    assert np.array_equal(pixels[hole], patches[2][patches[2][..., 3] > 0][:, 2::-1])
    client.fill(photo, box(2, 2, 8, 8))
    client.put(f"{photo}/applied?edits=1")
    for answer in (0, 2):  # a later edit has seen the other answer: it goes
        assert len(client.put(f"{photo}/answer", params={"number": answer}).json()["edits"]) == 1
    (edit,) = client.get(f"{photo}/record.json").json()["answers"]
    assert (edit["answer"], edit["of"], edit["seed"]) == (3, 3, 7)
    assert edit["system"] == facts["facts"]
    assert client.put(f"{photo}/answer?number=3").status_code == 400
    result = client.get(f"{photo}/picture.png").content
    (tmp_path / "saved.png").write_bytes(result)
    (tmp_path / "photo.json").write_bytes(client.get(f"{photo}/record.json").content)
    found = restored.beside(tmp_path / "saved.png", sha256(result).hexdigest())  # as `palimpsest audit file` asks
    assert found is not None
    assert restored.answers(found[1], sha256(result).hexdigest()) == [edit]


def test_it_is_cancelled_and_nothing_changes(client: painted.Client) -> None:
    """While it runs, and while it waits for another one; meanwhile no step is taken."""
    big = painted.saved(painted.picture(500, 500))
    dots = np.zeros((500, 500), bool)
    dots[np.ix_(np.arange(500) % 100 < 25, np.arange(500) % 100 < 25)] = True  # it can stop between pieces
    running, waiting = client.open(big), client.open(big)
    for photo in (running, waiting):
        assert client.post(f"{photo}/run?system={painted.UNET}", content=painted.mask(dots)).status_code == 202
    assert client.post(f"{running}/run?system={painted.UNET}", content=painted.mask(dots)).status_code == 409
    assert client.put(f"{running}/applied?edits=0").status_code == 409
    for photo in (waiting, running):
        client.delete(f"{photo}/run")
        state = client.ended(photo)
        assert (state["run"]["state"], state["edits"], state["applied"]) == ("cancelled", [], 0)
    assert client.fill(waiting, box(3, 3, 9, 9, (500, 500)))["run"]["state"] == "done"


def test_a_preset_is_a_hole_of_the_photo(client: painted.Client, photo: str) -> None:
    hole = read_hole(client.get(f"{photo}/preset", params={"kind": "centre"}).content, (HEIGHT, WIDTH))
    assert hole[HEIGHT // 2, WIDTH // 2]
    assert not hole[0].any()
    drawn = [client.get(f"{photo}/preset", params={"kind": "lines", "seed": seed}).content for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_covered_eyes_are_aligned_by_the_rest_of_the_face(shared: Path, tmp_path: Path) -> None:
    """By a hole that was painted over them, or by a bar that was found; the photo's other face is not forgotten."""
    detector = shared / "weights/face_detection_yunet_2023mar.onnx"
    seen = np.hstack(
        [cv2.imread(str(shared / f"data/lfw/{name}/{name}_0001.jpg")) for name in ("Anne_Donovan", "Bill_Curry")]
    )
    left, right = sorted(ByYuNet(detector).faces(seen[..., ::-1].copy()), key=lambda face: face.box[0])
    (x, y), apart = left.landmarks[:2].mean(0), np.hypot(*(left.landmarks[1] - left.landmarks[0]))
    across, down = np.array([-0.9, 0.9]) * apart, np.array([-0.28, 0.28]) * apart
    hole = box(*(int(end) for end in (y + down[0], x + across[0], y + down[1], x + across[1])), seen.shape[:2])
    seen[hole] = 0
    headers = {"x-palimpsest-key": "key"}
    with TestClient(create(tmp_path, "key", detector=detector), "http://127.0.0.1", headers=headers) as client:
        for found in (False, True):
            photo = client.post("/api/photos", content=cv2.imencode(".png", seen)[1].tobytes()).json()["id"]
            path = f"/api/photos/{photo}"
            if found:
                covered = read_hole(client.get(f"{path}/preset?kind=covered").content, hole.shape)
                assert (covered & hole).sum() > 0.9 * (covered | hole).sum()
                bars = read_hole(client.get(f"{path}/preset?kind=eye_bar").content, hole.shape)
                assert [bars[tuple(face.landmarks[:2].mean(0).astype(int)[::-1])] for face in (left, right)] == [
                    True
                ] * 2
            client.post(f"{path}/run?system=telea", content=painted.mask(hole))
            while client.get(path).json()["run"]["state"] in ("waiting", "running"):
                time.sleep(0.01)
            (edit,) = client.get(f"{path}/record.json").json()["answers"]
            assert len(edit["faces"]) == 2
            (frame,) = edit["frames"]
            eyes = np.array(edit["faces"][frame["face"]]["landmarks"])[:2]
            assert np.hypot(*(eyes - left.landmarks[:2]).T).max() < 0.1 * apart


def test_a_photo_that_no_browser_shows_is_sent_as_a_jpeg(client: painted.Client) -> None:
    pixels = painted.picture(HEIGHT, WIDTH)
    photo = client.open(painted.saved(pixels, "TIFF"), "a.tif")
    with Image.open(io.BytesIO(client.get(f"{photo}/view.jpg").content)) as shown:
        assert shown.format == "JPEG"
        assert np.abs(np.asarray(shown).astype(int) - pixels).mean() < 4


# --- its parts ---


def test_a_smaller_hole_of_the_same_shape_is_enlarged() -> None:
    small = box(1, 2, 3, 6, (9, 13))
    large = read_hole(painted.mask(small), (72, 104))
    assert np.array_equal(large, np.kron(small, np.ones((8, 8), bool)))
    grey = cv2.imencode(".png", np.full((9, 13), 127, np.uint8) + small)[1].tobytes()
    assert np.array_equal(read_hole(grey, (9, 13)), small)  # 128 is missing, 127 is known


def test_a_record_is_signed_where_there_is_a_key(tmp_path: Path) -> None:
    signer = CryptoSigner.generate_ecdsa()
    headers = {"x-palimpsest-key": "key"}
    with TestClient(create(tmp_path, "key", signer=signer), "http://127.0.0.1", headers=headers) as client:
        assert client.get("/api/start").json()["signed"] is True
        photo = client.post("/api/photos?name=a.b.png", content=painted.saved(painted.picture(9, 9))).json()["id"]
        record = client.get(f"/api/photos/{photo}/record.json").content
        signature = client.get(f"/api/photos/{photo}/record.json.sig").json()
    envelope = Envelope.from_dict(signature["dsseEnvelope"])
    envelope.verify([signer.public_key], 1)
    (subject,) = json.loads(envelope.payload)["subject"]
    assert subject["name"] == "a.b.json"
    assert sha256(record).hexdigest() in envelope.payload.decode()


def test_edits_are_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    session = Session(read_photo(painted.saved(painted.picture(HEIGHT, WIDTH)), "a.png"))
    hole, system = box(0, 0, 10, 10), open_system(tmp_path, "telea")
    answer = Answer(np.zeros((100, 3), np.uint8), {})
    monkeypatch.setattr("flows.painting.session.KEPT_BYTES", 3 * (300 + 121))
    edits: list[Any] = [session.add(hole, system, [answer]) for _ in range(3)]
    with pytest.raises(InputError, match="too many edits to keep; save the picture"):
        session.add(hole, system, [answer])
    session.step(2)
    assert session.add(hole, system, [answer]) is session.edits[2]
    assert session.edits[:2] == edits[:2]


def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(InputError, match="choose another"):
        serve(tmp_path, taken.getsockname()[1])
