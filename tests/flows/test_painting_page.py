"""The page of `palimpsest restore --serve`, in a real browser: by mouse, fingers and keys, on a desktop and a phone."""

import base64
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import painted
import profiles_made as icc
import pytest
from browser import CONTROL, SHIFT, Browser, Page
from PIL import Image

from flows.restoration.holes import from_bytes

HEIGHT, WIDTH = 150, 200
IDLE = "!document.body.hasAttribute('aria-busy')"


@pytest.fixture(scope="module")
def address(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with painted.serving(tmp_path_factory.mktemp("served")) as (address, _):
        yield address


class Painting:
    """The page with what a person does on it."""

    def __init__(self, page: Page, downloads: Path) -> None:
        self.page, self._downloads = page, downloads
        page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads), eventsEnabled=True)
        self.idle()

    def idle(self) -> str:
        """What the page says as soon as it is idle."""
        self.page.until(IDLE)
        return self.page.evaluate("document.querySelector('#status').textContent || '! ' + "
                                  "document.querySelector('#alert').textContent")  # fmt: skip

    def give(self, data: bytes, name: str, event: str = "drop") -> str:
        """Drop or paste a file."""
        self.page.evaluate(f"""(() => {{
            const bytes = Uint8Array.from(atob("{base64.b64encode(data).decode()}"), (sign) => sign.charCodeAt(0));
            const files = new DataTransfer();
            files.items.add(new File([bytes], {json.dumps(name)}, {{type: "image/png"}}));
            const event = "{event}" === "drop" ? new DragEvent("drop", {{dataTransfer: files, bubbles: true}})
                : new ClipboardEvent("paste", {{clipboardData: files, bubbles: true}});
            document.querySelector("#stage").dispatchEvent(event);
        }})()""")
        return self.idle()

    def choose_file(self, selector: str, path: Path) -> str:
        """Choose a file, as in the browser's dialogue."""
        root = self.page.call("DOM.getDocument")["root"]["nodeId"]
        node = self.page.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.page.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])
        return self.idle()

    def pick(self, selector: str, value: str) -> str:
        self.page.evaluate(f"""(() => {{
            const field = document.querySelector({json.dumps(selector)});
            field.value = {json.dumps(value)};
            field.dispatchEvent(new Event(field.tagName === "SELECT" ? "change" : "input"));
        }})()""")
        return self.idle()

    def press(self, selector: str) -> str:
        self.page.click(selector)
        return self.idle()

    def downloaded(self, selector: str, name: str) -> bytes:
        """The file that a button saves."""
        file = self._downloads / name
        file.unlink(missing_ok=True)
        self.press(selector)
        end = time.monotonic() + 20
        while not (file.exists() and file.stat().st_size):  # the browser begins with an empty file of this name
            assert time.monotonic() < end, sorted(self._downloads.iterdir())
            time.sleep(0.02)
        return file.read_bytes()

    def hole(self, photo: str = "photo") -> np.ndarray:
        """The painted hole, from the file that its button saves."""
        data = self.downloaded("#save-hole", f"{photo}.hole.png")
        with Image.open(io.BytesIO(data)) as picture:
            assert picture.mode == "RGB"  # without alpha
            return np.asarray(picture)[..., 0] > 127

    def at(self, x: float, y: float) -> tuple[float, float]:
        """A place of the photo, in the window."""
        self.page.evaluate("new Promise(requestAnimationFrame)")  # in which the photo is moved
        left, top, scale = self.page.evaluate("""(() => {
            const box = document.querySelector("#photo").getBoundingClientRect();
            return [box.x, box.y, box.width / document.querySelector("#photo").naturalWidth];
        })()""")
        return left + x * scale, top + y * scale

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        self.page.drag(self.at(*start), self.at(*end))

    def tool(self, name: str) -> None:
        self.page.evaluate(f"document.querySelector('#tool [value={name}]').click()")


