"""One labelled picture of a run: units across, priors and seeds down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from dgn.images.fit import within

INK, FAINT, PAPER = (20, 20, 20), (105, 105, 105), (255, 255, 255)


@dataclass(frozen=True)
class Cell:
    """One image of the grid (or its file, opened when it is drawn), what stands above, left of and below it."""

    unit: str
    row: str
    image: Image.Image | Path
    caption: str


def grid(cells: Sequence[Cell], title: str, *, tile: int = 176, columns: int = 8, most_units: int = 64) -> Image.Image:
    """Cells laid out with one column a unit and one row a prior and seed, folded after ``columns`` units.

    Args:
        cells: in any order; a unit's column and a row's place follow their first appearance.
        title: a line above everything.
        tile: pixels of an image's side.
        columns, most_units: units side by side, and in all; those left out are counted in a last line.
    """
    names = list(dict.fromkeys(cell.unit for cell in cells))
    rows = list(dict.fromkeys(cell.row for cell in cells))
    shown = names[:most_units]
    at = {(cell.unit, cell.row): cell for cell in cells}
    text, small = ImageFont.load_default(16), ImageFont.load_default(13)
    gap, head, foot = 10, 30, 24
    left = 2 * gap + max(int(text.getlength(row)) for row in rows)
    across = min(columns, len(shown))
    blocks = [shown[first : first + columns] for first in range(0, len(shown), columns)]
    block_height = head + len(rows) * (tile + foot) + gap
    top = 38
    width = max(left + across * (tile + gap) + gap, 2 * gap + int(text.getlength(title)))
    height = top + len(blocks) * block_height + (28 if len(names) > len(shown) else 0)
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((gap, 10), title, INK, font=text)
    for number, block in enumerate(blocks):
        y0 = top + number * block_height
        for column, unit in enumerate(block):
            x = left + column * (tile + gap)
            draw.text((x + tile / 2, y0 + head / 2), _shorten(unit, text, tile), INK, font=text, anchor="mm")
        for index, row in enumerate(rows):
            y = y0 + head + index * (tile + foot)
            draw.text((gap, y + tile / 2), row, INK, font=text, anchor="lm")
            for column, unit in enumerate(block):
                cell = at.get((unit, row))
                if cell is None:
                    continue
                x = left + column * (tile + gap)
                opened = Image.open(cell.image) if isinstance(cell.image, Path) else cell.image
                height, width = within((opened.height, opened.width), (tile, tile))
                picture = opened.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
                sheet.paste(picture, (x + (tile - width) // 2, y + (tile - height) // 2))
                caption = _shorten(cell.caption, small, tile)
                draw.text((x + tile / 2, y + tile + foot / 2 - 1), caption, FAINT, font=small, anchor="mm")
    if len(names) > len(shown):
        draw.text((gap, height - 24), f"and {len(names) - len(shown)} more units in images/", FAINT, font=small)
    return sheet


def _shorten(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"
