"""Generators on disk: safetensors with their configuration in the metadata, written whole or not at all.

Loading reads tensors and JSON only; nothing is ever unpickled. The metadata holds a SHA-256 of everything that is read
(kind, configuration, tensors with their names), so that a file that was cut short or changed anywhere is refused.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from dgn.errors import DgnError
from dgn.files.storage import digest, write_atomic
from dgn.priors.flow import Flow, FlowConfig
from dgn.priors.generator import Components, Generator, GeneratorConfig

FORMAT = "dgn-generator-1"
COMPONENTS_FORMAT = "dgn-components-1"
FLOW_FORMAT = "dgn-flow-1"


def save_tensors(path: Path, tensors: dict[str, Tensor], meta: dict[str, Any], kind: str) -> None:
    """Write tensors with their metadata (any JSON value) and digest."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(meta, sort_keys=True)
    metadata = {"format": kind, "seal": _seal(tensors, text, kind), "meta": text}
    write_atomic(path, save(tensors, metadata))


def load_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read back what :func:`save_tensors` wrote.

    Raises:
        DgnError: no such file; cut short; not written by dgn; another kind; changed since it was written.
    """
    if not path.is_file():
        raise DgnError(f"no file {str(path)!r}")
    try:
        with safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call]
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise DgnError(f"{str(path)!r} is cut short or no safetensors file; get it anew") from error
    if metadata.get("format") != kind:
        raise DgnError(f"{str(path)!r} was not written as {kind!r} by dgn (its format: {metadata.get('format')!r})")
    if "seal" in metadata:
        whole = metadata["seal"] == _seal(tensors, metadata.get("meta", ""), kind)
    else:  # of the first files, whose configuration was not under the SHA-256
        whole = metadata.get("sha256") == digest(tensors)
    if not whole:
        raise DgnError(f"{str(path)!r} was changed since it was written: its SHA-256 does not match; get it anew")
    try:
        return tensors, dict(json.loads(metadata["meta"]))
    except (KeyError, ValueError) as error:
        raise DgnError(f"{str(path)!r} holds no readable configuration; get it anew") from error


def _seal(tensors: dict[str, Tensor], meta: str, kind: str) -> str:
    """SHA-256 over everything that is read back."""
    return hashlib.sha256("\n".join((kind, meta, digest(tensors))).encode()).hexdigest()


def save_generator(
    path: Path, generator: Generator, meta: dict[str, Any], *, dtype: torch.dtype = torch.float16
) -> None:
    """Write a generator; its floating-point tensors but the code's statistics are stored as ``dtype``."""
    tensors = {}
    for name, tensor in generator.state_dict().items():
        keep = name.startswith("code_") or not tensor.is_floating_point()
        tensors[name] = tensor if keep else tensor.to(dtype)
    save_tensors(path, tensors, {**meta, "generator": generator.config.to_dict()}, FORMAT)


def load_generator(path: Path) -> tuple[Generator, dict[str, Any]]:
    """A generator in eval mode, frozen, in float32, and the metadata it was saved with."""
    tensors, meta = load_tensors(path, FORMAT)
    try:
        generator = Generator(GeneratorConfig.from_dict(meta["generator"]))
        generator.load_state_dict({name: _as_float32(tensor) for name, tensor in tensors.items()})
    except (KeyError, TypeError, RuntimeError, MemoryError, OverflowError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
        raise DgnError(f"the weights in {str(path)!r} don't fit their own configuration: {first}") from error
    return generator.eval().requires_grad_(False), meta


def save_components(path: Path, components: Components, meta: dict[str, Any]) -> None:
    """Write principal components; the basis as 8-bit integers with one scale a column (a quarter of float32's size),
    the centres with one scale a row."""
    peak = components.basis.abs().amax(0).clamp(min=1e-12)
    tensors = {
        "mean": components.mean.half(),
        "scale": components.scale.float(),
        "basis": (components.basis / peak * 127).round().to(torch.int8),
        "basis_scale": (peak / 127).float(),
    }
    if len(components.centres):
        farthest = components.centres.abs().amax(1, keepdim=True).clamp(min=1e-12)
        tensors["centres"] = (components.centres / farthest * 127).round().to(torch.int8)
        tensors["centres_scale"] = (farthest / 127).float()
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
            peak = tensor.abs().amax(1, keepdim=True).clamp(min=1e-12)
            tensors[name] = (tensor / peak * 127).round().to(torch.int8)
            tensors[f"{name}:scale"] = (peak / 127).float()
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
    try:
        shape = tuple(int(value) for value in meta["flow"]["code_shape"])
        flow = Flow(FlowConfig(**{**meta["flow"], "code_shape": shape}))
        state = {
            name: tensor.float() * tensors.get(f"{name}:scale", torch.ones(()))
            for name, tensor in tensors.items()
            if not name.endswith(":scale")
        }
        flow.load_state_dict(state)
    except (KeyError, TypeError, ValueError, RuntimeError, MemoryError, OverflowError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
        raise DgnError(f"the weights in {str(path)!r} don't fit their own configuration: {first}") from error
    return flow.eval().requires_grad_(False), meta


def _identity(components: Components) -> dict[str, Tensor]:
    """What a flow depends on; not the centres."""
    rest = torch.tensor(components.rest)
    return {
        "mean": components.mean.cpu(),
        "scale": components.scale.cpu(),
        "basis": components.basis.cpu(),
        "rest": rest,
    }


def _as_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
