"""The instrument on known answers: identical sets, noise, planted classes and neighbours."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from conftest import SmallCNN
from PIL import Image
from torch import Tensor

from dgn.analysis.squares import Squares
from dgn.drawing.bars import draw_bars
from dgn.drawing.charts import render
from dgn.drawing.trade import draw_trade
from dgn.errors import DgnError
from dgn.evaluation.copies import measure_copies, nearest_images
from dgn.evaluation.cost import measured
from dgn.evaluation.figures import METRICS, Figure, differences, table
from dgn.evaluation.instrument import measure
from dgn.evaluation.judges import Judge, Verdict, load_judge
from dgn.evaluation.metrics import code_ranks, identified, kid, mean_interval, ms_ssim, nearest_distance, pair_distance
from dgn.evaluation.real import RealImages, load_real
from dgn.evaluation.reference import Made, Reference, activations_of_all, best_examples
from dgn.network.layers import feature_layer
from dgn.network.network import Network
from dgn.units.units import parse_units


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_kid_is_the_unbiased_estimate() -> None:
    """Against the double sum of the paper, written out."""
    x, y = normal(7, 5), normal(6, 5, seed=1) + 1
    k = lambda a, b: float((a @ b / 5 + 1) ** 3)  # noqa: E731
    xx = sum(k(x[i], x[j]) for i in range(7) for j in range(7) if i != j) / 42
    yy = sum(k(y[i], y[j]) for i in range(6) for j in range(6) if i != j) / 30
    xy = sum(k(a, b) for a in x for b in y) / 42
    assert kid(x, y)[0] == pytest.approx(xx + yy - 2 * xy, rel=1e-4)


def test_kid_is_about_zero_for_one_distribution_and_grows_with_distance() -> None:
    same = [kid(normal(60, 16, seed=i), normal(60, 16, seed=100 + i), resamples=200) for i in range(20)]
    values = torch.tensor([value for value, _, _ in same])
    error = float(values.std() / math.sqrt(len(values)))
    assert abs(float(values.mean())) < 3 * error
    assert sum(low <= 0 <= high for _, low, high in same) >= 15
    shifted = [kid(normal(60, 16), normal(60, 16, seed=1) + shift)[0] for shift in (0.0, 0.3, 1.0)]
    assert shifted[0] < shifted[1] < shifted[2]
    assert kid(normal(60, 16), normal(60, 16, seed=1) + 1.0)[1] > 0


def test_identical_sets_are_nearest_themselves() -> None:
    x = normal(20, 8)
    assert float(nearest_distance(x, x).max()) < 1e-6
    assert float(nearest_distance(x, x, skip=torch.arange(20)).min()) > 1e-3
    assert float(nearest_distance(3 * x, x).max()) < 1e-6  # a direction, not a length
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    torch.testing.assert_close(pair_distance(opposite), torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("size", [12, 64, 128, 170])
def test_ms_ssim_knows_alike_from_unlike(size: int) -> None:
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ms_ssim(x, x), torch.ones(2))
    near, far = ms_ssim(x, (x + 0.05 * normal(*x.shape)).clamp(0, 1)), ms_ssim(x, 1 - x)
    assert bool((near > 0.9).all()) and bool((far < 0.5).all())


def test_code_ranks() -> None:
    codes = torch.eye(5)
    assert code_ranks(codes, codes + 0.1).tolist() == [1] * 5
    assert code_ranks(codes, codes.roll(1, 0))[0] > 1


def test_mean_interval_draws_units_not_images() -> None:
    """A hundred seeds of two units are two observations: the interval is as wide as theirs."""
    values = torch.cat([torch.zeros(100), torch.ones(100)])
    value, low, high = mean_interval(values, ["a"] * 100 + ["b"] * 100)
    assert (value, low, high) == (0.5, 0.0, 1.0)
    _, low, high = mean_interval(values)
    assert 0.4 < low < 0.5 < high < 0.6
    assert mean_interval(torch.tensor([1.0, float("nan"), 3.0]))[0] == 2.0
    assert math.isnan(mean_interval(torch.tensor([float("nan")]))[0])
    assert mean_interval(values) == mean_interval(values)  # the same draws each time


def test_kid_draws_units_not_images() -> None:
    """Forty copies of each of three images are three observations: the interval is wider than of so many images."""
    x, y = normal(3, 16).repeat_interleave(40, 0), normal(60, 16, seed=1)
    value, low, high = kid(x, y, [str(i // 40) for i in range(120)], resamples=400)
    alone = kid(x, y, resamples=400)
    assert value == alone[0] and high - low > 1.5 * (alone[2] - alone[1])


def test_ranks_of_ties_and_of_no_number_are_the_last() -> None:
    nan = float("nan")
    logits = torch.tensor([[3.0, 1.0, 2.0], [1.0, 1.0, 0.0], [nan, nan, nan], [nan, 2.0, 1.0], [0.0, 0.0, 0.0]])
    assert Verdict(logits, logits).ranks([2, 0, 1, 1, -1]).tolist() == [2, 2, 3, 2, 0]


def planted(count: int, seed: int) -> tuple[Tensor, list[int]]:
    """Images of three classes, one bright channel each, with noise."""
    generator = torch.Generator().manual_seed(seed)
    classes = [i % 3 for i in range(count)]
    images = 0.3 * torch.rand(count, 3, 16, 16, generator=generator)
    for index, label in enumerate(classes):
        images[index, label] += 0.6
    return images, classes


class Brightest(torch.nn.Module):
    """Names the brightest channel."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = torch.nn.AdaptiveAvgPool2d(2)
        self.flat = torch.nn.Flatten()
        self.fc = torch.nn.Linear(12, 3, bias=False)
        self.fc.weight.data.copy_(torch.eye(3).repeat_interleave(4, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.flat(self.pool(x)))


def look(images: Tensor, classes: list[int]) -> tuple[Network, Judge, Reference]:
    network = Network(Brightest(), 16, class_names=["red", "green", "blue"], name="brightest")
    judge = Judge(network, feature_layer(network))
    units = parse_units([0, 1, 2], network)
    real = RealImages(images, classes, [str(i) for i in range(len(images))], [])
    return network, judge, Reference(real, activations_of_all(network, images, units), {"brightest": judge.see(images)})


@pytest.mark.slow
def test_real_scores_best_and_noise_worst() -> None:
    images, classes = planted(60, 0)
    network, judge, reference = look(images, classes)
    units = parse_units([0, 1, 2], network)
    rows = [units[label] for label in planted(30, 1)[1]]
    seeds = [i // 3 for i in range(30)]
    noise = torch.rand(30, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    made = {
        "photos": planted(30, 1)[0],
        "greyish": 0.5 * planted(30, 1)[0] + 0.5 * noise,
        "noise": noise,
    }
    found = {
        name: {figure.metric: figure for figure in measure(Made(name, x, rows, seeds), network, [judge], reference)}
        for name, x in made.items()
    }
    value = {name: {metric: figure.value for metric, figure in metrics.items()} for name, metrics in found.items()}
    assert value["photos"]["top1"] == 1.0 > value["noise"]["top1"]
    for metric in ("nearest", "kid"):
        assert value["photos"][metric] < value["greyish"][metric] < value["noise"][metric], metric
    assert found["photos"]["kid"].low <= 0 < found["greyish"]["kid"].low
    assert value["noise"]["activation_over_best"] < value["photos"]["activation_over_best"] <= 1.05
    assert value["photos"]["diversity"] < value["noise"]["diversity"]
    best = best_examples(reference, units, 2)
    assert [reference.real.classes[i] for i in best.real_index] == [0, 0, 1, 1, 2, 2]
    own = {figure.metric: figure.value for figure in measure(best, network, [judge], reference)}
    assert own["top1"] == 1.0
    features = reference.verdicts["brightest"].features
    apart = 1 - torch.cosine_similarity(features[best.real_index][:, None], features[None], dim=2)
    apart[range(6), best.real_index] = torch.inf  # not its own nearest neighbour
    assert own["nearest"] == pytest.approx(float(apart.amin(1).mean()), rel=0.02)
    assert own["activation_over_best"] <= 1.0


def test_diversity_of_real_images_is_their_class_s() -> None:
    """Not that of the best examples: here two copies of one image excite the unit most."""
    images, classes = planted(60, 0)
    images[[0, 3]] = torch.zeros(3, 16, 16)
    images[[0, 3], 0] = 1
    network, judge, reference = look(images, classes)
    (unit,) = parse_units("red", network)
    best = best_examples(reference, [unit], 2)
    assert sorted(best.real_index) == [0, 3]
    found = {figure.metric: figure for figure in measure(best, network, [judge], reference)}
    assert found["diversity"].n == found["ms_ssim"].n == 10 and found["diversity"].value > 1e-4
    features = reference.verdicts["brightest"].features[[0, 3, 6, 9, 12]]
    apart = [1 - torch.cosine_similarity(features[a], features[b], 0) for a in range(5) for b in range(a)]
    assert found["diversity"].value == pytest.approx(float(torch.stack(apart).mean()), abs=1e-5)
    hidden = parse_units("flat:3", network)
    reference.activations |= activations_of_all(network, images, hidden)
    pair = measure(best_examples(reference, hidden, 2), network, [judge], reference)
    assert {figure.metric: figure.n for figure in pair}["diversity"] == 1


def test_units_are_identified_by_their_examples() -> None:
    """Features that all lean one way; rows near to their own group, to another, to themselves alone."""
    groups = 5 * torch.eye(3)[torch.arange(12) % 3]
    real = 20 + torch.cat(
        [groups + 0.1 * normal(12, 3), torch.randn(30, 3, generator=torch.Generator().manual_seed(9))]
    )
    examples = torch.stack([torch.arange(12)[torch.arange(12) % 3 == unit] for unit in range(3)])
    x = 20 + 5 * torch.eye(3)[[0, 1, 2, 2]]
    assert identified(x, [0, 1, 2, 0], real, examples).tolist() == [1, 1, 1, 0]
    real[3] = 20 - groups[0]  # an example of the first unit that is like none of its others
    assert identified(real[3:4], [0], real, examples).tolist() == [0]
    alone = torch.tensor([[3], [4]])
    skipped = identified(real[[3, 4]], [0, 1], real, alone, skip=torch.tensor([3, 4]))
    assert identified(real[[3, 4]], [0, 1], real, alone).tolist() == [1, 1] and skipped.tolist() == [0, 0]


def test_hidden_units_are_identified_in_their_layer() -> None:
    images, classes = planted(60, 0)
    network, judge, reference = look(images, classes)
    units = parse_units(["flat:0", "flat:1", "flat:2", "red"], network)
    reference.activations |= activations_of_all(network, images, units)
    best = {unit.name: int(reference.activations[unit.name].argmax()) for unit in units}
    rows = torch.stack([images[best[unit.name]] for unit in units])
    own, swapped = Made("own", rows, units, [0] * 4), Made("swapped", rows[[1, 2, 0, 3]], units, [0] * 4)
    for made, share in ((own, 1.0), (swapped, 0.0)):
        found = {figure.metric: figure for figure in measure(made, network, [judge], reference)}
        assert (found["identified"].value, found["identified"].n) == (share, 3)  # the class isn't counted
    alone = Made("alone", rows[:1], units[:1], [0])
    assert "identified" not in {figure.metric for figure in measure(alone, network, [judge], reference)}


def test_a_copy_is_nearer_than_real_images_are() -> None:
    """Training images, unlike photographs of the same classes; two of six images are copies, one can't be read."""
    training, real, fresh = planted(200, 0)[0], planted(300, 1)[0], planted(6, 2)[0]
    _, judge, _ = look(*planted(6, 0))
    data = Squares([*training, "no image"], 16)
    fresh[1], fresh[4] = training[7], training[150]
    heard: list[int] = []
    (yardstick, found), broken = nearest_images(judge, [real, fresh], data, note=heard.append)
    assert sum(heard) == 201 and broken == ["no image"]
    with pytest.raises(DgnError, match="none of the 1 training images"):
        nearest_images(judge, [fresh], Squares(["no image"], 16))
    features = [judge.see(x).features for x in (fresh, training)]
    truth = 1 - torch.cosine_similarity(features[0][:, None].double(), features[1][None].double(), dim=2)
    torch.testing.assert_close(found.distance, truth.amin(1), atol=1e-6, rtol=0)
    assert found.index.tolist() == truth.argmin(1).tolist() and found.index[[1, 4]].tolist() == [7, 150]
    quantiles = found.quantiles(yardstick)
    assert quantiles[1] == quantiles[4] == 0 and float(quantiles[[0, 2, 3, 5]].min()) > 0.01
    units = parse_units([0, 1, 2], look(*planted(6, 0))[0]) * 2
    copies, mean = measure_copies(Made("fresh", fresh, units, [0] * 3 + [1] * 3), "j", found, yardstick)
    assert (copies.metric, copies.value) == ("copies", pytest.approx(1 / 3))
    assert (mean.metric, mean.value) == ("training", pytest.approx(float(quantiles.mean())))


def test_the_trade_joins_temperatures() -> None:
    """A panel for each judge and each measure; the same figures give the same bytes; one method alone is no picture."""
    figures = [
        Figure(method, metric, judge, value + shift, value + shift - 0.1, value + shift + 0.1, 9)
        for shift, method in enumerate(("real", "cold", "warm", "maco"))
        for metric, judge, value in (("activation_over_mean", "", 3.0), ("kid", "j", 0.5), ("nearest", "j", 0.2))
    ]
    lines = {"dgn, sampled": [("cold", "T 0.01"), ("warm", "T 0.1")]}
    picture = render(draw_trade(figures, METRICS, lines), "png")
    assert picture == render(draw_trade(figures, METRICS, lines), "png")
    assert picture != render(draw_trade(figures, METRICS, {}), "png")
    assert draw_trade(figures[:3], METRICS, {}) is None


def test_a_judge_of_other_classes_measures_no_transfer() -> None:
    images, classes = planted(12, 0)
    network, judge, reference = look(images, classes)
    four = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(12, 4))
    other = Judge(Network(four, 16, name="four"), "1")
    reference.verdicts["four"] = other.see(images)
    assert judge.names(network) and not other.names(network)
    units = parse_units([0, 1], network)
    made = Made("made", images[:2], units, [0, 0], seconds=[1.0, 3.0])
    found = {(figure.metric, figure.judge): figure for figure in measure(made, network, [judge, other], reference)}
    assert ("top1", "brightest") in found and ("nearest", "four") in found and ("top1", "four") not in found
    spent = found["seconds", ""]
    assert (spent.low, spent.value, spent.high) == (1.0, 2.0, 3.0)


def test_differences_are_taken_unit_by_unit() -> None:
    units = parse_units([0, 1, 2], look(*planted(6, 0))[0])
    far, close = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.2, 0.6, 1.0])
    ours = Made("ours", torch.zeros(3, 3, 8, 8), units, [0, 0, 0], values={("nearest", "j"): far, ("top1", "j"): far})
    # Two seeds a unit, in another order, and one unit without a value: means of seeds are compared.
    theirs = torch.stack([close - 0.05, close + 0.05], 1).flip(0).flatten()
    other = Made(
        "other", torch.zeros(6, 3, 8, 8), [unit for unit in units[::-1] for _ in range(2)], [0, 1] * 3,
        values={("nearest", "j"): theirs},
    )  # fmt: skip
    (found,) = differences(ours, [other])
    assert (found.method, found.metric, found.judge, found.n) == ("other", "nearest", "j", 3)
    assert found.value == pytest.approx(-0.1) and found.low == pytest.approx(-0.1) == found.high
    other.values["nearest", "j"] = torch.where(torch.arange(6) < 2, torch.nan, theirs)
    assert differences(ours, [other])[0].n == 2
    apart = float(mean_interval(far.double())[2] - mean_interval(far.double())[1])
    assert apart > 0.3 and "-0.100" in table([found], signed=True)  # units differ, their differences don't


