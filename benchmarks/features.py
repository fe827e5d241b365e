"""Part of compare.py: what each library has, found by calling it for two steps, not by reading about it.

Where a library has no call to try, the names of its functions, classes and arguments are searched for one; a name that
matches is told, so that nothing is called missing that was only overlooked.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import re
import tempfile
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import torch
from outcomes import CANVAS, KEPT
from rival_images import ACCENTS, METHODS, Seen, Task, installed, made, quiet
from torch import Tensor
from torch.utils.data import DataLoader

import dgn
from dgn.images.reading import read_image
from dgn.network.network import Network

STEPS = 2
DISTRIBUTIONS = {
    "dgn": "dgn", "lucent": "torch-lucent", "torch_dreams": "torch-dreams", "horama": "Horama",
    "dreamlens": "dreamlens", "faccent": "faccent", "captum": "captum",
}  # fmt: skip
Call = Callable[["Bench"], Any]


class Bench:
    """What the calls are given: the network, a photograph, and a library's way to climb."""

    def __init__(self, network: Network) -> None:
        self.network, self.seen = network, Seen(network)
        self.seen.plain = True
        self.place = f"module.{KEPT}"
        self.under = self.place.replace(".", "_")
        self.module = self.seen.get_submodule(self.place)
        self.photo = read_image(Path(__file__).parents[1] / "docs" / "photos" / "flamingo.webp", CANVAS)
        self.direction = torch.randn(network.layer_shape(KEPT)[0], generator=torch.Generator().manual_seed(0))

    def image(self, key: str) -> Tensor:
        return made(METHODS[key][1], Task(self.network, 130, STEPS, 2))

    def accent(self, key: str) -> Tensor:
        return made(ACCENTS[key][1], Task(self.network, 130, STEPS, 2, photo=self.photo, layer=KEPT))

    def own(self, unit: Any, **more: Any) -> Tensor:
        return dgn.synthesize(self.network, unit, "pixel", steps=STEPS, **more).images

    def lucent(self, objective: Callable[[Any], Any], canvas: Callable[[Any], Any] | None = None) -> Any:
        from lucent.optvis import objectives, param, render

        start = (lambda: canvas(param)) if canvas else (lambda: param.image(CANVAS))
        goal = objective(objectives)
        options = {"thresholds": (STEPS,), "preprocess": False, "progress": False, "show_image": False}
        return render.render_vis(self.seen, goal, start, **options)[-1]

    def faccent(self, objective: Callable[[Any], Any], canvas: str = "fourier", part: int = 0, **more: Any) -> Any:
        from faccent import objectives, param, render

        start = getattr(param, canvas)(device="cpu", img_size=(CANVAS, CANVAS), **more)
        options = {"nb_transforms": 2, "progress": False, "model_input_size": (224, 224), "model_input_range": (0, 1)}
        return render.render_vis(
            self.seen, objective(objectives), start, out_thresholds=[STEPS], inline_thresholds=[], **options
        )[part][-1]

    def horama(self, value: Callable[[Tensor], Tensor], part: int = 0) -> Tensor:
        import horama

        kept: list[Tensor] = []
        handle = self.module.register_forward_hook(lambda _module, _given, out: kept.append(out))
        try:
            return horama.fourier(
                lambda x: (self.seen(x), value(kept[-1]))[1], total_steps=STEPS, image_size=CANVAS, device="cpu"
            )[part]
        finally:
            handle.remove()

    def dreams(self, image: Callable[[Any], Any] | None = None, network: Any = None, **more: Any) -> Any:
        import torch_dreams.batched_image_param
        import torch_dreams.batched_objective
        import torch_dreams.masked_image_param
        import torch_dreams.model_bunch

        dreamer = torch_dreams.Dreamer(network(torch_dreams) if network else self.seen, quiet=True, device="cpu")
        start = {"image_parameter": image(torch_dreams)} if image else {"width": CANVAS, "height": CANVAS}
        if callable(more.get("custom_func")) and more.pop("batched", False):
            more["custom_func"] = torch_dreams.batched_objective.BatchedObjective([more["custom_func"]] * 2)
        return dreamer.render([self.module], iters=STEPS, **start, **more)

    def lens(self, name: str, *given: Any, **more: Any) -> Any:
        import dreamlens

        engine = dreamlens.FeatureVisualizer(self.seen, quiet=True, normalize=False)
        config = {"config": dreamlens.RenderConfig(width=CANVAS, height=CANVAS, steps=STEPS)}
        return getattr(engine, name)(*given, **{**config, **more})


