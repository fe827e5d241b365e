"""Training: data, resume to the bit, statistics."""

from __future__ import annotations

import csv
import json
import signal
import tarfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import rest_slow
from omegaconf import OmegaConf
from PIL import Image

from dgn.ascent.own import own_settings
from dgn.errors import DgnError
from dgn.files.tensors import load_tensors
from dgn.images.reading import crop, decode, list_images
from dgn.network.fast.precision import autocast
from dgn.network.sources import load_network
from dgn.priors import load_prior
from dgn.priors.checkpoint import load_components, load_generator
from dgn.priors.generator import CodeKind, Generator, GeneratorConfig, encode, reduced
from dgn.resources import resource
from dgn.training.ascents import AscentPool, SamplePool
from dgn.training.data import StepBatches, stream
from dgn.training.decoder import GeneratorTraining
from dgn.training.encoding import Encoding
from dgn.training.losses import blend, feature_distance, hinge_discriminator, hinge_generator
from dgn.training.settings import TrainSettings, rate
from dgn.training.state import Machine
from dgn.training.statistics import measure_centres, measure_code, measure_components
from dgn.training.trainer import compiles
from dgn.training.trainer import train as train_on

train = partial(train_on, device="cpu")
SMALL = TrainSettings(
    image_size=32, encoder_size=64, widths=(8, 8, 6), depths=(1, 1, 1), steps=6, batch=4, warmup=1, cooldown=0.0,
    adversary_start=0.0, held_out=4, statistics_images=12, component_images=12, components=5,
)  # fmt: skip


