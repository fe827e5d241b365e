"""Errors speak to the person: one line, and where it names a form that works, that form works in a real shell."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import rest_slow

sys.path.insert(0, str(Path(__file__).parent))
from smallest import TINY

from dgn.cli.main import main
from dgn.cli.words import parse
from dgn.errors import nearest


@pytest.fixture(autouse=True)
def _at_the_desk(desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("small.pt2", "pictures"):
        Path(name).symlink_to(desk / name)


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line with which a command is refused."""
    capsys.readouterr()
    assert main([*words]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("dgn: "), lines
    assert "please report" not in lines[0], lines
    return lines[0]


def through_a_shell(words: str) -> list[str]:
    """The words that a program gets of what is typed."""
    call = ["bash", "-c", f"printf '%s\\0' {words}"]
    return subprocess.run(call, capture_output=True, text=True, check=True).stdout.split("\0")[:-1]


def test_a_gallery_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert "runs=[] names no run" in said(capsys, "gallery", "runs=[]")


HYDRAS = ["hydra.run.dir=mine", "+hydra.output_subdir=.hydra", "hydra.output_subdir=.hydra", "hydra.run={dir:mine}",
          "hydra.sweep={dir:mine}", "~hydra.run.dir"]  # fmt: skip


@pytest.mark.parametrize("word", HYDRAS)
@pytest.mark.parametrize("verb", ["synthesize", "gather", "units"])
def test_hydras_own_folders_are_refused(verb: str, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Hydra writes into them without a look at what is there."""
    Path("mine/.hydra").mkdir(parents=True)
    Path("mine/.hydra/config.yaml").write_text("mine")
    both = ["hydra.run.dir=mine", "hydra.output_subdir=.hydra"]
    rest = [part for part in TINY[verb] if "=" in part]
    for more in ([word], [word, *both], [word, "-m"]):
        assert "can't be given" in said(capsys, verb, *rest, *more)
    assert Path("mine/.hydra/config.yaml").read_text() == "mine" and len(list(Path("mine").rglob("*"))) == 2


@pytest.mark.parametrize("folder", ["out", "hydra.sweep.dir"])
@pytest.mark.parametrize("name", [".", "./", "x/..", "../sweep", "''", "${oc.env:DGN_DOT}"])
def test_a_sweeps_jobs_have_folders_of_their_own(
    name: str, folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DGN_DOT", ".")
    words = [*TINY["synthesize"], "-m", "seed=0,1", f"{folder}=sweep", f"hydra.sweep.subdir={name}"]
    line = said(capsys, "synthesize", *words)
    assert "is the sweep's own folder: each job needs one below it" in line
    assert not Path("sweep").exists() and not Path("runs").exists()


def test_a_sweeps_jobs_may_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*TINY["synthesize"], "-m", "seed=0,1", "out=sweep", "hydra.sweep.subdir=${hydra.job.override_dirname}"]
    assert main(["synthesize", *words]) == 0, capsys.readouterr().err
    assert len(list(Path("sweep").glob("*seed=*/results.csv"))) == 2


REFUSED = [
    ("units=[carpenter's kit]", ["carpenter's kit"]),
    ("units=[carpenter's kit,zebra,sorrel]", ["carpenter's kit", "zebra", "sorrel"]),
    ("units=carpenter's kit,zebra", ["carpenter's kit", "zebra"]),
    ("image=é.png", "é.png"), ("image=[é.png,a.png]", ["é.png", "a.png"]), ("data.root=~/x", "~/x"),
    ("out=a#b", "a#b"), ("out=a=b", "a=b"), ("out=a=b=c", "a=b=c"), ("network.weights=日本.pt", "日本.pt"),
    ("out=it's", "it's"), ("out=a(b)", "a(b)"), ("out=x]", "x]"), ("out=a;b", "a;b"), ("out=a&b", "a&b"),
    ("out=!x", "!x"), ("out=a`b`", "a`b`"), ("out='a", "'a"), ('out=a"b', 'a"b'), ("out=it's \"so\"", "it's \"so\""),
    ("out=$x é", "$x é"), ("out=é\\", "é\\"), ("out=a\\é'", "a\\é'"), ("out={a", "{a"), ("out=<x>", "<x>"),
    ("units=[0.5*crane's + é]", ["0.5*crane's + é"]),
]  # fmt: skip


@pytest.mark.parametrize(("word", "meant"), REFUSED, ids=[word for word, _ in REFUSED])
def test_the_quoted_form_works(word: str, meant: object, capsys: pytest.CaptureFixture[str]) -> None:
    """Typed in a shell, and read by Hydra, it says what was meant."""
    line = said(capsys, "synthesize", word)
    form = line.partition("quoted, for the shell too, it is ")[2]
    assert form, line
    (back,) = through_a_shell(form)
    override = parse(back)
    assert override.key_or_group == word.partition("=")[0] and override.value() == meant, form
    assert not override.is_sweep_override()


SPLIT = [
    (["units=[zebra,", "goldfish]"], ["zebra", "goldfish"]), (["units=golden", "retriever"], "golden retriever"),
    (["units=[golden", "retriever,", "school", "bus]"], ["golden retriever", "school bus"]),
    (["units=[carpenter's", "kit]"], ["carpenter's kit"]),
]  # fmt: skip


@pytest.mark.parametrize(("words", "meant"), SPLIT, ids=[" ".join(words) for words, _ in SPLIT])
def test_words_that_the_shell_split(words: list[str], meant: object, capsys: pytest.CaptureFixture[str]) -> None:
    line = said(capsys, "synthesize", "prior=pixel", *words, "ascent.steps=2")
    assert f"the shell made {len(words)} words of " in line
    (back,) = through_a_shell(line.partition("; quote it: ")[2])
    assert parse(back).value() == meant


@pytest.mark.parametrize(
    ("words", "key", "meant"),
    [
        (["synthesize", "zebra"], "units", ["zebra"]), (["synthesize", "prior=pixel", "zebra"], "units", ["zebra"]),
        (["examples", "carpenter's kit"], "units", ["carpenter's kit"]), (["facets", "é"], "unit", "é"),
        (["ablate", "a=b.png"], None, None), (["ablate", "é.png"], "image", ["é.png"]),
        (["train", "~/x"], "data.root", "~/x"), (["units", "dog"], "find", "dog"),
    ],
)  # fmt: skip
def test_a_bare_word(words: list[str], key: str | None, meant: object, capsys: pytest.CaptureFixture[str]) -> None:
    line = said(capsys, *words)
    if key is None:
        assert "no key 'a'" in line
        return
    assert f"{words[-1]!r} is no KEY=VALUE; did you mean " in line
    (back,) = through_a_shell(line.partition("did you mean ")[2].removesuffix("?"))
    assert (parse(back).key_or_group, parse(back).value()) == (key, meant)


def test_several_values_without_a_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    line = said(capsys, "synthesize", "units=zebra,goldfish")
    (back,) = through_a_shell(line.partition("give one job all of them: ")[2])
    assert "add -m for a job each" in line and parse(back).value() == ["zebra", "goldfish"]
    line = said(capsys, "synthesize", "seed=0,1")
    assert "add -m for a job each" in line and "[" not in line  # one job has one seed
    assert "add -m" in said(capsys, "synthesize", "seed=range(1,3)")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["gather", "a", "b"], "dgn gather takes one of 'a', 'b'"), (["evaluate", "a", "b"], "takes one of 'a', 'b'"),
        (["figure", "layers", "priors"], "takes one of 'layers', 'priors'"), (["synthesize", "=1"], "can't read '=1'"),
        (["synthesize", "é=1"], "can't read 'é=1'"), (["synthesize", "--nothing"], "unrecognized arguments: --nothing"),
        (["synthesize", "--cfg=nothing"], "invalid choice: 'nothing'"),
        (["synthesize", "-cn"], "expected one argument"),
        (["synthesize", "+unit=zebra"], "no key 'unit': dgn synthesize knows no 'unit'; did you mean 'units'?"),
        (["facets", "+units=zebra"], "did you mean 'unit'?"), (["synthesize", "++nothing=1"], "no key 'nothing'"),
        (["synthesize", "+network.weight=x"], "knows no 'weight' in network; did you mean 'weights'?"),
        (["synthesize", "+a.b.c=1"], "no key 'a.b.c'"), (["units", "+k=1"], "no key 'k'"),
        (["figure", "name=layers", "figure.units=[3]"], "no key 'figure.units'"),
        (["synthesize", "-m", "out=a,b"], "a sweep has one folder"),
        (["synthesize", "-m", "units=[0]", "seed=[0"], "can't read 'seed=[0'"),
        (["units", "-m", "hydra.sweep.dir=pictures"], "dgn units makes no runs"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_what_can_not_be_meant(words: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = said(capsys, *words)
    assert expected in line, line
    assert not re.search(r"did you mean .*'figure\.units'", line)  # a hint never names what was given
    assert {path.name for path in Path(".").iterdir()} == {"small.pt2", "pictures"}


def test_a_hint_never_names_what_was_given() -> None:
    assert nearest("units", ["units", "unit"]) == "; did you mean 'unit'?"
    assert nearest("units", ["units"]) == ""
    assert nearest("Units", ["units"]) == "; did you mean 'units'?"


def test_new_keys_that_are_meant_stay(capsys: pytest.CaptureFixture[str]) -> None:
    """A prior of one's own, options of a data set, what Hydra's own plugins take."""
    mine = ["+prior.mine.path=pixel", "+prior.mine.size=16", "+prior.mine.ascent.rule=adam", "++ascent.steps=1"]
    words = [word for word in TINY["synthesize"] if not word.startswith("prior")]
    assert main(["synthesize", *words, "prior=[]", *mine, "+hydra.job.env_set.DGN_NOTHING=1", "out=run"]) == 0
    assert Path("run/images/tench--mine--s0.png").is_file()


@pytest.mark.slow
def test_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``~/`` in quotes, which no shell puts in: a path alone, in a list, as the folder of a job and of a sweep."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "x.png").write_bytes(Path("pictures/a.png").read_bytes())
    monkeypatch.setenv("HOME", str(home))
    ablate = [word for word in TINY["ablate"] if not word.startswith("image=")]
    assert main(["ablate", *ablate, "image='~/x.png'", "out='~/one'"]) == 0
    assert main(["ablate", *ablate, "image=['~/x.png']", "out='~/two'"]) == 0
    assert main(["synthesize", *TINY["synthesize"], "-m", "seed=0,1", "out='~/sweep'"]) == 0
    assert main(["gallery", "~/sweep/0", "out='~/page.html'"]) == 0
    made = {path.name for path in home.iterdir() if not path.name.startswith(".")}
    assert made == {"x.png", "one", "two", "sweep", "page.html"}
    assert not Path("~").exists()


@pytest.mark.parametrize(
    ("word", "folder"),
    rest_slow(
        [("out=s\\=1", "s=1"), ("out='a b'", "a b"), ('out="it\'s"', "it's"), ("out=${oc.env:DGN_PLACE}/x", "here/x"),
         ("++out=plain", "plain"), ("hydra.sweep.dir=s\\=2", "s=2"), ("out='é'", "é"), ("out=seed${seed}", "seed0")],
    ),
)  # fmt: skip
def test_a_sweeps_folder_is_the_one_that_hydra_reads(word: str, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One folder, with the jobs in it and everything that is joined; the same command finds it again."""
    monkeypatch.setenv("DGN_PLACE", "here")
    command = ["synthesize", *TINY["synthesize"], "-m", "units=[0],[1]", word]
    assert main(command) == 0
    made = {path.name for path in Path(".").iterdir()} - {"small.pt2", "pictures"}
    assert made == {Path(folder).parts[0]}
    assert {path.name for path in Path(folder).iterdir()} >= {"0", "1", "jobs", "sweep.json", "results.csv"}
    assert main(command) == 0
    assert {path.name for path in Path(".").iterdir()} - {"small.pt2", "pictures"} == made


@pytest.mark.slow
@pytest.mark.parametrize("word", ["resume=false", "resume=False", "++resume=no", "resume='false'"])
def test_resume_is_read_by_hydra(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A sweep that begins anew, however that is written."""
    command = ["synthesize", *TINY["synthesize"], "-m", "units=[0],[1]", "out=sweep"]
    assert main(command) == 0
    before = Path("sweep/0/codes.safetensors").stat().st_mtime_ns
    assert main([*command, word]) == 0
    assert Path("sweep/0/codes.safetensors").stat().st_mtime_ns > before


@pytest.mark.parametrize(
    ("mode", "words", "tracked"),
    rest_slow(
        [("disabled", [], False), ("offline", [], True), ("dryrun", [], True), ("disabled", ["tracking=offline"], True),
         ("disabled", ["tracking.mode=offline"], True), ("offline", ["tracking=off"], False), ("", [], True)],
        ("disabled", [], False),
    ),
)  # fmt: skip
def test_wandb_mode(
    mode: str, words: list[str], tracked: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Weights & Biases understands it, where the command says nothing of tracking."""
    monkeypatch.setenv("WANDB_MODE", mode)
    seen: list[str] = []

    def begin(mode: str, **_: object) -> None:
        seen.append(mode)
        raise RuntimeError("not here")

    monkeypatch.setattr("wandb.init", begin)
    job = [word for word in TINY["ablate"] if word != "tracking=off"]
    assert main(["ablate", *job, *words, "out=run"]) == 0
    assert seen == ["offline"] * tracked
    assert f"mode: {'offline' if tracked else 'off'}\n" in Path("run/config.yaml").read_text().replace("'", "")


def test_wandb_mode_online_needs_an_account(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setattr("wandb.login", lambda **_: False)
    job = [word for word in TINY["ablate"] if word != "tracking=off"]
    assert "needs an account" in said(capsys, "ablate", *job, "out=run")
    assert not Path("run").exists()


def piped(command: str, cwd: Path) -> tuple[list[int], str, str]:
    """Exit codes of a pipe's parts, and what was printed."""
    run = f'{shlex.quote(sys.executable)} -m dgn {command}; echo "${{PIPESTATUS[*]}}" >&3'
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        ["bash", "-c", f"exec 3>codes; {run}"], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )
    return [int(code) for code in (cwd / "codes").read_text().split()], ended.stdout, ended.stderr


@pytest.mark.parametrize(
    "command", ["units network.name=small.pt2 trust=true", "--help", "units network.name=small.pt2 trust=true find=dog"]
)
@pytest.mark.slow
def test_a_pipe_that_closes(command: str, tmp_path: Path) -> None:
    """As other tools: nothing is said, and the exit code is that of SIGPIPE. What reads has gone before it prints."""
    codes, shown, errors = piped(f"{command} | true", tmp_path)
    assert errors == "" and shown == "" and codes == [141, 0]


@pytest.mark.slow
def test_a_finished_job_whose_reader_is_gone(tmp_path: Path) -> None:
    """The run is whole; only its name was not printed."""
    codes, _, errors = piped(f"ablate {' '.join(TINY['ablate'])} out=run | true", tmp_path)
    assert errors.startswith("dgn: assumed of network") and errors.count("\n") == 1 and codes == [141, 0]
    assert json.loads((tmp_path / "run/manifest.json").read_text())["status"] == "done"


@contextmanager
def nobody() -> Iterator[None]:
    """A user who may do little: root may do everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def closed(tmp_path: Path, desk: Path) -> Iterator[Path]:
    """A folder that can't be entered, one that can't be written to, and a file that can't be read."""
    for part in (desk, tmp_path, *tmp_path.parents):
        if part.stat().st_uid == os.geteuid() and str(part) != "/":
            os.chmod(part, 0o755)
    for name, mode in {"shut": 0o000, "fixed": 0o555}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(Path("pictures/a.png").read_bytes())
        (tmp_path / name).chmod(mode)
    (tmp_path / "secret.png").write_bytes(Path("pictures/a.png").read_bytes())
    (tmp_path / "secret.png").chmod(0)
    yield tmp_path
    for name in ("shut", "fixed"):
        (tmp_path / name).chmod(0o755)


@pytest.mark.slow
def test_no_permission_is_one_line(closed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wherever it is refused: as the place of a run, of a sweep, of a page, of images, of weights."""
    synthesize, ablate = ["synthesize", *TINY["synthesize"]], ["ablate", *TINY["ablate"]]
    examples = ["examples", *TINY["examples"]]
    assert main([*synthesize, "out=done"]) == 0
    commands = [
        [*synthesize, "out=shut"], [*synthesize, "out=shut/run"], [*synthesize, "out=fixed/run"],
        [*synthesize, "-m", "seed=0,1", "out=shut/run"], [*synthesize, "-m", "seed=0,1", "out=fixed/run"],
        [*synthesize, "-m", "seed=0,1", "hydra.sweep.dir=fixed/run"], [*synthesize, "start=secret.png"],
        [*synthesize, "start=shut/a.png"], [*synthesize, "network.weights=shut/w.pt"],
        [*synthesize, "units=@secret.png"],
        [*synthesize, "network.name=shut/n.pt2"], [*ablate, "image=secret.png"], [*ablate, "image=shut"],
        [*ablate, "image=shut/a.png"], [*examples, "data.root=shut"], ["gallery", "done", "out=fixed/page.html"],
        ["gallery", "done", "out=shut/page.html"], ["gallery", "shut"], ["gather", "shut"],
        ["evaluate", "shut", "data.root=pictures"],
        ["train", "data.root=shut"], ["units", "network.name=shut/n.pt2"],
    ]  # fmt: skip
    with nobody():
        for command in commands:
            line = said(capsys, *command)
            assert any(name in line for name in ("shut", "fixed", "secret")), (command, line)
    assert not Path("runs").exists()


@pytest.mark.slow
def test_what_a_file_system_refuses_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A folder where a file belongs, a file where a folder does, names that are too long."""
    Path("file").write_text("")
    Path("folder.pt2").mkdir()
    long = "x" * 300
    synthesize, ablate = ["synthesize", *TINY["synthesize"]], ["ablate", *TINY["ablate"]]
    for command in (
        [*synthesize, "out=file"], [*synthesize, "out=file/run"], [*synthesize, f"out={long}"],
        [*synthesize, "-m", "seed=0,1", f"out={long}"], [*synthesize, "-m", "seed=0,1", "out=file"],
        [*synthesize, f"start={long}.png"], [*synthesize, "start=file/x.png"], [*synthesize, "network.name=folder.pt2"],
        [*synthesize, f"network.weights={long}"], [*synthesize, "units=@pictures"], [*synthesize, f"units=@{long}"],
        [*ablate, f"image={long}"], [*ablate, "image=file/x.png"], ["examples", *TINY["examples"], f"data.root={long}"],
        ["gallery", long], ["gallery", "file"], ["gather", "file/x"], ["gather", long], ["evaluate", long],
        ["train", f"data.root={long}"], ["units", f"network.name={long}.pt2"],
    ):  # fmt: skip
        said(capsys, *command)
    assert not Path("runs").exists()


def test_an_empty_image_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("zero.jpg").touch()
    line = said(capsys, "ablate", *[word for word in TINY["ablate"] if not word.startswith("image=")], "image=zero.jpg")
    assert "'zero.jpg'" in line and "can't be read as an image" in line


@pytest.mark.slow
def test_patches_fit_a_small_network(capsys: pytest.CaptureFixture[str]) -> None:
    """16 px: three of them, one apart; what is given is kept."""
    from dgn.analysis.ablation import patch_sizes

    assert main(["ablate", "network.name=small.pt2", "trust=true", "image=pictures/a.png", "unit=0", "curve_steps=0",
                 "tracking=off", "progress=false", "out=run"]) == 0  # fmt: skip
    drops = next(Path("run/images").glob("*.csv")).read_text().splitlines()
    assert len(drops) == 14 and len(drops[0].split(",")) == 14
    assert patch_sizes(None, None, (224, 224)) == patch_sizes(None, None, (299, 299)) == ((48, 48), (16, 16))
    assert patch_sizes(None, None, (96, 320)) == ((48, 48), (16, 16))
    assert patch_sizes(None, None, (64, 64)) == ((13, 13), (4, 4))
    assert patch_sizes(None, None, (1, 1)) == ((1, 1), (1, 1))
    assert patch_sizes(32, None, (224, 224)) == ((32, 32), (16, 16))
    assert patch_sizes([8, 4], None, (16, 16)) == ((8, 4), (1, 1))
    assert patch_sizes(48, 16, (16, 16)) == ((48, 48), (16, 16))
    assert main(["figure", "figure=ablation", "network.name=small.pt2", "trust=true", "figure.images=[pictures/a.png]",
                 "figure.unit=0", "tracking=off", "progress=false", "out=figure"]) == 0  # fmt: skip
