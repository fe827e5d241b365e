"""The command that makes one image of a run again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from dgn.cli.keys import KEPT, ROWS, RUN, belongs
from dgn.resources import resource

NOT_OF_ONE_IMAGE = RUN | KEPT | ROWS | {"batch"}


def reproduce(row: Mapping[str, str], manifest: Mapping[str, Any], place: int = 0) -> str:
    """The command that makes one image again: the run's own overrides, with this unit, prior and seed alone.

    Args:
        row: of ``results.csv``.
        manifest: of the run.
        place: of the row among those of its prior.
    """
    if manifest.get("verb") != "synthesize":
        return shlex.join(["dgn", str(manifest.get("verb", "synthesize")), *manifest.get("overrides", [])])
    unit = row["unit"].replace("\\", "\\\\").replace("'", "\\'")
    kept: list[str] = []
    settings = manifest.get("ascent", {}).get(row["prior"], {})
    alone = not settings.get("diversity")  # seeds that are to differ can't be made alone
    for override in manifest.get("overrides", []):
        key = override.lstrip("+~").split("=", 1)[0]
        if (belongs(key, NOT_OF_ONE_IMAGE) and key not in ("seed", "seeds")) or key.startswith("hydra"):
            continue
        if key in ("seed", "seeds") and alone:
            continue
        if key == "start" and alone and manifest.get("starts", {}).get(row["prior"], 1) > 1:
            path = override.rstrip("'\"")
            number = place if path.endswith(".safetensors") else place + 1  # facets are counted from 1
            override = f"{path}@{number}{override[len(path) :]}"
        if key.startswith("prior.") and key.split(".")[1] != row["prior"]:
            continue
        kept.append(override)
    known = (resource("conf") / "prior" / f"{row['prior']}.yaml").is_file()
    chosen = f"prior={row['prior']}" if known else "prior=[]"
    return shlex.join(
        ["dgn", "synthesize", f"units=['{unit}']", chosen, *([f"seed={row['seed']}"] if alone else []), *kept]
    )