@pytest.fixture
def painting(chromium: Browser, address: str, tmp_path: Path) -> Iterator[Painting]:
    """The page with a photo; at the end it must have complained of nothing, and asked nobody else."""
    with chromium.open(address) as page:
        painting = Painting(page, tmp_path)
        assert "Choose a photo" in painting.idle()
        painting.give(painted.saved(painted.picture(HEIGHT, WIDTH)), "photo.png")
        yield painting
        assert page.errors() == []
        origin = address.partition("#")[0]
        assert [one for one in page.requests() if not one.startswith((origin, f"blob:{origin}"))] == []
        page.evaluate("onbeforeunload = null")


def disc(x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.indices((HEIGHT, WIDTH))
    return np.hypot(columns + 0.5 - x, rows + 0.5 - y) <= radius


def test_each_tool_paints_what_it_says(painting: Painting) -> None:
    painting.pick("#size", "75")
    size = painting.page.evaluate("parseInt(document.querySelector('#size-said').textContent)")
    painting.drag((40, 40), (120, 40))  # the brush
    hole = painting.hole()
    expected = disc(40, 40, size / 2) | disc(120, 40, size / 2)
    assert (hole & expected).sum() > 0.97 * expected.sum()
    assert hole[40, 40:120].all()
    assert not hole[:, :18].any()
    assert abs(int(hole[:, 80].sum()) - size) <= 1
    painting.tool("eraser")
    painting.drag((80, 20), (80, 60))
    assert not painting.hole()[30:50, 80].any()
    painting.tool("line")
    painting.drag((30, 90), (170, 130))
    hole = painting.hole()
    assert hole[110, 100]
    assert not hole[90, 170]
    painting.press("#clear")
    painting.tool("rectangle")
    painting.drag((150.2, 20.2), (170.7, 44.7))
    rows, columns = np.nonzero(painting.hole())
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 44, 150, 170)
    assert len(rows) == 25 * 21


def test_undo_redo_invert_clear_and_the_file_of_a_hole(painting: Painting) -> None:
    painting.page.press("Enter")  # nothing is focused: no pen
    states = [np.zeros((HEIGHT, WIDTH), bool)]
    for start, end in (((20, 20), (60, 30)), ((90, 90), (150, 95))):
        painting.drag(start, end)
        states.append(painting.hole())
    painting.page.press("i")
    states.append(painting.hole())
    assert np.array_equal(states[3], ~states[2])
    painting.page.press("Delete")
    assert painting.page.evaluate("document.querySelector('#status').textContent") == "There is no hole."
    painting.page.press("z", modifiers=CONTROL)
    assert np.array_equal(painting.hole(), states[3])
    for state in (states[2], states[1]):
        painting.page.press("z", modifiers=CONTROL)
        assert np.array_equal(painting.hole(), state)
    painting.page.press("Z", modifiers=CONTROL | SHIFT)
    assert np.array_equal(painting.hole(), states[2])
    file = painting._downloads / "photo.hole.png"
    painting.press("#clear")
    assert painting.choose_file("#hole-file", file).startswith("The hole covers")
    assert np.array_equal(painting.hole(), states[2])  # the same hole again, pixel by pixel
    other = painting._downloads / "other.png"
    other.write_bytes(painted.mask(np.ones((50, 50), bool)))
    assert painting.choose_file("#hole-file", other) == (
        "! The hole is 50 x 50, the photo 200 x 150. Choose a hole of the photo's size."
    )


