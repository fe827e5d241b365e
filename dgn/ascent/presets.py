"""Named settings, of the papers."""

from __future__ import annotations

from typing import Any

from dgn.ascent.settings import AscentSettings
from dgn.errors import DgnError, nearest

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
