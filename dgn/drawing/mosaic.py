"""Pictures in the cells of a grid, edge to edge, of which many may be empty: an atlas."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from dgn.drawing.letters import LEADING, wrap

GAP = 0.03
"""Between two pictures, as a share of a cell."""


@dataclass(frozen=True)
class Tile:
    """One picture.

    Attributes:
        x, y: its cell, to the right and downwards.
        side: of the picture, as a share of the cell's.
        image: what is shown.
        title, lines: what is said of it where it is pointed at.
    """

    x: int
    y: int
    side: float
    image: Image.Image
    title: str = ""
    lines: list[str] = field(default_factory=list)


@dataclass
class Mosaic:
    """Tiles in their places, in one panel or several beside each other, by their names."""

    panels: dict[str, list[Tile]]

    def bounds(self) -> tuple[int, int, int, int]:
        """The first column and row that hold a picture, and how many columns and rows there are from there on."""
        tiles = [tile for panel in self.panels.values() for tile in panel]
        left, top = min(tile.x for tile in tiles), min(tile.y for tile in tiles)
        return left, top, max(tile.x for tile in tiles) - left + 1, max(tile.y for tile in tiles) - top + 1


def draw_mosaic(mosaic: Mosaic, *, width: float = 7.0, title: str = "", points: float = 7.0) -> Any:
    """A matplotlib figure without margins.

    Args:
        mosaic: what to show.
        width: inches of the figure.
        title: above it.
        points: size of the letters.
    """
    from matplotlib.figure import Figure as Canvas

    left, top, across, down = mosaic.bounds()
    panels = len(mosaic.panels)
    cell = width / (across * panels + 0.5 * (panels - 1))
    titles = wrap(title, width - 0.1, points + 1, "bold")
    head = 0.08 + (points + 1) * LEADING * len(titles) if titles else 0.0
    names = [wrap(name, max(across * cell, 0.5), points) if panels > 1 else [] for name in mosaic.panels]
    lines = max(map(len, names))
    named = points * LEADING * lines + 0.04 * bool(lines)
    height = head + named + down * cell
    canvas = Canvas(figsize=(width, height))
    paper = canvas.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), autoscale_on=False)
    paper.set_axis_off()
    if titles:
        paper.text(0.02, 0.04, "\n".join(titles), fontsize=points + 1, va="top", weight="bold", parse_math=False)
    for panel, tiles in enumerate(mosaic.panels.values()):
        first = panel * (across + 0.5) * cell
        if names[panel]:
            paper.text(first + 0.02, head, "\n".join(names[panel]), fontsize=points, va="top", parse_math=False)
        for tile in tiles:
            side = (1 - GAP) * tile.side * cell
            wide, high = (side * pixels / max(tile.image.size) for pixels in tile.image.size)
            x, y = first + (tile.x - left + 0.5) * cell, head + named + (tile.y - top + 0.5) * cell
            extent = (x - wide / 2, x + wide / 2, y + high / 2, y - high / 2)
            paper.imshow(tile.image.convert("RGB"), extent=extent, aspect="auto", interpolation="antialiased")
    return canvas
