"""The report's page in a browser: what its script shows, and that the page is whole without it."""

import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pretend
import pytest
from browser import SHIFT, Browser, Page
from test_report import HOSTILE, fill, hostile, made, scores_of

from stages.images.table import Table

SIDE = 32  # pixels of the pretended pictures


@pytest.fixture(scope="module")
def data(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("page") / "data")


@pytest.fixture(scope="module")
def address(data: Path) -> str:
    return (made(data, data / "report") / "index.html").as_uri()


@pytest.fixture
def page(chromium: Browser, address: str) -> Iterator[Page]:
    with chromium.open(address) as page:
        page.until("document.querySelector('[role=option]')")
        yield page
        assert page.errors() == []


def choose(page: Page, **values: str) -> None:
    """Choose values of the form's fields, as a user does, and wait until they are shown."""
    for name, value in values.items():
        page.evaluate(f"""(() => {{
            const form = document.querySelector("#compare");
            form.elements.{name}.value = "{value}";
            const field = form.querySelector("[name={name}]:checked") ?? form.elements.{name};
            field.dispatchEvent(new Event("input", {{bubbles: true}}));
        }})()""")
    settle(page)


def settle(page: Page) -> None:
    """Wait until what was chosen is shown, and kept in the address."""
    page.evaluate("new Promise((done) => setTimeout(() => requestAnimationFrame(() => setTimeout(done)), 250))")


def field(page: Page, name: str) -> str:
    return page.evaluate(f"document.querySelector('#compare').elements.{name}.value")


def frames(page: Page, folder: Path) -> list[np.ndarray]:
    """What the visible frames show: the middle of each of the picture's pixels, uint8 SIDE x SIDE x 3 each."""
    boxes = page.evaluate("""[...document.querySelectorAll("figure:not([hidden]) > .frame")].map((frame) => {
        frame.scrollIntoView({block: "nearest"});
        const box = frame.getBoundingClientRect();
        return [box.x, box.y, box.width];
    })""")
    shot = cv2.imread(str(page.screenshot(folder / "shot.png")))[..., ::-1]
    found = []
    for x, y, width in boxes:
        steps = (np.arange(SIDE) + 0.5) * width / SIDE
        found.append(shot[(y + steps).astype(int)][:, (x + steps).astype(int)])
    return found


def filled(data: Path, system: str, number: int = 0, kind: str = "centre") -> np.ndarray:
    """What a system made of a picture, raw."""
    table = Table(data / "inpainted" / system / "completed.arrow")
    return table.pictures(table.find([(*first(number), kind)]))[0]


def first(number: int) -> tuple[str, str]:
    """The key of the picture that comes at this place by image_id."""
    return sorted(pretend.key(number) for number in range(6))[number]


def truth(number: int = 0) -> np.ndarray:
    return pretend.picture(int(first(number)[1][:4]), SIDE)


