"""Checkpoints: whole, honest, and never unpickled."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import small_generator
from safetensors.torch import save_file

from dgn.errors import DgnError
from dgn.files.storage import digest, write_atomic
from dgn.priors import load_prior
from dgn.priors.checkpoint import load_components, load_generator, save_components, save_generator
from dgn.priors.components import ComponentsPrior
from dgn.priors.deep import GeneratorPrior
from dgn.priors.generator import Components


def parts() -> Components:
    torch.manual_seed(0)
    return Components(torch.randn(64), torch.linspace(3, 1, 12), torch.linalg.qr(torch.randn(64, 12)).Q, (4, 4, 4), 0.9)


def test_round_trip(tmp_path: Path) -> None:
    generator = small_generator()
    save_generator(tmp_path / "generator.safetensors", generator, {"note": "x"}, dtype=torch.float32)
    again, meta = load_generator(tmp_path / "generator.safetensors")
    code = torch.randn(2, 4, 4, 4)
    assert torch.equal(generator(code), again(code)) and meta["note"] == "x"
    assert not again.training and not any(parameter.requires_grad for parameter in again.parameters())
    assert isinstance(load_prior(tmp_path), GeneratorPrior)
    save_components(tmp_path / "components.safetensors", parts(), {})
    loaded, _ = load_components(tmp_path / "components.safetensors")
    coordinates = torch.randn(3, 12)
    error = (loaded.to_code(coordinates) - parts().to_code(coordinates)).abs().max()
    assert float(error) < 0.1 and loaded.explained == 0.9 and len(loaded.centres) == 0
    centred = replace(parts(), centres=torch.randn(7, 12) * torch.logspace(-2, 2, 7)[:, None])
    save_components(tmp_path / "centred.safetensors", centred, {})
    again, _ = load_components(tmp_path / "centred.safetensors")
    farthest = centred.centres.abs().amax(1, keepdim=True)
    assert float(((again.centres - centred.centres).abs() / farthest).max()) <= 0.5 / 127 + 1e-6
    prior = load_prior(tmp_path, size=32)
    assert isinstance(prior, ComponentsPrior) and prior.final.size == (32, 32)
    assert load_prior(tmp_path, space="code").size == (16, 16)


def bomb(path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {path.parent}/exploded",)

    path.write_bytes(pickle.dumps(Bomb()))


@pytest.mark.parametrize("kind", ["cut", "changed", "plain", "text", "pickle", "empty", "missing"])
def test_bad_files_are_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "generator.safetensors"
    save_generator(path, small_generator(), {})
    data = bytearray(path.read_bytes())
    if kind == "cut":
        path.write_bytes(data[:-50])
    elif kind == "changed":
        data[-3] ^= 1
        path.write_bytes(data)
    elif kind == "plain":
        save_file({"a": torch.zeros(3)}, path)
    elif kind == "text":
        path.write_text("not weights")
    elif kind == "pickle":
        bomb(path)
    elif kind == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
    with pytest.raises(DgnError) as caught:
        load_generator(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "exploded").exists()


def test_weights_that_do_not_fit_their_configuration(tmp_path: Path) -> None:
    generator = small_generator()
    del generator.head
    save_generator(tmp_path / "g.safetensors", generator, {})
    with pytest.raises(DgnError, match="don't fit their own configuration"):
        load_generator(tmp_path / "g.safetensors")


def test_writing_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "file"
    write_atomic(path, b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(DgnError, match="No space left"):
            write_atomic(path, b"new")
    assert path.read_bytes() == b"old" and [entry.name for entry in path.parent.iterdir()] == ["file"]
    with pytest.raises(DgnError, match="can't write"):
        write_atomic(path / "below", b"x")


def test_a_folder_without_permission_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder refuses before anything is made, or the disk fills while bytes are written."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(DgnError, match=r"can't write to .*Permission denied"):
            save_generator(tmp_path / "g.safetensors", small_generator(), {})
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(DgnError, match=r"can't write .*Permission denied"):
            save_generator(tmp_path / "g.safetensors", small_generator(), {})
    assert not list(tmp_path.iterdir())


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle passes on as itself, with nothing left behind."""
    write_atomic(tmp_path / "file", b"old")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "file", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_bytes() == b"old"


def test_half_precision_keeps_the_statistics_whole(tmp_path: Path) -> None:
    """Weights are stored as float16, the code's statistics as they were measured."""
    generator = small_generator()
    generator.code_mean.add_(1e-5)
    save_generator(tmp_path / "g.safetensors", generator, {})
    again, _ = load_generator(tmp_path / "g.safetensors")
    assert again.config == generator.config
    for name, tensor in generator.state_dict().items():
        rounded = tensor if name.startswith("code_") or not tensor.is_floating_point() else tensor.half().float()
        assert torch.equal(again.state_dict()[name], rounded), name


def test_metadata_and_kinds_are_not_mixed_up(tmp_path: Path) -> None:
    """One kind of file is not another; components of another generator are refused."""
    save_components(tmp_path / "c.safetensors", parts(), {})
    save_generator(tmp_path / "g.safetensors", small_generator(), {})
    with pytest.raises(DgnError, match="was not written as 'dgn-generator-1'"):
        load_generator(tmp_path / "c.safetensors")
    with pytest.raises(DgnError, match="was not written as 'dgn-components-1'"):
        load_components(tmp_path / "g.safetensors")
    other = Components(torch.zeros(48), torch.ones(2), torch.zeros(48, 2), (3, 4, 4))
    with pytest.raises(DgnError, match="don't fit a generator"):
        ComponentsPrior(small_generator(), other)


def test_digest_sees_every_bit() -> None:
    a = {"x": torch.zeros(4), "y": torch.ones(2)}
    assert digest(a) == digest(dict(reversed(a.items())))
    assert digest(a) != digest({**a, "x": torch.tensor([0.0, 0, 0, 1e-30])})
    assert digest(a) != digest({"x": torch.zeros(2, 2), "y": torch.ones(2)})
