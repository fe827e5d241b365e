"""Held-out accuracy of synthesised images: python benchmarks/transfer.py TRAIN_FOLDER PHOTOS_FOLDER [--classes 50].

The classes are those with the most images in TRAIN_FOLDER's tar files (``WNID/NAME.webp``). Every prior climbs each of
them with seed 0; judges that took no part name the images. Real photographs: all of PHOTOS_FOLDER (``photos.tar``,
``photos.csv``), and those of the same classes. Writes ``transfer.json`` and a Markdown table into ``--out``.
"""

from __future__ import annotations

import argparse
import collections
import csv
import json
import tarfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import dgn
from dgn.evaluation.transfer import interval, ranks, top
from dgn.images import crop, decode
from dgn.report.grid import Cell, grid
from dgn.runs import surroundings, to_image


def class_counts(folder: Path) -> collections.Counter[str]:
    """Number of images of each WordNet id."""
    counts: collections.Counter[str] = collections.Counter()
    for path in sorted(folder.glob("train-*.tar")):
        with tarfile.open(path) as archive:
            counts.update(member.name.split("/")[0] for member in archive if member.isfile())
    return counts


def photographs(folder: Path) -> tuple[Tensor, list[int]]:
    """Central squares at 224 px, and their class indices."""
    table = {}
    with (folder / "photos.csv").open() as file:
        for row in csv.DictReader(file):
            name = next(value for value in row.values() if value and value.endswith((".webp", ".jpg", ".png")))
            table[Path(name).stem] = int(row["class_index"])
    images, classes = [], []
    with tarfile.open(folder / "photos.tar") as archive:
        for member in archive:
            if member.isfile() and Path(member.name).stem in table:
                data = archive.extractfile(member)
                assert data is not None
                images.append(torch.from_numpy(np.array(crop(decode(data.read()), 224, None))).permute(2, 0, 1))
                classes.append(table[Path(member.name).stem])
    return torch.stack(images).float() / 255, classes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument("--priors", nargs="+", default=["dgn", "pixel"])
    parser.add_argument("--judges", nargs="+", default=["efficientnet_lite2"])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    from timm.data import ImageNetInfo

    index = {wnid: i for i, wnid in enumerate(ImageNetInfo().label_names())}
    classes = sorted(index[wnid] for wnid, _ in class_counts(options.train).most_common(options.classes))
    network = dgn.load_network()
    judges = {name: dgn.load_network(name) for name in options.judges}
    photos, labels = photographs(options.photos)
    rows: list[dict[str, object]] = []

    def note(what: str, images: Tensor, targets: list[int], seconds: float) -> None:
        for name, judge in {"itself": network, **judges}.items():
            found = ranks(judge, images, targets)
            row = {"images": what, "judge": name, "n": len(found), "seconds_an_image": round(seconds, 2)}
            for k in (1, 5):
                row |= {f"top{k}": top(found, k), f"top{k}_interval": interval(found, k)}
            rows.append(row)
            print(f"{what:<28}{name:<28}top-1 {row['top1']:.0%}  top-5 {row['top5']:.0%}", flush=True)

    cells = []
    for name in options.priors:
        started = time.perf_counter()
        result = dgn.synthesize(network, classes, name, seed=0, batch=16)
        note(name, result.images, classes, (time.perf_counter() - started) / len(classes))
        for unit, image in zip(result.units, result.images, strict=True):
            cells.append(Cell(unit.name, name, to_image(image), ""))
    same = [i for i, label in enumerate(labels) if label in set(classes)]
    note("photographs, same classes", photos[same], [labels[i] for i in same], 0.0)
    note("photographs, all classes", photos, labels, 0.0)
    options.out.mkdir(parents=True, exist_ok=True)
    grid(cells, f"{len(classes)} classes", tile=112, columns=10).save(options.out / "transfer.png")
    record = {"classes": classes, "rows": rows, **surroundings()}
    record.pop("command")
    (options.out / "transfer.json").write_text(json.dumps(record, indent=1) + "\n")
    lines = ["| images | judge | n | top-1 (95 %) | top-5 (95 %) | s an image |", "|---|---|---|---|---|---|"]
    for row in rows:
        cells_ = [str(row["images"]), str(row["judge"]), str(row["n"])]
        for k in (1, 5):
            low, high = row[f"top{k}_interval"]  # type: ignore[misc]
            cells_.append(f"{row[f'top{k}']:.0%} ({low:.0%} to {high:.0%})")
        lines.append("| " + " | ".join([*cells_, str(row["seconds_an_image"])]) + " |")
    (options.out / "transfer.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
