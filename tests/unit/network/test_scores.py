"""Probabilities: logits of one choice, a logit a label, outputs that are probabilities already, and none at all."""

from __future__ import annotations

import pytest
import torch
from conftest import SmallCNN
from torch import Tensor, nn

import dgn
from dgn.analysis.ablation import ablate, curves
from dgn.errors import DgnError
from dgn.network.network import Network
from dgn.network.scores import SCORES, applied, form_of, log_probabilities
from dgn.priors.pixel import PixelPrior
from dgn.report.table import result_rows
from dgn.units.read import Reader


class Ending(nn.Module):
    """A small network with something behind its logits."""

    def __init__(self, end: nn.Module, classes: int = 5) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.base, self.end = SmallCNN(classes=classes), end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.base(x))


class Mean(nn.Module):
    """Two softmaxes averaged: probabilities whose last operation is no softmax."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.softmax(1) + (2 * x).softmax(1)) / 2


class Reshaped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sigmoid().view(len(x), 1, -1).squeeze(1).clone()


class Detached(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach().softmax(1)


class SmallShare(nn.Module):
    """Regression whose numbers happen to lie in [0, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.3 + 0.01 * x


@pytest.mark.parametrize(
    ("end", "classes", "expected"),
    [
        (nn.Identity(), 5, "softmax"),
        (nn.Identity(), 1, "sigmoid"),
        (nn.Softmax(1), 5, "probabilities"),
        (nn.Softmax(1), 2, "probabilities"),
        (nn.LogSoftmax(1), 5, "softmax"),  # of log-probabilities it gives these again
        (nn.Sigmoid(), 5, "probabilities"),
        (nn.Sigmoid(), 1, "probabilities"),
        (Mean(), 5, "probabilities"),
        (Reshaped(), 5, "probabilities"),
        (Detached(), 5, "probabilities"),
        (SmallShare(), 5, "softmax"),
        (SmallShare(), 1, "sigmoid"),
        (nn.Tanh(), 5, "softmax"),
    ],
)
def test_what_the_outputs_are_is_found_out(end: nn.Module, classes: int, expected: str) -> None:
    network, again = (Network(Ending(end, classes), 16) for _ in range(2))
    with torch.no_grad():
        assert network.scores == expected
    assert network.origins["scores"] == "found"
    with torch.inference_mode():
        assert again.scores == expected
    assert network.at(24).scores == expected


def truth(logits: Tensor, kind: str) -> Tensor:
    return {"softmax": logits.softmax(1), "sigmoid": logits.sigmoid(), "probabilities": logits}[kind]


@pytest.mark.parametrize(
    ("end", "classes", "told", "kind"),
    [
        (nn.Identity(), 5, None, "softmax"),
        (nn.Identity(), 1, None, "sigmoid"),
        (nn.Identity(), 1, "softmax", "sigmoid"),  # of a single logit there is nothing to choose from
        (nn.Identity(), 5, "sigmoid", "sigmoid"),
        (nn.Softmax(1), 5, None, "probabilities"),
        (nn.Sigmoid(), 5, None, "probabilities"),
        (nn.Softmax(1), 5, "softmax", "softmax"),  # as told, even so
    ],
)
def test_one_probability_everywhere(end: nn.Module, classes: int, told: str | None, kind: str) -> None:
    """In the table, in p(...) and log(...) of units, and in the curves of an ablation."""
    network = Network(Ending(end, classes), 16, scores=told)
    result = dgn.synthesize(network, [0], PixelPrior(16), steps=3)
    expected = float(truth(network(result.images), kind)[0, 0])
    (row,) = result_rows(result, network, 1.0)
    assert row["probability"] == pytest.approx(expected, abs=2e-6) and row["rank"] >= 1
    assert row["log_probability"] == pytest.approx(float(torch.tensor(expected).log()), abs=1e-5)
    for form, value in (("p", expected), ("log", float(torch.tensor(expected).log()))):
        units = dgn.parse_units(f"{form}(0)", network)
        read = Reader(network, units)(network.features(result.images, ["output"]))
        assert float(read[0]) == pytest.approx(value, abs=1e-5)
    image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    deletion, _ = curves(network, ablate(network, image, 0, size=8, stride=8), steps=2)
    assert deletion.probabilities[0] == pytest.approx(float(truth(network(image[None]), kind)[0, 0]), abs=1e-6)


def test_a_single_logits_probability_can_be_climbed() -> None:
    """A softmax over one number is 1 and has no gradient; a sigmoid rises."""
    network = Network(Ending(nn.Identity(), 1), 16)
    for unit in ("p(0)", "log(0)"):
        result = dgn.synthesize(network, [unit], PixelPrior(16), steps=8, lr_end=0.05)
        assert not result.warnings and float(result.history[-1]) > float(result.history[0]) + 1e-3
    ppgn = dgn.synthesize(network, [0], PixelPrior(16), ascent="ppgn", steps=8, epsilon1=0.0, lr=0.01, lr_end=0.01)
    assert float(ppgn.history[-1]) > float(ppgn.history[0])


def test_outputs_that_are_no_scores() -> None:
    network = Network(Ending(nn.Identity(), 5), 16, scores="none", name="regression")
    result = dgn.synthesize(network, [0], PixelPrior(16), steps=3)
    (row,) = result_rows(result, network, 1.0)
    assert row["probability"] == row["rank"] == "" and row["log_probability"] is None
    with pytest.raises(DgnError, match=r"p\(...\): the outputs of 'regression' are no scores"):
        dgn.parse_units("p(0)", network)
    assert dgn.parse_units("p(base.late:3)", network)[0].terms[0].form == "p"
    raced = dgn.synthesize(network, [0], PixelPrior(16), steps=2, starts=2, race_steps=2, race_by="probability")
    assert bool(raced.activations.isfinite().all())
    image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert curves(network, ablate(network, image, 0, size=8, stride=8), steps=2)[0].probabilities == []


def test_hidden_layers_keep_their_softmax() -> None:
    """The kind of scores is the output's; a layer of one feature has a sigmoid."""
    network = Network(Ending(nn.Sigmoid(), 5), 16)
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    layer = network.features(image, ["base.head"])["base.head"]
    read = Reader(network, dgn.parse_units(["p(base.head:2)"] * 2, network))(network.features(image, ["base.head"]))
    torch.testing.assert_close(read, layer.softmax(1)[:, 2])
    one = Network(Ending(nn.Sigmoid(), 1), 16)
    read = Reader(one, dgn.parse_units(["p(base.head:0)"] * 2, one))(one.features(image, ["base.head"]))
    torch.testing.assert_close(read, one(image)[:, 0])


def test_probabilities_have_logarithms_without_infinities() -> None:
    logs = log_probabilities(torch.tensor([0.0, 1.0]), "probabilities")
    assert bool(logs.isfinite().all()) and float(logs[1]) == 0 and float(logs[0]) < -80
    maps = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(applied(maps, "p", 1).sum(1), torch.ones(2, 3, 3))
    torch.testing.assert_close(applied(maps, "p sigmoid", 1), maps.sigmoid())
    torch.testing.assert_close(applied(maps, "log sigmoid", 1).exp(), maps.sigmoid())


def test_forms_name_the_scores(network: Network) -> None:
    assert form_of("log", network, "output") == "log"
    labels = Network(SmallCNN(), 16, scores="sigmoid")
    assert form_of("p", labels, "output") == "p sigmoid" and form_of("p", labels, "late") == "p"
    assert labels.origins["scores"] == "given" and set(SCORES) >= {labels.scores}
    with pytest.raises(DgnError, match="no scores 'sigmod'; did you mean 'sigmoid'"):
        Network(SmallCNN(), 16, scores="sigmod")
    with pytest.raises(DgnError, match=r"^p of a whole layer means nothing"):
        dgn.parse_units("p(output:*)", labels)