def by_hand(call: Call) -> Call:
    """A call whose objective the user writes, because the library has none of that kind."""
    call.by_hand = True  # type: ignore[attr-defined]
    return call


def same(call: Call) -> Call:
    """The same call twice has to give the same image."""

    def twice(b: Bench) -> None:
        first, second = (torch.as_tensor(call(b)) for _ in range(2))
        if not torch.equal(first, second):
            raise ValueError(f"two calls with one seed differ by up to {float((first - second).abs().max()):.2g}")

    return twice


def icon(b: Bench) -> Any:
    import dreamlens

    return dreamlens.render_icons(b.direction[None], b.seen, b.place, size=64, n_steps=STEPS, num_attempts=1)


def importance(b: Bench) -> Any:
    import dreamlens

    config = dreamlens.MacoConfig(width=CANVAS, height=CANVAS, steps=STEPS, crops=2)
    return b.lens("maco", dreamlens.FeatureTarget.for_channel(b.place, 5), config=config).transparency.sum().item()


def own_atlas(b: Bench) -> Any:
    found = dgn.atlas(b.network, KEPT, list(torch.rand(16, 3, CANVAS, CANVAS)), method="pca", grid=2, fewest=1)
    return found.picture(b.own(found.units))


def atlas(b: Bench) -> Any:
    import dreamlens

    many = torch.rand(64, 3, CANVAS, CANVAS)
    found = dreamlens.collect_activations(b.seen, b.place, many, spatial="all")
    options = {"grid_size": 2, "icon_size": 32, "threshold": 1, "umap_options": {"n_neighbors": 5}}
    return dreamlens.activation_atlas(
        b.seen, b.place, found[:200], **options, render_kwargs={"n_steps": STEPS, "num_attempts": 1}
    )


def ensemble(b: Bench) -> Any:
    import dreamlens

    both = dreamlens.ModelEnsemble({"a": b.seen, "b": Seen(b.network)}, return_format="list")
    engine = dreamlens.FeatureVisualizer(both, quiet=True, normalize=False)
    targets = [dreamlens.FeatureTarget.for_channel(f"models.{name}.{b.place}", 5) for name in "ab"]
    return engine.maximize(targets, dreamlens.RenderConfig(width=CANVAS, height=CANVAS, steps=STEPS))


def masked(b: Bench) -> Any:
    import dreamlens

    canvas = dreamlens.MaskedCanvas(torch.ones(1, 1, CANVAS, CANVAS), b.photo[None])
    return b.lens("maximize", dreamlens.FeatureTarget.for_channel(b.place, 5), image_parameter=canvas)


def caricature(b: Bench) -> Any:
    import dreamlens

    return b.lens("caricature", b.photo, [b.place], config=dreamlens.AmplifyConfig.reference(steps=STEPS))


def dreams_caricature(b: Bench) -> Any:
    import torch_dreams

    dreamer = torch_dreams.Dreamer(b.seen, quiet=True, device="cpu")
    return dreamer.caricature(b.photo[None], [b.module], iters=STEPS)


def faccent_caricature(b: Bench) -> Any:
    given = {"init_img": b.photo, "forward_init_img": True}
    return b.faccent(lambda o: o.dot_cossim_compare(b.under, batch=0, comp_batch=1), **given)


def captum(name: str, **more: Any) -> Call:
    def call(b: Bench) -> Any:
        import captum.attr

        return getattr(captum.attr, name)(b.seen).attribute(b.photo[None], target=130, **more)

    return call


def own_concept(b: Bench) -> Any:
    images = torch.rand(12, 3, CANVAS, CANVAS, generator=torch.Generator().manual_seed(0))
    return dgn.concept(b.network, KEPT, images[:6] / 2, images[6:])


def tcav(b: Bench) -> Any:
    from captum.concept import TCAV, Concept

    images = torch.rand(12, 3, CANVAS, CANVAS, generator=torch.Generator().manual_seed(0))
    concepts = [Concept(i, str(i), DataLoader(list(part), batch_size=3)) for i, part in enumerate(images.split(6))]
    with tempfile.TemporaryDirectory() as folder:
        return TCAV(b.seen, [b.place], save_path=folder).interpret(b.photo[None], [concepts], target=130)


