"""How an ascent moves: every number of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from dgn.errors import DgnError, nearest


@dataclass(frozen=True)
class AscentSettings:
    """Settings of one ascent.

    Attributes:
        rule: ``"adam"`` or ``"nguyen2016"``.
        steps: forward passes; the image of the last one is what is returned.
        lr, lr_end: learning rate at the first step and the value it falls to linearly.
        decay: the code is multiplied by this after every step (1: no decay).
        sigmas: width of the code's range in standard deviations; None for the prior's own.
        jitter, scale, noise: transformations inside the loop, new at every step: shift by up to this share of the
            image's side, zoom by up to this share, Gaussian noise of this standard deviation (images in [0, 1]).
        fit: how images meet the network's input, ``"resize"`` or ``"crop"``.
        input_size: pixels at which the network sees images inside the loop (None: its own input size). Reported
            activations are always at the network's own size.
        reencode: after this share of the steps the code is replaced once by the code of its own image, as the prior's
            encoder sees it (0: never). What the image only seemed to show is lost, and the ascent goes on from there.
        keep: ``"last"`` image or the ``"best"`` one by activation in the loop.
        precision: ``"fp32"``, ``"bf16"`` or ``"auto"`` (bf16 where the processor has it), for the loop only; the
            returned image and its activation are always computed in float32.
        starts, race_steps: start codes a sample, and the steps that all of them climb at the full rate before the one
            with the highest activation over the last quarter of these steps goes on alone (1 start: no race).
        start_scale: distance of the start code from the mean code, as a multiple of the prior's own (0: all start
            from the mean code).
        refine_steps, refine_lr: a second ascent in the prior's finer code, where it has one (0: none).
        refine_radius: how far each element of that code may move from where the first ascent ended (None: the prior's
            own).
    """

    rule: str = "adam"
    steps: int = 200
    lr: float = 0.05
    lr_end: float = 0.0
    decay: float = 1.0
    sigmas: float | None = None
    jitter: float = 0.0
    scale: float = 0.0
    noise: float = 0.0
    fit: str = "resize"
    input_size: int | None = None
    reencode: float = 0.0
    keep: str = "last"
    precision: str = "auto"
    starts: int = 1
    race_steps: int = 30
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
        changed = replace(self, **{name: value for name, value in changes.items() if value is not None})
        changed.check()
        return changed

    @property
    def total_steps(self) -> int:
        """Forward passes a sample costs: races, ascent, refinement."""
        races = self.starts * self.race_steps if self.starts > 1 else 0
        return races + self.steps + self.refine_steps

    def check(self) -> None:
        """Raise :class:`DgnError` on values that can't work."""
        for name, count in (("steps", self.steps), ("starts", self.starts), ("race_steps", self.race_steps)):
            if count < 1:
                raise DgnError(f"{name} is {count}, expected a whole number above 0")
        if self.refine_steps < 0:
            raise DgnError(f"refine_steps is {self.refine_steps}, expected 0 or more")
        for name, rate in (("lr", self.lr), ("lr_end", self.lr_end), ("refine_lr", self.refine_lr)):
            if not 0 <= rate < math.inf:
                raise DgnError(f"{name} is {rate}, expected 0 or more (to find what silences a unit, climb '-1*UNIT')")
        if not 0 <= self.start_scale < math.inf:
            raise DgnError(f"start_scale is {self.start_scale}, expected 0 or more")
        if self.refine_radius is not None and not 0 < self.refine_radius < math.inf:
            raise DgnError(f"refine_radius is {self.refine_radius}, expected a distance above 0")
        if not 0 < self.decay <= 1:
            raise DgnError(f"decay is {self.decay}, expected a factor above 0, at most 1 (1: no decay)")
        if self.input_size is not None and self.input_size < 1:
            raise DgnError(f"input_size is {self.input_size}, expected pixels above 0")
        if self.keep not in ("last", "best"):
            raise DgnError(f"unknown keep {self.keep!r}, expected 'last' or 'best'")
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


NGUYEN2016 = AscentSettings(rule="nguyen2016", steps=200, lr=8.0, lr_end=1e-10, decay=0.99, sigmas=3.0, fit="crop")
"""The settings of the paper's first demo (CaffeNet fc8, code fc6)."""

PRESETS: dict[str, AscentSettings] = {"nguyen2016": NGUYEN2016}
