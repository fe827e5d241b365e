"""Two hundred fuzzed command lines: every one ends with 0 or 2, and no traceback is ever shown."""

from __future__ import annotations

import collections
import re
from pathlib import Path

import pytest
import torch
from conftest import lay_out
from smallest import TINY
from watched import Watched, watched_prior

from dgn.cli import schema
from dgn.cli.compose import keys_of
from dgn.cli.main import main
from dgn.cli.verbs import VERBS

EXAMPLES = 200


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny network of 1,000 classes, labelled pictures of which one is broken, and a finished run."""
    folder = lay_out(tmp_path_factory.mktemp("desk"))
    (folder / "pictures" / "broken.png").write_bytes(b"no image")
    return folder


def test_what_nobody_expected_is_one_line_too(
    desk: Path, watched: type[Watched], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a fault of dgn's own would be: one line that says where, exit code 2; with DGN_TRACEBACK the whole way."""

    def broken(_: int) -> None:
        raise IndexError("list index out of range\nand more")

    monkeypatch.chdir(desk)
    watched.fails(broken)
    command = ["synthesize", *TINY["synthesize"], *watched_prior()]
    assert main(command) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "assumed" not in line]
    assert len(lines) == 1 and re.match(
        r"dgn: unexpected IndexError in loop\.py:\d+: list index out of range; ", lines[0]
    )
    monkeypatch.setenv("DGN_TRACEBACK", "1")
    with pytest.raises(IndexError):
        main(command)


def no_tracking(**_: object) -> None:
    """Weights & Biases started in this process would keep its hands on the captured output."""
    raise RuntimeError("not here")


@pytest.mark.needs("hypothesis")
def test_two_hundred_command_lines(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What is no user's mistake would be raised here (``DGN_TRACEBACK``) instead of being said in one line."""
    from fuzzing import commands
    from hypothesis import HealthCheck, Phase, given, settings

    monkeypatch.chdir(desk)
    monkeypatch.setenv("DGN_TRACEBACK", "1")
    monkeypatch.setattr("wandb.init", no_tracking)
    schema.register()
    assert main(["synthesize", *TINY["synthesize"], "out=finished"]) == 0
    keys = {verb: keys_of(verb) for verb in VERBS}
    codes: collections.Counter[tuple[str, int]] = collections.Counter()

    @settings(
        max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(commands(keys))
    def check(arguments: list[str]) -> None:
        code = main(list(arguments))
        shown = capfd.readouterr().err
        torch.set_num_threads(1)
        assert code in (0, 2), (arguments, code, shown)
        assert "Traceback" not in shown, (arguments, shown)
        assert code == 0 or shown.strip(), arguments
        codes[arguments[0] if arguments and arguments[0] in VERBS else "no verb", code] += 1

    check()
    assert sum(codes.values()) >= EXAMPLES
    assert {verb for verb, _ in codes} >= set(VERBS)
    assert sum(count for (_, code), count in codes.items() if code == 0) >= EXAMPLES / 20  # some do no harm, and run
    with capfd.disabled():
        print(
            "\nfuzzed command lines:",
            dict(collections.Counter(code for (_, code), n in codes.items() for _ in range(n))),
        )
