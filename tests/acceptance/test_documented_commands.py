"""Every command that README and docs show composes: keys, groups and quoting are right."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from dgn.cli import schema
from dgn.cli.verbs import VERBS
from dgn.cli.words import positional
from dgn.resources import resource

ROOT = Path(__file__).resolve().parents[2]
PHOTOS = ROOT / "docs" / "photos"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "pretrained").glob("*/card.md"))]


def commands() -> list[str]:
    found = []
    for page in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.S):
            found += [line.strip() for line in block.replace("\\\n", " ").splitlines() if line.startswith("dgn ")]
    return list(dict.fromkeys(found))


def test_there_are_commands_of_every_verb() -> None:
    assert {command.split()[1] for command in commands()} >= set(VERBS)


def test_every_page_is_linked_and_every_picture_is_there() -> None:
    readme, links = PAGES[0].read_text(), 0
    for page in {*PAGES, *(ROOT / "docs").rglob("*.md"), ROOT / "CONTRIBUTING.md"}:
        if page.parent.name == "docs":
            assert f"docs/{page.name}" in readme, page.name
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
                links += 1
    assert links > 2 * len(PAGES)


def test_every_photograph_has_author_and_source() -> None:
    text = (PHOTOS / "README.md").read_text()
    assert "https://creativecommons.org/licenses/by/2.0/" in text
    listed = re.findall(r"^\| `(.+)` \| \[.+\]\(http.+\) \| \[.+\]\(http.+\) \|$", text, re.M)
    assert sorted(listed) == sorted(path.name for path in PHOTOS.glob("*.webp"))


def first_job(overrides: list[str]) -> list[str]:
    """Of a sweep, with what each override names first."""
    found = []
    for given in OverridesParser.create().parse_overrides(overrides):
        if given.is_interval_sweep():
            found.append(f"{given.get_key_element()}={given.value().start}")
        elif given.is_sweep_override():
            found.append(f"{given.get_key_element()}={next(given.sweep_string_iterator())}")
        else:
            found.append(given.input_line)
    return found


def needed(command: str) -> list[pytest.MarkDecorator]:
    if "sweeper=optuna" in command:
        return [pytest.mark.needs("hydra_plugins.hydra_optuna_sweeper")]
    return [pytest.mark.needs("submitit")] if "launcher=slurm" in command.split("#")[0] else []


@pytest.mark.parametrize("command", [pytest.param(command, marks=needed(command)) for command in commands()])
def test_command_composes(command: str) -> None:
    words = shlex.split(command, comments=True)
    verb, rest = words[1], words[2:]
    overrides = [word for word in positional(verb, rest) if not word.startswith("-")]
    schema.register()
    with initialize_config_dir(str(resource("conf")), version_base="1.3"):
        config = compose(verb, first_job(overrides), return_hydra_config=True)
    assert config.hydra.job.config_name == verb
    if "-m" in rest:
        assert first_job(overrides) != overrides or "sweeper" in command
