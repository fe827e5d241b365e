"""How units are written, and that what is read is what was written."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from dgn.errors import DgnError
from dgn.network.network import Network
from dgn.units.read import Reader
from dgn.units.unit import Term, Unit
from dgn.units.units import find_classes, parse_units


def test_every_written_form(network: Network) -> None:
    units = parse_units(
        ["ant", 2, "Sea_Urchin", "stem:3", "block.norm:1@2,5", "late:7@center", "crane (3)",
         "0.5*ant + 2*stem:3@1,1 - bee", "-1*ant", "output:4"], network,
    )  # fmt: skip
    assert [unit.terms for unit in units] == [
        (Term("output", 0),),
        (Term("output", 2),),
        (Term("output", 4),),
        (Term("stem", 3),),
        (Term("block.norm", 1, (2, 5)),),
        (Term("late", 7, "center"),),
        (Term("output", 3),),
        (Term("output", 0, None, 0.5), Term("stem", 3, (1, 1), 2.0), Term("output", 2, None, -1.0)),
        (Term("output", 0, None, -1.0),),
        (Term("output", 4),),
    ]
    assert [unit.name for unit in units[:3]] == ["ant", "bee", "sea urchin"]
    assert units[0].class_index == 0 and units[3].class_index is None


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ants", r"no unit 'ants' in network 'small'; did you mean 'ant'"),
        ("crane", "give one of the indices 1, 3"),
        ("stm:1", r"no layer 'stm'.*'stem'"),
        ("stem:8", "has 8 units, 0 to 7"),
        ("stem:-1", "out of range"),
        ("5", "0 to 4"),
        ("stem:1@8,0", "8 x 8 positions"),
        ("output:1@0,0", "no positions"),
        ("stem:one", "is not LAYER:INDEX"),
        ("stem", "write stem:INDEX"),
        ("", "empty unit"),
    ],
)
def test_errors_say_what_to_do(spec: str, message: str, network: Network) -> None:
    with pytest.raises(DgnError, match=message):
        parse_units(spec, network)
    with pytest.raises(DgnError, match="no unit given"):
        parse_units([], network)


def test_reader_equals_reading_one_by_one(network: Network) -> None:
    specs = ["ant", "stem:3", "block.norm:1@2,5", "late:7@center", "0.5*ant + 2*stem:3@1,1 - bee"]
    units = parse_units(specs, network)
    images = torch.rand(5, 3, 16, 16)
    read = Reader(network, units)
    features = network.features(images, read.layers)
    got = read(features)
    out, stem, norm, late = (features[name] for name in ("output", "stem", "block.norm", "late"))
    expected = [
        out[0, 0],
        stem[1, 3].mean(),
        norm[2, 1, 2, 5],
        late[3, 7, 2, 2],
        0.5 * out[4, 0] + 2 * stem[4, 3, 1, 1] - out[4, 2],
    ]
    torch.testing.assert_close(got, torch.stack(expected))


@pytest.mark.parametrize(
    ("spec", "terms"),
    [
        ("-ant", [Term("output", 0, None, -1.0)]),
        ("-2.5 * ant", [Term("output", 0, None, -2.5)]),
        (".5*ant - -1e-1*bee", [Term("output", 0, None, 0.5), Term("output", 2, None, 0.1)]),
        ("ant - 2*stem:3@center", [Term("output", 0), Term("stem", 3, "center", -2.0)]),
        ("2*1 + 0.5*crane (3)", [Term("output", 1, None, 2.0), Term("output", 3, None, 0.5)]),
        ("bee - bee", [Term("output", 2), Term("output", 2, None, -1.0)]),
    ],
)
def test_weights(spec: str, terms: list[Term], network: Network) -> None:
    (unit,) = parse_units(spec, network)
    assert list(unit.terms) == terms and unit.name == spec


def test_sums_check_every_term(network: Network) -> None:
    for spec, message in (("ant + 2*crane", "indices 1, 3"), ("ant - stem:9", "0 to 7"), ("0.5*aunt + ant", "'ant'")):
        with pytest.raises(DgnError, match=message):
            parse_units(spec, network)
    with pytest.raises(DgnError, match="out of range"):
        parse_units([Unit("mine", (Term("stem", 99),))], network)


def test_reader_over_random_sums_of_every_layer(network: Network) -> None:
    """Seeded mixes of layers, positions and weights in one batch, against one direct look-up a term."""
    rng = random.Random(0)
    units = []
    for row in range(24):
        terms = []
        for _ in range(rng.randint(1, 5)):
            layer, shape = rng.choice(list(network.layers.items()))
            spots: list[Any] = [None]
            if len(shape) == 3:
                spots += ["center", (rng.randrange(shape[1]), rng.randrange(shape[2]))]
            terms.append(Term(layer, rng.randrange(shape[0]), rng.choice(spots), rng.uniform(-2, 2)))
        units.append(Unit(f"mix {row}", tuple(terms)))
    read = Reader(network, units)
    features = network.features(torch.rand(24, 3, 16, 16), read.layers)
    expected = torch.zeros(24)
    for row, unit in enumerate(units):
        for term in unit.terms:
            value = features[term.layer][row, term.index]
            if term.position == "center":
                value = value[value.shape[0] // 2, value.shape[1] // 2]
            elif term.position is not None:
                value = value[term.position]
            expected[row] += term.weight * value.mean()
    torch.testing.assert_close(read(features), expected)


def test_reader_gradients_stay_in_their_sample(network: Network) -> None:
    """Each sample's gradient is that of its own unit alone."""
    units = parse_units(["ant", "stem:3 - 2*late:1@0,0", "bee"], network)
    images = torch.rand(3, 3, 16, 16, requires_grad=True)
    read = Reader(network, units)
    (together,) = torch.autograd.grad(read(network.features(images, read.layers)).sum(), images)
    for row, unit in enumerate(units):
        one = images[row : row + 1].detach().requires_grad_()
        alone = Reader(network, [unit])
        (expected,) = torch.autograd.grad(alone(network.features(one, alone.layers)).sum(), one)
        torch.testing.assert_close(together[row], expected[0], rtol=1e-4, atol=1e-7)


def test_tokens_have_their_features_last(tokens: Network) -> None:
    units = parse_units(["mix:2", "mix:5@1,3", "mix:0@center"], tokens)
    images = torch.rand(3, 3, 16, 16)
    features = tokens.features(images, ["mix"])
    mix = features["mix"]
    assert mix.shape == (3, 17, 6)
    expected = torch.stack([mix[0, :, 2].mean(), mix[1, 1 + 4 + 3, 5], mix[2, 1 + 2 * 4 + 2, 0]])
    torch.testing.assert_close(Reader(tokens, units)(features), expected)
    with pytest.raises(DgnError, match="0 to 5"):
        parse_units("mix:6", tokens)


def test_find_classes(network: Network) -> None:
    assert find_classes(network, "CRA") == [(1, "crane"), (3, "crane")]


def test_file_names_are_safe_and_distinct(network: Network) -> None:
    a, b = parse_units(["stem:3", "0.5*ant + 0.5*bee"], network)
    assert a.file_name != b.file_name
    assert all(character.isalnum() or character in "._-" for unit in (a, b) for character in unit.file_name)
