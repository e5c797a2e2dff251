"""A headless browser for the tests of pages: chromium, driven over its DevTools protocol.

`with browser.start() as chromium, chromium.open(address) as page:` and then `page.evaluate("document.title")`. The
fixture `chromium` of conftest.py starts one for all tests of a process. What no method here does, `page.call` does:
https://chromedevtools.github.io/devtools-protocol/ lists the commands and their parameters.
"""

import base64
import contextlib
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WAIT = 120.0  # seconds for whatever is waited for: the machine may be busy
# DevTools asks for the number of a key, too, where the key writes no letter.
NUMBERS = {"Backspace": 8, "Tab": 9, "Enter": 13, "Escape": 27, "PageUp": 33, "PageDown": 34, "End": 35, "Home": 36,
           "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Delete": 46}  # fmt: skip
ALT, CONTROL, META, SHIFT = 1, 2, 4, 8  # added up, they are a method's `modifiers`


class Page:
    """A tab. Places are (x, y) in CSS pixels from the window's top left corner, or a CSS selector: its middle."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection, self._last = connection, 0
        self.events: list[dict[str, Any]] = []  # what the browser has told so far: {"method": ..., "params": ...}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer to a command of the protocol. Raises AssertionError where the browser refuses it."""
        self._last += 1
        self._connection.send(json.dumps({"id": self._last, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(WAIT))
            if message.get("id") == self._last:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            self.events.append(message)

    def evaluate(self, expression: str) -> Any:
        """The value of JavaScript, which may be a promise. Raises AssertionError with what the script throws."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]["exception"].get("description")
        return answer["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait until JavaScript counts as true. Raises AssertionError where it never does."""
        end = time.monotonic() + WAIT
        while not self.evaluate(f"Promise.resolve({expression}).then(Boolean)"):
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(0.02)

    def open(self, address: str) -> None:
        """Go to an address (`path.as_uri()` for a file), and wait until all of it has loaded."""
        self.evaluate("window.left = true")
        answer = self.call("Page.navigate", url=address)
        assert "errorText" not in answer, f"{address}: {answer['errorText']}"
        if "loaderId" in answer:  # an address that differs in its fragment alone loads nothing
            self.until("!window.left && document.readyState == 'complete'")

    def errors(self) -> list[str]:
        """What scripts have thrown, and what the console has complained of: missing files, policies broken."""
        self.evaluate("0")  # takes in what the browser has told until now
        thrown = [
            one["params"]["exceptionDetails"] for one in self.events if one["method"] == "Runtime.exceptionThrown"
        ]
        logged = [one["params"]["entry"] for one in self.events if one["method"] == "Log.entryAdded"]
        said = [one.get("exception", {}).get("description", one["text"]) for one in thrown]
        return said + [one["text"] for one in logged if one["level"] in ("error", "warning")]

    def requests(self) -> list[str]:
        """The addresses that the page has asked for."""
        self.evaluate("0")
        return [one["params"]["request"]["url"] for one in self.events if one["method"] == "Network.requestWillBeSent"]

    def screen(self, width: int, height: int, phone: bool = False, dark: bool = False, scale: float = 1) -> None:
        """The window's size in CSS pixels; on a phone a finger touches. `scale` is device pixels a CSS pixel."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone
        )
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path: Path, whole: bool = False) -> Path:
        """Save the window as a PNG, or the whole page."""
        self.call("Page.bringToFront")  # a tab behind another one draws nothing
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))
        return path

    def place(self, where: str | tuple[float, float]) -> tuple[float, float]:
        """A place in the window; an element is scrolled into view first."""
        if not isinstance(where, str):
            return where
        found = self.evaluate(f"""(() => {{
            const element = document.querySelector({json.dumps(where)});
            element.scrollIntoView({{block: "nearest", inline: "nearest", behavior: "instant"}});
            const box = element.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];
        }})()""")
        return found[0], found[1]

    def mouse(self, kind: str, where: str | tuple[float, float], **more: Any) -> None:
        """One event of the mouse: Moved, Pressed, Released or Wheel (with deltaX, deltaY)."""
        x, y = self.place(where)
        self.call("Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, **more)

    def click(self, where: str | tuple[float, float], count: int = 1, modifiers: int = 0) -> None:
        self.drag(where, where, steps=0, clickCount=count, modifiers=modifiers)

    def drag(self, start: Any, end: Any, steps: int = 5, **more: Any) -> None:
        """Press at one place, move in `steps` to another, and let go there."""
        (x, y), (to_x, to_y) = self.place(start), self.place(end)
        more = {"button": "left", "clickCount": 1, **more}
        self.mouse("Moved", (x, y))
        self.mouse("Pressed", (x, y), **more)
        for part in (step / steps for step in range(1, steps + 1)):
            self.mouse("Moved", (x + (to_x - x) * part, y + (to_y - y) * part), button="left", buttons=1)
        self.mouse("Released", (to_x, to_y), **more)

    def wheel(self, where: str | tuple[float, float], down: float, modifiers: int = 0) -> None:
        """Turn the wheel by so many pixels."""
        self.mouse("Wheel", where, deltaX=0, deltaY=down, modifiers=modifiers)

    @contextlib.contextmanager
    def held(self, key: str, modifiers: int = 0) -> Iterator[None]:
        """A key that is down within the block: a character, or a name like Enter, ArrowLeft or Shift."""
        number = NUMBERS.get(key, ord(key.upper()) if len(key) == 1 else 0)
        code = f"Digit{key}" if key.isdigit() else f"Key{key.upper()}" if len(key) == 1 and key.isalpha() else key
        event = {"key": key, "code": code, "windowsVirtualKeyCode": number, "modifiers": modifiers}
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 and modifiers in (0, SHIFT) else "")
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **event)
        yield
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def press(self, *keys: str, modifiers: int = 0) -> None:
        """Press keys, one after the other."""
        for key in keys:
            with self.held(key, modifiers):
                pass


class Browser:
    def __init__(self, port: int) -> None:
        self._port = port

    @contextlib.contextmanager
    def open(self, address: str = "about:blank") -> Iterator[Page]:
        """A new tab, of 1280 x 800 pixels in the light, that shows this address."""
        made = httpx.put(f"http://127.0.0.1:{self._port}/json/new?about:blank", timeout=WAIT, trust_env=False).json()
        with connect(made["webSocketDebuggerUrl"], max_size=None, open_timeout=WAIT, proxy=None) as connection:
            page = Page(connection)
            page.screen(1280, 800)
            if address != "about:blank":
                page.open(address)
            yield page
            page.call("Page.close")


@contextlib.contextmanager
def start() -> Iterator[Browser]:
    """A chromium with a profile of its own. Raises AssertionError where there is no such program (see `PROGRAM`)."""
    assert PROGRAM, "no chromium is installed"
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as home:
        # The pages are our own: no sandbox, which root and many containers do not allow. /dev/shm may be small.
        words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                 "--hide-scrollbars", "--disable-background-networking", "--disable-component-update",
                 "--remote-debugging-port=0", f"--user-data-dir={home}"]  # fmt: skip
        process = subprocess.Popen([PROGRAM, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            told = Path(home, "DevToolsActivePort")
            _wait(lambda: told.exists() and told.read_text().count("\n"), process)
            yield Browser(int(told.read_text().split()[0]))
        finally:
            process.terminate()
            process.wait(WAIT)


def _wait(ready: Callable[[], Any], process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + WAIT
    while not ready():
        assert process.poll() is None, f"{PROGRAM} ended with {process.returncode}"
        assert time.monotonic() < end, f"{PROGRAM} did not begin"
        time.sleep(0.02)
