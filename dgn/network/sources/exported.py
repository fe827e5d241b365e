"""Programs of ``torch.export``."""

from __future__ import annotations

from pathlib import Path

import torch

from dgn.errors import DgnError
from dgn.network.programs import load_program
from dgn.network.sources.known import Known, imagenet_class_names


def from_export(path: Path, *, trust: bool) -> Known:
    """A ``torch.export`` program ``[N, C, H, W] -> [N, classes]`` over images in [-1, 1]; only its output is read."""
    program = load_program(path, trust=trust)
    try:
        inputs = [node for node in program.graph.nodes if node.op == "placeholder"]
        shape = inputs[-1].meta["val"].shape
        channels, height, width = (int(value) for value in shape[1:])
        module = program.module()
        with torch.no_grad():
            classes = module(torch.zeros(2, channels, height, width)).shape[-1]
    except Exception as error:
        raise DgnError(f"{str(path)!r} is not a torch.export program over images: {error}".splitlines()[0]) from error
    names = imagenet_class_names() if classes == 1000 else ()
    return Known(module, {"input_size": (channels, height, width), "classes": names, "name": path.stem})
