"""Does a gallery of hundreds of units scroll without stutter? python benchmarks/gallery.py [--units N]

A page of made-up images is opened in a real browser, scrolled from top to bottom a screen a frame or so, filtered and
sorted. The time between frames, and of each action up to the next frame, is what the page itself sees, other work on
the machine included; the processor time of the page's main thread is not, and says what the page costs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
from machine import machine
from PIL import Image
from playwright.sync_api import sync_playwright

from dgn.report.gallery import page, read_run
from dgn.runs.run import Run

SCROLL = """async step => {
  const gaps = []; let last = performance.now(), top = -1;
  while (scrollY !== top) {
    top = scrollY;
    scrollBy(0, step);
    await new Promise(requestAnimationFrame);
    const now = performance.now(); gaps.push(now - last); last = now;
  }
  return gaps;
}"""

ACTION = """async ([what, value]) => {
  await new Promise(requestAnimationFrame);
  const from = performance.now();
  if (what === "filter") {
    const field = document.getElementById("filter");
    field.value = value; field.dispatchEvent(new Event("input"));
  } else document.querySelectorAll(".head button")[value].click();
  await new Promise(requestAnimationFrame); await new Promise(done => setTimeout(done));
  return performance.now() - from;
}"""


def planted(folder: Path, units: int, side: int = 128) -> Path:
    """A run folder of smooth random images, two methods a unit."""
    run, rng, rows = Run(folder), np.random.default_rng(0), []
    for unit in range(units):
        for prior in ("dgn", "pixel"):
            small = Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8))
            name = f"images/{unit}--{prior}--s0.png"
            run.write_picture(name, small.resize((side, side), Image.Resampling.BICUBIC))
            rows.append({
                "unit": f"unit {unit}", "prior": prior, "seed": 0, "activation": float(rng.normal()),
                "probability": float(rng.random()), "image": name,
            })  # fmt: skip
    run.write_table(rows)
    run.write_manifest({"verb": "synthesize", "network": "made up", "overrides": []})
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=500)
    options = parser.parse_args()
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        file = Path(folder) / "index.html"
        file.write_text(page([read_run(planted(Path(folder) / "run", options.units))], "made up"), encoding="utf-8")
        opened = play.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        view = opened.new_page(viewport={"width": 1200, "height": 800})
        view.goto(file.as_uri())
        tools = view.context.new_cdp_session(view)
        tools.send("Performance.enable", {"timeDomain": "threadTicks"})

        def spent() -> dict[str, float]:
            found = {m["name"]: m["value"] for m in tools.send("Performance.getMetrics")["metrics"]}
            names = ("TaskDuration", "ScriptDuration", "LayoutDuration", "RecalcStyleDuration")
            return {name.removesuffix("Duration").lower(): found[name] * 1000 for name in names}

        load = view.evaluate("performance.getEntriesByType('navigation')[0].domComplete")
        painted = view.evaluate("[...document.images].filter(image => image.src).length")
        before = spent()
        gaps = view.evaluate(SCROLL, 60)
        after = spent()
        scrolled = {name: round((after[name] - before[name]) / len(gaps), 2) for name in after}
        again = view.evaluate("async () => { scrollTo(0, 0); await new Promise(requestAnimationFrame); }") or None
        assert again is None
        before = spent()
        actions = {
            name: [round(view.evaluate(ACTION, given), 1) for given in several]
            for name, several in {
                "filter": [["filter", text] for text in ("unit 4", "9", "")],
                "sort": [["sort", column] for column in (1, 2, 0)],
            }.items()
        }
        after = spent()
        each = {name: round((after[name] - before[name]) / 6, 1) for name in after}
        result = {
            "machine": machine(), "browser": opened.version, "units": options.units, "images": 2 * options.units,
            "megabytes": round(file.stat().st_size / 1e6, 1), "loaded after ms": round(load),
            "nodes": view.evaluate("document.querySelectorAll('*').length"),
            "images set when opened": painted,
            "scrolling": {
                "frames": len(gaps), "median ms": round(float(np.median(gaps)), 1), "longest ms": round(max(gaps), 1),
                "over 50 ms": sum(gap > 50 for gap in gaps),
            },
            "processor ms a frame": scrolled,
            "milliseconds": actions,
            "processor ms a filter or sort": each,
        }  # fmt: skip
        opened.close()
    print(json.dumps(result, indent=1))
    results = Path(__file__).parent / "results" / "gallery"
    results.mkdir(parents=True, exist_ok=True)
    (results / "scrolling.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
