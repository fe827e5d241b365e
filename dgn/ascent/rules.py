"""Update rules: plain functions of one signature, each one step of ascent on a batch of codes.

``rule(code, grad, state, lr) -> code``: ``code`` and ``grad`` are ``[N, ...]``, ``state`` is the rule's own memory
(empty at the first step), ``lr`` the step's learning rate. Every sample moves by its own gradient alone. A function of
one's own with this signature may stand for a name.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dgn.errors import DgnError, nearest
from dgn.functions import Function
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


def find_rule(name: str | Rule) -> Rule:
    """The rule of that name, or the user's own; an error with the nearest known one."""
    own = name if isinstance(name, Function) else Function(name) if callable(name) else None
    if own is not None:
        own.check("rule", ("code", "gradient", "state", "lr"))
        return lambda h, g, state, lr: _own_step(own, h, g, state, lr)
    if name not in RULES:
        raise DgnError(f"no rule {name!r}{nearest(str(name), RULES) or '; expected one of ' + ', '.join(RULES)}")
    return RULES[str(name)]


def _own_step(rule: Function, h: Tensor, g: Tensor, state: State, lr: float) -> Tensor:
    """A step of the user's own rule. A sample without a gradient stays where it is, so that the rule may divide by its
    size."""
    moved = rule.call("rule", h, g, state, lr, shape=h.shape, finite=False)
    moves = (g.flatten(1) != 0).any(1).view(-1, *[1] * (g.dim() - 1))
    moved = torch.where(moves, moved, h)
    rule.check_finite("rule", moved)
    return moved
