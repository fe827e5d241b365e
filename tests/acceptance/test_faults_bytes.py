"""Corrupted bytes: 200 random flips of a file, half of them in its header, and 40 cuts; always the clear error."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import rest_slow
from safetensors import safe_open

from dgn.errors import DgnError
from dgn.files.tensors import load_tensors, save_tensors
from dgn.network.network import Network
from dgn.priors import load_prior
from dgn.priors.checkpoint import load_components, load_generator
from dgn.priors.fourier import read_statistics
from dgn.resources import resource
from dgn.runs.batches import Parts
from dgn.synthesis.plan import plan
from dgn.training.decoder import GeneratorTraining
from dgn.training.settings import TrainSettings
from dgn.training.trainer import train

FLIPS, CUTS = 200, 40
SHIPPED: list[tuple[str, Callable[[Path], Any]]] = [
    ("spatial128/generator.safetensors", load_generator),
    ("spatial128/components.safetensors", load_components),
    ("natural_images/statistics.safetensors", read_statistics),
]


def flipped(whole: bytes, seed: int) -> bytes:
    """One bit turned: of the header and its length with an odd seed, of the tensors with an even one."""
    rng = random.Random(seed)
    header = 8 + int.from_bytes(whole[:8], "little")
    place = rng.randrange(header) if seed % 2 else rng.randrange(header, len(whole))
    data = bytearray(whole)
    data[place] ^= 1 << rng.randrange(8)
    return bytes(data)


def refused(path: Path, data: bytes, load: Callable[[Path], Any]) -> str:
    """The one line that loading these bytes ends with."""
    path.write_bytes(data)
    with pytest.raises(DgnError) as caught:
        load(path)
    line = str(caught.value)
    assert str(path) in line and "\n" not in line, line
    return line


@pytest.mark.parametrize(("name", "load"), rest_slow(SHIPPED, SHIPPED[-1]), ids=[name for name, _ in SHIPPED])
def test_no_corrupted_checkpoint_is_loaded(name: str, load: Callable[[Path], Any], tmp_path: Path) -> None:
    whole = (resource("pretrained") / name).read_bytes()
    path = tmp_path / Path(name).name
    path.write_bytes(whole)
    load(path)
    lines = [refused(path, flipped(whole, seed), load) for seed in range(FLIPS)]
    assert len(lines) == FLIPS
    rng = random.Random(0)
    for length in [0, 1, 7, 8, 9, len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(CUTS - 6))]:
        assert "cut short" in refused(path, whole[:length], load)
    assert "cut short" in refused(path, whole + b"\0", load)


@pytest.mark.slow
def test_no_corrupted_state_is_trained_on(images: Path, tmp_path: Path) -> None:
    """The state of a training: the same command refuses it, and leaves it as it is for whoever can mend it."""
    settings = TrainSettings(
        image_size=32, encoder_size=64, widths=(8, 8, 6), depths=(1, 1, 1), steps=2, batch=4, warmup=1, cooldown=0.0,
        comparator_layers=("blocks.0",), adversary_layers=("blocks.0",), held_out=4,
        statistics_images=12, component_images=12, components=5,
    )  # fmt: skip
    train(images, tmp_path / "out", settings, device="cpu", progress=False)
    path = tmp_path / "out" / "state.safetensors"
    whole = path.read_bytes()

    def load(path: Path) -> Any:
        return load_tensors(path, GeneratorTraining.format)

    for seed in range(FLIPS):
        refused(path, flipped(whole, seed), load)
    path.write_bytes(flipped(whole, 0))
    with pytest.raises(DgnError, match="SHA-256"):
        train(images, tmp_path / "out", replace(settings, steps=4), device="cpu", progress=False)
    assert path.read_bytes() == flipped(whole, 0)


def test_the_configuration_is_under_the_digest(tmp_path: Path) -> None:
    """A file that says something else about the same tensors is refused."""
    path = tmp_path / "x.safetensors"
    tensors = {"a": torch.arange(3.0)}
    save_tensors(path, tensors, {"size": 64}, "kind")
    data = path.read_bytes()
    assert data.count(rb"\"size\": 64") == 1
    assert "SHA-256" in refused(
        path, data.replace(rb"\"size\": 64", rb"\"size\": 65"), lambda p: load_tensors(p, "kind")
    )
    from safetensors.torch import save

    path.write_bytes(save(tensors, {"format": "kind", "meta": '{"size": 64}'}))
    with pytest.raises(DgnError, match="SHA-256"):
        load_tensors(path, "kind")


def test_shipped_files_carry_the_digest_of_everything() -> None:
    for name, _ in SHIPPED:
        with safe_open(resource("pretrained") / name, "pt") as file:
            assert "seal" in file.metadata(), name


def test_no_corrupted_batch_is_taken_up(tmp_path: Path, network: Network) -> None:
    """A finished batch of a run: whichever bit is turned, it is climbed again, not continued from."""
    job = plan(network, ["ant", "bee"], load_prior("pixel", size=16), steps=1, batch=2)
    parts = Parts(tmp_path, "pixel", "key")
    (piece,) = job.pieces()
    path = parts.write(0, piece, [{"unit": "ant", "activation": 1.5}, {"unit": "bee", "activation": 2.5}]).path
    whole = path.read_bytes()
    assert len(parts.finished()) == 1
    for seed in range(FLIPS):
        path.write_bytes(flipped(whole, seed))
        assert parts.finished() == [], seed
    path.write_bytes(whole)
    assert [row["unit"] for row in parts.finished()[0].rows] == ["ant", "bee"]
