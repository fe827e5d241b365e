"""A mosaic as one page that can be zoomed and panned, to be opened from any disk without a server or a network."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

from PIL import Image

from dgn.drawing.mosaic import GAP, Mosaic
from dgn.files.pages import seal


def atlas_page(mosaic: Mosaic, title: str) -> str:
    """The HTML; every picture is inside the page, as WebP."""
    left, top, across, down = mosaic.bounds()
    panels = [
        {"n": name, "t": [
            {"x": tile.x - left, "y": tile.y - top, "s": round(tile.side * (1 - GAP), 4), "i": _uri(tile.image),
             "h": tile.title, "l": tile.lines}
            for tile in tiles
        ]}
        for name, tiles in mosaic.panels.items()
    ]  # fmt: skip
    data = {"title": title, "across": across, "down": down, "panels": panels}
    text = json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c").replace("\u2028", "\\u2028")
    template = Path(__file__).with_name("atlas.html").read_text(encoding="utf-8")
    return seal(template.replace("/*DATA*/", text))


def _uri(image: Image.Image) -> str:
    file = io.BytesIO()
    image.convert("RGB").save(file, "WEBP", quality=90)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