def test_folders_and_tars_hold_the_same_images(images: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        for path in sorted(images.iterdir()):
            archive.add(path, f"n01/{path.name}")
        archive.add(__file__, "readme.py")
    folder, shard = list_images(images), list_images(tmp_path / "shard.tar")
    assert len(folder) == len(shard) == 24
    assert [entry.read() for entry in folder] == [entry.read() for entry in shard]


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(DgnError, match="no folder or tar file"):
        list_images(tmp_path / "nowhere")
    with pytest.raises(DgnError, match="no images in"):
        list_images(tmp_path)
    (tmp_path / "a.tar").write_bytes(b"no tar file at all")
    with pytest.raises(DgnError, match="no readable tar file"):
        list_images(tmp_path)


def test_broken_files_are_named_and_replaced(images: Path) -> None:
    (images / "05.png").write_bytes(b"")
    (images / "11.png").write_bytes((images / "11.png").read_bytes()[:60])
    batches = StepBatches(list_images(images), 32, 24, seed=0)
    pixels, broken = batches[0]
    assert sorted(broken) == ["05.png", "11.png"] and pixels.shape == (24, 3, 32, 32)
    for path in images.iterdir():
        path.write_bytes(b"")
    with pytest.raises(DgnError, match="none of the 24 images"):
        batches[1]


def test_batches_follow_from_their_step(images: Path) -> None:
    entries = list_images(images)
    straight = [batch for batch, _ in stream(StepBatches(entries, 32, 5, seed=3), 0, 8, workers=0)]
    resumed = [batch for batch, _ in stream(StepBatches(entries, 32, 5, seed=3), 6, 8, workers=2)]
    assert torch.equal(straight[6], resumed[0]) and torch.equal(straight[7], resumed[1])
    assert not torch.equal(straight[0], next(stream(StepBatches(entries, 32, 5, seed=4), 0, 1, workers=0))[0])


def test_every_step_has_its_own_crops_and_every_epoch_its_own_order(images: Path) -> None:
    entries = list_images(images)
    one = StepBatches(entries[:1], 32, 1, seed=0)
    assert len({one[step][0].numpy().tobytes() for step in range(6)}) == 6
    whole = StepBatches(entries, 32, 24, seed=0, random=False)
    epochs = [[image.numpy().tobytes() for image in whole[step][0]] for step in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) and epochs[0] != epochs[1] and len(set(epochs[0])) == 24


def test_crops(images: Path) -> None:
    image = decode((images / "00.png").read_bytes())
    assert crop(image, 70, None).shape == (70, 70, 3)
    np.testing.assert_array_equal(crop(image, 70, None), np.asarray(image)[:, 5:75])
    assert crop(image, 90, None).shape == (90, 90, 3)  # larger than the picture: enlarged
    rng = np.random.default_rng(0)
    assert len({crop(image, 48, rng).tobytes() for _ in range(8)}) == 8


@pytest.mark.parametrize("code", ["spatial", "pooled"])
@pytest.mark.slow
def test_a_resumed_training_equals_an_undisturbed_one(code: str, images: Path, tmp_path: Path) -> None:
    widths, depths = ((8, 8, 6), (1, 1, 1)) if code == "spatial" else ((8, 8, 8, 6), (1, 1, 1, 1))
    settings = replace(SMALL, code=code, widths=widths, depths=depths)
    whole = train(images, tmp_path / "whole", settings, progress=False)
    train(images, tmp_path / "parts", replace(settings, steps=3), progress=False)
    parts = train(images, tmp_path / "parts", settings, progress=False)
    first, meta = load_generator(whole)
    second, _ = load_generator(parts)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    assert meta["step"] == 6
    with (tmp_path / "parts" / "losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[-1]["step"] == "6" and float(rows[-1]["discriminator"]) > 0
    assert len(list((tmp_path / "whole" / "samples").glob("*.png"))) == 1
    assert (tmp_path / "whole" / "components.safetensors").exists() == (code == "spatial")
    with pytest.raises(DgnError, match="holds a training with lr="):
        train(images, tmp_path / "parts", replace(settings, lr=0.5), progress=False)


@pytest.mark.slow
def test_codes_of_the_pool_climb_and_start_anew() -> None:
    generator, _ = load_generator(resource("pretrained") / "spatial128" / "generator.safetensors")
    components, _ = load_components(resource("pretrained") / "spatial128" / "components.safetensors")
    pool = AscentPool(components, load_network().at(128), rows=3, steps=12, seed=0)
    generator.eval()
    assert pool.ages == [0, 3, 6, 9]

    def scores() -> torch.Tensor:
        read = pool.encoder.features(generator(components.to_code(pool.codes[0])).clamp(0, 1), ["output"])["output"]
        return read.gather(1, pool.units[0][:, None])[:, 0]

    before, units = scores(), pool.units[0]
    for _ in range(4 * 12):
        assert pool.next(generator).shape == (3, 112, 8, 8)
    assert (scores() - before > 1).all()  # logits
    assert (pool.codes[0].norm(dim=1) <= 32 * 1.001).all() and pool.ages == [12, 3, 6, 9]
    pool.next(generator)
    assert pool.ages[0] == 1 and not torch.equal(pool.units[0], units)


@pytest.mark.slow
def test_a_training_starts_from_an_earlier_one(images: Path, tmp_path: Path) -> None:
    first = train(images, tmp_path / "first", replace(SMALL, components=0), progress=False)
    settings = replace(SMALL, components=0, steps=1, warmup=1, lr=1e-9, init=str(tmp_path / "first"))
    again, _ = load_generator(train(images, tmp_path / "again", settings, progress=False))
    earlier, _ = load_generator(first)
    for (name, mine), theirs in zip(again.named_parameters(), earlier.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-3, msg=name)
    with pytest.raises(DgnError, match="has widths="):
        train(images, tmp_path / "other", replace(settings, widths=(8, 6, 6)), progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("norms", ["batch", "kept"])
def test_a_training_keeps_the_statistics_of_channels(norms: str, images: Path, tmp_path: Path) -> None:
    earlier, _ = load_generator(train(images, tmp_path / "first", replace(SMALL, components=0), progress=False))
    settings = replace(SMALL, components=0, init=str(tmp_path / "first"), norms=norms)
    again, _ = load_generator(train(images, tmp_path / "again", settings, progress=False))
    pairs = zip(again.named_buffers(), earlier.named_buffers(), strict=True)
    kept = [torch.equal(mine, theirs) for (name, mine), (_, theirs) in pairs if "running" in name]
    assert len(kept) == 6 and all(kept) == (norms == "kept")
    grown = replace(settings, image_size=64, code_size=32, widths=(8, 8, 6, 5), depths=(1, 1, 1, 1), norms="kept")
    with pytest.raises(DgnError, match="nothing to keep for the stages"):
        train(images, tmp_path / "grown", grown, progress=False)
    assert not torch.equal(again.head.weight, earlier.head.weight)


@pytest.mark.slow
def test_a_larger_generator_keeps_the_codes_of_a_smaller(images: Path, tmp_path: Path) -> None:
    """Codes, their statistics, components and the stages that were there; samples under way are learned, and a training
    in two parts is one in one."""
    small = train(images, tmp_path / "small", SMALL, progress=False)
    settings = replace(
        SMALL, image_size=64, code_size=32, widths=(8, 8, 6, 5), depths=(1, 1, 1, 1), steps=3, sample_share=0.25,
        init=str(tmp_path / "small"),
    )  # fmt: skip
    frozen = train(images, tmp_path / "frozen", replace(settings, lr=1e-12, steps=1), progress=False)
    before, after = (load_generator(path)[0] for path in (small, frozen))
    torch.testing.assert_close(after.stem.weight, before.stem.weight)
    torch.testing.assert_close(after.stages[2].convs[0].weight, before.stages[2].convs[0].weight)
    assert torch.equal(after.code_mean, before.code_mean)
    assert (
        frozen.with_name("components.safetensors").read_bytes()
        == small.with_name("components.safetensors").read_bytes()
    )
    one, other = load_prior(str(tmp_path / "small"), space="code"), load_prior(str(tmp_path / "frozen"), space="code")
    pictures = torch.rand(2, 3, 64, 64)
    assert (one.size, other.size, one.code_shape) == ((32, 32), (64, 64), other.code_shape)
    torch.testing.assert_close(other.encode(pictures), one.encode(reduced(pictures, other.generator.config)))
    assert load_prior(str(tmp_path / "frozen")).sampled().decode(other.encode(pictures)).shape == (2, 3, 64, 64)

    whole, _ = load_generator(train(images, tmp_path / "whole", settings, progress=False))
    train(images, tmp_path / "parts", replace(settings, steps=2), progress=False)
    parts, _ = load_generator(train(images, tmp_path / "parts", settings, progress=False))
    assert all(torch.equal(tensor, parts.state_dict()[name]) for name, tensor in whole.state_dict().items())
    with pytest.raises(DgnError, match="has layer="):
        train(images, tmp_path / "other", replace(settings, layer="blocks.3"), progress=False)


@pytest.mark.slow
def test_samples_of_the_pool_please_their_units() -> None:
    """At the end of its way a group's estimates excite its units; the next begins elsewhere."""
    prior = load_prior("dgn").sampled()
    pool = SamplePool(prior, load_network().at(128), rows=3, seed=0, sigma=torch.ones(1000))
    assert pool.ages == [0, 4, 9, 13]

    def scores(code: torch.Tensor) -> torch.Tensor:
        return pool.encoder.features(prior.decode(code), ["output"])["output"].gather(1, pool.units[0][:, None])[:, 0]

    estimates, units = [], pool.units[0]
    for turn in range(4 * pool.steps):
        estimate = pool.next(prior.layout.generator)
        if turn % 4 == 0:
            estimates.append(estimate)
    assert (scores(estimates[-1]) - scores(estimates[0]) > 1).all()  # logits
    pool.next(prior.layout.generator)
    assert pool.ages[0] == 1 and not torch.equal(pool.units[0], units)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample_share": 0.2, "ascent_share": 0.2}, "not both"),
        ({"norms": "kept"}, "give it as init"),
        ({"norms": "layer"}, "unknown norms"),
        ({"code_size": 65}, "expected 0 to image_size"),
        ({"ascent_share": 0.6, "blend_share": 0.4}, "leave no image"),
        ({"ascent_share": 0.2, "components": 0}, "need a spatial code and components"),
        ({"ascent_share": -0.1}, "expected a share"),
    ],
)
def test_settings_that_cannot_be(change: dict[str, float | str], message: str) -> None:
    with pytest.raises(DgnError, match=message):
        replace(SMALL, **change).check()  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["signal", "crash"])
