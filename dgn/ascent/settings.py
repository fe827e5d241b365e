"""How an ascent moves: every number of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from dgn.ascent.named import Part
from dgn.errors import DgnError, nearest
from dgn.functions import named

COUNTS = ("steps", "inner", "screen", "starts", "race_steps", "refine_steps", "views", "octaves", "population")
"""Settings that are whole numbers."""

Phase = tuple[tuple[str, Any], ...]
"""The settings that one phase of an ascent changes."""


@dataclass(frozen=True)
class AscentSettings:
    """Settings of one ascent.

    Attributes:
        rule: ``"sample"`` (guided denoising, for priors that can denoise), ``"adam"``, ``"nguyen2016"``, ``"ppgn"`` or
            ``"cmaes"`` (no gradients); in Python also a function of one's own, see :mod:`dgn.ascent.rules`, as in
            ``transforms``, ``penalties`` and ``between``.
        steps: forward passes (of ``sample``: of ``inner`` passes each); the image of the last one is what is returned.
        temperature: of ``sample``, in standard deviations of the unit's activation over real images: how far images
            may be tilted from natural ones (a tenth: as if the mean activation were to rise by ten of them).
        inner: of ``sample``: pulls a step. Each costs a forward pass.
        pull: of ``sample``: the longest pull at the beginning, in standard deviations of a code's elements.
        churn: of ``sample``: fresh noise at each step, from none (0) to that of ancestral sampling (1).
        shift: of ``sample``: above 1, more of the steps fall where the image is still noise.
        reach: of ``sample``: estimates stay within so many times a real code's typical distance from the mean code (0:
            anywhere).
        start_time: of ``sample``, with a start that is no noise: where between noise (0) and it (1) to begin.
        lr, lr_end: learning rate at the first step and the value it falls to linearly.
        decay: the code is multiplied by this after every step (1: no decay).
        sigmas: width of the code's range in standard deviations; None for the prior's own.
        jitter, scale, noise: transformations inside the loop, new at every step: shift by up to this share of the
            image's side, zoom by up to this share, Gaussian noise of this standard deviation (images in [0, 1]).
        transforms: more transformations inside the loop, one after the other, behind ``jitter`` and ``scale`` and
            before ``noise``; see :data:`dgn.ascent.transforms.TRANSFORMS`.
        views: transformed copies of each image that the network sees at every step; their activations are averaged.
        penalties: taken off the activation that is climbed; see :data:`dgn.ascent.penalties.PENALTIES`.
        between: done to the image after every step; see :data:`dgn.ascent.operators.OPERATORS`.
        centre_mask, centre_from: width of the Gaussian mask on the image's gradient, as a share of the side (0: none),
            and the share of the steps after which it is laid on.
        diversity, diversity_layer: weight of the cost of likeness between seeds of one unit, and the layer in which
            it is measured (None: the unit's own, or, where that has no map, the last layer with one).
        epsilon1, epsilon3: of PPGN: weight of the reconstruction direction ``E(G(h)) - h`` in units of the gradient
            (needs a prior with an encoder), and standard deviation of the noise added to the direction.
        octaves, octave_scale: the ascent runs so often, each time on a canvas larger by this factor; the last has the
            prior's size.
        phases: settings changed by each of several ascents, one after the other; ``grow`` enlarges the canvas first.
        population: candidates a generation, of ``cmaes``.
        fit: how images meet the network's input, ``"resize"`` or ``"crop"``.
        input_size: pixels at which the network sees images inside the loop (None: its own input size); several take
            turns, one a step. Reported activations are always at the network's own size.
        reencode: after this share of the steps the code is replaced once by the code of its own image, as the prior's
            encoder sees it (0: never). What the image only seemed to show is lost, and the ascent goes on from there.
        keep: ``"last"`` image or the ``"best"`` one by activation in the loop.
        precision: ``"fp32"``, ``"bf16"`` or ``"auto"`` (bf16 where the processor is faster in it and the prior's
            ascents get as far), for the network in the loop only; the returned image and its activation are always
            computed in float32.
        screen: codes between those of real images at which the unit is read before the ascent; it begins where the unit
            fires most (several starts: at the best of them). Which of the prior's are read follows from the seed, so
            that seeds begin at different ones. 0, or a prior without such codes: a random code.
        starts, race_steps: start codes a sample, and the steps that all of them climb at the full rate before one goes
            on alone (1 start: no race).
        race_by: which one: with ``"activation"`` that of the highest activation over the last quarter of these steps;
            with ``"probability"`` the one whose image the network names best, by the mean log-probability at several
            input sizes (for units that are no class: the mean activation there).
        start_scale: distance of the start code from the mean code, as a multiple of the prior's own (0: all start
            from the mean code).
        refine_steps, refine_lr: a second ascent in the prior's finer code, where it has one (0: none).
        refine_radius: how far each element of that code may move from where the first ascent ended (None: the prior's
            own).
    """

    rule: str = "adam"
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
        from dgn.ascent.operators import OPERATORS
        from dgn.ascent.penalties import PENALTIES
        from dgn.ascent.transforms import TRANSFORMS

        given = {name: value for name, value in changes.items() if value is not None}
        for name, catalogue in (("transforms", TRANSFORMS), ("penalties", PENALTIES), ("between", OPERATORS)):
            given[name] = catalogue.parse(given.get(name, getattr(self, name)))
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
        for name, amount in (("centre_mask", self.centre_mask), ("diversity", self.diversity),
                             ("epsilon1", self.epsilon1), ("epsilon3", self.epsilon3)):  # fmt: skip
            if not 0 <= amount < math.inf:
                raise DgnError(f"{name} is {amount}, expected 0 or more")
        if not 0 <= self.centre_from <= 1:
            raise DgnError(f"centre_from is {self.centre_from}, expected a share of the steps from 0 to 1")
        if not 1 < self.octave_scale < math.inf:
            raise DgnError(f"octave_scale is {self.octave_scale}, expected a factor above 1")
        if self.octaves > 1 and self.phases:
            raise DgnError("octaves and phases exclude each other: give grow in the phases")
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


def _phase(phase: Any) -> Phase:
    """A phase as its configuration or a manifest writes it."""
    if isinstance(phase, tuple):
        return phase
    try:
        return tuple((str(key), named(value)) for key, value in dict(phase).items())
    except (TypeError, ValueError):
        raise DgnError(f"a phase is {{SETTING: VALUE}}, not {phase!r}") from None


NGUYEN2016 = AscentSettings(rule="nguyen2016", steps=200, lr=8.0, lr_end=1e-10, decay=0.99, sigmas=3.0, fit="crop")
"""The settings of the paper's first demo (CaffeNet fc8, code fc6)."""