def test_one_image_twice_is_no_diversity() -> None:
    images, classes = planted(12, 0)
    network, judge, reference = look(images, classes)
    unit = parse_units("red", network)[0]
    twice = Made("twice", images[:1].expand(2, -1, -1, -1), [unit, unit], [0, 1])
    found = {figure.metric: figure.value for figure in measure(twice, network, [judge], reference)}
    assert found["diversity"] == pytest.approx(0, abs=1e-6) and found["ms_ssim"] == pytest.approx(1, abs=1e-5)


def test_feature_layers(cnn: SmallCNN) -> None:
    assert feature_layer(Network(Brightest(), 16)) == "flat"
    convolutional = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 16), torch.nn.Flatten())
    assert feature_layer(Network(convolutional, 16)) == "output"
    with pytest.raises(DgnError, match="no network"):
        load_judge("nobody")


def test_labelled_images(tmp_path: Path) -> None:
    for folder, count in (("red", 3), ("blue", 2), ("mauve", 1)):
        (tmp_path / folder).mkdir()
        for index in range(count):
            Image.new("RGB", (40, 30), folder if folder != "mauve" else "grey").save(tmp_path / folder / f"{index}.png")
    (tmp_path / "red" / "broken.png").write_bytes(b"no image")
    names = ["red", "green", "blue"]
    every = load_real(tmp_path, names, sight=16)
    assert every.images.shape == (6, 3, 16, 16) and sorted(every.classes) == [-1, 0, 0, 0, 2, 2]
    assert every.broken == ["red/broken.png"]
    some = load_real(tmp_path, names, sight=16, classes=[0, 2], per_class=2)
    assert sorted(some.classes) == [0, 0, 2, 2]
    assert all(float(x[label].mean()) > 0.9 for x, label in zip(some.images, some.classes, strict=True))
    both = some.joined(every)
    assert both.names[:4] == some.names and sorted(both.names) == sorted(every.names) and len(both.images) == 6
    assert [names[label] if label >= 0 else "mauve" for label in both.classes] == [
        Path(name).parent.name for name in both.names
    ]
    with pytest.raises(DgnError, match="no readable image"):
        load_real(tmp_path, names, classes=[1])


