"""dgn side by side with other libraries: python benchmarks/compare.py [PART ...] [options]

Parts of speed (default: these): ``ascent`` (images a second and memory), ``occlusion`` (against captum), ``linear``
(seconds and memory of 8, 64 and 512 units), ``compile`` (what torch.compile would gain and cost). Rivals take turns, A
B A B, in one process; what is reported are medians. Parts of what comes out: ``images`` (the same classes by each
library, judged by the instrument; needs ``--real``), ``accent`` (photographs accentuated towards a class) and
``features`` (what each library has, found by calls). Results of a part are merged into those that are already there,
so that parts, networks, methods and numbers of units can be measured one at a time. Needs: pip install -e
'.[benchmark]'; a library that is not there is skipped, with the line that installs it. Not in that extra: faccent,
whose dependency ``lucent==0.1.0`` is on the package index another, broken package with torch-lucent's module name.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
from pathlib import Path
from typing import Any

import torch
from features import features
from machine import clock, describe, matrix_rate, median, peak_memory
from outcomes import CLASSES, accents, images
from rival_images import installed
from rivals import RIVALS, Run, load, own
from torch.utils.flop_counter import FlopCounterMode

import dgn
from dgn.network.network import Network

RESULTS = Path(__file__).parent / "results" / "compare"
LAYERS = {
    "efficientnet_lite0": {"early": "blocks.1.1", "middle": "blocks.3.1", "output": "output"},
    "torchvision/resnet50": {"early": "layer1.1", "middle": "layer3.1", "output": "output"},
}
FASTER = ("dgn_faster", "dgn_faster_cpu", "dgn_bf16_faster")
FINISHED = 512
"""Steps of a finished image: lucent's default."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["ascent", "occlusion", "linear", "compile"])
    parser.add_argument("--networks", nargs="+", default=list(LAYERS))
    parser.add_argument("--layers", nargs="+", default=["early", "middle", "output"])
    parser.add_argument("--units", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument("--rivals", nargs="+", default=list(RIVALS), choices=list(RIVALS))
    parser.add_argument(
        "--precision", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"],
        help="rivals have it by torch.autocast; parts other than ascent take the first",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--results", type=Path, default=RESULTS)
    chosen = parser.add_argument_group("images and accent")
    chosen.add_argument("--methods", nargs="+", help="some of them, by how they begin; default: all")
    chosen.add_argument("--classes", nargs="+", type=int, default=CLASSES)
    chosen.add_argument("--image-steps", type=int, default=100)
    chosen.add_argument("--crops", type=int, default=6, help="of a step, where a library takes several; its own: 0")
    chosen.add_argument("--judges", nargs="+", default=["efficientnet_lite2"], help="a .pt2 is a program that is run")
    chosen.add_argument("--real", type=Path, help="real images in folders or tar files, as for dgn evaluate")
    chosen.add_argument("--pictures", type=Path, help="a folder to keep all images in, with a sheet of them")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.device = torch.device(options.device)
    options.results.mkdir(parents=True, exist_ok=True)
    for part in options.parts:
        file, machine = options.results / f"{part}.json", describe(options.threads)
        options.note = functools.partial(keep, file, machine)  # a long run may be cut short
        rows = PARTS[part](options)
        keep(file, machine, rows)
    write_table(options.results)


def per_step(short: dict[str, float], long: dict[str, float], steps: int, images: int) -> dict[str, float]:
    """From runs of 1 and of 1 + ``steps`` steps: seconds an image and step, and of a finished image with all else."""
    step = {key: (long[key] - short[key]) / steps for key in long}
    return {
        "seconds": step["wall"] / images,
        "cpu_seconds": step["cpu"] / images,
        "finished": (short["wall"] + (FINISHED - 1) * step["wall"]) / images,
    }


def turns(runs: dict[str, Run], options: argparse.Namespace, images: int) -> dict[str, dict[str, float]]:
    """Every rival in turn, several times over; the median of each number."""
    for run in runs.values():
        run(1)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    for _ in range(options.repeats):
        for name, run in runs.items():
            one = clock(lambda run=run: run(1), options.device)  # type: ignore[misc]
            more = clock(lambda run=run: run(1 + options.steps), options.device)  # type: ignore[misc]
            found[name].append(per_step(one, more, options.steps, images))
    return {name: {key: median([row[key] for row in rows]) for key in rows[0]} for name, rows in found.items()}


def ascent(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds an image and step, and peak memory, of each library; the limit of this machine."""
    rows = []
    options.rivals = [name for name in options.rivals if installed([name.replace("-", "_")])]
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    rates = {precision: matrix_rate(options.device, dtypes[precision]) for precision in options.precision}
    for name in options.networks:
        network = load(name, options.device)
        for place in options.layers:
            layer = LAYERS[name][place]
            flops = step_flops(network, layer)
            for count in options.units:
                units = [index % network.layer_shape(layer)[0] for index in range(count)]
                runs = {
                    f"{rival} {precision}": own(network, layer, units, precision=precision)
                    if rival == "dgn"
                    else cast(RIVALS[rival](network, layer, units), options.device, precision)
                    for precision in options.precision
                    for rival in options.rivals
                }
                runs = {key: run for key, run in runs.items() if key.startswith("dgn ") or works(key, run)}
                times = turns(runs, options, count)
                for key, run in runs.items():
                    rival, precision = key.split(" ")
                    seconds, rate = times[key]["seconds"], rates[precision]
                    memory = peak_memory(lambda run=run: run(2), options.device)  # type: ignore[misc]
                    rows.append(
                        {
                            "network": name, "place": place, "layer": layer, "units": count, "rival": rival,
                            "precision": precision, **times[key],
                            "images_per_second": 1 / seconds, "memory": memory, "flops": flops, "matrix_rate": rate,
                            "share_of_limit": flops / rate / seconds, "load": os.getloadavg()[0],
                            **dict(zip(("dgn_faster", "dgn_faster_cpu"), faster(times, key), strict=True)),
                            "dgn_bf16_faster": faster(times, key, "dgn bf16")[0] if precision == "fp32" else None,
                        }
                    )  # fmt: skip
                    print(json.dumps(rows[-1]), flush=True)
                options.note(rows)
    return rows


def cast(run: Run, device: torch.device, precision: str) -> Run:
    """A rival's steps in mixed precision."""

    def within(steps: int) -> object:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            return run(steps)

    return within


def works(key: str, run: Run) -> bool:
    """Whether a rival can be run so; lucent 0.1.8 hands bf16 to NumPy, which has none."""
    try:
        run(1)
    except (TypeError, RuntimeError) as error:
        print(f"{key}: {error}", flush=True)
        return False
    return True


def faster(
    times: dict[str, dict[str, float]], key: str, against: str | None = None
) -> tuple[float | None, float | None]:
    """By what dgn is faster on the wall and in processor time, of the same turns: the machine's load differs by day.

    Args:
        key: ``"RIVAL PRECISION"``.
        against: ``"dgn PRECISION"``; None for the same precision.
    """
    against = against or f"dgn {key.split(' ')[1]}"
    if key == against or against not in times:
        return None, None
    wall, cpu = (times[key][number] / times[against][number] for number in ("seconds", "cpu_seconds"))
    return wall, cpu


def step_flops(network: Network, layer: str) -> int:
    """Floating-point operations of the network's part of one step: forwards, and back to the image alone."""
    leaf = torch.rand(1, network.channels, *network.input_size, device=network.device, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        network.features(leaf * 1, [layer])[layer].sum().backward()
    return int(counter.get_total_flops())


def occlusion(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One image, windows of 32 px every 16 px: captum's Occlusion and ``dgn.ablate``."""
    if not installed(["captum"]):
        return []
    from captum.attr import Occlusion

    from dgn.analysis.ablation import ablate

    rows = []
    for name in options.networks:
        network = load(name, options.device)
        image = torch.rand(3, *network.input_size, generator=torch.Generator().manual_seed(0)).to(options.device)
        prepared = network.prepare(image[None])

        def captum(at_once: int, network: Network = network, x: torch.Tensor = prepared) -> object:
            windows = {"sliding_window_shapes": (3, 32, 32), "strides": (3, 16, 16), "target": 0}
            return Occlusion(network.module).attribute(x, perturbations_per_eval=at_once, **windows)

        runs = {
            "dgn": lambda network=network, image=image: ablate(network, image, 0, size=32, stride=16),
            "captum": lambda captum=captum: captum(1),
            "captum, 16 at once": lambda captum=captum: captum(16),
        }
        found: dict[str, list[float]] = {rival: [] for rival in runs}
        for turn in range(1 + options.repeats):
            for rival, run in runs.items():
                seconds = clock(run, options.device)["wall"]
                found[rival] += [seconds] * (turn > 0)
        rows += [{"network": name, "rival": rival, "seconds": median(times)} for rival, times in found.items()]
        print(json.dumps(rows[-3:]), flush=True)
    return rows


def linear(options: argparse.Namespace) -> list[dict[str, Any]]:
    """``dgn.synthesize`` with 8, 64 and 512 units of the middle layer: seconds an image and step, and memory.

    Images and codes of all rows are its result and have to be somewhere: 0.2 MiB an image of 128 px, and its code.
    """
    rows = []
    network = load("efficientnet_lite0", options.device)
    for count in (8, 64, 512):
        units = [f"blocks.3.1:{index % 80}" for index in range(min(count, 80))]
        seeds = list(range(-(-count // len(units))))
        count = len(units) * len(seeds)

        def run(steps: int, units: list[str] = units, seeds: list[int] = seeds) -> object:
            return dgn.synthesize(network, units, "pixel", steps=steps, seeds=seeds, precision=options.precision[0])

        times = turns({"dgn": run}, argparse.Namespace(**{**vars(options), "repeats": 1 if count > 64 else 3}), count)
        memory = peak_memory(lambda run=run: run(2), options.device)  # type: ignore[misc]
        rows.append({"units": count, **times["dgn"], "memory": memory})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def compiled(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The network's part of a step as dgn runs it, and compiled by inductor: seconds an image, and of compiling."""
    rows = []
    network = load("efficientnet_lite0", options.device)
    for place in options.layers:
        layer, batch = LAYERS["efficientnet_lite0"][place], 4
        fast = network.fast([layer])
        x = torch.rand(batch, 3, *network.input_size, device=options.device)

        def look(image: torch.Tensor, one: Network = network, layer: str = layer) -> torch.Tensor:
            return one.features(image, [layer])[layer].flatten(1)[:, 0].sum()

        stage = network.module if layer == "output" else _up_to(network, layer)
        whole = torch.compile(lambda image, stage=stage: stage(image).flatten(1)[:, 0].sum())

        def gradient(function: Any, x: torch.Tensor = x) -> None:
            leaf = x.clone().requires_grad_()
            torch.autograd.grad(function(leaf), leaf)

        runs = {
            "as it is": lambda gradient=gradient, look=look: gradient(look),
            "fused": lambda gradient=gradient, look=look, fast=fast: gradient(lambda image: look(image, fast)),
            "compiled": lambda gradient=gradient, whole=whole: gradient(whole),
        }
        first = {name: clock(run, options.device)["wall"] for name, run in runs.items()}
        found: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
        for _ in range(2 * options.repeats):
            for name, run in runs.items():
                found[name].append(clock(run, options.device))
        for name, times in found.items():
            wall, cpu = (median([one[key] for one in times]) / batch for key in ("wall", "cpu"))
            rows.append({"place": place, "way": name, "seconds": wall, "cpu_seconds": cpu, "first_call": first[name]})
            print(json.dumps(rows[-1]), flush=True)
    return rows


def _up_to(network: Network, layer: str) -> torch.nn.Module:
    """EfficientNet's modules as a chain that ends with a block: what a compiler is given to fuse."""
    module: Any = network.module
    _, stage, block = layer.split(".")
    stages = [*module.blocks[: int(stage)], module.blocks[int(stage)][: int(block) + 1]]
    return torch.nn.Sequential(module.conv_stem, module.bn1, *stages)


def keep(file: Path, machine: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Merge rows into a file: numbers of a row that measures the same take the place of the earlier ones."""
    told = ("network", "place", "layer", "units", "rival", "precision", "way", "method", "library", "feature")
    earlier = json.loads(file.read_text())["rows"] if file.exists() else []
    merged: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in [*earlier, *({**row, "machine": machine} for row in rows)]:
        name = tuple(row.get(key) for key in told)
        merged[name] = {**merged.get(name, {}), **row}
    file.write_text(json.dumps({"rows": list(merged.values())}, indent=1) + "\n")


def write_table(results: Path) -> None:
    """``table.md`` from what has been measured so far."""
    lines: list[str] = []
    parts = {file.stem: json.loads(file.read_text())["rows"] for file in sorted(results.glob("*.json"))}
    for machine in {json.dumps(row["machine"], sort_keys=True) for rows in parts.values() for row in rows}:
        lines += [", ".join(f"{key} {value}" for key, value in json.loads(machine).items()) + ".", ""]
    rows = parts.get("ascent", [])
    if rows:
        lines += [
            "Seconds an image and step; how much faster dgn is in the same precision (wall clock, and processor "
            "time), and in bf16; MiB on top.", "",
            "| network | layer | units | library | s an image and step | images/s | dgn is faster by | in CPU time | "
            f"in bf16 by | s an image of {FINISHED} steps | memory | share of the limit |",
            "|---|---|---|---|---|---|---|---|---|---|---|---|",
        ]  # fmt: skip
    for row in rows:
        lines.append(
            f"| {row['network']} | {row['layer']} | {row['units']} | {row['rival']} {row['precision']} | "
            f"{row['seconds']:.4f} | {row['images_per_second']:.1f} | "
            + " | ".join("" if row.get(key) is None else f"{row[key]:.1f}" for key in FASTER)
            + f" | {row['finished']:.1f} | {row['memory'] or 0:.0f} | {row['share_of_limit']:.0%} |"
        )
    for part, head in HEADS.items():
        found = [{key: value for key, value in row.items() if key != "machine"} for row in parts.get(part, [])]
        if found:
            keys = list(dict.fromkeys(key for row in found for key in row))
            lines += ["", f"{head}.", "", "| " + " | ".join(keys) + " |", "|---" * len(keys) + "|"]
            lines += ["| " + " | ".join(_cell(row.get(key, "")) for key in keys) + " |" for row in found]
    if parts.get("features"):
        lines += ["", "What each library has.", "", *_features(parts["features"])]
    (results / "table.md").write_text("\n".join(lines) + "\n")


def _features(rows: list[dict[str, Any]]) -> list[str]:
    """A row a feature, a column a library."""
    libraries = list(dict.fromkeys(row["library"] for row in rows))
    says = {(row["feature"], row["library"]): row for row in rows}
    lines = ["| | " + " | ".join(libraries) + " |", "|---" * (len(libraries) + 1) + "|"]
    for feature in dict.fromkeys(row["feature"] for row in rows):
        found = [says.get((feature, library), {"has": False, "how": ""}) for library in libraries]
        cells = ["" if not row["has"] else "by hand" if "by hand" in row["how"] else "yes" for row in found]
        lines.append(f"| {feature} | " + " | ".join(cells) + " |")
    return lines


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


PARTS = {
    "ascent": ascent, "occlusion": occlusion, "linear": linear, "compile": compiled,
    "images": images, "accent": accents, "features": features,
}  # fmt: skip
HEADS = {
    "occlusion": "captum", "linear": "Cost of more units", "compile": "torch.compile",
    "images": "Images of classes", "accent": "Photographs accentuated",
}  # fmt: skip
"""Of the parts' tables."""


if __name__ == "__main__":
    main()
