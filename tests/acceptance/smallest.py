"""Each verb at its smallest, around a random network in a file (``conftest.lay_out``)."""

from __future__ import annotations

NETWORK = ["network.name=small.pt2", "trust=true"]

TINY = {
    "synthesize": [*NETWORK, "prior=pixel", "prior.pixel.size=16", "units=[0]", "ascent.steps=1"],
    "examples": [*NETWORK, "data.root=pictures", "units=[0]", "k=1"],
    "facets": [*NETWORK, "prior=pixel", "prior.pixel.size=16", "data.root=pictures", "unit=0",
               "facets=1", "examples=4", "members=2", "components=2", "ascent.steps=1", "layer=output"],
    "ablate": [*NETWORK, "image=pictures/a.png", "unit=0", "size=8", "stride=8", "curve_steps=2"],
    "concept": [*NETWORK, "layer=output", "positives=pictures/0", "negatives=pictures/1", "shuffles=2"],
    "train": ["data.root=pictures", "training.steps=1", "training.batch=2",
              "training.layer=output"],
    "evaluate": [*NETWORK, "data.root=pictures", "judges=[small.pt2]", "prior=pixel",
                 "prior.pixel.size=16", "units=[0]", "classes=1", "seeds=1", "ascent.steps=1"],
    "figure": [*NETWORK, "figure=start"],
    "gallery": ["finished"],
    "gather": ["nowhere"],
    "units": [*NETWORK],
}  # fmt: skip
for _verb in set(TINY) - {"gallery", "gather", "units"}:
    TINY[_verb] += ["tracking=off", "progress=false"]