def test_filled_compared_stepped_and_saved(painting: Painting) -> None:
    """On a photo in other colours than the screen's: what is saved is its own samples, but for the hole."""
    photo = painted.picture(HEIGHT, WIDTH, seed=3)
    data = painted.saved(photo, icc_profile=icc.DISPLAY_P3)
    painting.give(data, "photo.png", event="paste")
    painting.drag((60, 60), (100, 80))
    hole = painting.hole()
    assert painting.press("#run") == "Filled."
    assert painting.page.evaluate("document.querySelectorAll('#patches img').length") == 1
    saved = painting.downloaded("#save-picture", "photo.png")
    with Image.open(io.BytesIO(saved)) as picture:
        assert picture.info["icc_profile"] == icc.DISPLAY_P3
        pixels = np.asarray(picture)
    assert np.array_equal(pixels[~hole], photo[~hole])
    assert (pixels[hole] != photo[hole]).any()
    assert np.array_equal(from_bytes(painting.downloaded("#save-holes", "photo.hole.png"), (HEIGHT, WIDTH), ""), hole)
    record = json.loads(painting.downloaded("#save-record", "photo.json"))
    assert [edit["system"]["system"] for edit in record["answers"]] == ["unet"]

    shown = "getComputedStyle(document.querySelector('#patches')).display"
    painting.page.evaluate("document.activeElement.blur()")
    with painting.page.held("c"):
        painting.page.until(f"{shown} === 'none'")
    painting.page.until(f"{shown} !== 'none'")
    painting.pick("#split", "30")
    painting.page.until("document.querySelector('#patches').style.clipPath === 'inset(0px 0px 0px 30%)'")
    painting.page.drag("#divider", painting.at(WIDTH / 2, 75))
    painting.page.until("Math.abs(document.querySelector('#split').value - 50) < 2")

    assert painting.press("#back") == "The photo as it was."
    assert painting.page.evaluate("document.querySelectorAll('#patches img').length") == 0
    assert painting.press("#history li:nth-child(2) button") == "Edit 1 of 1."
    painting.press("#again")
    assert np.array_equal(painting.hole(), hole)


def test_a_file_that_comes_early_is_opened(chromium: Browser, address: str, tmp_path: Path) -> None:
    """While the first system is being opened."""
    with chromium.open() as page:
        page.call(
            "Page.addScriptToEvaluateOnNewDocument",
            source="""
            document.addEventListener("readystatechange", () => new MutationObserver((_, watching) => {
                if (!document.body.hasAttribute("aria-busy")) return;
                watching.disconnect();
                const files = new DataTransfer();
                files.items.add(new File(["no picture"], "early.png"));
                document.querySelector("#stage").dispatchEvent(
                    new DragEvent("drop", {dataTransfer: files, bubbles: true}));
            }).observe(document.body, {attributes: true}), {once: true})
        """,
        )
        page.open(address)
        page.until("document.querySelector('#alert').textContent.startsWith('early.png: ')")
        page.until("document.querySelector('#facts').textContent.includes('sha256')")  # and the system is


def test_several_answers_and_where_they_come_from(painting: Painting) -> None:
    painting.tool("rectangle")
    painting.drag((90, 65), (110, 85))
    assert painting.pick("#system", "vae") == "The system is ready."
    painting.pick("#answers", "3")
    assert painting.press("#run") == "Filled, with 3 answers to choose from."
    painting.page.evaluate("document.activeElement.blur()")
    sources = set()
    for number in "123":
        painting.page.press(number)
        assert painting.idle() == f"Answer {number} of 3."
        sources.add(painting.page.evaluate("document.querySelector('#patches img').src"))
        assert painting.page.evaluate("document.querySelector('#choice :checked').value") == str(int(number) - 1)
    assert len(sources) == 3
    painting.page.evaluate("document.querySelector('#origin').open = true")
    said = painting.page.evaluate("document.querySelector('#facts').innerText")
    assert "context_encoder" in said
    assert "sha256" in said


def test_what_goes_wrong_is_said(painting: Painting) -> None:
    assert painting.give(b"no picture", "a.png").startswith("! a.png: ")
    assert painting.pick("#preset", "eye_bar").startswith("! no face found")
    assert painting.pick("#preset", "centre").startswith("The hole covers")
    painting.press("#clear")
    assert painting.press("#run") == "! the hole: black everywhere; white marks what is missing"
    painting.pick("#system", "vae")
    painting.page.evaluate("document.querySelector('#answers').value = ''")
    assert painting.press("#run") == "! Answers: give a whole number from 1 to 8."
    entries = [one for one in painting.page.events if one["method"] == "Log.entryAdded"]
    assert entries  # the browser logs refused requests as errors of its own
    painting.page.events = [one for one in painting.page.events if one not in entries]


