"""What the folder of a diffusers pipeline holds, read and checked before anything of it is loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgn.errors import DgnError

INDEX = "model_index.json"
UNUSED = ("safety_checker", "feature_extractor", "image_encoder", "watermarker")
"""Parts that look at finished images, or at given ones: they are not loaded."""
LIBRARIES = ("diffusers", "transformers")


@dataclass(frozen=True)
class PipelineFolder:
    """A folder that a pipeline's ``save_pretrained`` wrote.

    Attributes:
        path: of the folder.
        kind: name of the pipeline's class.
        parts: names of what it holds and dgn uses.
        unused: names of what it holds and dgn leaves out.
        licence: as the front matter of its ``README.md`` names it; None: it names none.
        variant: ``"fp16"`` where its weights are there in that form alone.
    """

    path: Path
    kind: str
    parts: tuple[str, ...]
    unused: tuple[str, ...]
    licence: str | None
    variant: str | None

    @property
    def note(self) -> str:
        """A line on whose images these are."""
        terms = f"names the licence {self.licence!r}" if self.licence else "names no licence: ask its authors for one"
        return f"images by a {self.kind} whose folder {self.path.name!r} {terms}"

    def pickled(self) -> Path | None:
        """Weights of a part that lie there pickled alone; None: there are none."""
        for name in self.parts:
            place = self.path / name if (self.path / name).is_dir() else self.path
            if not any(place.glob("*.safetensors*")):
                for file in sorted(place.glob("*.bin")):
                    return file
        return None


def is_pipeline(path: Path) -> bool:
    """Whether a folder is meant as a pipeline's: it has the index, or a folder of a pipeline's parts."""
    return (path / INDEX).is_file() or any((path / name / "config.json").is_file() for name in ("unet", "transformer"))


def read_folder(path: Path) -> PipelineFolder:
    """What a pipeline's folder says of itself.

    Raises:
        DgnError: it is no pipeline's, brings code of its own, or lacks a network or a scheduler.
    """
    where = repr(str(path))
    if not (path / INDEX).is_file():
        raise DgnError(
            f"no diffusers pipeline in {where}: it lacks {INDEX}; give prior.NAME.path=FOLDER, as a pipeline's "
            "save_pretrained writes it or a download of the Hugging Face hub brings it"
        )
    try:
        index = json.loads((path / INDEX).read_text(encoding="utf-8"))
        kind, entries = index["_class_name"], {key: value for key, value in index.items() if _is_part(value)}
    except (ValueError, KeyError, AttributeError, TypeError):
        raise DgnError(f"{str(path / INDEX)!r} is no index of a diffusers pipeline") from None
    held = [name for name, (library, _) in entries.items() if library is not None]
    unused = tuple(name for name in held if name in UNUSED)
    parts = tuple(name for name in held if name not in UNUSED)
    listed = ", ".join(held) or "nothing"
    if not any(name in parts for name in ("unet", "transformer")):
        raise DgnError(f"the pipeline {where} holds {listed}, but no unet and no transformer: nothing makes images")
    if "scheduler" not in parts:
        raise DgnError(f"the pipeline {where} holds {listed}, but no scheduler, which says how it takes noise away")
    foreign = [f"{entries[name][0]}.{entries[name][1]}" for name in parts if entries[name][0] not in LIBRARIES]
    if not isinstance(kind, str) or foreign:
        raise DgnError(
            f"the pipeline {where} needs code of its own ({', '.join(foreign) or kind}), which dgn does not run: "
            "expected parts of diffusers and transformers"
        )
    return PipelineFolder(path, kind, parts, unused, _licence(path), _variant(path, parts))


def _is_part(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(text is None or isinstance(text, str) for text in value)


def _licence(path: Path) -> str | None:
    """From the front matter of a model card: ``license``, or ``license_name`` where that is ``other``."""
    card = path / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    matter = re.match(r"---\s*\n(.*?)\n---", text, re.S)
    named = re.findall(r"^(license|license_name):[ \t]*(\S.*?)\s*$", matter[1] if matter else "", re.M)
    found: Mapping[str, str] = {key: value.strip("'\"") for key, value in named}
    return found.get("license_name") or found.get("license")


def _variant(path: Path, parts: tuple[str, ...]) -> str | None:
    """``"fp16"`` where the network's weights lie there under that name alone."""
    folder = path / ("unet" if "unet" in parts else "transformer")
    names = [file.name for file in folder.glob("*.safetensors")]
    return "fp16" if names and all(".fp16" in name for name in names) else None
