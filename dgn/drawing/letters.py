"""Texts set in places of a given width, as matplotlib's own letters make them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

SMALLEST = 5.0
"""Points: letters shrink to this size where a word is wider than its place; a wider one is broken."""

LEADING = 1.25 / 72
"""Inches from line to line, a point of the letters' size."""


def number(value: float) -> str:
    """With one decimal; two below 1, as cosines are."""
    return f"{value:.1f}" if abs(value) >= 1 else f"{value:.2f}"


def tall(texts: Sequence[list[str]], points: float) -> float:
    """Inches that the longest of some wrapped texts takes up, with a margin."""
    return 0.05 + LEADING * points * max((len(lines) for lines in texts), default=0)


@lru_cache(4096)
def inches(text: str, points: float, weight: str = "normal") -> float:
    """Width of a line of text."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    width, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(size=points, weight=weight), False)  # type: ignore[no-untyped-call]
    return float(width) / 72 * 1.03  # letters are set on whole pixels


def fit(texts: Sequence[str], width: float, points: float) -> tuple[float, list[list[str]]]:
    """The size, ``points`` or less, at which every word is within ``width`` inches, and the texts in lines of it."""
    widest = max((inches(word, points) for text in texts for word in text.split()), default=0.0)
    size = max(min(points, SMALLEST), min(points, points * width / max(widest, 1e-9)))
    return size, [wrap(text, width, size) for text in texts]


def wrap(text: str, width: float, points: float, weight: str = "normal") -> list[str]:
    """Lines within ``width`` inches, broken at blanks; a word that is wider alone is broken inside."""
    lines: list[str] = []
    for word in text.split():
        if lines and inches(f"{lines[-1]} {word}", points, weight) <= width:
            lines[-1] += f" {word}"
            continue
        while len(word) > 1 and inches(word, points, weight) > width:
            cut = max(1, max((n for n in range(1, len(word)) if inches(word[:n], points, weight) <= width), default=1))
            lines.append(word[:cut])
            word = word[cut:]
        lines.append(word)
    return lines
