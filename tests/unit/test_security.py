"""Nothing that is read runs code: no unpickling, no strings as programs, no builder beyond the allow-list."""

from __future__ import annotations

import ast
import json
import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SmallCNN, rest_slow, small_generator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import dgn
import hydra_plugins.dgn_launchers
from dgn.cli.main import main
from dgn.cli.reproduce import reproduce
from dgn.cli.trust import build_module
from dgn.errors import DgnError
from dgn.evaluation.judges import load_judge
from dgn.images.pictures import to_image
from dgn.priors.checkpoint import save_generator
from dgn.report.gallery import page
from dgn.runs.past import read_run
from dgn.runs.run import Run
from dgn.units.unit import Unit, file_name

PACKAGE = Path(dgn.__file__).parent
LAUNCHERS = Path(hydra_plugins.dgn_launchers.__file__).parent
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle"}
NAMES = {"eval", "exec", "compile", "__import__"}
CALLS = {
    "yaml.load", "yaml.unsafe_load", "yaml.full_load", "torch.hub.load", "torch.hub.load_state_dict_from_url",
    "torch.package.PackageImporter", "pd.read_pickle", "pandas.read_pickle", "os.system", "os.popen",
    "sympy.sympify", "runpy.run_path",
}  # fmt: skip
ONLY_IN = {"torch.export.load": "programs.py", "torch.jit.load": "programs.py", "instantiate": "trust.py"}
BETWEEN_PROCESSES = {"multiprocessing": "local.py", "ray": "on_ray.py"}
"""Modules that pickle jobs for processes that dgn starts itself, and the launchers that they are for."""


def unsafe(source: str, file: str) -> Iterator[str]:
    """Every place of a source that could run what it reads."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [name.name for name in node.names]
            for top in (name.split(".")[0] for name in names):
                if top in MODULES or BETWEEN_PROCESSES.get(top, file) != file:
                    yield f"import of {top}"
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if called in NAMES or called in CALLS or file != ONLY_IN.get(called, file):
                yield called
            if called == "torch.load" and keywords.get("weights_only") != "True":
                yield "torch.load without weights_only=True"
            if called.endswith(".load") and keywords.get("allow_pickle", "False") != "False":
                yield "allow_pickle"
            if keywords.get("shell", "False") != "False":
                yield "shell=True"


def test_no_source_runs_what_it_reads() -> None:
    """Neither dgn nor its launchers, which alone may use what pickles jobs between dgn's own processes."""
    sources = sorted([*PACKAGE.rglob("*.py"), *LAUNCHERS.rglob("*.py")])
    assert len(sources) > 60 and {path.name for path in LAUNCHERS.glob("*.py")} >= set(BETWEEN_PROCESSES.values())
    found = {str(path): list(unsafe(path.read_text(), path.name)) for path in sources}
    assert not {path: places for path, places in found.items() if places}


@pytest.mark.parametrize(
    "line",
    ["import pickle", "from joblib import load", "import marshal as m", "eval('1')", "exec(x)", "torch.load(p)",
     "torch.load(p, weights_only=False)", "np.load(p, allow_pickle=True)", "yaml.load(text)", "torch.jit.load(p)",
     "torch.export.load(p)", "instantiate(config)", "subprocess.run(x, shell=True)", "import os, ray",
     "from multiprocessing.connection import Client"],
)  # fmt: skip
def test_the_search_finds_each_kind(line: str) -> None:
    assert list(unsafe(line, "other.py"))


# --- malicious files -----------------------------------------------------------------------------------------


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch '{self.place}'",)


@pytest.fixture
def exploded(tmp_path: Path) -> Iterator[Path]:
    """The file that a bomb would make; it must not be there in the end."""
    place = tmp_path / "exploded"
    pickle.loads(pickle.dumps(Bomb(place)))
    assert place.exists()  # the bomb works
    place.unlink()
    yield place
    assert not place.exists()


def plain_pickle(path: Path, place: Path) -> None:
    path.write_bytes(pickle.dumps(Bomb(place)))


def saved_by_torch(path: Path, place: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(2)}, "more": Bomb(place)}, path)


def saved_the_old_way(path: Path, place: Path) -> None:
    torch.save({"a": Bomb(place)}, path, _use_new_zipfile_serialization=False)


WAYS = [plain_pickle, saved_by_torch, saved_the_old_way]
KEYS = [
    "network.weights=bomb.pt", "network.weights=bomb.pth", "network.weights=bomb.bin",
    "network.weights=bomb.safetensors", "network.name=bomb.pt2", "prior.dgn.path=bomb.pt",
    "prior.dgn.path=bomb.safetensors", "start=bomb.safetensors", "start=bomb.pt", "start=bomb.png",
    "units=['blocks.1:bomb.safetensors']", "deepsim", "biggan", "exported.pt2", "exported.pt", "exported.ts",
]  # fmt: skip


