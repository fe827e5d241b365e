"""The run as one page, ``index.html``, beside its images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif }
body { margin: 2rem auto; max-width: 76rem; padding: 0 1rem }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(180px, 1fr)); gap: 1rem }
figure { margin: 0 } figure img { width: 100%; border-radius: 4px; display: block }
figcaption b { display: block } figcaption { font-size: .85rem; margin-top: .3rem }
pre { white-space: pre-wrap; opacity: .8 }
"""


def page(rows: Sequence[Mapping[str, Any]], title: str, command: str) -> str:
    """HTML with every image of a run, its unit, prior, seed, activation and probability.

    Args:
        rows: of ``results.csv``.
        title: heading.
        command: the command that made the run.
    """
    figures = []
    for row in rows:
        source, unit = escape(str(row["image"]), quote=True), escape(str(row["unit"]))
        probability = f" · p {float(row['probability']):.2f}" if row["probability"] != "" else ""
        figures.append(
            f'<figure><a href="{source}"><img src="{source}" alt="{unit}" loading="lazy"></a>'
            f"<figcaption><b>{unit}</b>"
            f"{escape(str(row['prior']))} · seed {row['seed']}<br>"
            f"activation {float(row['activation']):.2f}{probability}"
            "</figcaption></figure>"
        )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n'
        f"<body><h1>{escape(title)}</h1>"
        f"<pre>{escape(command)}</pre>\n<main>\n" + "\n".join(figures) + "\n</main></body></html>\n"
    )