def examples(b: Bench) -> Any:
    return dgn.find_examples(b.network, 130, str(Path(__file__).parents[1] / "docs" / "photos"), k=2)


def two(b: Bench) -> Any:
    return b.dreams(
        lambda t: t.batched_image_param.BatchedAutoImageParam(2, CANVAS, CANVAS, device="cpu", lr=0.01),
        custom_func=lambda out: -out[0][:, 5].mean(), batched=True,
    )  # fmt: skip


def judged(b: Bench) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "130").mkdir()
        for index in range(3):
            (Path(folder) / "130" / f"{index}.webp").write_bytes(
                (Path(__file__).parents[1] / "docs" / "photos" / "flamingo.webp").read_bytes()
            )
        return dgn.evaluate(b.network, "pixel", folder, [130], judges=["efficientnet_lite2"], seeds=1, steps=STEPS)


FEATURES: dict[str, tuple[str, dict[str, Call]]] = {
    "image of a class": ("class", {
        module: (lambda b, key=key: b.image(key)) for key, (module, _, _) in METHODS.items()
    }),
    "one place of a map": ("neuron|position", {
        "dgn": lambda b: b.own(f"{KEPT}:5@2,3"),
        "lucent": lambda b: b.lucent(lambda o: o.neuron(b.under, 5, x=2, y=3)),
        "faccent": lambda b: b.faccent(lambda o: o.neuron(b.under, 5, h=2, w=3)),
        "torch_dreams": by_hand(lambda b: b.dreams(custom_func=lambda out: -out[0][:, 5, 2, 3].mean())),
        "horama": by_hand(lambda b: b.horama(lambda h: h[:, 5, 2, 3].mean())),
        "dreamlens": lambda b: b.lens("maximize_channel", b.place, 5, position=(2, 3)),
    }),
    "direction": ("direction", {
        "dgn": lambda b: b.own(dgn.direction(b.network, KEPT, b.direction)),
        "lucent": lambda b: b.lucent(lambda o: o.direction(b.under, b.direction)),
        "faccent": lambda b: b.faccent(lambda o: o.direction(b.under, b.direction)),
        "dreamlens": icon,
        "torch_dreams": by_hand(
            lambda b: b.dreams(custom_func=lambda out: -(out[0].movedim(1, -1) @ b.direction).mean())
        ),
        "horama": by_hand(lambda b: b.horama(lambda h: (h.movedim(1, -1) @ b.direction).mean())),
    }),
    "generator as prior": ("gan|generator_?prior|decoder|upconv", {
        "dgn": lambda b: dgn.synthesize(b.network, 130, "dgn", rule="adam", steps=STEPS).images,
        "lucent": lambda b: importlib.import_module("lucent.optvis.param.gan").upconvGAN("fc6"),
    }),
    "Fourier": ("fourier|fft|spectr", {
        module: (lambda b, key=key: b.image(key)) for key, (module, _, _) in METHODS.items() if "Fourier" in key
    }),
    "MACO": ("maco|phase", {
        **{module: (lambda b, key=key: b.image(key)) for key, (module, _, _) in METHODS.items() if "MACO" in key},
        "faccent": lambda b: b.faccent(lambda o: o.channel(b.under, 5), "fourier_phase"),
    }),
    "accentuation": ("accent", {
        module: (lambda b, key=key: b.accent(key)) for key, (module, _, _) in ACCENTS.items()
    }),
    "several units in a batch": ("batch", {
        "dgn": lambda b: b.own([f"{KEPT}:5", f"{KEPT}:6"]),
        "lucent": lambda b: b.lucent(
            lambda o: o.channel(b.under, 5, batch=0) + o.channel(b.under, 6, batch=1),
            lambda p: p.image(CANVAS, batch=2),
        ),
        "torch_dreams": two,
        "faccent": lambda b: b.faccent(
            lambda o: o.channel(b.under, 5, batch=0) + o.channel(b.under, 6, batch=1), batch_size=2
        ),
        "dreamlens": lambda b: b.lens("maximize_channels", b.place, [5, 6]),
    }),
    "one image for several networks": ("ensemble|bunch", {
        "torch_dreams": lambda b: b.dreams(
            network=lambda t: t.model_bunch.ModelBunch({"a": b.seen, "b": Seen(b.network)}),
            custom_func=lambda out: -out[0][:, 5].mean(),
        ),
        "dreamlens": ensemble,
    }),
    "only a part of an image": ("mask(ed)?_?(canvas|image)", {
        "torch_dreams": lambda b: b.dreams(
            lambda t: t.masked_image_param.MaskedImageParam(
                torch.ones(1, 3, CANVAS, CANVAS), b.photo[None], device="cpu"
            ),
            custom_func=lambda out: -out[0][:, 5].mean(),
        ),
        "dreamlens": masked,
    }),
    "caricature of an image": ("caricature", {
        "torch_dreams": dreams_caricature, "dreamlens": caricature, "faccent": faccent_caricature,
    }),
    "pattern network (CPPN)": ("cppn", {
        "lucent": lambda b: b.lucent(lambda o: o.channel(b.under, 5), lambda p: p.cppn(CANVAS)),
    }),
    "activation atlas": ("atlas|umap", {"dgn": own_atlas, "dreamlens": atlas}),
    "real images that excite a unit": ("example|top_?activ|most_?activ", {"dgn": examples}),
    "occlusion": ("occlu|ablat", {
        "dgn": lambda b: dgn.ablate(b.network, b.photo, 130, size=64, stride=64),
        "captum": captum("Occlusion", sliding_window_shapes=(3, 64, 64), strides=(3, 64, 64)),
    }),
    "attribution by gradients": ("saliency|integrated_?grad|grad_?cam|attribution", {
        "captum": captum("IntegratedGradients", n_steps=2),
    }),
    "map of the pixels that mattered": ("transparen|importance", {
        "horama": lambda b: b.horama(lambda h: h[:, 5].mean(), part=1),
        "dreamlens": importance,
        "faccent": lambda b: b.faccent(lambda o: o.channel(b.under, 5), part=1),
    }),
    "a seed as argument that repeats the image": ("^(random_)?seed$", {
        "dgn": same(lambda b: b.own(130, seed=3)),
        "faccent": same(lambda b: b.faccent(lambda o: o.channel(b.under, 5), seed=3)),
    }),
    "concept learned from images": ("concept|tcav", {"dgn": own_concept, "captum": tcav}),
    "judged by other networks": ("judge|kid|transfer_?(score|rate)|evaluat", {"dgn": judged}),
}  # fmt: skip
"""Of each: a pattern for names where nothing was called, and the calls by module."""