def test_a_name_is_no_markup(painting: Painting) -> None:
    name = "<img src=x onerror=document.title='hit'>.png"
    painting.give(painted.saved(painted.picture(60, 80)), name)
    painting.drag((20, 20), (40, 30))
    painting.press("#run")
    assert painting.page.evaluate("document.querySelector('#name').textContent").startswith(name)
    assert painting.page.evaluate("document.title") == "Palimpsest: restore a photo"
    assert painting.downloaded("#save-picture", "_img src=x onerror=document.title='hit'_.png")


def test_photos_on_their_side_and_those_that_no_browser_shows(painting: Painting) -> None:
    """What is painted lies where it was painted, in the upright photo."""
    photo = painted.picture(60, 90)
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by a quarter, clockwise
    files = {"side.jpg": painted.saved(photo, "JPEG", exif=turned), "a.tif": painted.saved(photo, "TIFF")}
    turned[0x0112] = 3  # upside down, which no size tells; browsers do not turn WebP
    files["head.webp"] = painted.saved(photo, "WEBP", exif=turned, lossless=True)
    for (name, data), (width, height) in zip(files.items(), [(60, 90), (90, 60), (90, 60)], strict=True):
        assert painting.give(data, name).startswith("Paint over")
        size = painting.page.evaluate("(({naturalWidth, naturalHeight}) => [naturalWidth, naturalHeight])"
                                      "(document.querySelector('#photo'))")  # fmt: skip
        assert size == [width, height]
        painting.tool("rectangle")
        painting.drag((10.5, 20.5), (19.5, 39.5))
        rows, columns = np.nonzero(painting.hole(name.partition(".")[0]))
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 39, 10, 19)
    corner = painting.page.evaluate("""(() => {
        const context = document.createElement("canvas").getContext("2d");
        context.drawImage(document.querySelector("#photo"), 0, 0);
        return [...context.getImageData(2, 2, 1, 1).data].slice(0, 3);
    })()""")
    np.testing.assert_allclose(corner, photo[-3, -3], atol=12)
    painting.page.events = [one for one in painting.page.events if one["method"] != "Log.entryAdded"]


def test_cancel_leaves_the_hole(painting: Painting) -> None:
    painting.give(painted.saved(painted.picture(500, 500)), "photo.png")
    dots = np.zeros((500, 500), bool)
    dots[np.ix_(np.arange(500) % 60 < 25, np.arange(500) % 60 < 25)] = True
    file = painting._downloads / "dots.png"
    file.write_bytes(painted.mask(dots))
    painting.choose_file("#hole-file", file)
    painting.page.evaluate("document.querySelector('#run').click()")
    painting.page.until("!document.querySelector('#cancel').hidden")
    painting.page.press("Escape")
    assert painting.idle() == "Cancelled. The hole is still there."
    assert painting.page.evaluate("document.querySelectorAll('#patches img').length") == 0
    assert np.array_equal(painting.hole(), dots)


def test_zoom_pan_and_the_brush_by_wheel_and_keys(painting: Painting) -> None:
    page = painting.page

    def scale() -> float:
        page.evaluate("new Promise(requestAnimationFrame)")
        return page.evaluate("document.querySelector('#photo').getBoundingClientRect().width") / WIDTH

    fitted, place = scale(), painting.at(50, 40)
    page.wheel(place, -200)
    page.until(f"document.querySelector('#photo').getBoundingClientRect().width > {fitted * WIDTH * 1.4}")
    assert np.allclose(painting.at(50, 40), place, atol=0.6)  # what is under the pointer stays there
    painting.tool("move")
    page.drag(place, (place[0] + 30, place[1] + 20))
    scale()
    assert np.allclose(painting.at(50, 40), (place[0] + 30, place[1] + 20), atol=0.6)
    page.press("0")
    assert scale() == pytest.approx(fitted)

    def size() -> int:
        return page.evaluate("parseInt(document.querySelector('#size-said').textContent)")

    before = size()
    page.press("]", "]")
    assert size() > before * 1.4
    page.wheel("#stage", 100, modifiers=SHIFT)
    page.wheel("#stage", 100, modifiers=SHIFT)
    page.until(f"parseInt(document.querySelector('#size-said').textContent) == {before}")
    assert scale() == pytest.approx(fitted)


