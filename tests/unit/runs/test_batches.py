"""Finished batches: each counts whole, with its own key, up to the first gap."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from conftest import SmallCNN

import dgn
from dgn.priors.pixel import PixelPrior
from dgn.runs.batches import Parts, fingerprint
from dgn.synthesis.plan import plan


def test_batches_up_to_the_first_gap(tmp_path: Path) -> None:
    network = dgn.Network(SmallCNN().eval(), 16, class_names=list("abcde"))
    job = plan(network, ["a", "b", "c"], PixelPrior(16), steps=1, batch=1).keeping(2)
    parts = Parts(tmp_path, "pixel", "key")
    for first, piece in enumerate(job.pieces()):
        parts.write(first, piece, [{"unit": "abc"[first]}])
    assert [(part.first, part.count, part.rows[0]["unit"]) for part in parts.finished()] == [
        (0, 1, "a"), (1, 1, "b"), (2, 1, "c"),
    ]  # fmt: skip
    part = parts.finished()[1]
    assert part.read("images").dtype == torch.uint8 and len(part.read("frames")) == len(part.frame_steps) == 1
    assert Parts(tmp_path, "pixel", "another").finished() == []
    part.path.unlink()
    assert [part.first for part in parts.finished()] == [0]


def test_a_fingerprint_is_of_what_decides() -> None:
    network = dgn.Network(SmallCNN().eval(), 16, class_names=list("abcde"))
    job = plan(network, ["a"], PixelPrior(16), steps=1, batch=2)
    key = fingerprint(job, "digest")
    assert key == fingerprint(replace(job), "digest")
    others = [
        fingerprint(job, "another"), fingerprint(job, "digest", entry=1),
        *(fingerprint(replace(job, **{name: value}), "digest") for name, value in (("batch", 3), ("frames", 1))),
        fingerprint(plan(network, ["a"], PixelPrior(16), steps=2, batch=2), "digest"),
        fingerprint(plan(network, ["b"], PixelPrior(16), steps=1, batch=2), "digest"),
    ]  # fmt: skip
    assert len({key, *others}) == 7
