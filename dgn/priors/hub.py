"""Others' generators by name: DeePSiM, BigGAN, diffusers' autoencoders and pipelines, exported and one's own modules.

Nothing is downloaded: each loader reads files, says where to get them when they are missing, and unpickles nothing
but tensors; of exported programs, see :mod:`dgn.network.programs`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dgn.errors import DgnError
from dgn.network import adapt
from dgn.network.programs import load_program
from dgn.priors.base import Prior
from dgn.priors.others.autoencoder import load_autoencoder
from dgn.priors.others.biggan import load_biggan
from dgn.priors.others.deepsim import load_deepsim
from dgn.priors.others.module import ModulePrior
from dgn.priors.others.pipeline.load import load_pipeline


def load_exported(
    path: Path, code_shape: Sequence[int], *, size: int | None = None, trust: bool = False, **options: Any
) -> Prior:
    """A generator as a ``torch.export`` program (``.pt2``) or TorchScript (``.pt``, ``.ts``).

    Args:
        path: the file.
        code_shape: of one code, without the batch axis.
        size, options: see :class:`ModulePrior`.
        trust: whether it may be opened, see :mod:`dgn.network.programs`.
    """
    program = load_program(path, trust=trust)
    module = program.module() if isinstance(program, torch.export.ExportedProgram) else program
    return ModulePrior(module, code_shape, name=path.stem, size=size, **options)


KINDS = ("deepsim", "biggan", "autoencoder", "pipeline", "exported", "module")
"""Names under which ``load_prior`` finds these."""


def load_hub(
    kind: str,
    weights: str | None,
    options: Mapping[str, Any],
    *,
    size: int | None,
    module: nn.Module | None,
    trust: bool,
) -> Prior:
    """One of :data:`KINDS`, from its configuration.

    Args:
        kind: which.
        weights: file or folder.
        options: of its loader, ``code_shape`` above all for exported and one's own modules.
        size: pixels of the images.
        module: one's own, already built.
        trust: whether a program may be opened, or a pipeline's weights that are pickled.
    """
    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    try:
        if kind == "module":
            if module is None:
                raise DgnError("prior=module needs module._target_=PACKAGE.CLASS and options.code_shape=[...]")
            return ModulePrior(adapt.copied(module), _code_shape(kind, given), size=size, **given)
        if weights is None:
            raise DgnError(f"the prior {kind!r} needs its weights; give prior.NAME.weights=PATH")
        path = Path(weights)
        if kind == "exported":
            return load_exported(path, _code_shape(kind, given), size=size, trust=trust, **given)
        if kind == "pipeline":
            return load_pipeline(path, size=size, trust=trust, **given)
        loaders: dict[str, Callable[..., Prior]] = {
            "deepsim": load_deepsim, "biggan": load_biggan, "autoencoder": load_autoencoder,
        }  # fmt: skip
        return loaders[kind](path, size=size, **given)
    except KeyError as error:
        raise DgnError(f"the files of prior {kind!r} lack {error}: are they of another model?") from error
    except TypeError as error:
        raise DgnError(
            f"the prior {kind!r} does not take these options: {str(error).split(')', 1)[-1].strip()}"
        ) from None


def _code_shape(kind: str, options: dict[str, Any]) -> Any:
    if "code_shape" not in options:
        raise DgnError(f"the prior {kind!r} needs options.code_shape=[...], the shape of one code")
    return options.pop("code_shape")
