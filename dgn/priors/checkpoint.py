"""Generators, their components and flows on disk, in the form of :mod:`dgn.files.tensors`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dgn.errors import DgnError
from dgn.files.storage import digest
from dgn.files.tensors import load_tensors, save_tensors
from dgn.priors.flow import Flow, FlowConfig
from dgn.priors.generator import Components, Generator, GeneratorConfig

FORMAT = "dgn-generator-1"
COMPONENTS_FORMAT = "dgn-components-1"
FLOW_FORMAT = "dgn-flow-1"
RANGES = (".low", ".high")
"""What a generator's channels keep within; not in the files of those that have no bounds."""


def save_generator(
    path: Path, generator: Generator, meta: dict[str, Any], *, dtype: torch.dtype = torch.float16
) -> None:
    """Write a generator; its floating-point tensors but the code's statistics are stored as ``dtype``."""
    tensors = {}
    for name, tensor in generator.state_dict().items():
        keep = name.startswith("code_") or name.endswith(RANGES) or not tensor.is_floating_point()
        tensors[name] = tensor if keep else tensor.to(dtype)
    save_tensors(path, tensors, {**meta, "generator": generator.config.to_dict()}, FORMAT)


def load_generator(path: Path) -> tuple[Generator, dict[str, Any]]:
    """A generator in eval mode, frozen, in float32, and the metadata it was saved with."""
    tensors, meta = load_tensors(path, FORMAT)
    with _fitting(path):
        generator = Generator(GeneratorConfig.from_dict(meta["generator"]))
        unbounded = {name: bound for name, bound in generator.state_dict().items() if name.endswith(RANGES)}
        generator.load_state_dict(unbounded | tensors)
    return generator.eval().requires_grad_(False), meta


def save_components(path: Path, components: Components, meta: dict[str, Any]) -> None:
    """Write principal components; the basis as 8-bit integers with one scale a column (a quarter of float32's size),
    the centres with one scale a row."""
    tensors = {"mean": components.mean.half(), "scale": components.scale.float()}
    tensors["basis"], scale = _in_8_bits(components.basis, 0)
    tensors["basis_scale"] = scale[0]
    if len(components.centres):
        tensors["centres"], tensors["centres_scale"] = _in_8_bits(components.centres, 1)
    more = {"shape": list(components.shape), "explained": components.explained}
    save_tensors(path, tensors, {**meta, **more}, COMPONENTS_FORMAT)


def load_components(path: Path) -> tuple[Components, dict[str, Any]]:
    """Principal components as :func:`save_components` wrote them, in float32."""
    tensors, meta = load_tensors(path, COMPONENTS_FORMAT)
    try:
        channels, height, width = (int(value) for value in meta["shape"])
        components = Components(
            mean=tensors["mean"].float(),
            scale=tensors["scale"].float(),
            basis=tensors["basis"].float() * tensors["basis_scale"],
            shape=(channels, height, width),
            explained=float(meta["explained"]),
            centres=tensors["centres"].float() * tensors["centres_scale"] if "centres" in tensors else torch.zeros(0),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DgnError(f"{str(path)!r} holds no complete principal components") from error
    return components, meta


def save_flow(path: Path, flow: Flow, components: Components, meta: dict[str, Any]) -> None:
    """Write a flow: matrices as 8-bit integers with one scale a row, the rest in float32; and which components it is
    on top of."""
    tensors = {}
    for name, tensor in flow.state_dict().items():
        if tensor.dim() == 2 and len(tensor) >= 64:
            tensors[name], tensors[f"{name}:scale"] = _in_8_bits(tensor, 1)
        else:
            tensors[name] = tensor.float()
    more = {"flow": flow.config.to_dict(), "components": digest(_identity(components))}
    save_tensors(path, tensors, {**meta, **more}, FLOW_FORMAT)


def load_flow(path: Path, components: Components) -> tuple[Flow, dict[str, Any]]:
    """A flow in eval mode, frozen, in float32, as :func:`save_flow` wrote it.

    Raises:
        DgnError: it is on top of other components.
    """
    tensors, meta = load_tensors(path, FLOW_FORMAT)
    if meta.get("components") != digest(_identity(components)):
        raise DgnError(f"the flow {str(path)!r} was trained with other components than those beside it; train it anew")
    with _fitting(path):
        flow = Flow(FlowConfig(**{**meta["flow"], "code_shape": tuple(meta["flow"]["code_shape"])}))
        state = {
            name: tensor.float() * tensors.get(f"{name}:scale", torch.ones(()))
            for name, tensor in tensors.items()
            if not name.endswith(":scale")
        }
        flow.load_state_dict(state)
    return flow.eval().requires_grad_(False), meta


def _identity(components: Components) -> dict[str, Tensor]:
    """What a flow depends on; not the centres."""
    parts = {name: getattr(components, name).cpu() for name in ("mean", "scale", "basis")}
    return {**parts, "rest": torch.tensor(components.rest)}


def _in_8_bits(tensor: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """A matrix as 8-bit integers, and what to multiply them with: one scale for all that lies along ``dim``."""
    peak = tensor.abs().amax(dim, keepdim=True).clamp(min=1e-12)
    return (tensor / peak * 127).round().to(torch.int8), (peak / 127).float()


@contextmanager
def _fitting(path: Path) -> Iterator[None]:
    """Errors of weights that don't fit the configuration beside them, in one line."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError, MemoryError, OverflowError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
        raise DgnError(f"the weights in {str(path)!r} don't fit their own configuration: {first}") from error