def command(key: str) -> list[str]:
    if key == "deepsim":
        return ["prior=deepsim", "prior.deepsim.weights=bomb.pt"]
    if key == "biggan":
        return ["prior=biggan", "prior.biggan.weights=biggan"]
    if key.startswith("exported"):
        file = "bomb" + Path(key).suffix
        return ["prior=[]", f"+prior.mine={{path: exported, weights: {file}, options: {{code_shape: [5]}}}}"]
    return ["prior=dgn", key]


CASES = [(key, way) for key in KEYS for way in WAYS]
FIRST = {(key, WAYS[number % len(WAYS)]) for number, key in enumerate(KEYS)}
"""Each key once, each way five times; all that there are belong to the slow tier."""


@pytest.mark.parametrize(
    ("key", "way"), [case if case in FIRST else pytest.param(*case, marks=pytest.mark.slow) for case in CASES]
)
def test_a_pickle_is_refused_wherever_a_file_is_given(
    key: str, way: Callable[[Path, Path], None], tmp_path: Path, exploded: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for suffix in (".pt", ".pth", ".bin", ".safetensors", ".pt2", ".ts", ".png"):
        way(tmp_path / f"bomb{suffix}", exploded)
    if key == "biggan":
        Path("biggan").mkdir()
        Path("biggan/config.json").write_text(
            json.dumps({"output_dim": 32, "z_dim": 8, "class_embed_dim": 8, "channel_width": 8, "num_classes": 5,
                        "layers": [[False, 2, 1], [True, 1, 1]], "attention_layer_position": 1, "eps": 1e-4,
                        "n_stats": 51})
        )  # fmt: skip
        way(tmp_path / "biggan" / "pytorch_model.bin", exploded)
    assert main(["synthesize", *command(key), "tracking=off", "progress=false", "ascent.steps=1"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert (len(lines) == 1 and "bomb" in lines[0]) or "biggan" in lines[0], lines
    assert not Path("runs").exists()


@pytest.mark.slow
def test_a_pickle_is_refused_as_judge_and_start_of_a_training(
    tmp_path: Path, exploded: Path, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for suffix in (".pt2", ".safetensors"):
        saved_by_torch(tmp_path / f"bomb{suffix}", exploded)
    for arguments in (
        ["evaluate", f"data.root={images}", "judges=[bomb.pt2]", "units=[zebra]"],
        ["train", f"data.root={images}", "training.init=bomb.safetensors", "training.steps=1", "training.batch=2",
         "training.statistics_images=4", "training.image_size=32", "training.encoder_size=64",
         "training.widths=[4,4,4]", "training.depths=[1,1,1]"],
        ["examples", f"data.root={images}", "data.torchvision=LSUN", "units=[zebra]"],
    ):  # fmt: skip
        assert main([*arguments, "tracking=off", "progress=false"]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "flag",
    [["--experimental-rerun=bomb.pickle"], ["--experimental-rerun", "bomb.pickle"], ["--exp=bomb.pickle"],
     ["--e", "bomb.pickle"], ["-m", "--experimental-rerun=bomb.pickle"]],
    ids=" ".join,
)  # fmt: skip
@pytest.mark.parametrize("verb", ["synthesize", "units"])
def test_hydras_flag_that_unpickles_is_refused(
    verb: str, flag: list[str], tmp_path: Path, exploded: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    plain_pickle(tmp_path / "bomb.pickle", exploded)
    assert main([verb, *flag]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("dgn: --experimental-rerun unpickles a file")
    assert not Path("runs").exists()


# --- programs ------------------------------------------------------------------------------------------------


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(5, 12)

    def forward(self, code: Tensor) -> Tensor:
        return torch.sigmoid(self.net(code)).unflatten(1, (3, 2, 2))


class Writes(nn.Module):
    """Plain TorchScript that touches a file."""

    def forward(self, code: Tensor) -> Tensor:
        torch.save(code, "exploded")
        return code[:, :3, None, None].expand(-1, 3, 2, 2)


ROLES = {
    "network": ["units", "network.name=file.pt2"],
    "prior": ["synthesize", "prior=[]", "+prior.mine={path: exported, weights: file.pt2, options: {code_shape: [5]}}"],
    "script": ["synthesize", "prior=[]", "+prior.mine={path: exported, weights: file.ts, options: {code_shape: [5]}}"],
    "judge": ["evaluate", "judges=[file.pt2]", "prior=pixel", "data.root=."],
}
"""What a program can be, at the command that opens it."""


@pytest.mark.parametrize("role", sorted(ROLES))
def test_programs_are_opened_where_they_are_trusted(
    role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A network, a prior of either kind and a judge; not even those that are harmless are read before."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.pt2").touch()
    (tmp_path / "file.ts").touch()
    for words, line in (
        ([], "is a program, which can do anything that you can: if you trust it, add trust=true"),
        (["trust=true"], "program that this PyTorch can load"),
    ):
        assert main([*ROLES[role], *words]) == 2
        (said,) = capsys.readouterr().err.strip().splitlines()
        assert said.startswith("dgn: 'file.") and said.endswith(line)


def test_python_asks_for_trust_too(tmp_path: Path, exploded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a script does when it runs (here it writes a file) happens with trust alone."""
    monkeypatch.chdir(tmp_path)
    torch.jit.script(Writes()).save("writes.ts")
    torch.jit.trace(Tiny().eval(), torch.zeros(1, 5)).save("tiny.ts")
    torch.export.save(torch.export.export(Tiny().eval(), (torch.randn(2, 5),)), "tiny.pt2")
    options = {"code_shape": [5]}
    for name in ("writes.ts", "tiny.ts", "tiny.pt2"):
        with pytest.raises(DgnError, match="trust=true"):
            dgn.load_prior("exported", weights=name, options=options)
    for opener in (dgn.load_network, load_judge):
        with pytest.raises(DgnError, match="trust=true"):
            opener("tiny.pt2")
    assert not exploded.exists()
    for name in ("tiny.ts", "tiny.pt2"):
        assert dgn.load_prior("exported", weights=name, options=options, trust=True).size == (2, 2)
    dgn.load_prior("exported", weights="writes.ts", options=options, trust=True)
    exploded.unlink()  # trusted, it did


def test_a_checkpoint_cannot_vouch_for_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A generator's file names its encoder: where that is a program, the prior goes without."""
    monkeypatch.chdir(tmp_path)
    torch.export.save(torch.export.export(SmallCNN().eval(), (torch.rand(2, 3, 16, 16),)), "net.pt2")
    generator = small_generator()
    generator.config = replace(generator.config, network="net.pt2")
    save_generator(tmp_path / "generator.safetensors", generator, {})
    assert not dgn.load_prior(str(tmp_path / "generator.safetensors")).encodes


# --- what a configuration may build ----------------------------------------------------------------------------

FOREIGN = [
    "os.system", "builtins.eval", "subprocess.Popen", "torch.load", "torch.hub.load", "torch.jit.load", "evil.Module",
    "torch.nn.functional.torch.load", "torch.nn.modules.module.torch.hub.load", "torch.nn.Module.load_state_dict",
    "torch.nn.functional.relu", "torch.nnx.Linear", "timm.create_model", "timm.models.create_model",
    "diffusers.AutoencoderKL.from_pretrained", "diffusers.DiffusionPipeline.from_pretrained", "dgn.load_network",
    "dgn.network.programs.load_program", "hydra.utils.instantiate", "hydra.utils.get_method", "torch.nn", "",
    "torch.nn.", "..",
]  # fmt: skip


@pytest.mark.parametrize("target", rest_slow(FOREIGN, *(each for each in FOREIGN if "diffusers" not in each)))
@pytest.mark.parametrize("nested", [False, True])
def test_foreign_targets_are_refused(
    target: str, nested: bool, tmp_path: Path, exploded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is called, and a module of one's own is not even imported."""
    (tmp_path / "evil.py").write_text(f"open({str(exploded)!r}, 'w')\nimport torch\nModule = torch.nn.Identity\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    config: dict[str, Any] = {"_target_": target, "_args_": [f"touch '{exploded}'"]}
    if nested:
        config = {"_target_": "torch.nn.Sequential", "_args_": [{"_target_": "torch.nn.Identity", "deep": [config]}]}
    with pytest.raises(DgnError, match="trust=true") as caught:
        build_module("prior.mine.module", config)
    assert repr(target) in str(caught.value) and "\n" not in str(caught.value)


def test_listed_modules_are_built_and_trust_opens_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [{"_target_": "torch.nn.Linear", "in_features": 5, "out_features": 12}, {"_target_": "torch.nn.Tanh"}]
    built = build_module("m", {"_target_": "torch.nn.Sequential", "_args_": layers})
    assert isinstance(built, nn.Sequential) and built(torch.zeros(2, 5)).shape == (2, 12)
    (tmp_path / "mine_only.py").write_text("import torch\nclass Painter(torch.nn.Identity): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(DgnError, match="trust=true"):
        build_module("m", {"_target_": "mine_only.Painter"})
    assert type(build_module("m", {"_target_": "mine_only.Painter"}, trust=True)).__name__ == "Painter"
    for config, message in (
        (
            {"_target_": "torch.nn.Linear", "_partial_": True, "in_features": 2, "out_features": 2},
            "expected a torch.nn.Module",
        ),
        ({"_target_": "torch.nn.Linear", "in_features": -1, "out_features": 2}, "can't be built"),
        ({"in_features": 2}, "needs _target_"),
    ):
        with pytest.raises(DgnError, match=message):
            build_module("m", config)


@pytest.mark.needs("diffusers")
def test_autoencoders_are_built() -> None:
    import diffusers

    assert isinstance(build_module("m", {"_target_": "diffusers.AutoencoderTiny"}), diffusers.AutoencoderTiny)


# --- what is written -------------------------------------------------------------------------------------------

HOSTILE = [
    "../../x", "a/b", "a-b", "a b", "x" * 300, "x" * 301, "\N{TROPICAL FISH}", "\N{BLOWFISH}", "a\0", "a\n", "", " ",
    ".", "..", "-", "/etc/passwd", "..\\..\\x", "C:\\x", "con", "NUL.txt", "com1", "a:b", "a|b", "*", "é", "e\u0301",
    "\ud800", "~", "$HOME", "`id`", "--help", "a\u202eb", "x-9cdf6a50100a", "x 9cdf6a50100a",
]  # fmt: skip


def test_any_name_makes_a_file_of_its_own_inside(tmp_path: Path) -> None:
    run = Run(tmp_path / "deep" / "run")
    for name in HOSTILE:
        run.write_picture(f"images/{Unit(name, ()).file_name}--pixel--s0.png", to_image(torch.zeros(3, 2, 2)))
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".dgn-files"]
    assert len(files) == len(HOSTILE) and all(path.parent == run.folder / "images" for path in files)
    for name in HOSTILE:
        plain = file_name(name)
        assert plain.isascii() and 0 < len(plain) <= 100 and not set(plain) & set('/\\:*?"<>|\0 ')
        assert plain.split(".")[0].lower() not in {"con", "nul", "com1", "aux", "prn"} and plain[0] not in ".-"


def test_pages_show_names_as_text(tmp_path: Path) -> None:
    """Markup in unit, prior, title, command and file names stays text: one script of data, no tag of theirs."""
    hostile = "</script><img src=x onerror=alert(1)><!--\u2028"
    run = Run(tmp_path / "run")
    run.write_picture("images/a.png", to_image(torch.zeros(3, 2, 2)))
    run.write_table([{"unit": hostile, "prior": hostile, "seed": hostile, "activation": "nan", "probability": hostile,
                      "image": "images/a.png"}])  # fmt: skip
    run.write_manifest({"verb": "synthesize", "network": hostile, "overrides": [hostile, f"start={hostile}"]})
    html = page([read_run(run.folder)], hostile, reproduce)
    assert "<img src=x" not in html and "<!--\u2028" not in html
    start = html.index('<script id="data"') if '<script id="data"' in html else html.index('id="data"')
    body = html[html.index(">", start) + 1 : html.index("</script>", start)]
    data = json.loads(body)
    assert data["title"] == hostile and data["units"][0]["n"] == hostile and hostile in data["methods"][0]
    template = (PACKAGE / "report" / "gallery.html").read_text()
    for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("):
        assert sink not in template, sink


def test_a_picture_outside_of_the_run_is_not_shown(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.write_picture("images/a.png", to_image(torch.zeros(3, 2, 2)))
    (tmp_path / "secret.png").write_bytes((run.folder / "images" / "a.png").read_bytes())
    (run.folder / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    common = {"unit": "u", "prior": "p", "seed": 0, "activation": 1}
    run.write_table([
        {**common, "image": "../secret.png"}, {**common, "image": str(tmp_path / "secret.png")},
        {**common, "image": "images/link.png"}, {**common, "image": "images/a.png"},
    ])  # fmt: skip
    run.write_manifest({"verb": "synthesize", "overrides": []})
    html = page([read_run(run.folder)], "t", reproduce)
    start = html.index('id="data"')
    data = json.loads(html[html.index(">", start) + 1 : html.index("</script>", start)])
    assert len(data["units"][0]["x"]) == 1


def test_directions_and_codes_are_tensors_only(tmp_path: Path, network: dgn.Network, exploded: Path) -> None:
    plain_pickle(tmp_path / "d.safetensors", exploded)
    with pytest.raises(DgnError, match="not a readable file"):
        dgn.parse_units([f"block:{tmp_path}/d.safetensors"], network)
    save_file({"d": torch.randn(8)}, tmp_path / "d.safetensors")
    (unit,) = dgn.parse_units([f"block:{tmp_path}/d.safetensors"], network)
    assert torch.tensor(unit.terms[0].direction).tolist() == load_file(tmp_path / "d.safetensors")["d"].tolist()