def test_by_keyboard_alone(painting: Painting) -> None:
    page = painting.page
    focused = "document.activeElement.id || document.activeElement.value"
    order = []
    while not order or order[-1] not in ("stage", None):
        page.press("Tab")
        order.append(page.evaluate(focused))
    assert order == ["open", "brush", "size", "out", "fit", "in", "invert", "clear", "preset", "load-hole", "stage"]
    page.press("r")  # a rectangle: from one corner to the other
    for _ in range(5):
        page.press("ArrowLeft", modifiers=SHIFT)
    page.press("Enter")
    for _ in range(12):
        page.press("ArrowRight", modifiers=SHIFT)
    for _ in range(7):
        page.press("ArrowDown", modifiers=SHIFT)
    page.press("Enter")
    page.press("Enter", modifiers=CONTROL)
    page.until("document.querySelector('#status').textContent === 'Filled.'")
    painting.idle()
    assert page.evaluate(focused) == "stage"  # what had the focus has it still
    page.press("z", modifiers=CONTROL)
    rows, columns = np.nonzero(painting.hole())
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (75, 81, 95, 106)
    painting.press("#history button[aria-current]")
    assert page.evaluate("document.activeElement.ariaCurrent") == "step"


def test_a_screen_reader_finds_names_and_news(painting: Painting) -> None:
    nodes = painting.page.call("Accessibility.getFullAXTree")["nodes"]

    def held(node: dict[str, Any], key: str) -> Any:
        return node.get(key, {}).get("value")

    used = [node for node in nodes if not node["ignored"]
            and held(node, "role") in ("button", "slider", "radio", "combobox", "spinbutton", "checkbox")]  # fmt: skip
    assert len(used) > 25
    assert [node for node in used if not held(node, "name")] == []
    roles = {held(node, "role") for node in nodes}
    assert {"status", "toolbar", "application", "image", "heading"} <= roles
    names = [held(node, "name") for node in used]
    assert {"Brush", "Eraser", "Undo", "Fill", "Add a ready-made hole", "Picture"} <= set(names)


def test_on_a_phone_one_finger_paints_and_two_zoom(painting: Painting) -> None:
    page = painting.page
    page.screen(390, 844, phone=True, dark=True)
    page.until("document.querySelector('#photo').getBoundingClientRect().width < 390")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches && getComputedStyle(document.body)"
                         ".backgroundColor") == "rgb(21, 25, 30)"  # fmt: skip

    def touch(kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(places)]
        page.call("Input.dispatchTouchEvent", type=f"touch{kind}", touchPoints=points)

    start, end = painting.at(40, 40), painting.at(90, 60)
    touch("Start", start)
    touch("Move", ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2))
    touch("Move", end)
    touch("End")
    hole = painting.hole()
    assert hole[40, 40]
    assert hole[60, 90]
    width = page.evaluate("document.querySelector('#photo').getBoundingClientRect().width")
    left, right = painting.at(80, 75), painting.at(120, 75)
    touch("Start", left)
    touch("Start", left, right)
    for shift in (10, 20, 30):
        touch("Move", (left[0] - shift, left[1]), (right[0] + shift, right[1]))
    touch("End")
    page.until(f"document.querySelector('#photo').getBoundingClientRect().width > {1.3 * width}")
    assert np.array_equal(painting.hole(), hole)  # what the first finger had begun is forgotten
