"""The settings that each family of priors is known to do well with: what a user leaves open is taken from here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dgn.ascent.named import Part
from dgn.ascent.settings import AscentSettings
from dgn.errors import DgnError

if TYPE_CHECKING:  # the command line's help reads the tables without torch
    from dgn.priors.base import Prior

SAMPLER = AscentSettings(
    rule="sample", steps=18, temperature=0.01, inner=3, pull=1.8, churn=1.0, jitter=0.08, scale=0.15, noise=0.03,
    input_size=160, screen=512, start_time=0.4,
)  # fmt: skip
"""Found by measurement: docs/results/sampler.md."""

FLOW_SAMPLER = replace(SAMPLER, steps=24, start_time=0.2, reach=1.0)
"""With a flow, which knows more of what is still noise: docs/results/flow.md."""

COMPONENTS = AscentSettings(
    rule="adam", steps=90, lr=0.1, jitter=0.04, scale=0.1, noise=0.05, input_size=160, screen=512, refine_steps=80,
    refine_lr=0.04, reencode=0.5,
)  # fmt: skip

NOISE = AscentSettings(
    rule="adam", steps=45, lr=0.1, jitter=0.08, scale=0.15, noise=0.03, input_size=160, screen=512, starts=3,
    race_steps=8,
)  # fmt: skip
"""In the noise of a distribution's codes: docs/results/flow.md."""

PIPELINE = AscentSettings(rule="adam", steps=45, lr=0.1, jitter=0.08, scale=0.15, noise=0.03)
"""In the noise of a diffusion pipeline: as in that of dgn's own distribution, not measured."""

PIPELINE_SAMPLER = replace(FLOW_SAMPLER, steps=30, inner=1, screen=0, input_size=None)
"""Among a pipeline's latents, likewise; a pull takes a pass back through its network."""

TRANSFORMED = AscentSettings(rule="adam", steps=200, lr=0.05, jitter=0.04, scale=0.1, noise=0.02)
"""Of a generator of which nothing is known."""

OWN: dict[str, tuple[AscentSettings, ...]] = {
    "pixel": (AscentSettings(rule="adam", steps=100, lr=0.05, lr_end=0.005),),
    "fourier": (AscentSettings(rule="adam", steps=200, lr=0.05, lr_end=0.01, jitter=0.05, scale=0.08, noise=0.03),),
    "maco": (
        AscentSettings(
            rule="adam", steps=256, lr=1.0, lr_end=0.05, input_size=160, noise=0.05, views=2,
            transforms=(Part("crop", (("smallest", 0.4), ("largest", 0.9))),),
        ),
    ),
    "code": (replace(TRANSFORMED, steps=150, input_size=128, sigmas=2.0),),
    "components": (SAMPLER, COMPONENTS),
    "flow": (FLOW_SAMPLER, COMPONENTS),
    "noise": (NOISE, FLOW_SAMPLER),
    "deepsim": (AscentSettings(rule="nguyen2016", steps=200, lr=8.0, lr_end=1e-10, decay=0.99, fit="crop"),),
    "pipeline": (PIPELINE, PIPELINE_SAMPLER),
    "biggan": (replace(TRANSFORMED, steps=150, lr=0.02, starts=4, race_steps=15),),
}  # fmt: skip
"""By family; of one that can be sampled, how it is sampled and how it is climbed."""

BEAR_BF16 = frozenset({"pixel", "fourier", "maco"})
"""Families whose ascents were seen to get as far with the network in bf16: ``precision="auto"`` may then mean it."""


def family_settings(family: str, changes: Mapping[str, Any], rule: str | None = None) -> AscentSettings:
    """A family's settings, with the changes of one prior.

    Args:
        family: key of :data:`OWN`; of any other, :data:`TRANSFORMED`.
        changes: settings by name.
        rule: that was asked for; None for the changes' or the family's own.
    """
    manners = OWN.get(family, (TRANSFORMED,))
    wanted = rule or changes.get("rule") or manners[0].rule
    fitting = [manner for manner in manners if (manner.rule == "sample") == (wanted == "sample")]
    if rule is not None and (changes.get("rule") == "sample") != (rule == "sample"):
        changes = {**changes, "rule": None}
    return (fitting or manners)[0].with_changes(dict(changes))


def own_settings(prior: Prior, rule: str | None = None) -> AscentSettings:
    """The settings with which a prior is known to do well.

    Args:
        prior: its family's settings, changed by its own ``ascent``.
        rule: that was asked for; None for the prior's own.

    Raises:
        DgnError: the prior's ``ascent`` is no mapping, or holds no settings.
    """
    if not isinstance(prior.ascent, Mapping):
        raise DgnError(f"ascent of prior {prior.name!r} is {type(prior.ascent).__name__}, expected {{SETTING: VALUE}}")
    settings = family_settings(prior.family, prior.ascent, rule)
    if settings.reencode and not prior.encodes and "reencode" not in prior.ascent:
        settings = replace(settings, reencode=0.0)
    if settings.screen and prior.centres is None and "screen" not in prior.ascent:
        instead = {"steps": 30} if settings.rule == "sample" else {"starts": 4}
        settings = settings.with_changes({"screen": 0, **instead, **prior.ascent, "rule": None})
    return settings
