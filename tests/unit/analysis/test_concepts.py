"""Directions from examples: against their definition, and on concepts that are there and that are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch import Tensor

import dgn
from dgn.errors import DgnError
from dgn.network.network import Network
from dgn.units.read import Reader


def noise(count: int, seed: int, tint: float = 0.0) -> Tensor:
    """Images of noise, redder by ``tint``."""
    images = 0.3 + 0.4 * torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    images[:, 0] += tint
    return images


def means(network: Network, images: Tensor, layer: str = "stem") -> Tensor:
    return network.maps(images, [layer])[layer].flatten(2).mean(2)


def test_the_mean_is_the_difference_of_the_groups_means(network: Network) -> None:
    red, grey = noise(7, 0, 0.25), noise(9, 1)
    found = dgn.concept(network, "stem", red, grey)
    expected = means(network, red).mean(0) - means(network, grey).mean(0)
    torch.testing.assert_close(found.direction, expected / expected.norm(), rtol=1e-4, atol=1e-5)
    assert found.accuracy == 1.0 and found.p_value < 0.05 and not found.notes and len(found.chance) == 100
    assert 0.35 < float(np.mean(found.chance)) < 0.65


def test_the_probe_is_a_logistic_regression_of_the_layer(network: Network) -> None:
    red, grey = noise(12, 0, 0.01), noise(8, 1)
    found = dgn.concept(network, "stem", red, grey, method="probe", shuffles=0)
    vectors = torch.cat([means(network, red), means(network, grey)]).double().numpy()
    scaled = (vectors - vectors.mean(0)) / (vectors - vectors.mean(0)).std()
    model = LogisticRegression(max_iter=1000, tol=1e-8, class_weight="balanced").fit(scaled, [1] * 12 + [0] * 8)
    weights = torch.from_numpy(model.coef_[0]).float()
    assert float(found.direction @ weights / weights.norm()) > 0.9999
    assert found.chance == [] and found.p_value == 1.0 and 0.0 <= found.accuracy <= 1.0


@pytest.mark.parametrize("method", ["mean", pytest.param("probe", marks=pytest.mark.slow)])
def test_what_is_not_there_is_said(method: str, network: Network) -> None:
    """Two groups of the same noise: with more features than images any direction tells those that it was found from."""
    found = dgn.concept(network, "stem", noise(6, 0), noise(6, 1), method=method, shuffles=20)
    assert found.accuracy < 0.8 and found.p_value > 0.05
    assert "the concept may not be in stem" in found.notes[0]
    again = dgn.concept(network, "stem", noise(6, 0), noise(6, 1), method=method, shuffles=20)
    assert again.accuracy == found.accuracy and again.chance == found.chance


def test_it_is_a_unit_and_its_file_one(network: Network, tmp_path: Path) -> None:
    red, grey = noise(4, 0, 0.25), noise(4, 1)
    found = dgn.concept(network, "stem", red, grey, name="red")
    path = found.save(tmp_path / "red.safetensors")
    (written,) = dgn.parse_units(f"stem:{path}", network)
    assert written.terms == found.unit.terms and found.unit.name == "red"
    images = torch.cat([red, grey])
    reader = Reader(network, [written] * 8)
    read = reader(network.features(images, reader.layers))
    torch.testing.assert_close(read, means(network, images) @ found.direction, rtol=1e-4, atol=1e-5)
    assert float(read[:4].min()) > float(read[4:].max())
    result = dgn.synthesize(network, found.unit, prior="pixel", steps=3, transforms=[])
    assert result.activations[0] > result.history[0, 0]
    with pytest.raises(DgnError, match=r"called NAME\.safetensors"):
        found.save(tmp_path / "red.pt")


def test_folders_lists_and_files_that_cant_be_read(network: Network, tmp_path: Path) -> None:
    for folder, group in (("red", noise(4, 0, 0.25)), ("grey", noise(4, 1))):
        (tmp_path / folder).mkdir()
        for index, image in enumerate(group):
            pixels = (255 * image).byte().permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(tmp_path / folder / f"{index}.png")
    (tmp_path / "red" / "broken.png").write_bytes(b"no image")
    (tmp_path / "grey" / "again.png").write_bytes((tmp_path / "grey" / "1.png").read_bytes())
    folders = dgn.concept(network, "stem", tmp_path / "red", str(tmp_path / "grey"), shuffles=0)
    files = [sorted((tmp_path / folder).glob("?.png")) for folder in ("red", "grey")]
    lists = dgn.concept(network, "stem", *files, shuffles=0)
    torch.testing.assert_close(folders.direction, lists.direction)
    assert folders.notes == ["1 images could not be read: 'broken.png'"]
    assert len(folders.negatives.indices) == 4  # a picture that comes twice counts once
    assert lists.positives.data.name(0) == str(files[0][0])
    with pytest.raises(DgnError, match=r"image '0.png' of the positives is also among the negatives, as 'red/0.png'"):
        dgn.concept(network, "stem", tmp_path / "red", tmp_path)
    with pytest.raises(DgnError, match=r"positives are 1 different images .* at least 2; '.*broken.png' can't be read"):
        dgn.concept(network, "stem", [files[0][0], tmp_path / "red" / "broken.png"], tmp_path / "grey")


def test_errors(network: Network) -> None:
    red, grey = noise(3, 0, 0.25), noise(3, 1)
    for arguments, more, line in (
        (("stme", red, grey), {}, "no layer 'stme' .* did you mean 'stem'"),
        (("stem", red[:1], grey), {}, "positives are 1 different images that can be read, expected at least 2"),
        (("stem", red, grey[:1].expand(4, -1, -1, -1)), {}, "negatives are 1 different images"),
        (("stem", red, torch.cat([grey, red[1:2]])), {}, "image '1' of the positives is also among the negatives"),
        (("stem", red, grey), {"method": "men"}, "method.* did you mean 'mean'"),
        (("stem", red, grey), {"shuffles": -1}, "shuffles is -1"),
        (("stem", red, "nowhere"), {}, "nowhere"),
    ):
        with pytest.raises(DgnError, match=line):
            dgn.concept(network, *arguments, **more)  # type: ignore[arg-type]
