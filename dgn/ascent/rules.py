"""Update rules: plain functions of one signature, each one step of ascent on a batch of codes.

``rule(code, grad, state, lr) -> code``: ``code`` and ``grad`` are ``[N, ...]``, ``state`` is the rule's own memory
(empty at the first step), ``lr`` the step's learning rate. Every sample moves by its own gradient alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dgn.errors import DgnError, nearest
from dgn.priors.base import Prior

State = dict[str, Tensor]
Rule = Callable[[Tensor, Tensor, State, float], Tensor]


def nguyen2016(h: Tensor, g: Tensor, state: State, lr: float) -> Tensor:
    """``h + lr * g / mean|g|`` (Nguyen et al. 2016, the released ``act_max.py``)."""
    return h + lr * g / _per_sample(g.abs().flatten(1).mean(1), g)


def ppgn(h: Tensor, d: Tensor, state: State, lr: float) -> Tensor:
    """``h + lr * d / mean|d|`` with PPGN's direction (Nguyen et al. 2017), which the loop puts together.

    ``d = e1 (E(G(h)) - h) + dlog p(y | G(h)) / dh + N(0, e3)``; activations are reported as for any rule.
    """
    return nguyen2016(h, d, state, lr)


def cmaes(h: Tensor, g: Tensor, state: State, lr: float) -> Tensor:
    """A black-box search has no step of its own: see :mod:`dgn.ascent.blackbox`."""
    raise DgnError("cmaes is no rule of single steps")


def sample(h: Tensor, g: Tensor, state: State, lr: float) -> Tensor:
    """Guided denoising has no step of its own: see :mod:`dgn.ascent.sampling`."""
    raise DgnError("sample is no rule of single steps")


def adam(
    h: Tensor, g: Tensor, state: State, lr: float, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8
) -> Tensor:
    """Adam, upwards (Kingma & Ba 2015, algorithm 1), on gradients scaled by their own sample's mean magnitude.

    The scale of the first gradient is divided out of all, so that ``eps`` means the same for any unit.
    """
    if not state:
        state["m"], state["v"] = torch.zeros_like(g), torch.zeros_like(g)
        state["t"] = torch.zeros((), dtype=torch.float64)  # on the CPU: a number to every device
        state["scale"] = _per_sample(g.abs().flatten(1).mean(1), g)
    state["t"] += 1
    t = state["t"]  # stays a tensor: nobody waits for its value
    g = g / state["scale"]
    m = state["m"].lerp_(g, 1 - beta1)
    v = state["v"].lerp_(g * g, 1 - beta2)
    m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
    return h + lr * m_hat / (v_hat.sqrt() + eps)


def _per_sample(values: Tensor, like: Tensor) -> Tensor:
    return values.clamp(min=1e-30).view(-1, *[1] * (like.dim() - 1))


IN_RAW_CODE = frozenset({"nguyen2016", "ppgn"})
"""Rules whose rate is in the units of the encoder's own code."""

RULES: dict[str, Rule] = {"nguyen2016": nguyen2016, "adam": adam, "ppgn": ppgn, "cmaes": cmaes, "sample": sample}


def written_for(prior: Prior, rule: str) -> Prior:
    """The prior, by its own name, in the code that a rule moves in."""
    other = prior.raw() if rule in IN_RAW_CODE else prior.sampled() if rule == "sample" else None
    if other is None:
        return prior
    other.name, other.ascent = prior.name, prior.ascent
    return other


def find_rule(name: str) -> Rule:
    """The rule of that name; an error with the nearest known one."""
    if name not in RULES:
        raise DgnError(f"no rule {name!r}{nearest(name, RULES) or '; expected one of ' + ', '.join(RULES)}")
    return RULES[name]
