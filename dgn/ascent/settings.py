"""How an ascent moves: every number of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from dgn.ascent.named import Part
from dgn.errors import DgnError, nearest
from dgn.functions import Function, named

COUNTS = ("steps", "inner", "screen", "starts", "race_steps", "refine_steps", "views", "octaves", "population")
"""Settings that are whole numbers."""


Phase = tuple[tuple[str, Any], ...]
"""The settings that one phase of an ascent changes."""


@dataclass(frozen=True)
class AscentSettings:
    """Settings of one ascent.

    Attributes:
        rule: how the code moves: ``sample`` (guided denoising, of priors with a distribution), ``adam``,
            ``nguyen2016``, ``ppgn`` or ``cmaes`` (no gradients). Or a function of one's own, see
            :mod:`dgn.ascent.rules`, as in ``transforms``, ``penalties`` and ``between``.
        steps: steps of the ascent, each one forward pass (rule=sample: ``inner`` passes). The image of the last one is
            returned.
        temperature: of ``sample``: higher is more natural and weaker, in standard deviations of the unit's activation
            over real images. A tenth: as if the mean activation were to rise by ten of them.
        inner: of ``sample``: pulls a step.
        pull: of ``sample``: the longest pull at the beginning, in standard deviations of a code's elements.
        churn: of ``sample``: fresh noise at each step, from 0 (none) to 1 (ancestral sampling).
        shift: of ``sample``: above 1, more of the steps fall where the image is still noise.
        reach: of ``sample``: estimates stay within this multiple of a real code's typical distance from the mean code;
            0: anywhere.
        start_time: of ``sample``, with a start that is no noise: where to begin between noise (0) and the start (1).
        lr: learning rate at the first step.
        lr_end: learning rate at the last step; it changes linearly.
        decay: factor on the code after every step; 1: no decay.
        sigmas: width of the code's range, in standard deviations of real codes. None: the prior's own.
        jitter: shift of the image at each step, up to this share of its side.
        scale: zoom of the image at each step, up to this share.
        noise: standard deviation of Gaussian noise on the image (in [0, 1]) at each step.
        transforms: more transformations at each step, a list of names or ``{NAME: VALUE}``. They act in this order,
            behind ``jitter`` and ``scale`` and before ``noise``; see :data:`dgn.ascent.transforms.TRANSFORMS`.
        views: transformed copies of each image that the network sees at a step; their activations are averaged.
        penalties: what is taken off the activation, a list of names or ``{NAME: WEIGHT}``. See
            :data:`dgn.ascent.penalties.PENALTIES`.
        between: what is done to the image after every step, a list of names or ``{NAME: VALUE}``. See
            :data:`dgn.ascent.operators.OPERATORS`.
        centre_mask: width of a Gaussian mask on the image's gradient, as a share of the side; 0: none.
        centre_from: share of the steps after which ``centre_mask`` is laid on.
        diversity: weight of the cost of likeness between seeds of one unit.
        diversity_layer: layer in which that likeness is measured. None: the unit's own, or, where that has no map, the
            last layer with one.
        accent: the start image is accentuated (Hamblin et al. 2024): where the features of ``accent_layer`` have moved
            by this share of their size, they are pulled back as hard as the unit pulls. 0: they aren't.
        accent_layer: layer whose features are held. None: of those with places before the unit's, the middle one.
        epsilon1: of ``ppgn``: weight of the reconstruction ``E(G(h)) - h``, in units of the gradient; needs an encoder.
        epsilon3: of ``ppgn``: standard deviation of the noise added to the direction.
        octaves: ascents one after the other, each on a canvas larger by ``octave_scale``; the last has the prior's
            size.
        octave_scale: factor by which the canvas grows with each octave.
        phases: settings that change from one ascent to the next, a list of ``{SETTING: VALUE}``; ``grow`` enlarges the
            canvas first.
        population: of ``cmaes``: candidates a generation.
        fit: how images meet the network's input in the loop: ``resize`` or ``crop``.
        input_size: pixels at which the network sees images in the loop; several sizes take turns. None: its own.
            Reported activations are always at the network's own size.
        reencode: share of the steps after which the code is replaced once by the code of its own image; 0: never. What
            the image only seemed to show is lost, and the ascent goes on from there.
        keep: which image is returned: the ``last``, or the ``best`` by activation in the loop.
        precision: of the network in the loop: ``fp32``, ``bf16`` or ``auto`` (bf16 where the processor is faster in it
            and the prior's ascents get as far). The returned image and its activation are always computed in float32.
        screen: codes between those of real images at which the unit is read first; the ascent begins where it fires
            most. Which of the prior's are read follows from the seed. 0, or a prior without such codes: a random code.
        starts: start codes of an image that race; 1: no race.
        race_steps: steps that all of them climb before one goes on alone.
        race_by: which start goes on: that of the highest ``activation`` over the last quarter of the race, or of the
            highest mean log-``probability`` at several input sizes (for units that are no class: activation).
        start_scale: distance of the start code from the mean code, as a multiple of the prior's own; 0: the mean code.
        refine_steps: steps of a second ascent in the prior's finer code, where it has one; 0: none.
        refine_lr: learning rate of that second ascent.
        refine_radius: how far it may move each element of the code. None: the prior's own.
    """

    rule: str | Function = "adam"
    steps: int = 200
    temperature: float = 0.01
    inner: int = 3
    pull: float = 1.8
    churn: float = 1.0
    shift: float = 1.0
    reach: float = 0.0
    start_time: float = 0.0
    lr: float = 0.05
    lr_end: float = 0.0
    decay: float = 1.0
    sigmas: float | None = None
    jitter: float = 0.0
    scale: float = 0.0
    noise: float = 0.0
    transforms: tuple[Part, ...] = ()
    views: int = 1
    penalties: tuple[Part, ...] = ()
    between: tuple[Part, ...] = ()
    centre_mask: float = 0.0
    centre_from: float = 0.0
    diversity: float = 0.0
    diversity_layer: str | None = None
    accent: float = 0.0
    accent_layer: str | None = None
    epsilon1: float = 0.0
    epsilon3: float = 0.0
    octaves: int = 1
    octave_scale: float = 1.4
    phases: tuple[Phase, ...] = ()
    population: int = 16
    fit: str = "resize"
    input_size: int | tuple[int, ...] | None = None
    reencode: float = 0.0
    keep: str = "last"
    precision: str = "auto"
    screen: int = 0
    starts: int = 1
    race_steps: int = 30
    race_by: str = "activation"
    start_scale: float = 1.0
    refine_steps: int = 0
    refine_lr: float = 0.04
    refine_radius: float | None = None

    def with_changes(self, changes: dict[str, Any]) -> AscentSettings:
        """These settings with every change that is not None.

        Raises:
            DgnError: an unknown setting or a value out of range.
        """
        known = [field.name for field in fields(self)]
        for name in changes:
            if name not in known:
                raise DgnError(f"no ascent setting {name!r}{nearest(name, known)}")
        given = {name: value for name, value in changes.items() if value is not None}
        for name in ("transforms", "penalties", "between"):
            if name in given or not _parsed(getattr(self, name)):
                given[name] = _parse(name, given.get(name, getattr(self, name)))
        given["rule"] = named(given.get("rule", self.rule))
        try:
            if not isinstance(given.get("input_size", 1), int):
                given["input_size"] = tuple(given["input_size"])
            if "phases" in given:
                given["phases"] = tuple(_phase(phase) for phase in given["phases"])
            changed = replace(self, **given)
            changed.check()
            changed.stages()
        except (TypeError, ValueError) as error:
            if isinstance(error, DgnError):
                raise
            raise DgnError(f"an ascent setting has the wrong type: {error}") from error
        return changed

    def stages(self) -> list[tuple[float, AscentSettings]]:
        """The main ascent as settings of its phases, each with the factor by which the canvas grows before it."""
        phases: tuple[Phase, ...] = self.phases
        if self.octaves > 1:
            phases = ((), *[(("grow", self.octave_scale),)] * (self.octaves - 1))
        alone = replace(self, phases=(), octaves=1)
        if not phases:
            return [(1.0, alone)]
        found = []
        for phase in phases:
            changes = dict(phase)
            grow = float(changes.pop("grow", 1.0))
            if not 1 <= grow < math.inf:
                raise DgnError(f"grow is {grow}, expected a factor of 1 or more")
            found.append((grow, alone.with_changes(changes)))
        return found

    @property
    def input_sizes(self) -> tuple[int, ...]:
        """The sizes of ``input_size``, which take turns; empty for the network's own."""
        return (self.input_size,) if isinstance(self.input_size, int) else self.input_size or ()

    @property
    def race_cost(self) -> int:
        """Forward passes of all races."""
        return self.starts * self.race_steps if self.starts > 1 else 0

    @property
    def total_steps(self) -> int:
        """Forward passes a sample costs: races, ascent, refinement."""
        return self.race_cost + sum(stage.steps for _, stage in self.stages()) + self.refine_steps

    def check(self) -> None:
        """Raise :class:`DgnError` on values that can't work."""
        for name in COUNTS:
            if not isinstance(getattr(self, name), int):
                raise DgnError(f"{name} is {getattr(self, name)!r}, expected a whole number")
        for name, count in (
            ("steps", self.steps),
            ("inner", self.inner),
            ("starts", self.starts),
            ("race_steps", self.race_steps),
            ("views", self.views),
            ("octaves", self.octaves),
        ):
            if count < 1:
                raise DgnError(f"{name} is {count}, expected a whole number above 0")
        for name, count in (("screen", self.screen), ("refine_steps", self.refine_steps)):
            if count < 0:
                raise DgnError(f"{name} is {count}, expected 0 or more")
        if 0 < self.screen < self.starts:
            raise DgnError(f"screen is {self.screen} for {self.starts} starts: give as many or more, or 0")
        for name, rate in (("lr", self.lr), ("lr_end", self.lr_end), ("refine_lr", self.refine_lr)):
            if not 0 <= rate < math.inf:
                raise DgnError(f"{name} is {rate}, expected 0 or more (to find what silences a unit, climb '-1*UNIT')")
        if not 0 <= self.start_scale < math.inf:
            raise DgnError(f"start_scale is {self.start_scale}, expected 0 or more")
        if self.refine_radius is not None and not 0 < self.refine_radius < math.inf:
            raise DgnError(f"refine_radius is {self.refine_radius}, expected a distance above 0")
        for name, amount in (("centre_mask", self.centre_mask), ("diversity", self.diversity), ("accent", self.accent),
                             ("epsilon1", self.epsilon1), ("epsilon3", self.epsilon3)):  # fmt: skip
            if not 0 <= amount < math.inf:
                raise DgnError(f"{name} is {amount}, expected 0 or more")
        if not 0 <= self.centre_from <= 1:
            raise DgnError(f"centre_from is {self.centre_from}, expected a share of the steps from 0 to 1")
        if not 1 < self.octave_scale < math.inf:
            raise DgnError(f"octave_scale is {self.octave_scale}, expected a factor above 1")
        if self.octaves > 1 and self.phases:
            raise DgnError("octaves and phases exclude each other: give grow in the phases")
        if self.accent and (self.octaves > 1 or self.phases):
            raise DgnError("accent holds one ascent to its start: leave octaves and phases out")
        for name, amount in (("temperature", self.temperature), ("pull", self.pull), ("shift", self.shift)):
            if not 0 < amount < math.inf:
                raise DgnError(f"{name} is {amount}, expected a number above 0")
        if not 0 <= self.churn <= 1:
            raise DgnError(f"churn is {self.churn}, expected a share from 0 to 1")
        if not 0 <= self.reach < math.inf:
            raise DgnError(f"reach is {self.reach}, expected a factor of 0 or more")
        if not 0 <= self.start_time < 1:
            raise DgnError(
                f"start_time is {self.start_time}, expected a time from 0 (noise) up to 1 (the start itself)"
            )
        if self.population < 2:
            raise DgnError(f"population is {self.population}, expected 2 or more")
        if not 0 < self.decay <= 1:
            raise DgnError(f"decay is {self.decay}, expected a factor above 0, at most 1 (1: no decay)")
        if self.input_size is not None and not self.input_sizes:
            raise DgnError("input_size is an empty list, expected pixels, one number or several")
        for size in self.input_sizes:
            if not isinstance(size, int) or size < 1:
                raise DgnError(f"input_size is {size!r}, expected pixels above 0")
        if self.keep not in ("last", "best"):
            raise DgnError(f"unknown keep {self.keep!r}, expected 'last' or 'best'")
        if self.race_by not in ("activation", "probability"):
            raise DgnError(f"unknown race_by {self.race_by!r}, expected 'activation' or 'probability'")
        if self.precision not in ("auto", "bf16", "fp32"):
            raise DgnError(f"unknown precision {self.precision!r}, expected 'auto', 'bf16' or 'fp32'")
        if self.fit not in ("resize", "crop"):
            raise DgnError(f"unknown fit {self.fit!r}, expected 'resize' or 'crop'")
        if not 0 <= self.scale < 1 or not 0 <= self.jitter < 1 or not 0 <= self.noise < math.inf:
            raise DgnError("jitter and scale are shares from 0 up to 1, noise is not negative")
        if not 0 <= self.reencode < 1:
            raise DgnError(f"reencode is {self.reencode}, expected a share of the steps from 0 up to 1")
        if self.sigmas is not None and not 0 < self.sigmas < math.inf:
            raise DgnError(f"sigmas is {self.sigmas}, expected a width above 0")


def _parsed(entries: Any) -> bool:
    return isinstance(entries, tuple) and all(isinstance(entry, Part) for entry in entries)


def _parse(setting: str, entries: Any) -> tuple[Part, ...]:
    """The functions that a setting names; those to choose from need torch, and are imported where there are any."""
    if entries in ((), []):
        return ()
    from dgn.ascent.operators import OPERATORS
    from dgn.ascent.penalties import PENALTIES
    from dgn.ascent.transforms import TRANSFORMS

    return {"transforms": TRANSFORMS, "penalties": PENALTIES, "between": OPERATORS}[setting].parse(entries)


def _phase(phase: Any) -> Phase:
    """A phase as its configuration or a manifest writes it."""
    if isinstance(phase, tuple):
        return phase
    try:
        return tuple((str(key), named(value)) for key, value in dict(phase).items())
    except (TypeError, ValueError):
        raise DgnError(f"a phase is {{SETTING: VALUE}}, not {phase!r}") from None