def test_any_two_lie_under_a_slider(page, data, tmp_path):
    (shown,) = frames(page, tmp_path)
    net = filled(data, "net")
    np.testing.assert_array_equal(shown[:, : SIDE // 2 - 1], truth()[:, : SIDE // 2 - 1])
    np.testing.assert_array_equal(shown[:, SIDE // 2 + 1 :], net[:, SIDE // 2 + 1 :])
    x, y = page.place(".frame")
    page.drag((x, y), (x - 1000, y))
    settle(page)
    assert field(page, "at") == "0"
    np.testing.assert_array_equal(frames(page, tmp_path)[0][:, 1:], net[:, 1:])
    page.press("ArrowRight")
    assert field(page, "at") == "2"
    choose(page, left="hole", right="telea_co raw", at="100")
    hole = np.where(pretend.draw("centre", 0, SIDE)[..., None], 255, truth())
    np.testing.assert_array_equal(frames(page, tmp_path)[0][:, :-1], hole[:, :-1])


def test_side_by_side_with_their_difference(page, data, tmp_path):
    choose(page, view="side", times="1")
    left, right, difference = frames(page, tmp_path)
    net = filled(data, "net")
    np.testing.assert_array_equal(left, truth())
    np.testing.assert_array_equal(right, net)
    apart = np.abs(net.astype(int) - truth())
    assert apart.max() > 50
    np.testing.assert_array_equal(difference, apart)
    choose(page, view="difference", times="3")
    np.testing.assert_allclose(frames(page, tmp_path)[0], np.minimum(3 * apart, 255), atol=1)


def test_number_keys_flicker(page, data, tmp_path):
    choose(page, view="right")
    page.click(".panes")
    seen = []
    for key in "1233443":
        page.press(key)
        seen.append(field(page, "right"))
    assert seen == ["truth", "hole", "net raw", "net blended", "telea_co raw", "telea_co blended", "net raw"]
    page.press("4", modifiers=SHIFT)
    assert field(page, "left") == "telea_co raw"
    page.press("x", "n")
    settle(page)
    np.testing.assert_array_equal(frames(page, tmp_path)[0], filled(data, "telea_co", kind="pixels"))


def test_zoom_and_place_are_those_of_every_frame_and_of_the_address(page, chromium, address, tmp_path):
    choose(page, view="side", order="best", kind="pixels", system="telea_co blended")
    x, y = page.place(".frame")
    page.click((x, y), count=2)
    page.drag((x, y), (x + 20, y - 10))
    page.wheel((x, y), -120)
    settle(page)
    (matrix,) = page.evaluate("""[...new Set([...document.querySelectorAll("figure .tile")]
        .filter((tile) => tile.offsetParent).map((tile) => getComputedStyle(tile).transform))]""")
    zoom, *_, across, down = map(float, matrix.removeprefix("matrix(").rstrip(")").split(","))
    assert zoom > 4
    assert across < 0 > down
    link = page.evaluate("location.href")
    assert link.startswith(f"{address}#compare?")
    with chromium.open(link) as again:
        again.until("document.querySelector('[role=option]')")
        settle(again)
        assert again.evaluate("location.href") == link
        for one, other in zip(frames(page, tmp_path), frames(again, tmp_path), strict=True):
            np.testing.assert_array_equal(one, other)
        again.evaluate("location.hash = '#compare?system=gone+raw&view=none&kind=centre&zoom=x'")
        settle(again)
        names = ("system", "view", "kind", "zoom")
        assert [field(again, name) for name in names] == ["net raw", "slider", "centre", "1"]


def test_pictures_are_filtered_and_the_worst_come_first(page, data):
    choose(page, kind="centre", system="telea_co raw", score="ssim_hole", order="worst")
    rows = [row for row in scores_of(data, "telea_co") if (row["kind"], row["blending"]) == ("centre", "raw")]
    rows = [row for row in rows if row["path"] != first(5)[1]]  # `compared: 5`
    worst = sorted(rows, key=lambda row: row["ssim_hole"])
    names = "[...document.querySelectorAll('[role=option]')].map((one) => one.children[1].textContent)"
    assert page.evaluate(names) == [row["path"] for row in worst]
    limit = (worst[1]["ssim_hole"] + worst[2]["ssim_hole"]) / 2
    choose(page, order="best", **{"from": str(limit)})
    assert page.evaluate(names) == [row["path"] for row in worst[:1:-1]]
    assert page.evaluate("document.querySelector('.found').textContent") == "3 of 10 completed holes"
    page.evaluate("document.querySelector('.list').focus()")
    page.press("End")
    settle(page)
    chosen = page.evaluate("document.querySelector('[aria-selected=true]').id")
    assert page.evaluate("document.querySelector('.list').getAttribute('aria-activedescendant')") == chosen
    assert worst[2]["path"] in page.evaluate("document.querySelector('.said').textContent")


def test_what_is_not_in_view_is_not_drawn(page):
    page.evaluate("document.querySelector('.list').style.height = '100px'")
    choose(page, order="best")
    assert page.evaluate("document.querySelectorAll('[role=option]').length") < 10
    last = page.evaluate("document.querySelectorAll('#cell-9').length")
    page.evaluate("document.querySelector('.list').scrollTop = 1e6")
    page.until("document.querySelector('#cell-9')")
    assert last == 0


def test_it_says_what_made_a_picture(page):
    said = page.evaluate("document.querySelector('.source').innerText")
    assert "3 pictures were read in its training, and this picture is not one of them" in said
    assert f"palimpsest audit image {first(0)[0]}" in said
    page.call("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    page.click("[data-copy*=checkpoint]")
    page.until("document.querySelector('.copied').textContent")
    assert page.evaluate("navigator.clipboard.readText()").startswith("palimpsest audit checkpoint ")


def test_tables_of_scores_are_sorted_by_a_click(page):
    column = (
        "[...document.querySelector('table.sorted').tBodies[0].rows].map((row) => parseFloat(row.cells[2].innerText))"
    )
    before = page.evaluate(column)
    assert len(set(before)) > 2
    heading = "table.sorted th:nth-child(3) button"
    page.click(heading)
    assert page.evaluate(column) == sorted(before, reverse=True)
    page.press("Enter")
    assert page.evaluate(column) == sorted(before)
    assert page.evaluate("document.querySelector('table.sorted th:nth-child(3)').ariaSort") == "ascending"


def test_every_control_has_a_name(page):
    """As a screen reader is told it."""
    roles = ("button", "combobox", "listbox", "option", "radio", "radiogroup", "slider", "spinbutton", "image", "link")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    found = [node for node in nodes if not node["ignored"] and node["role"]["value"] in roles]
    assert {node["role"]["value"] for node in found} == set(roles)
    assert [node for node in found if not node["name"]["value"].strip()] == []


def test_on_a_phone_and_in_the_dark(page):
    page.screen(390, 844, phone=True, dark=True)
    settle(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    style = page.evaluate(
        "(({backgroundColor, color}) => `${backgroundColor} ${color}`)(getComputedStyle(document.body))"
    )
    levels = [int(number) for number in re.findall(r"\d+", style)]
    assert max(levels[:3]) < 60
    assert min(levels[3:]) > 200


def test_it_asks_for_nothing_but_the_files_beside_it(page, address):
    home = address.removesuffix("report/index.html")
    asked = [one for one in page.requests() if not one.startswith("data:")]  # pictures of the browser's own controls
    assert len(asked) > 5
    assert [one for one in asked if not one.startswith(home)] == [home.removesuffix("data/") + ".palimpsest/costs.html"]


def test_hostile_names_stay_names(chromium, tmp_path):
    with chromium.open((hostile(tmp_path) / "index.html").as_uri()) as page:
        page.until("document.querySelector('[role=option]')")
        choose(page, order="worst")
        assert page.errors() == []
        assert page.evaluate("document.images.length - document.querySelectorAll('figure img').length") == 0
        assert field(page, "system") == f"{HOSTILE} raw"
        page.screen(390, 844, phone=True)
        settle(page)
        assert page.evaluate("document.documentElement.scrollWidth") == 390  # long as they are
        assert f"</script>{HOSTILE}" in page.evaluate("document.querySelector('.said').textContent")


def test_without_scripts_it_is_the_plain_page(chromium, address):
    with chromium.open() as page:
        page.call("Emulation.setScriptExecutionDisabled", value=True)
        page.open(address)
        assert page.evaluate("getComputedStyle(document.querySelector('#compare')).display") == "none"
        text = page.evaluate("document.body.innerText")
        assert "Without scripts, pictures cannot be compared one by one." in text
        assert page.evaluate("document.querySelectorAll('table.sorted button').length") == 0
        assert page.evaluate("document.querySelectorAll('img[src^=sheet]').length") == 2
