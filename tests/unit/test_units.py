"""How units are written, and that what is read is what was written."""

from __future__ import annotations

import pytest
import torch

from dgn.errors import DgnError
from dgn.network import Network
from dgn.units import Reader, Term, find_classes, parse_units


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
    read = Reader(units)
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


def test_tokens_have_their_features_last(tokens: Network) -> None:
    units = parse_units(["mix:2", "mix:5@1,3", "mix:0@center"], tokens)
    images = torch.rand(3, 3, 16, 16)
    features = tokens.features(images, ["mix"])
    mix = features["mix"]
    assert mix.shape == (3, 17, 6)
    expected = torch.stack([mix[0, :, 2].mean(), mix[1, 1 + 4 + 3, 5], mix[2, 1 + 2 * 4 + 2, 0]])
    torch.testing.assert_close(Reader(units)(features), expected)
    with pytest.raises(DgnError, match="0 to 5"):
        parse_units("mix:6", tokens)


def test_find_classes(network: Network) -> None:
    assert find_classes("CRA", network) == [(1, "crane"), (3, "crane")]


def test_file_names_are_safe_and_distinct(network: Network) -> None:
    a, b = parse_units(["stem:3", "0.5*ant + 0.5*bee"], network)
    assert a.file_name != b.file_name
    assert all(character.isalnum() or character in "._-" for unit in (a, b) for character in unit.file_name)
