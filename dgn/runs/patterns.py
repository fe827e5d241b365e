"""What each verb writes into its run folder, as patterns of names; ``manifest.json`` comes besides."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_SYNTHESIS = ("results.csv", "codes.safetensors", "index.html")

WRITES: dict[str, tuple[str, ...]] = {
    "synthesize": (*_SYNTHESIS, "grid.png", "images/*--*--s*[0-9].png", "trajectory/*--*--s*[0-9].png",
                   "parts/*--[0-9][0-9][0-9][0-9][0-9][0-9]*.safetensors"),
    "examples": ("examples.safetensors", "examples.csv", "examples.png", "images/*--*--[0-9]*.png"),
    "facets": (*_SYNTHESIS, "examples.safetensors", "starts.safetensors", "facets.pdf", "facets.png",
               "images/*--*--facet[0-9]*.png"),
    "ablate": ("results.csv", "ablation.pdf", "ablation.png", "curves.png", "images/*--*.png", "images/*--*.csv"),
    "evaluate": ("figures.csv", "differences.csv", "table.md", "grid.png", "panels.png", "panels.pdf",
                 "trade.png", "trade.pdf", "copies.csv", "copies.png", "images/*.safetensors"),
    "train": ("state.safetensors", "generator.safetensors", "components.safetensors", "flow.safetensors",
              "codes-[0-9a-f]*.npy", "losses.csv", "report.json",
              "samples/step-[0-9]*.png"),
    "blind": ("sheet-[0-9]*.png", "key.csv", "scores.md"),
    "gather": ("results.csv", "index.html", "grid.png"),
}  # fmt: skip


def writes(verb: str, name: str = "") -> list[str]:
    """The patterns of a verb's run; a figure's files have the figure's ``name``."""
    if verb in ("gather", "blind"):
        return list(WRITES[verb])
    figure = tuple(f"{name}.{form}" for form in ("pdf", "png", "csv")) if name else ()
    return ["config.yaml", *WRITES.get(verb, figure)]


def present(folder: Path, patterns: list[str]) -> Iterator[str]:
    """Names in the folder that a run would write: files of its patterns, and what stands where it needs a folder."""
    for pattern in patterns:
        first = folder / pattern.partition("/")[0]
        if "/" in pattern and (first.is_symlink() or (first.exists() and not first.is_dir())):
            yield first.name
        else:
            yield from (path.relative_to(folder).as_posix() for path in sorted(folder.glob(pattern)))