def test_cost_sees_time_and_memory(tmp_path: Path) -> None:
    """The block's own seconds; 200 MB that are gone when it ends; 0 where the system does not say."""
    moments = iter([5.0, 7.5, 8.0, 8.0])
    with measured(clock=lambda: next(moments)) as cost:
        assert float(torch.ones(50_000_000).sum()) == 50_000_000
    assert cost.seconds == 2.5
    if Path("/proc/self/clear_refs").exists():
        assert 0.9 * 200e6 < cost.memory < 1.5 * 200e6
    with measured(clock=lambda: next(moments), process=tmp_path / "none") as cost:
        pass
    assert (cost.seconds, cost.memory) == (0.0, 0.0)


def test_table_and_figure_are_reproducible() -> None:
    figures = [
        Figure("dgn", "top5", "lite2", 0.5, 0.4, 0.6, 50),
        Figure("pixel", "top5", "lite2", 0.1, 0.0, 0.2, 50),
        Figure("dgn", "seconds", "", 2.0, 2.0, 2.0, 50),
    ]
    text = table(figures)
    assert "| transfer, top-5 | lite2 | 50% (40% to 60%) | 10% (0% to 20%) |" in text and "|  | 2.00 |  |" in text
    for form, start in (("png", b"\x89PNG"), ("pdf", b"%PDF")):
        first = render(draw_bars(figures, METRICS), form)
        assert first.startswith(start) and first == render(draw_bars(figures, METRICS), form)
