"""Channels of a generator are kept within what they reach on real images."""

from __future__ import annotations

from pathlib import Path

import torch
from conftest import small_generator
from torch import Tensor

from dgn.files.tensors import load_tensors, save_tensors
from dgn.priors.checkpoint import FORMAT, RANGES, load_generator, save_generator
from dgn.training.statistics import measure_ranges


def codes(n: int = 256) -> Tensor:
    return torch.randn(n, 4, 4, 4, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_real_codes_are_drawn_as_before_and_wild_ones_are_bounded() -> None:
    generator, plain = small_generator(), small_generator()
    raw = plain.denormalise(codes())
    measure_ranges(iter(raw.split(64)), generator)
    changed = (generator(codes()) - plain(codes())).abs().amax((1, 2, 3))
    assert float((changed == 0).float().mean()) > 0.5  # a channel's half per cent is another image's for each channel
    assert float(changed.quantile(0.5)) < 1e-2 * float(plain(codes()).std())
    wild, far = 30 * codes(8), []
    for module in (plain, generator):
        x = module.stages[0](module.stem(wild))
        far.append(float(x.abs().max()))
    bound = generator.stages[0].high.max()  # type: ignore[union-attr,operator]
    assert far[0] > 10 * float(bound) and far[1] < 2 * float(bound) + float(generator.stem(wild).abs().max())


@torch.no_grad()
def test_a_training_is_not_bounded() -> None:
    generator = small_generator()
    measure_ranges(iter([generator.denormalise(codes())]), generator)
    wild = 30 * codes(8)
    bounded = generator(wild)
    for norm in (norm for stage in generator.stages for norm in stage.norms):  # type: ignore[union-attr]
        norm.momentum = 0.0
    assert float((generator.train()(wild) - bounded).abs().max()) > 1


def test_ranges_are_kept_and_files_without_them_have_none(tmp_path: Path) -> None:
    generator = small_generator()
    measure_ranges(iter([generator.denormalise(codes())]), generator)
    save_generator(tmp_path / "new.safetensors", generator, {})
    again, _ = load_generator(tmp_path / "new.safetensors")
    for name, value in generator.state_dict().items():
        assert not name.endswith(RANGES) or torch.equal(value, again.state_dict()[name])
    tensors, meta = load_tensors(tmp_path / "new.safetensors", FORMAT)
    old = {name: value for name, value in tensors.items() if not name.endswith(RANGES)}
    save_tensors(tmp_path / "old.safetensors", old, meta, FORMAT)
    unbounded, _ = load_generator(tmp_path / "old.safetensors")
    assert all(bool(stage.low.isinf().all()) for stage in unbounded.stages)  # type: ignore[union-attr,operator]