def named(module: str, pattern: str) -> list[str]:
    """Functions, classes and their arguments of a package whose names match."""
    spec = importlib.util.find_spec(module)
    found: list[str] = []
    for file in sorted(Path(str(spec and spec.origin)).parent.rglob("*.py")):
        try:
            tree = ast.parse(file.read_text(errors="replace"))
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                arguments = [one.arg for one in node.args.args] if isinstance(node, ast.FunctionDef) else []
                found += [name for name in (node.name, *arguments) if re.search(pattern, name, re.IGNORECASE)]
    return sorted(set(found))


def features(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Whether each call runs, and where there is none, which names come near."""
    there = installed(list(DISTRIBUTIONS))
    if there == ["dgn"]:
        return []
    bench, rows = Bench(dgn.load_network("efficientnet_lite0")), []
    for feature, (pattern, calls) in FEATURES.items():
        if options.methods and feature not in options.methods:
            continue
        for library in there:
            row: dict[str, Any] = {"feature": feature, "library": library, "has": False}
            if library in calls:
                try:
                    with quiet():
                        calls[library](bench)
                    by = ", with an objective written by hand" if hasattr(calls[library], "by_hand") else ""
                    row |= {"has": True, "how": f"called{by}"}
                except Exception as error:  # whatever another library raises is the finding
                    row |= {"how": f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"}
            else:
                near = named(library, pattern)
                row |= {"how": f"nothing to call; names that match {pattern!r}: {', '.join(near[:8]) or 'none'}"}
            rows.append(row)
            print(feature, "|", library, "|", row["has"], "|", row["how"], flush=True)
    for library in there:
        commands = [one.name for one in distribution(DISTRIBUTIONS[library]).entry_points]
        rows.append({"feature": "command line", "library": library, "has": bool(commands), "how": ", ".join(commands)})
    return rows
