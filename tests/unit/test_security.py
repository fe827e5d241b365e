"""Nothing that is read runs code: no unpickling, no strings as programs, no builder beyond the allow-list."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SmallCNN
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import dgn
import hydra_plugins.dgn_launchers
from dgn.cli.main import main
from dgn.cli.trust import build_module
from dgn.errors import DgnError
from dgn.images.pictures import to_image
from dgn.network.programs import load_export, load_script
from dgn.report.gallery import page, read_run
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


# --- malicious programs --------------------------------------------------------------------------------------


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(5, 12)

    def forward(self, code: Tensor) -> Tensor:
        return torch.sigmoid(self.net(code)).unflatten(1, (3, 2, 2))


def exported(path: Path) -> Path:
    batch = torch.export.Dim("batch", max=64)
    program = torch.export.export(Tiny().eval(), (torch.randn(2, 5),), dynamic_shapes={"code": {0: batch}})
    torch.export.save(program, path)
    return path


def changed(path: Path, out: Path, change: Callable[[str, bytes], bytes], more: dict[str, bytes] | None = None) -> Path:
    """The archive with some of its files changed or added."""
    with zipfile.ZipFile(path) as before, zipfile.ZipFile(out, "w") as after:
        for name in before.namelist():
            after.writestr(name, change(name, before.read(name)))
        top = before.namelist()[0].split("/")[0]
        for name, data in (more or {}).items():
            after.writestr(f"{top}/{name}", data)
    return out


def saved(thing: Any) -> bytes:
    file = io.BytesIO()
    torch.save(thing, file)
    return file.getvalue()


def same(_name: str, data: bytes) -> bytes:
    return data


def replacing(end: str, make: Callable[[bytes], bytes]) -> Callable[[str, bytes], bytes]:
    return lambda name, data: make(data) if name.endswith(end) else data


PROGRAM = "models/model.json"
CODE = "__import__('os').system('touch PLACE')"


def text(old: str, new: str) -> Callable[[bytes], bytes]:
    def make(data: bytes) -> bytes:
        assert old.encode() in data, old
        return data.replace(old.encode(), new.encode())

    return make


def attacks(place: Path) -> dict[str, tuple[Callable[[str, bytes], bytes], dict[str, bytes]]]:
    bomb, code = saved(Bomb(place)), CODE.replace("PLACE", str(place))
    symbol = '"expr_str": "'
    return {
        "sample inputs": (replacing("sample_inputs/model.pt", lambda _: bomb), {}),
        "plain pickle as inputs": (replacing("sample_inputs/model.pt", lambda _: pickle.dumps(Bomb(place))), {}),
        "pickled weight": (
            lambda name, data: bomb if name.endswith("weights/weight_0") else
            data.replace(b'kle": false', b'kle": true') if name.endswith("weights_config.json") else data,
            {},
        ),
        "custom object": (same, {"data/constants/custom_obj_0": pickle.dumps(Bomb(place))}),
        "opaque object": (same, {"data/constants/opaque_obj_0": pickle.dumps(Bomb(place))}),
        "compiled library": (same, {"data/aotinductor/model/model.so": b"\x7fELF"}),
        "second file of one name": (same, {"Models/model.json": b"{}"}),
        "shape": (replacing(PROGRAM, text(symbol, symbol + code + "+")), {}),
        "shape in parts": (replacing(PROGRAM, text(symbol, symbol + "S('_' + '_import_' + '_')+")), {}),
        "shape through a method": (replacing(PROGRAM, text(symbol, symbol + "Integer.mro()+")), {}),
        "operator": (replacing(PROGRAM, text("torch.ops.aten.linear.default", "torch.os.system")), {}),
        "loader": (replacing(PROGRAM, text("torch.ops.aten.linear.default", "torch.load")), {}),
        "file operator": (replacing(PROGRAM, text("aten.linear.default", "aten.from_file.default")), {}),
        "attribute": (replacing(PROGRAM, text("torch.ops.aten.linear.default", "_operator.attrgetter")), {}),
        "guard": (replacing(PROGRAM, text('"guards_code": []', f'"guards_code": ["{code}"]')), {}),
        "name": (replacing(PROGRAM, text('"name": "linear"', f'"name": "linear; {code}"')), {}),
        "parameter": (replacing(PROGRAM, text('"net.weight"', f'"net[{code}]"')), {}),
        "tree": (replacing(PROGRAM, text("builtins.dict", "collections.defaultdict")), {}),
        "enumeration": (replacing(PROGRAM, text("builtins.dict", "os:system")), {}),
    }  # fmt: skip


@pytest.mark.parametrize("attack", sorted(attacks(Path("x"))))
def test_a_program_with_more_than_arithmetic_is_refused(attack: str, tmp_path: Path, exploded: Path) -> None:
    whole = exported(tmp_path / "whole.pt2")
    change, more = attacks(exploded)[attack]
    bad = changed(whole, tmp_path / "bad.pt2", change, more)
    with pytest.raises(DgnError, match=r"bad\.pt2' is no plain torch\.export program: it holds") as caught:
        load_export(bad)
    assert "\n" not in str(caught.value)
    assert load_export(changed(whole, tmp_path / "same.pt2", same)).module()(torch.zeros(3, 5)).shape == (3, 3, 2, 2)


def test_real_programs_are_arithmetic(tmp_path: Path) -> None:
    """Convolutions, attention, shapes that follow the input: what people export is let through, and is the same."""

    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 4, 4)
            self.norm = nn.BatchNorm2d(8)
            self.mix = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(self.conv(x))
            tokens = y.flatten(2).transpose(1, 2)
            tokens = tokens + self.mix(tokens, tokens, tokens)[0]
            y = tokens.transpose(1, 2).reshape(y.shape)
            return nn.functional.interpolate(y, scale_factor=2, mode="bilinear").mean((2, 3))

    side = torch.export.Dim("side", min=4, max=32)
    shapes = {"x": {0: torch.export.Dim("batch", max=64), 2: 4 * side, 3: 4 * side}}
    for module, shape, dynamic in ((Attends(), (2, 3, 32, 32), shapes), (SmallCNN(), (2, 3, 16, 16), None)):
        x = torch.randn(shape)
        program = torch.export.export(module.eval(), (x,), dynamic_shapes=dynamic)
        torch.export.save(program, tmp_path / "p.pt2")
        again = load_export(tmp_path / "p.pt2").module()
        assert torch.allclose(again(x), module(x), atol=1e-5)


class Writes(nn.Module):
    def forward(self, code: Tensor) -> Tensor:
        torch.save(code, "exploded")
        return code


def test_scripts_that_touch_files_are_refused(tmp_path: Path, exploded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.jit.script(Writes()).save("writes.ts")
    with pytest.raises(DgnError, match="reads or writes files"):
        load_script(Path("writes.ts"))
    torch.jit.trace(Tiny().eval(), torch.zeros(1, 5)).save("tiny.ts")
    assert load_script(Path("tiny.ts"))(torch.zeros(3, 5)).shape == (3, 3, 2, 2)


# --- what a configuration may build ----------------------------------------------------------------------------

FOREIGN = [
    "os.system", "builtins.eval", "subprocess.Popen", "torch.load", "torch.hub.load", "torch.jit.load", "evil.Module",
    "torch.nn.functional.torch.load", "torch.nn.modules.module.torch.hub.load", "torch.nn.Module.load_state_dict",
    "torch.nn.functional.relu", "torch.nnx.Linear", "timm.create_model", "timm.models.create_model",
    "diffusers.AutoencoderKL.from_pretrained", "diffusers.DiffusionPipeline.from_pretrained", "dgn.load_network",
    "dgn.network.programs.load_script", "hydra.utils.instantiate", "hydra.utils.get_method", "torch.nn", "",
    "torch.nn.", "..",
]  # fmt: skip


@pytest.mark.parametrize("target", FOREIGN)
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
    html = page([read_run(run.folder)], hostile)
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
    html = page([read_run(run.folder)], "t")
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
