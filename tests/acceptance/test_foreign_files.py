"""A user's files are never touched: what lies in a folder that dgn is pointed at, and is not what dgn wrote, stays."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import rest_slow

sys.path.insert(0, str(Path(__file__).parent))
from smallest import TINY
from watched import Watched, behind_the_write, interrupt, watched_prior

from dgn.cli.main import main
from dgn.cli.verbs import JOINED
from dgn.files.ledger import JOURNAL
from dgn.files.storage import lock

pytestmark = pytest.mark.xdist_group("foreign")  # the runs are made once

VERBS = ("synthesize", "examples", "facets", "ablate", "evaluate", "figure", "train")

NAMES = [
    "config.yaml", "manifest.json", "results.csv", "codes.safetensors", "grid.png", "index.html", "gallery.html",
    "examples.csv", "examples.png", "examples.safetensors", "starts.safetensors", "facets.pdf", "facets.png",
    "ablation.pdf", "ablation.png", "curves.png", "figures.csv", "differences.csv", "table.md", "panels.png",
    "panels.pdf", "atlas.html", "start.pdf", "start.png", "start.csv", "state.safetensors", "generator.safetensors",
    "components.safetensors", "losses.csv", "report.json", "samples/step-0000001.png", "images/x.png", "images/me.jpg",
    "images/tench--pixel--s0.png", "images/pixel.safetensors", "images/a--tench.png", "images/tench--top--1.png",
    "trajectory/tench--pixel--s0.png", "parts/pixel--000000.safetensors", "parts/mine", ".lock", JOURNAL, "sweep.json",
    "gather.json", "jobs/0.json", "multirun.yaml", "optimization_results.yaml", "wandb/latest-run", "0/grid.png",
    "0/manifest.json", ".grid.png.part", ".grid.png.abcd1234.part", ".manifest.json.abcd1234.part", ".submitit/x",
    "mine",
]  # fmt: skip
"""Every name that dgn uses, and some that it does not."""


@pytest.fixture(autouse=True)
def _at_the_desk(desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DGN_PATIENCE", "0.2")
    for name in ("small.pt2", "pictures"):
        Path(name).symlink_to(desk / name)


def plant(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"the user's {name}")


Files = dict[str, tuple[bytes | str, int]]


def seen(folder: Path) -> Files:
    """Every file and link below a folder: what it holds, and when it was written; folders too."""
    found: Files = {}
    for path in sorted(folder.rglob("*")):
        name, facts = str(path.relative_to(folder)), path.lstat()
        if path.is_symlink():
            found[name] = (os.readlink(path), 0)
        elif path.is_dir():
            found[name] = ("folder", 0)
        else:
            found[name] = (path.read_bytes(), facts.st_mtime_ns)
    return found


def command(verb: str, *more: str) -> list[str]:
    words = TINY[verb]
    if verb == "figure":  # the cheapest of the figures
        words = ["network.name=small.pt2", "trust=true", "figure=ablation", "figure.images=[pictures/a.png]",
                 "figure.size=8", "figure.stride=8", "tracking=off", "progress=false"]  # fmt: skip
    if verb == "train":
        words = ["data.root=pictures", "training.steps=1", "training.batch=2", "training.image_size=32",
                 "training.encoder_size=64", "training.widths=[8,8,6]", "training.depths=[1,1,1]",
                 "training.held_out=2",
                 "training.comparator_layers=[blocks.0]", "training.adversary_layers=[blocks.0]",
                 "training.statistics_images=4", "training.component_images=4", "training.components=2",
                 "training.centres=0", "training.ascent_share=0", "training.semantic_layers=[]",
                 "tracking=off", "progress=false"]  # fmt: skip
    return [verb, *words, *more]


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line with which a command is refused."""
    capsys.readouterr()
    assert main([*words]) == 2
    said = capsys.readouterr()
    lines = [line for line in said.err.strip().splitlines() if not line.startswith("dgn: assumed of network")]
    assert len(lines) == 1 and lines[0].startswith("dgn: ") and "unexpected" not in lines[0], said.err
    return lines[0]