def test_a_killed_training_resumes_to_the_bit(how: str, images: Path, tmp_path: Path) -> None:
    """Stopped after 20 steps of 24, the adversary has joined and the rate falls; broken files stay known."""
    (images / "07.png").write_bytes(b"")
    settings = replace(
        SMALL, steps=24, adversary_start=0.3, cooldown=0.5, warmup=2, statistics_images=24, components=5,
        semantic_layers=("blocks.2", "blocks.6"), blend_share=0.25, ascent_share=0.25, ascent_steps=4,
    )  # fmt: skip
    whole, _ = load_generator(train(images, tmp_path / "whole", settings, progress=False))

    def dies(step: int, _losses: dict[str, float], _picture: Path | None) -> None:
        if step == 20 and how == "crash":
            raise MemoryError
        if step == 20:
            signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    minutes = 0.0 if how == "crash" else 60.0  # a crash leaves the last checkpoint, a signal makes one
    with pytest.raises(MemoryError if how == "crash" else DgnError, match=None if how == "crash" else "step 21 of 24"):
        train(images, tmp_path / "parts", settings, checkpoint_minutes=minutes, progress=False, log=dies)
    assert signal.getsignal(signal.SIGTERM) == before
    state = load_tensors(tmp_path / "parts" / "state.safetensors", GeneratorTraining.format)[1]
    assert state["step"] == (20 if how == "crash" else 21)
    parts, _ = load_generator(train(images, tmp_path / "parts", settings, progress=False))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, parts.state_dict()[name]), name
    for name in ("whole", "parts"):
        assert json.loads((tmp_path / name / "report.json").read_text())["broken"] == ["07.png"]
    with Image.open(tmp_path / "parts" / "samples" / "step-0000024.png") as sheet:
        assert sheet.size == (2 + 2 * 34, 2 + 2 * 34)  # two held-out images above their reconstructions
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.slow
def test_a_finished_training_is_only_finished_again(images: Path, tmp_path: Path) -> None:
    """The same command once more changes no weight; another folder of images or a changed state is refused."""
    settings = replace(SMALL, steps=2)
    path = train(images, tmp_path / "out", settings, progress=False)
    first = path.read_bytes()
    assert train(images, tmp_path / "out", settings, progress=False).read_bytes()[-4096:] == first[-4096:]
    (images / "00.png").unlink()
    with pytest.raises(DgnError, match="was trained on 22 images, the data now holds 21"):
        train(images, tmp_path / "out", settings, progress=False)
    state = tmp_path / "out" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-1] + b"\x55")
    with pytest.raises(DgnError, match="SHA-256"):
        train(images, tmp_path / "out", settings, progress=False)


