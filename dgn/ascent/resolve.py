"""From the settings that were asked for to those that a job climbs by.

What a network, a prior or a rule can't follow is changed here, in one place, and said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from dgn.ascent.accent import accent_layer
from dgn.ascent.own import BEAR_BF16, own_settings
from dgn.ascent.presets import preset
from dgn.ascent.rules import find_rule
from dgn.ascent.settings import AscentSettings
from dgn.errors import DgnError
from dgn.images.fit import written
from dgn.network.fast.precision import choose
from dgn.network.network import Network
from dgn.priors import Prior

UNREAD, REFUSED = "unread", "refused"
NOT_SAMPLED = {
    **dict.fromkeys(
        (
            "decay",
            "between",
            "centre_mask",
            "reencode",
            "accent",
            "epsilon1",
            "epsilon3",
            "octaves",
            "phases",
            "keep",
        ),
        REFUSED,
    ),
    **dict.fromkeys(
        (
            "lr",
            "lr_end",
            "centre_from",
            "starts",
            "race_steps",
            "race_by",
            "refine_steps",
            "refine_lr",
            "refine_radius",
            "accent_layer",
        ),
        UNREAD,
    ),
}
"""Settings that the sampler knows nothing of: those that would change what is asked for are refused."""


def choose_ascent(prior: Prior, ascent: str | AscentSettings | None = None, **changes: Any) -> AscentSettings:
    """Settings for a prior: its own, a preset's (``"nguyen2016"``) or given ones, with changes that are not None.

    Raises:
        DgnError: unknown preset or rule; settings that ask of the prior, or of the rule, what it can't do.
    """
    if isinstance(ascent, str):
        ascent = preset(ascent)
    settings = (ascent or own_settings(prior, changes.get("rule"))).with_changes(changes)
    find_rule(settings.rule)
    _check_ability(prior, settings)
    return settings


def _check_ability(prior: Prior, settings: AscentSettings) -> None:
    """Raise :class:`DgnError` where the settings ask of the prior, or of the rule, what it can't do."""
    if settings.rule == "sample":
        for name in _differing(settings, REFUSED):
            raise DgnError(f"rule=sample knows no {name}: leave ascent.{name} out, or give ascent.rule=adam")
    stages = [stage for _, stage in settings.stages()]
    for name, wanted in (
        ("reencode", any(stage.reencode for stage in stages)), ("epsilon1", any(stage.epsilon1 for stage in stages)),
        ("between", any(stage.between for stage in stages)),
    ):  # fmt: skip
        able = prior.encodes and (name == "between" or type(prior).reencode is not Prior.reencode)
        if wanted and not able:
            raise DgnError(
                f"prior {prior.name!r} has no encoder, which ascent.{name} needs; leave it out, or use prior=dgn"
            )


def _differing(settings: AscentSettings, how: str) -> list[str]:
    """Settings of this kind that differ from their defaults."""
    usual = AscentSettings()
    return [name for name, kind in NOT_SAMPLED.items() if kind == how and vars(settings)[name] != vars(usual)[name]]


@dataclass(frozen=True)
class Resolution:
    """What a job climbs by.

    Attributes:
        settings: of the ascent.
        changed: each setting that is not as it was asked for: name -> what it was, and why it is another.
        notes: what a user should know of it, a line each.
    """

    settings: AscentSettings
    changed: dict[str, str]
    notes: list[str]


def resolve(
    network: Network, layers: Sequence[str], prior: Prior, asked: AscentSettings, *, started: bool = False
) -> Resolution:
    """The settings that a network and a prior can follow.

    Args:
        network, layers: under study, and those that the units are read from.
        prior: as the rule moves it (:func:`dgn.ascent.rules.written_for`).
        asked: settings, as :func:`choose_ascent` gives them.
        started: whether a start is given.

    Raises:
        DgnError: an input size that the network can't see, too few centres, a start at pure noise.
    """
    settings, changed, notes = asked, dict[str, str](), list[str]()

    def change(why: str, **values: Any) -> None:
        nonlocal settings
        for name, value in values.items():
            if vars(settings)[name] != value:
                changed[name] = f"{vars(asked)[name]} was asked for; {why}"
        settings = replace(settings, **values)

    if asked.rule == "sample" and prior.sampled() is None:  # one command line serves several priors
        change("the prior has no distribution to sample from", rule=own_settings(prior).rule)
        notes.append(f"prior {prior.name!r} has no distribution to sample from: it climbs by {settings.rule}")
    refused = next((size for size in asked.input_sizes if not network.takes(size)), None)
    if refused is not None:
        if asked.input_size != own_settings(prior, settings.rule).input_size:
            raise DgnError(
                f"network {network.name!r} can't see images of {refused} px; "
                f"its own size is input_size={written(network.input_size)}"
            )
        change(f"the prior's own, but the network can't see images of {refused} px", input_size=None)
    # A search that ranks many nearly equal candidates goes astray where these are rounded, and some priors' ascents do.
    exact = asked.precision == "auto" and (settings.rule == "cmaes" or prior.family not in BEAR_BF16)
    precision = "fp32" if exact else choose(network, layers, asked.precision)
    change("chosen for this rule, prior, network and processor", precision=precision)
    if not prior.refines:
        change("the prior has no finer code", refine_steps=0)
    if prior.centres is None:
        change("the prior has no codes between those of real images", screen=0)
    elif settings.screen and len(prior.centres) < settings.starts:
        raise DgnError(
            f"prior {prior.name!r} has {len(prior.centres)} centres for {settings.starts} starts: lower ascent.starts"
        )
    if settings.accent:
        if not started:
            raise DgnError("ascent.accent keeps to what a start shows: give start=FILE, or leave it out")
        change("a refinement would not keep to what the start shows", refine_steps=0)
        if settings.accent_layer is None:
            change("the middle one before the unit's", accent_layer=accent_layer(network, layers))
        network.layer_shape(str(settings.accent_layer))
    if settings.rule in ("cmaes", "sample"):
        change(f"not of rule {settings.rule}", starts=1, refine_steps=0, reencode=0.0)
    if started:
        change("a start is given", starts=1, screen=0)
        if settings.rule == "sample" and settings.start_time == 0:
            raise DgnError(
                "ascent.start_time=0 is noise, whatever the start: give a time above 0, or leave the start out"
            )
    elif settings.screen == 0 or settings.start_time == 0:
        change("it begins at noise", start_time=0.0, **({"screen": 0} if settings.rule == "sample" else {}))
    if settings.rule == "sample":
        notes += _unread(asked, prior)
    return Resolution(settings, changed, notes)


def _unread(settings: AscentSettings, prior: Prior) -> list[str]:
    """A line where settings were given that the sampler does not read. (The sampler's own are no mistake under another
    rule: one command line serves several priors.)"""
    names = ", ".join(f"ascent.{name}" for name in _differing(settings, UNREAD))
    if not names:
        return []
    return [f"prior {prior.name!r} is sampled, which does not read {names}: give ascent.rule=adam to climb by it"]