@pytest.mark.parametrize("verb", VERBS)
def test_a_folder_of_somebody_elses_is_refused(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With files of every name that dgn uses, as ``out=`` and as a sweep's, before anything is written or read."""
    plant(Path("all"), NAMES)
    before = seen(Path("all"))
    for more in (["out=all"], ["out=all", "-m", "seed=0,1"], ["hydra.sweep.dir=all", "-m", "seed=0,1"]):
        if verb == "synthesize":
            more = [*more, "resume=false"]
        assert "'all" in refused(capsys, *command(verb, *more))
    assert seen(Path("all")) == before and not Path("runs").exists()


@pytest.mark.parametrize("name", NAMES)
def test_one_file_is_enough(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each name in one of the ways in which a folder is given; some in all of them below."""
    ways = [["out=one"], ["out=one", "resume=false"], ["out=one", "-m"], ["out=."]]
    refuse_one(name, ways[NAMES.index(name) % len(ways)], capsys, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES[::5])
def test_one_file_is_enough_in_every_way(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for more in (["out=one"], ["out=one", "resume=false"], ["out=one", "-m"], ["out=."]):
        with monkeypatch.context() as patch:
            refuse_one(name, more, capsys, patch)


def refuse_one(name: str, more: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(Path("one"), [name])
    before = seen(Path("one"))
    if more == ["out=."]:
        monkeypatch.chdir("one")
        refused(capsys, *command("synthesize", *more))
        assert seen(Path(".")) == before
    else:
        refused(capsys, *command("synthesize", *more))
        assert seen(Path("one")) == before


@pytest.fixture(scope="module")
def runs(desk: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of each verb, and a sweep."""
    folder = tmp_path_factory.mktemp("runs")
    before = os.getcwd()
    os.chdir(folder)
    try:
        for name in ("small.pt2", "pictures"):
            Path(name).symlink_to(desk / name)
        for verb in VERBS:
            assert main(command(verb, f"out={verb}")) == 0, verb
        assert main(command("synthesize", "out=sweep", "-m", "seed=0,1")) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.mark.parametrize("verb", VERBS)
def test_the_manifest_names_every_file(verb: str, runs: Path) -> None:
    """Its own aside: with what it holds, and under a pattern that it announced; nothing of the work is left behind."""
    import fnmatch

    manifest = json.loads((runs / verb / "manifest.json").read_text())
    there = {str(path.relative_to(runs / verb)) for path in (runs / verb).rglob("*") if path.is_file()}
    assert there == {*manifest["files"], "manifest.json", ".lock"}
    from dgn.files.ledger import digest_of

    for name, digest in manifest["files"].items():
        assert digest_of(runs / verb / name) == digest
        assert any(fnmatch.fnmatch(name, pattern) for pattern in manifest["writes"]), name


@pytest.mark.parametrize("verb", rest_slow(VERBS, "synthesize"))
def test_of_its_own_run_only_what_dgn_wrote_is_replaced(
    verb: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another job of the verb in its folder: files that were changed, or came in a file's place, stop it; those beside
    stay where it is done again."""
    shutil.copytree(runs / verb, "run", copy_function=shutil.copyfile)
    more = ["out=run", *(["resume=false", "seed=5"] if verb == "synthesize" else [])]
    own = {"manifest.json", ".lock"}
    theirs = [name for name in seen(Path("run")) if name not in own and Path("run", name).is_file()]
    assert len(theirs) > 3
    for name in theirs if verb == "synthesize" else theirs[:: len(theirs) // 3]:
        shutil.copytree("run", "taken", copy_function=shutil.copyfile)
        plant(Path("taken"), [name])
        before = seen(Path("taken"))
        line = refused(capsys, *command(verb, *more, "out=taken"))
        assert name in line and "dgn never replaces it" in line
        assert seen(Path("taken")) == before
        shutil.rmtree("taken")
    beside = ["notes.txt", "images/me.jpg", "parts/mine", "trajectory/me.png", "samples/me.png", ".grid.png.part",
              ".grid.png.abcd1234.part", "images/.x.png.abcd1234.part", "wandb/mine", "jobs/0.json",
              "0/grid.png"]  # fmt: skip
    plant(Path("run"), beside)
    before = seen(Path("run"))
    assert main(command(verb, *more)) == 0, capsys.readouterr().err
    after = seen(Path("run"))
    assert {name: after[name] for name in beside} == {name: before[name] for name in beside}


@pytest.mark.parametrize("verb", rest_slow(VERBS, "synthesize"))
def test_another_verbs_run_is_refused(verb: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for other in (VERBS[VERBS.index(verb) - 1], "sweep"):
        before = seen(runs / other)
        more = ["resume=false"] if verb == "synthesize" else []
        line = refused(capsys, *command(verb, f"out={runs / other}", *more))
        assert f"of dgn {'synthesize' if other == 'sweep' else other}" in line
        refused(capsys, *command(verb, f"out={runs / verb}", "-m", "seed=3"))
        assert seen(runs / other) == before


def test_links_lead_nowhere(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A link in the place of a file or a folder, and a manifest that names files elsewhere."""
    plant(Path("home"), ["tench--pixel--s0.png", "secret"])
    home = seen(Path("home"))
    for name, target in {"grid.png": "../home/secret", "images": "../home", "parts": "../home"}.items():
        shutil.copytree(runs / "synthesize", "run", copy_function=shutil.copyfile)
        if Path("run", name).is_dir():
            shutil.rmtree(Path("run", name))
        Path("run", name).unlink(missing_ok=True)
        Path("run", name).symlink_to(target)
        before = seen(Path("run"))
        refused(capsys, *command("synthesize", "out=run", "resume=false"))
        assert seen(Path("run")) == before and seen(Path("home")) == home
        shutil.rmtree("run")
    shutil.copytree(runs / "synthesize", "run", copy_function=shutil.copyfile)
    from dgn.files.ledger import digest_of

    manifest = json.loads(Path("run/manifest.json").read_text())
    for name in ("../home/secret", str(Path("home/secret").resolve())):
        manifest["files"][name] = digest_of(Path("home/secret"))
    Path("run/manifest.json").write_text(json.dumps(manifest))
    assert main(command("synthesize", "out=run", "resume=false")) == 0
    assert seen(Path("home")) == home


def test_what_stands_in_the_way_of_a_folder(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(runs / "synthesize", "run", copy_function=shutil.copyfile)
    shutil.rmtree("run/images")
    Path("run/images").write_text("mine")
    assert "'run/images' is not what dgn wrote there" in refused(
        capsys, *command("synthesize", "out=run", "resume=false")
    )
    assert Path("run/images").read_text() == "mine"


def test_a_file_that_comes_while_a_job_works(watched: type[Watched], capsys: pytest.CaptureFixture[str]) -> None:
    """In the place of one to be written: it stays, and the job says so; what the job made until then is kept."""
    watched.fails(lambda _: plant(Path("run"), ["grid.png"]))
    job = command("synthesize", *watched_prior(), "out=run")
    line = refused(capsys, *job)
    assert "'run/grid.png' is not what dgn wrote there" in line
    assert Path("run/grid.png").read_text() == "the user's grid.png"
    assert Path("run/images/tench--pixel--s0.png").is_file() and list(Path("run/parts").iterdir())
    Path("run/grid.png").unlink()
    watched.reset()
    assert main(job) == 0 and watched.begun == []  # nothing was left to climb


@pytest.mark.parametrize("verb", rest_slow(VERBS, "synthesize", "examples"))
def test_a_failed_jobs_new_folder_is_removed_but_for_a_users_file(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing was finished, and somebody has put a file there."""

    def drop() -> None:
        plant(Path("new/run"), ["wandb/mine", "wandb/offline-run-20260101_000000-abcd/mine"])
        raise KeyboardInterrupt

    early = ("manifest.json", 2) if verb == "synthesize" else ("config.yaml", 1)
    behind_the_write(monkeypatch, early[0], drop, number=early[1])
    assert main(command(verb, "out=new/run")) == 130
    left = {name for name, (what, _) in seen(Path("new/run")).items() if what != "folder"}
    assert left - {"manifest.json"} == {"wandb/mine", "wandb/offline-run-20260101_000000-abcd/mine"}


class Dead(BaseException):
    """The process is gone: nothing that it would still do to the disk is done."""


def dying(monkeypatch: pytest.MonkeyPatch, at: int) -> list[str]:
    """From the ``at``-th change of the disk on, none comes through; returns the changes until then."""
    done: list[str] = []

    def wrap(real: Callable[..., Any], changes: Callable[..., bool]) -> Callable[..., Any]:
        def call(*given: Any, **more: Any) -> Any:
            if changes(*given, **more):
                if len(done) >= at:
                    raise Dead
                done.append(f"{real.__name__} {given[0]}")
            return real(*given, **more)

        return call

    def always(*_: Any, **__: Any) -> bool:
        return True

    def writes(_path: Any, flags: int = 0, *_: Any, **__: Any) -> bool:
        return bool(flags & (os.O_WRONLY | os.O_CREAT))

    for name in ("replace", "unlink", "rmdir", "mkdir", "write"):
        monkeypatch.setattr(os, name, wrap(getattr(os, name), always))
    monkeypatch.setattr(os, "open", wrap(os.open, writes))
    return done


@pytest.mark.parametrize("verb", ["synthesize", "ablate"])
@pytest.mark.slow
def test_a_job_that_dies_at_any_change_of_the_disk_goes_on(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before, between and after any two of them: the same command ends with the same files, and no other is left."""
    job = command(verb)
    assert main([*job, "out=whole"]) == 0
    with monkeypatch.context() as patch:
        done = dying(patch, 10**9)
        assert main([*job, "out=counted"]) == 0
        changes = len(done)
    assert changes > 20
    names = set(seen(Path("whole")))
    for at in range(0, changes, 6 if verb == "synthesize" else changes // 8):
        with monkeypatch.context() as patch:
            dying(patch, at)
            with contextlib.suppress(Dead):
                main([*job, "out=run"])
        capsys.readouterr()
        assert main([*job, "out=run"]) == 0, (at, capsys.readouterr().err)
        assert set(seen(Path("run"))) == names, at
        for name in ("grid.png", "codes.safetensors", "ablation.png"):
            if name in names:
                assert Path("run", name).read_bytes() == Path("whole", name).read_bytes()
        shutil.rmtree("run")


@pytest.mark.slow
def test_replacing_a_run_dies_midway(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``resume=false`` that is killed: neither the old job nor the new is taken for done."""
    old, new = command("synthesize", "out=run"), command("synthesize", "seed=5", "resume=false", "out=run")
    for at in range(2, 30, 3):
        shutil.copytree(runs / "synthesize", "run", copy_function=shutil.copyfile)
        with monkeypatch.context() as patch:
            dying(patch, at)
            with pytest.raises(Dead):
                main(new)
        again = main(old)
        said = capsys.readouterr().err
        if again == 0:  # nothing was removed yet, or all of it is made again
            assert Path("run/images/tench--pixel--s0.png").is_file()
            assert Path("run/grid.png").read_bytes() == (runs / "synthesize/grid.png").read_bytes()
        else:
            assert "holds another job" in said
            assert main(new) == 0 and Path("run/images/tench--pixel--s5.png").is_file()
            assert not Path("run/images/tench--pixel--s0.png").exists()
        shutil.rmtree("run")


@pytest.mark.slow
def test_a_sweeps_folder(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the sweep's own files those that dgn wrote are replaced; records of jobs, Hydra's and the joined ones too."""
    job = command("synthesize", "out=sweep", "-m", "seed=0,1")
    for name in (
        "multirun.yaml",
        "jobs/0.json",
        "results.csv",
        "grid.png",
        "gather.json",
        "0/grid.png",
        "0/images/x.png",
    ):
        shutil.copytree(runs / "sweep", "sweep", copy_function=shutil.copyfile)
        plant(Path("sweep"), [name])
        mine = Path("sweep", name).read_bytes()
        main([*job, "resume=false"])
        said = capsys.readouterr().err
        assert Path("sweep", name).read_bytes() == mine, name
        if not name.endswith("x.png"):
            assert "never replaces it" in said and name in said, (name, said)
        assert "Traceback" not in said
        shutil.rmtree("sweep")
    shutil.copytree(runs / "sweep", "sweep", copy_function=shutil.copyfile)
    assert main([*job, "resume=false"]) == 0
    facts = json.loads(Path("sweep/gather.json").read_text())
    assert {*facts["files"]} >= {"results.csv", "grid.png", "index.html"}


@pytest.mark.parametrize("name", rest_slow(JOINED, "results.csv"))
def test_gather(name: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Into a sweep's folder and into any other that holds runs; again, and over a file of the user's."""
    Path("pool").mkdir()
    for number in "01":
        shutil.copytree(runs / "sweep" / number, Path("pool", number))
    plant(Path("pool"), [name])
    before = seen(Path("pool"))
    assert f"'pool/{name}' is not what dgn wrote there" in refused(capsys, "gather", "pool")
    assert seen(Path("pool")) == before
    Path("pool", name).unlink()
    plant(Path("pool"), ["notes.txt"])
    assert main(["gather", "pool"]) == 0 == main(["gather", "pool"])
    Path("pool/gather.json").unlink()  # which vouched for them
    refused(capsys, "gather", "pool")
    plant(Path("pool"), [name])
    refused(capsys, "gather", "pool")
    assert Path("pool", name).read_text() == f"the user's {name}"
    assert Path("pool/notes.txt").read_text() == "the user's notes.txt"


def pool(runs: Path) -> None:
    Path("pool").mkdir()
    for number in "01":
        shutil.copytree(runs / "sweep" / number, Path("pool", number))
    assert main(["gather", "pool"]) == 0


def test_gather_waits_for_who_is_at_work(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two at once would each take the other's files for somebody's; no lock is left where none was."""
    pool(runs)
    assert not Path("pool/.lock").exists()
    held = lock(Path("pool"))
    assert held is not None
    assert "another process is at work in 'pool'" in refused(capsys, "gather", "pool")
    held.close()
    assert main(["gather", "pool"]) == 0 and Path("pool/.lock").is_file()


@pytest.mark.slow
def test_a_smaller_sweep_in_a_larger_ones_place(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is not said to continue, and joins no row of the jobs that it has not."""
    shutil.copytree(runs / "sweep", "sweep", copy_function=shutil.copyfile)
    capsys.readouterr()
    assert main(command("synthesize", "out=sweep", "-m", "seed=7", "resume=false")) == 0
    said = capsys.readouterr().err
    assert "continuing the sweep" not in said and "not joined: 1" in said
    assert main(["gather", "sweep"]) == 0
    lines = Path("sweep/results.csv").read_text().splitlines()
    assert len(lines) == 2 and ",7," in lines[1] and Path("sweep/1/results.csv").is_file()


def test_a_sweep_that_does_not_begin_in_anothers_place(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder stays a sweep's, in which the next command works."""
    shutil.copytree(runs / "sweep", "sweep", copy_function=shutil.copyfile)
    with monkeypatch.context() as patch:
        patch.setattr("hydra.main", interrupt)
        assert main(command("synthesize", "out=sweep", "-m", "seed=7", "resume=false")) == 130
    assert main(command("synthesize", "out=sweep", "-m", "seed=7", "resume=false")) == 0


@pytest.mark.slow
def test_gallery(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A page is replaced where dgn wrote it and nobody changed it; any other file stays."""
    shutil.copytree(runs / "synthesize", "run")
    for out in ([], ["out=page.html"], ["out=folder"]):
        file = Path(
            {"": "run/index.html", "out=page.html": "page.html", "out=folder": "folder/index.html"}["".join(out)]
        )
        assert main(["gallery", "run", *out]) == 0 == main(["gallery", "run", *out])
        dgns = file.read_bytes()
        for theirs in (b"mine", dgns + b"<!-- my words -->", dgns.replace(b"zoom-in", b"pointer"), b""):
            file.write_bytes(theirs)
            assert f"{str(file)!r} is not a page that dgn wrote" in refused(capsys, "gallery", "run", *out)
            assert file.read_bytes() == theirs
        file.unlink()
        file.symlink_to("elsewhere.html")
        refused(capsys, "gallery", "run", *out)
        assert os.readlink(file) == "elsewhere.html" and not Path("elsewhere.html").exists()


@pytest.mark.slow
def test_weights_and_biases_folder(capsys: pytest.CaptureFixture[str]) -> None:
    """It makes links in ``wandb/``: a file there stops the tracking, and nothing else."""
    job = [word for word in command("synthesize", "out=run") if word != "tracking=off"]
    assert main([*job, "tracking=offline"]) == 0
    link = Path("run/wandb/latest-run")
    link.unlink()
    plant(Path("run"), ["wandb/latest-run"])
    capsys.readouterr()
    assert main([*job, "tracking=offline", "seed=3", "resume=false"]) == 0
    assert "Weights & Biases did not start: 'run/wandb/latest-run' is not what it wrote" in capsys.readouterr().err
    assert link.read_text() == "the user's wandb/latest-run"


def test_a_lock_in_a_folder_of_somebody_elses(capsys: pytest.CaptureFixture[str]) -> None:
    """Another program's: it is neither waited for in vain nor taken away."""
    plant(Path("theirs"), ["mine"])
    held = lock(Path("theirs"))
    assert held is not None
    before = seen(Path("theirs"))
    assert "another process is at work in 'theirs'" in refused(capsys, *command("synthesize", "out=theirs"))
    held.close()
    assert "is not empty and holds no run of dgn synthesize" in refused(capsys, *command("synthesize", "out=theirs"))
    assert seen(Path("theirs")) == before


EMPTY = [
    ("synthesize", "out="), ("synthesize", "start="), ("synthesize", "network.weights="), ("synthesize", "units="),
    ("synthesize", "prior.pixel.path="), ("examples", "data.root="), ("examples", "out="), ("facets", "data.root="),
    ("ablate", "image="), ("ablate", "image=['']"), ("ablate", "image=' '"), ("ablate", "image=[pictures/a.png,'']"),
    ("evaluate", "data.root="), ("evaluate", "data.photos="), ("evaluate", "run="), ("figure", "figure.images=['']"),
    ("train", "data.root="), ("train", "out=''"), ("gallery", "runs="), ("gallery", "runs=['']"), ("gallery", "out="),
    ("gather", "sweep="), ("gather", "sweep=''"), ("units", "network.weights="), ("units", "network.name=''"),
    ("synthesize", "data.root=${oc.env:NOT_SET,''}"),
]  # fmt: skip


@pytest.mark.parametrize(("verb", "word"), EMPTY, ids=[" ".join(entry) for entry in EMPTY])
def test_an_empty_value_is_an_error(verb: str, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a variable that is not set: never the current folder, never nothing."""
    if verb == "synthesize" and word.startswith("data.root"):
        verb = "examples"
    rest = [part for part in TINY[verb] if "=" in part and part.split("=")[0] != word.split("=")[0]]
    before = seen(Path("."))
    line = refused(capsys, verb, *rest, word)
    assert "a variable of the shell that is not set?" in line and word.split("=")[0] in line, line
    assert seen(Path(".")) == before
    more = [*rest, "-m"] if verb not in ("gallery", "gather", "units") else rest
    refused(capsys, verb, *more, word) if "''" not in word and "' '" not in word and "$" not in word else None
    assert not [path for path in Path(".").iterdir() if path.name not in ("small.pt2", "pictures", "runs")]


@pytest.mark.parametrize("words", [["gallery", ""], ["gather", ""], ["evaluate", "", "data.root=pictures"]])
def test_an_empty_folder_name_is_an_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "a variable of the shell that is not set?" in refused(capsys, *words)
