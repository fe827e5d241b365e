"""The weights of an earlier generator, as a training begins with them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dgn.errors import DgnError
from dgn.files.storage import write_atomic
from dgn.priors.checkpoint import RANGES, load_generator
from dgn.priors.generator import Generator


def warm_start(generator: Generator, path: Path, out: Path, *, ranges: bool = False) -> None:
    """Take the weights of an earlier generator; with ``code_size`` also its code statistics.

    Args:
        generator: in training; with ``code_size`` it may have further stages, which stay as they are.
        path: of the earlier one, or its folder.
        out: where components and flow of the earlier codes are copied to.
        ranges: whether the earlier channels' ranges hold in the training, too.

    Raises:
        DgnError: the earlier generator is of another form.
    """
    file = path / "generator.safetensors" if path.is_dir() else path
    earlier, _ = load_generator(file)
    mine, theirs = generator.config, earlier.config
    grows = bool(mine.code_size) and mine.widths != theirs.widths
    longer = theirs
    if grows and ranges:
        raise DgnError(f"norms=kept: {str(path)!r} has nothing to keep for the stages that it lacks; leave it out")
    if grows:
        stages = len(theirs.widths)
        longer = replace(
            theirs, image_size=mine.image_size, code_size=theirs.code_size or theirs.image_size,
            widths=theirs.widths + mine.widths[stages:], depths=theirs.depths + mine.depths[stages:],
        )  # fmt: skip
    if mine != longer:
        field = next(name for name, value in mine.to_dict().items() if longer.to_dict()[name] != value)
        raise DgnError(f"init={str(path)!r} has {field}={getattr(theirs, field)}, this training {getattr(mine, field)}")
    own = ("head.",) * grows + ("code_",) * (not mine.code_size)  # the latter are the statistics just measured
    kept = {
        name: value for name, value in earlier.state_dict().items()
        if not (name.startswith(own) or (name.endswith(RANGES) and not ranges))
    }  # fmt: skip
    generator.load_state_dict(kept, strict=False)
    for name in ("components.safetensors", "flow.safetensors") if mine.code_size else ():
        if file.with_name(name).is_file():
            write_atomic(out / name, file.with_name(name).read_bytes())
