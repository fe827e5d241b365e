"""The activation atlas: places, cells and their means against what is counted by hand."""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

import dgn
from dgn.analysis.plane import gathered, lay_out, taken, whitened
from dgn.cli.figures import ATLAS_KEYS
from dgn.errors import DgnError
from dgn.files.pages import seal
from dgn.network.network import Network
from dgn.report.atlas import atlas_page
from dgn.resources import resource
from dgn.units.read import Reader

COLOURS = ("red", "green", "blue")


class Coloured(nn.Module):
    """Its layer is the image, its classes are colours: the brightest one wins."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 3, 1, bias=False)
        self.stem.weight.data.copy_(torch.eye(3)[..., None, None])

    def forward(self, x: Tensor) -> Tensor:
        return self.stem(x).mean((2, 3))


@pytest.fixture
def colours() -> Network:
    return Network(Coloured(), 8, mean=0.0, std=1.0, class_names=COLOURS, name="colours")


def noise(count: int = 60, size: int = 16) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def tinted(each: int = 12) -> Tensor:
    """Images of three colours, one after the other."""
    images = 0.3 * noise(3 * each, 8)
    for index in range(3 * each):
        images[index, index % 3] += 0.6
    return images


def test_cells_are_the_means_of_what_lies_in_them(network: Network) -> None:
    images = noise()
    found = dgn.atlas(network, "stem", images, position="mean", method="pca", grid=4, fewest=2)
    by_hand = network.maps(images, ["stem"])["stem"].flatten(2).mean(2)
    torch.testing.assert_close(found.vectors, by_hand, rtol=1e-4, atol=1e-5)
    columns, rows = (found.plane * 4).floor().clamp(max=3).long().T.tolist()
    places = Counter(zip(rows, columns, strict=True))
    assert {(cell.row, cell.column): cell.count for cell in found.cells} == {
        place: count for place, count in places.items() if count >= 2
    }
    kept = [member for cell in found.cells for member in cell.members]
    assert len(set(kept)) == len(kept) == sum(count for count in places.values() if count >= 2)
    for cell in found.cells:
        torch.testing.assert_close(cell.mean, by_hand[cell.members].mean(0), rtol=1e-4, atol=1e-5)
    assert f"stem: {len(kept)} of 60 images in {len(found.cells)} cells, by PCA" == found.words
    assert found.plane.min() == 0 and found.plane.max() == 1 and found.indices == list(range(60)) and not found.notes


def test_a_cell_is_a_unit_towards_its_mean(network: Network) -> None:
    images = noise()
    plain = dgn.atlas(network, "stem", images, position="mean", method="pca", grid=2, whiten=False, cosine=0)
    reader = Reader(network, [plain.units[0]] * 60)
    mean = plain.cells[0].mean
    expected = plain.vectors @ (mean / mean.norm())
    torch.testing.assert_close(reader(network.features(images, reader.layers)), expected, rtol=1e-4, atol=1e-5)
    other = dgn.atlas(network, "stem", images, position="mean", method="pca", grid=2)
    (term,) = other.units[0].terms
    towards = whitened(other.vectors, mean[None])[0]
    assert term.cosine == 2 and term.position is None
    torch.testing.assert_close(torch.tensor(term.direction), towards / towards.norm(), rtol=1e-3, atol=1e-4)


def test_whitening_undoes_the_second_moments() -> None:
    scale = torch.tensor([0.5, 1.0, 2.0, 4.0])
    vectors = scale * torch.randn(20_000, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(whitened(vectors, torch.eye(4)), torch.diag(scale**-2), rtol=0.05, atol=0.05)
    few = whitened(torch.randn(5, 40, generator=torch.Generator().manual_seed(0)), torch.eye(40))
    assert bool(few.isfinite().all())  # of fewer vectors than features


def test_places_are_inside_and_by_the_seed(network: Network, tokens: Network) -> None:
    """Each place is called by its number: none is at the edge, the class token is none."""
    where, many = torch.arange(64.0).view(1, 1, 8, 8).expand(500, 8, 8, 8), np.random.default_rng(0).random(500)
    found = taken(where, network.layout("stem"), many)[:, 0].long()
    rows, columns = found // 8, found % 8
    assert {*rows.tolist()} == {*columns.tolist()} == {*range(1, 7)} and len(found.unique()) == 36
    sequence = torch.arange(17.0).view(1, 1, 17).expand(500, 6, 17)
    inside = {*taken(sequence, tokens.layout("mix"), many)[:, 0].long().tolist()}
    assert inside == {1 + 4 * y + x for y in (1, 2) for x in (1, 2)}
    assert taken(sequence, tokens.layout("mix"), None)[0, 0] == 8
    first, second, other, below = (
        dgn.atlas(network, "stem", noise(), method="pca", grid=2, seed=seed).vectors for seed in (0, 0, 1, -1)
    )
    assert torch.equal(first, second) and not torch.equal(first, other) and not torch.equal(first, below)
    batched = dgn.atlas(network, "stem", noise(), method="pca", grid=2, batch=7).vectors
    torch.testing.assert_close(batched, first)


UMAP = [pytest.mark.slow, pytest.mark.skipif(find_spec("umap") is None, reason="needs umap-learn")]
METHODS = ["pca", pytest.param("tsne", marks=pytest.mark.slow), pytest.param("umap", marks=UMAP)]


@pytest.mark.parametrize("method", METHODS)
def test_the_layout_repeats_and_keeps_neighbours(method: str) -> None:
    """Three groups in five dimensions stay apart."""
    generator = torch.Generator().manual_seed(0)
    groups = torch.eye(3, 5).repeat_interleave(20, 0)
    vectors = groups + 0.1 * torch.randn(60, 5, generator=generator)
    plane = lay_out(vectors, method, 0)
    assert torch.equal(plane, lay_out(vectors, method, 0)) and plane.shape == (60, 2)
    apart = torch.cdist(plane, plane)
    apart.fill_diagonal_(9)
    assert bool((apart.argmin(1) // 20 == torch.arange(60) // 20).all())


def test_gathering_counts_everything_once() -> None:
    plane = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.6, 0.1], [0.55, 0.2]])
    assert gathered(plane, 2) == {(0, 0): [0], (0, 1): [2, 3], (1, 1): [1]}


def test_classes_are_those_that_the_network_chooses(colours: Network) -> None:
    found = dgn.atlas(colours, "stem", tinted(), method="pca", grid=3, fewest=2)
    assert sum(cell.count for cell in found.cells) >= 30
    for cell in found.cells:
        truth = Counter(COLOURS[member % 3] for member in cell.members)
        assert dict(cell.chosen) == dict(truth)
        mean = tinted()[cell.members].mean((0, 2, 3))
        assert cell.outputs[0][0] == COLOURS[int(mean.argmax())]
        assert cell.outputs[0][1] == pytest.approx(float(mean.max()), abs=1e-4)
    assert {cell.chosen[0][0] for cell in found.cells} == {*COLOURS}
    assert found.cells[0].facts()["chosen"].startswith(found.cells[0].chosen[0][0])
    nothing = Network(Coloured(), 8, name="colours", scores="none")
    cells = dgn.atlas(nothing, "stem", tinted(), method="pca", grid=1).cells
    assert cells[0].chosen == [] and cells[0].facts()["mean_outputs"] == "" and cells[0].count == 36


def test_it_is_drawn_and_has_a_page(colours: Network) -> None:
    found = dgn.atlas(colours, "stem", tinted(), method="pca", grid=2, fewest=2)
    made = noise(len(found.cells), 8)
    picture = found.picture(made)
    across = len({cell.column for cell in found.cells})
    assert picture.width == 1400 and picture.height > 1400 / across
    page = atlas_page(found.mosaic({"one": made, "</script>": made}), "an <atlas>")
    assert page == atlas_page(found.mosaic({"one": made, "</script>": made}), "an <atlas>")
    assert page.count("data:image/webp;base64,") == 2 * len(found.cells) and page.count("</script>") == 2
    assert f"{found.cells[0].count} images" in page and found.cells[0].facts()["chosen"] in page
    assert page == seal(page)  # it says already that dgn wrote it


def test_the_figures_keys_are_its_own() -> None:
    figure, parameters = OmegaConf.load(resource("conf") / "figure" / "atlas.yaml"), signature(dgn.atlas).parameters
    shared = {key: parameters[key].default for key in figure if key in parameters and key != "layer"}
    assert shared == {key: figure[key] for key in shared} and {*shared} == {*ATLAS_KEYS}


def test_bad_input_is_told_in_a_line(network: Network, colours: Network, tmp_path: Path) -> None:
    grey = torch.full((12, 3, 16, 16), 0.5)
    for asked, line in (
        ({"layer": "stm"}, "no layer 'stm'.*did you mean 'stem'"),
        ({"data": noise(9)}, "an atlas is made of 10 images or more, 9 can be read"),
        ({"data": tmp_path / "none"}, "none"),
        ({"grid": 20, "fewest": 30}, "no cell of the 20 x 20 has 30 of the 60 activations: give a smaller grid"),
        ({"grid": 1, "fewest": 61}, "no cell of the 1 x 1 has 61 of the 60 activations: give a smaller fewest"),
        ({"grid": 0}, "grid is 0"),
        ({"method": "tsn"}, "no method 'tsn'; did you mean 'tsne'"),
        ({"position": "centre"}, "no position 'centre'"),
        ({"data": grey, "position": "mean"}, "or the same for all images"),
        ({"cosine": -1.0}, "cosine is -1"),
    ):
        given = {"layer": "stem", "data": noise(), "method": "pca", "grid": 2, **asked}
        with pytest.raises(DgnError, match=line):
            dgn.atlas(network, **given)  # type: ignore[arg-type]
