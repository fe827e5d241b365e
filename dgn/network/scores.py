"""What a network's outputs say of classes: logits of one choice or of many, probabilities already, or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dgn.errors import DgnError
from dgn.network.layout.survey import OUTPUT

if TYPE_CHECKING:
    from dgn.network.network import Network

SCORES = ("softmax", "sigmoid", "probabilities", "none")
"""``softmax``: logits of which one class is chosen (of a single logit: a sigmoid); ``sigmoid``: a logit a label;
``probabilities``: nothing is left to do; ``none``: no classes, as in a regression. Of cosines, a softmax or sigmoid has
scale and shift behind it, ``"softmax 100 0"``: it is taken of ``100 * cosine + 0``."""

SUMS_TO_ONE = 1e-3
"""How far from 1 the sum of a row of probabilities may be."""

_KEEPS_VALUES = (
    "View", "UnsafeView", "Reshape", "ReshapeAlias", "Squeeze", "Unsqueeze", "Select", "Slice", "Transpose", "Permute",
    "T", "Clone", "ToCopy", "Alias", "Expand", "Clamp", "SqueezeMultipleDims",
)  # fmt: skip
"""Operations between a softmax or sigmoid and a network's output that leave probabilities what they are."""


@torch.inference_mode(False)
@torch.enable_grad()
def find_scores(network: Network) -> str:
    """What the outputs are, asked of three images: probabilities where the last operation is a softmax or a sigmoid,
    or where rows are in [0, 1] and sum to 1; a single number is a logit of its own; else logits of one choice."""
    network = network.apart()
    try:
        network.layout(OUTPUT)
    except DgnError:  # there are several outputs, or none whose features could be told
        return "none"
    generator = torch.Generator().manual_seed(0)
    shape = (1, network.channels, *network.input_size)
    noise = torch.rand(shape, generator=generator)
    sums, last = True, ""
    for images in (noise, torch.full(shape, 0.5), noise.square()):
        images = images.to(network.device)
        try:
            output = network.features(images.clone().requires_grad_(), [OUTPUT])[OUTPUT]
        except RuntimeError:  # it can't be differentiated
            with torch.no_grad():
                output = network.features(images, [OUTPUT])[OUTPUT]
        last = _last_operation(output)
        values = network.layout(OUTPUT).canonical(output.detach().float(), len(images))
        features = values.shape[1]
        near = (values.sum(1) - 1).abs() <= SUMS_TO_ONE if features > 1 else values.new_zeros(1).bool()
        sums = sums and bool(near.all()) and bool(((values >= 0) & (values <= 1)).all())
    if sums or last in ("Softmax", "Sigmoid"):
        return "probabilities"
    return "sigmoid" if features == 1 else "softmax"


def _last_operation(output: Tensor) -> str:
    """What autograd says the output was made by, reshaping and the like passed over; empty where it says nothing."""
    node: Any = output.grad_fn
    while node is not None:
        name = node.name().rpartition("::")[2].rstrip("0123456789").removesuffix("Backward").lstrip("_")
        if name not in _KEEPS_VALUES:
            return name
        node = node.next_functions[0][0]
    return ""


def form_of(kind: str, network: Network, layer: str) -> str:
    """How ``log(...)`` or ``p(...)`` of a layer's unit is computed, for :func:`applied`: by a softmax over the layer
    (``"log"``, ``"p"``), or for the network's output by its kind of scores (``"log sigmoid"``).

    Raises:
        DgnError: the outputs are no scores.
    """
    scores = network.scores if layer == OUTPUT else "softmax"
    if scores == "none":
        raise DgnError(f"{kind}(...): the outputs of {network.name!r} are no scores of classes (network.scores=none)")
    return kind if scores == "softmax" else f"{kind} {scores}"


def applied(values: Tensor, form: str, axis: int) -> Tensor:
    """Probabilities, or their logarithms, of a layer's numbers with the features on an axis; see :func:`form_of`."""
    kind, _, scores = form.partition(" ")
    logs = log_probabilities(values, scores or "softmax", axis)
    return logs.exp() if kind == "p" else logs


def log_probabilities(values: Tensor, scores: str, axis: int = -1) -> Tensor:
    """The logarithm of each class's probability, float32, of outputs whose classes are on an axis.

    ``scores`` is one of :data:`SCORES` but ``"none"``; a softmax over a single class is a sigmoid.
    """
    scores, *line = scores.split()
    values = values.float()
    if line:
        values = float(line[0]) * values + float(line[1])
    if scores == "probabilities":
        return values.clamp(min=torch.finfo(torch.float32).tiny).log()
    if scores == "sigmoid" or values.shape[axis] == 1:
        return torch.nn.functional.logsigmoid(values)
    return values.log_softmax(axis)