def test_measured_statistics_are_those_of_the_encoder(images: Path, tmp_path: Path) -> None:
    """What the checkpoint says of the code is what the encoder gives for the images that were measured."""
    training = GeneratorTraining(SMALL, images, tmp_path, Machine())
    measured = StepBatches(training.entries, 32, 12, seed=101)[0][0].float() / 255
    with torch.no_grad(), autocast(torch.device("cpu"), trains=True):
        codes = training.encoding.code(measured.contiguous(memory_format=torch.channels_last)).double()
    assert len(codes) == 12 and codes.shape[1:] == (112, 4, 4)
    generator = training.generator
    torch.testing.assert_close(generator.code_mean.flatten().double(), codes.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    std = codes.std((0, 2, 3), unbiased=False)
    torch.testing.assert_close(
        generator.code_std.flatten().double(), std.clamp(min=1e-4 * std.max()), rtol=1e-4, atol=1e-6
    )
    torch.testing.assert_close(generator.code_min.flatten().double(), codes.amin((0, 2, 3)))
    normal = generator.normalise(codes.float())
    torch.testing.assert_close(normal.mean((0, 2, 3)), torch.zeros(112), atol=1e-3, rtol=0)
    for name in ("code_mean", "code_std", "code_min", "code_max"):
        assert torch.equal(getattr(training.average, name), getattr(generator, name))


@pytest.mark.slow
def test_a_state_remembers_its_broken_files_and_losses(images: Path, tmp_path: Path) -> None:
    training = GeneratorTraining(SMALL, images, tmp_path, Machine())
    training.broken.add("long ago.png")
    training.rows.append({"step": 1, "pixel": 0.5})
    training.save()
    again = GeneratorTraining(SMALL, images, tmp_path, Machine())
    assert again.broken == {"long ago.png"} and again.rows == training.rows


def test_blends_keep_the_covariance_and_leave_the_rest() -> None:
    torch.manual_seed(0)
    mixing = torch.randn(6, 6)
    code = (torch.randn(20000, 6) @ mixing).view(-1, 6, 1, 1)
    blended = blend(code, 15000, torch.Generator().manual_seed(1))
    assert torch.equal(blended[15000:], code[15000:])
    expected, found = mixing.T @ mixing, torch.cov(blended[:15000].flatten(1).T)
    torch.testing.assert_close(found, expected, atol=0.06 * float(expected.max()), rtol=0)
    assert float((blended[:15000] - code[:15000]).abs().mean()) > 0.3
    assert torch.equal(blended, blend(code, 15000, torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("weight", [0.0, 1.0])
@pytest.mark.slow
def test_the_semantic_loss_reaches_the_generator(weight: float, images: Path, tmp_path: Path) -> None:
    """Alone among the losses it moves the weights; without it nothing does. Blends are not asked for it."""
    none = {"pixel_weight": 0.0, "feature_weight": 0.0, "adversary_weight": 0.0, "code_weight": 0.0}
    settings = replace(SMALL, **none, semantic_layers=("blocks.2",), semantic_weight=weight, blend_share=0.5)
    training = GeneratorTraining(settings, images, tmp_path, Machine())
    batch = next(training.batches())
    before = [parameter.clone() for parameter in training.generator.parameters()]
    losses = training.update(batch)
    moved = any(not torch.equal(a, b) for a, b in zip(before, training.generator.parameters(), strict=True))
    assert moved == (weight > 0) and float(losses["semantic"]) > 0
    without = GeneratorTraining(replace(settings, blend_share=1.0), images, tmp_path / "b", Machine())
    assert float(without.update(batch)["semantic"]) == 0


def test_held_out_images_are_never_trained_on(images: Path, tmp_path: Path) -> None:
    training = GeneratorTraining(SMALL, images, tmp_path, Machine())
    held, kept = {entry.name for entry in training.held_out}, {entry.name for entry in training.entries}
    assert len(held) == 2 and len(kept) == 22 and not held & kept


@pytest.mark.parametrize("code", ["spatial", "pooled"])
def test_encode(code: CodeKind) -> None:
    features = torch.rand(2, 3, 4, 4)
    if code == "spatial":
        assert torch.equal(encode(features, code), features)
    else:
        torch.testing.assert_close(encode(features, code).flatten(1), features.flatten(2).mean(2))
    assert encode(features[:, :, 0, 0], code).shape == (2, 3, 1, 1)
    with pytest.raises(DgnError, match="a code is read from"):
        encode(torch.rand(2, 17, 6), code)


def test_losses_by_hand() -> None:
    """Feature distance per channel scale, and the hinge on both sides of its margin."""
    a, b = torch.zeros(1, 2, 2, 2), torch.tensor([1.0, 4.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    scale = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1)
    assert float(feature_distance([a, a], [b, a], [scale, scale])) == pytest.approx(1.5)
    real, fake = [torch.tensor([2.0, 0.5])], [torch.tensor([-3.0, 1.0])]
    assert float(hinge_discriminator(real, fake)) == pytest.approx(0.25 + 1.0)
    assert float(hinge_generator(fake)) == pytest.approx(1.0)


@pytest.mark.slow
def test_training_learns(images: Path, tmp_path: Path) -> None:
    """What an image's code decodes to is nearer to it than its mean colour is, and far nearer than another's."""
    settings = replace(SMALL, steps=120, adversary_weight=0.0, components=0, lr=3e-3, widths=(24, 24, 12))
    generator, _ = load_generator(train(images, tmp_path / "out", settings, progress=False))
    with (tmp_path / "out" / "losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["20", "40", "60", "80", "100", "120"]
    assert float(rows[-1]["pixel"]) < 0.9 * float(rows[0]["pixel"])
    squares = np.stack([crop(decode(entry.read()), 64, None) for entry in list_images(images)])
    pixels = torch.from_numpy(squares).permute(0, 3, 1, 2) / 255
    config = generator.config
    with torch.no_grad():
        features = load_network().at(64).features(pixels, [config.layer])[config.layer]
        made = generator(generator.normalise(encode(features, config.code))).clamp(0, 1)
    target = torch.nn.functional.interpolate(pixels, size=32, mode="bilinear", antialias=True)
    error, flat, other = (
        float((image - target).square().mean()) for image in (made, target.mean((2, 3), keepdim=True), made.roll(1, 0))
    )
    assert error < 0.8 * flat and error < 0.6 * other, (error, flat, other)


def test_statistics_are_those_of_the_codes() -> None:
    from conftest import small_generator

    generator = small_generator()
    codes = torch.randn(40, 4, 4, 4) * torch.tensor([1.0, 2, 3, 4]).view(4, 1, 1) + 1
    measure_code(iter(codes.split(16)), generator)
    torch.testing.assert_close(generator.code_mean.flatten(), codes.mean((0, 2, 3)))
    torch.testing.assert_close(generator.code_std.flatten(), codes.std((0, 2, 3), unbiased=False))
    torch.testing.assert_close(generator.code_max.flatten(), codes.amax((0, 2, 3)))
    found = measure_components(iter(codes.split(16)), generator, 40, 30)
    torch.testing.assert_close(found.basis.T @ found.basis, torch.eye(30), atol=1e-4, rtol=0)
    flat = generator.normalise(codes).flatten(1)
    torch.testing.assert_close(found.mean, flat.mean(0))
    values = torch.linalg.eigvalsh(torch.cov(flat.T, correction=0)).flip(0)[:30].sqrt()
    torch.testing.assert_close(found.scale, values, rtol=2e-2, atol=1e-3)
    torch.testing.assert_close(found.to_coordinates(generator.normalise(codes)).std(0, unbiased=False), torch.ones(30))


@pytest.mark.slow
def test_components_travel_with_the_training(images: Path, tmp_path: Path) -> None:
    train(images, tmp_path / "out", replace(SMALL, steps=1), progress=False)
    components, meta = load_components(tmp_path / "out" / "components.safetensors")
    assert components.shape == (112, 4, 4) and components.basis.shape == (1792, 5) and 0 < components.explained < 1
    assert meta["settings"]["layer"] == "blocks.4"


def test_centres_are_means_of_images_that_look_alike() -> None:
    """Planted groups are found by their features, whatever their codes; a group of three is left out."""
    from conftest import small_generator

    generator = small_generator()
    torch.manual_seed(0)
    sizes = [30, 12, 4, 3]
    group = torch.repeat_interleave(torch.arange(4), torch.tensor(sizes))[torch.randperm(49)]
    codes, features = torch.randn(49, 4, 4, 4), 20 * torch.eye(4, 9)[group] + 0.1 * torch.randn(49, 9)
    components = measure_components(iter([codes]), generator, 49, 20)
    centres = measure_centres(iter(zip(codes.split(20), features.split(20), strict=True)), generator, components, 4)
    whitened = components.to_coordinates(generator.normalise(codes))
    means = torch.stack([whitened[group == label].mean(0) for label in range(3)])
    expected = means / means.norm(dim=1, keepdim=True) * whitened.norm(dim=1).mean()
    assert centres.shape == (3, 20)
    for mean in expected:
        assert float((centres - mean).norm(dim=1).min()) < 1e-4 * float(mean.norm())
    assert measure_centres(iter([(codes[:3], features[:3])]), generator, components, 4).shape == (0, 20)


@pytest.mark.slow
def test_centres_travel_with_the_training(images: Path, tmp_path: Path) -> None:
    for groups in (2, 0):
        train(images, tmp_path / str(groups), replace(SMALL, steps=1, centres=groups), progress=False)
        components, _ = load_components(tmp_path / str(groups) / "components.safetensors")
        assert len(components.centres) <= groups and (len(components.centres) > 0) == (groups > 0)
        assert own_settings(load_prior(tmp_path / str(groups))).screen == (512 if groups else 0)


def test_settings_that_do_not_fit() -> None:
    with pytest.raises(DgnError, match="give 3 widths"):
        GeneratorConfig(widths=(8, 8), depths=(1, 1)).check()
    with pytest.raises(DgnError, match="not among the comparator layers"):
        replace(SMALL, adversary_layers=("blocks.6",)).check()
    rates = [rate(step, 100, warmup=10, cooldown=0.5) for step in (0, 9, 50, 75, 99)]
    assert rates == pytest.approx([0.1, 1.0, 1.0, 0.51, 0.0396])


def test_what_is_compiled_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything on CUDA; on a CPU a flow, where there is a compiler."""
    monkeypatch.setenv("CXX", "/bin/sh")
    assert compiles("cpu", True) and not compiles("cpu", False) and compiles("cuda", False)
    monkeypatch.setenv("CXX", "/no/such/compiler")
    assert not compiles("cpu", True) and compiles("cuda", True)


RECIPES = sorted(path.stem for path in (resource("conf") / "training").glob("*.yaml"))


@pytest.mark.parametrize("recipe", rest_slow([name for name in RECIPES if not name.startswith("flow")], "spatial128"))
def test_recipes_fit_their_encoder(recipe: str) -> None:
    """Every recipe that is shipped names layers that exist and a generator that ends at the image's size, in a file of
    at most 16 MiB (float16)."""
    values = OmegaConf.to_container(OmegaConf.load(resource("conf") / "training" / f"{recipe}.yaml"))
    assert isinstance(values, dict)
    changes = {str(key): tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    settings = replace(TrainSettings(), **changes)
    settings.check()
    encoding = Encoding(settings, torch.device("cpu"))
    with torch.device("meta"):
        generator = Generator(encoding.config)
        code = torch.zeros(2, *encoding.config.code_shape)
        assert generator(code).shape == (2, 3, settings.image_size, settings.image_size)
    assert 2 * sum(parameter.numel() for parameter in generator.parameters()) <= 16 * 2**20
    for layer in (*settings.comparator_layers, *settings.semantic_layers):
        assert layer in encoding.encoder.layers
