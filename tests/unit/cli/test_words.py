"""Words of the command line: any text has a form that Hydra's grammar and a shell hand through unchanged."""

from __future__ import annotations

import random
import shlex
from pathlib import Path

import pytest

from dgn.cli.words import (
    check_paths,
    item,
    key_of,
    overrides_in,
    parse,
    positional,
    quoted,
    shell,
    suggestion,
    texts_in,
)
from dgn.errors import DgnError

LETTERS = " !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~" * 3 + "aZ09é~ßñ漢字🙂\u00a0\u2028\u0301" * 2


def texts(count: int, without: str = "") -> list[str]:
    """Texts of up to twelve characters, most of them such as grammars and shells mind."""
    rng = random.Random(0)
    letters = [letter for letter in LETTERS if letter not in without]
    return ["".join(rng.choices(letters, k=rng.randint(1, 12))) for _ in range(count)]


def test_any_text_can_be_quoted() -> None:
    for text in ["'", '"', "\\", "\\'", 'it\'s "so" \\', "a\\\\'b\\\"", *texts(200)]:
        assert parse(f"a={quoted(text)}").value() == text
        assert shlex.split(shell(f"a={quoted(text)}")) == [f"a={quoted(text)}"]


def test_a_list_is_quoted_item_by_item() -> None:
    """What the grammar refuses is suggested so that it says what was typed."""
    found = texts(300, without="[]{}(),'\"")
    for start in range(0, len(found), 3):
        some = found[start : start + 1 + start % 3]
        form = suggestion(f"units=[{','.join(some)}]")
        assert form is not None, some
        (back,) = shlex.split(form)
        value = parse(back).value()
        assert len(value) == len(some)
        for one, text in zip(value, some, strict=True):
            assert str(one) == text.strip() or one == parse(f"a={item(text)}").value()


def test_every_refusal_is_one_line_with_a_form_that_works() -> None:
    refused = 0
    for text in texts(150):
        if text.startswith("["):  # a list is quoted by its items
            continue
        try:
            parse(f"out={text}")
        except DgnError as error:
            line = str(error)
            assert "\n" not in line
            (back,) = shlex.split(line.partition("for the shell too, it is ")[2])
            assert parse(back).value() == text
            refused += 1
    assert refused > 50


def test_keys_are_hydras() -> None:
    words = ["+prior.mine.path=a", "hydra/launcher=b", "~seed", "launcher.slots=2", "hydra.launcher.x=1", "++out=c"]
    assert [key_of(word) for word in words] == [
        "prior.mine.path", "hydra/launcher", "seed", "launcher", "hydra.launcher", "out",
    ]  # fmt: skip


def test_texts_of_values() -> None:
    assert [*texts_in("units=@a.txt,[b,'c d'],{e: f}")] == ["@a.txt", "b", "c d", "f"]
    assert [*texts_in("seed=range(1,3)")] == [*texts_in("seed=3")] == []
    assert [*texts_in("out=a\\=b")] == ["a=b"]


def test_paths_that_are_not_there(tmp_path: Path) -> None:
    """One of several is left to the verb, as is what is not known yet."""
    here = f"'{tmp_path}'"
    for word in (
        f"start={here}",
        f"image=[a,{here}]",
        "start=random",
        "data.root=${oc.env:HOME}/x",
        "image=a,b",
        "k=9",
    ):
        check_paths([word])
    check_paths(["data.root=nowhere", "data.torchvision=CIFAR10"])
    for word in ("start=a@3", "image=[a,b]", "data.root='~/nowhere-at-all'"):
        with pytest.raises(DgnError, match=f"no file or folder '.*', which {word.split('=')[0]} names"):
            check_paths([word])


def test_flags_are_no_overrides() -> None:
    assert overrides_in(["-m", "a=1", "-cn", "mine", "--config-dir", "conf", "b=2"]) == ["a=1", "b=2"]


@pytest.mark.parametrize(
    ("verb", "words", "expected"),
    [
        ("gallery", ["a b", "c", "title=x"], ["runs=['a b','c']", "title=x"]), ("gather", ["a'b"], ['sweep="a\'b"']),
        ("evaluate", ["x", "-m", "seed=1,2"], ["-m", "run='x'", "seed=1,2"]), ("figure", ["layers"], ["figure=layers"]),
        ("figure", ["name=layers", "width=column"], ["figure=layers", "width=column"]),
        ("gather", ["~/x"], ["sweep='~/x'"]), ("synthesize", ["zebra"], ["zebra"]),
        ("gallery", ["-cn", "mine", "a"], ["runs=['a']", "-cn", "mine"]),
    ],
)  # fmt: skip
def test_plain_forms(verb: str, words: list[str], expected: list[str]) -> None:
    assert positional(verb, words) == expected
