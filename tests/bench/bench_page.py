"""How quickly the report's page opens and answers with thousands of pictures: `python tests/bench/bench_page.py`.

It needs chromium, and 100 MB in the temporary folder. A long task is one of more than 50 ms, in which the page stands
still (https://w3c.github.io/longtasks/).
"""

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1]))

import browser
import pretend

from stages.metrics.means import OVERALL, Interval
from stages.pages import html
from stages.pages.compare import SHOWN, comparison, draw_strips
from stages.pages.pictures import Tried
from stages.pages.results import Folders
from stages.pages.systems import System

COUNT, SYSTEMS, SIZE = 5000, 8, 64  # pictures; systems, each raw and blended; pixels of a side
WATCH = """window.tasks = [];
new PerformanceObserver((list) => tasks.push(...list.getEntries().map((task) => Math.round(task.duration))))
    .observe({type: "longtask", buffered: true})"""
FIELD = """(() => {{
    const field = document.querySelector("#compare").elements.{0}, before = performance.now();
    field.value = "{1}";
    field.dispatchEvent(new Event("input", {{bubbles: true}}));
    const drawn = new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    return drawn.then(() => performance.now() - before);
}})()"""


def make(data: Path) -> Path:
    """A page with COUNT pictures to compare, each in a file of its own."""
    pretend.dataset(data, count=COUNT, size=SIZE, kinds=("centre",))
    names = [f"system{number}" for number in range(SYSTEMS)]
    pretend.system(data, names[0], 20, count=COUNT, size=SIZE, kinds=("centre",))
    for name in names[1:]:
        for folder in ("inpainted", "blended"):
            shutil.copytree(data / folder / names[0], data / folder / name)
    (data / "scores").mkdir()
    keys = [(*pretend.key(number), "centre", blending) for blending in ("raw", "blended") for number in range(COUNT)]
    for seed, name in enumerate(names):
        columns = dict(zip(("image_id", "path", "kind", "blending"), zip(*keys, strict=True), strict=True))
        columns |= {metric: np.random.default_rng(seed).uniform(0, 30, len(keys)) for metric in SHOWN}
        pq.write_table(pa.table(columns), data / "scores" / f"{name}.parquet")
    folders, report = Folders(*(data / name for name in Folders._fields)), data / "report"
    report.mkdir()
    means = {(blending, *OVERALL): dict.fromkeys(SHOWN, Interval(COUNT, 15, 14, 16)) for blending in ("raw", "blended")}
    tried = Tried(folders, "faces", {name: {name: means} for name in names})
    systems = [System(name, "a baseline", "–", "faces", "exact") for name in names]
    before = time.perf_counter()
    strips = draw_strips(folders, tried, ["centre"], COUNT, report)
    print(f"the files: {time.perf_counter() - before:.1f} s")
    content = comparison(folders, [tried], strips, systems, {}, [])
    counts = {"dataset": 1, "trained model": 0, "system": SYSTEMS}
    page = html.results_page([html.Section("Compare", "compare.html.j2", content)], counts, [], content.script)
    (report / "index.html").write_text(page)
    return report / "index.html"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, browser.start() as chromium, chromium.open() as page:
        file = make(Path(folder))
        size = sum(path.stat().st_size for path in file.parent.rglob("*.png")) / 1e6
        print(
            f"{COUNT} pictures of {SYSTEMS} systems: the page {file.stat().st_size / 1e6:.1f} MB, files {size:.0f} MB"
        )
        page.call("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
        paints, tasks = [], []
        for _ in range(5):
            page.open(file.as_uri())
            page.until("document.querySelector('[role=option]')")
            paints.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
            tasks.append(page.evaluate("Math.max(0, ...tasks)"))
        print(
            f"first paint {statistics.median(paints):.0f} ms; longest task in opening {statistics.median(tasks):.0f} ms"
        )
        for field, value in (("order", "worst"), ("system", "system3 blended"), ("score", "sharpness"), ("from", "12")):
            print(f"{field}: {value}: {page.evaluate(FIELD.format(field, value)):.0f} ms")
        page.evaluate("tasks.length = 0")
        for down in range(60):
            page.evaluate(f"document.querySelector('.list').scrollTop = {down * 1500}")
            time.sleep(0.02)
        print(f"scrolling, longest task {page.evaluate('Math.max(0, ...tasks)')} ms; {page.errors() or 'no errors'}")


if __name__ == "__main__":
    main()
