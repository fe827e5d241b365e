"""``dgn figure NAME``: a figure for a paper, from one configuration: PDF, PNG and CSV; of an atlas a page."""

from __future__ import annotations

from typing import Any

from dgn.cli.chosen import open_network
from dgn.cli.figures import MAKERS, Studio
from dgn.cli.manifest import new_manifest, plain
from dgn.cli.sweeps.resume import at_work
from dgn.drawing.charts import draw_lines, render
from dgn.drawing.matrix import WIDTHS, Matrix, draw_matrix
from dgn.drawing.mosaic import Mosaic, draw_mosaic
from dgn.errors import DgnError, nearest
from dgn.report.atlas import atlas_page
from dgn.units.unit import file_name


def run(config: Any) -> None:
    """Make the pictures, draw, write."""
    values = plain(config)["figure"]
    kind = str(values.get("kind"))
    if kind not in MAKERS:
        raise DgnError(f"no kind of figure {kind!r}{nearest(kind, MAKERS) or '; expected ' + ', '.join(MAKERS)}")
    if config.width not in WIDTHS:
        raise DgnError(f"no width {config.width!r}{nearest(str(config.width), WIDTHS) or '; expected page or column'}")
    network, device = open_network(config)
    manifest = new_manifest("figure", device, network, figure=values)
    name = file_name(str(values.get("name", kind)))
    pages = ("html",) if kind == "atlas" else ()
    with at_work(config, manifest, [f"{name}.{form}" for form in ("pdf", "png", "csv", *pages)]) as (folder, tracker):
        made, rows, title = MAKERS[kind](Studio(config, network, values, manifest))
        width, title = WIDTHS[config.width], str(values.get("title") or title)
        points = float(values.get("points", 7.0))
        if isinstance(made, Matrix):
            canvas = draw_matrix(made, width=width, title=title, points=points)
        elif isinstance(made, Mosaic):
            canvas = draw_mosaic(made, width=width, title=title, points=points)
            folder.write_text(f"{name}.html", atlas_page(made, title))
        else:
            canvas = draw_lines(made, width=width, title=title, points=points)
        for form in ("pdf", "png"):
            folder.write(f"{name}.{form}", render(canvas, form, dpi=300))
        folder.write_table(rows, list(dict.fromkeys(key for row in rows for key in row)), f"{name}.csv")
        tracker.picture(name, folder.folder / f"{name}.png")
    for form in ("pdf", "png", *pages):
        print(folder.folder / f"{name}.{form}")