PPGN = AscentSettings(
    rule="ppgn", steps=200, lr=1.0, lr_end=1e-10, sigmas=3.0, fit="crop", epsilon1=1e-5, epsilon3=1e-17
)
"""The sampler of Nguyen et al. 2017 (arXiv 1612.00005) for one class, with an encoder as the reconstruction."""

_MULTIFACETED: tuple[dict[str, Any], ...] = (
    {"steps": 190, "lr": 1 / 255, "lr_end": 2 / 255, "between": [{"tv_denoise": 0.4}]},
    {"steps": 150, "lr": 1 / 255, "lr_end": 1 / 255, "between": [{"tv_denoise": {"weight": 0.01, "weight_end": 2}}],
     "grow": 1.2},
    {"steps": 20, "lr": 2 / 255, "lr_end": 2 / 255, "between": [{"tv_denoise": {"weight": 0.1, "weight_end": 2}}],
     "centre_mask": 0.15},
    {"steps": 10, "lr": 2 / 255, "lr_end": 2 / 255, "between": [{"tv_denoise": {"weight": 0.4, "weight_end": 2}}],
     "centre_mask": 0.15},
)  # fmt: skip

PRESETS: dict[str, AscentSettings] = {"nguyen2016": NGUYEN2016, "ppgn": PPGN}
"""Named settings; those with transformations are completed by :func:`preset`."""


def preset(name: str) -> AscentSettings:
    """Settings by name: ``nguyen2016``, ``ppgn``, ``distill2017`` (the transformations of Olah et al. 2017) or
    ``multifaceted`` (the pixel-space phases of Nguyen et al. 2016b, for a start from a mean image).

    Raises:
        DgnError: unknown name.
    """
    from dgn.ascent.transforms import DISTILL2017

    known = {
        **PRESETS,
        "distill2017": AscentSettings(rule="adam", steps=512, lr=0.05, lr_end=0.05, transforms=DISTILL2017),
        "multifaceted": AscentSettings(rule="nguyen2016", jitter=0.03).with_changes({"phases": _MULTIFACETED}),
    }
    if name not in known:
        raise DgnError(f"no ascent {name!r}{nearest(name, known) or '; expected one of ' + ', '.join(known)}")
    return known[name]
