"""``dgn evaluate blind=FOLDER``: sheets for a viewer who isn't told, and, with the answers beside them, the scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from dgn.cli.sweeps.resume import hold, refuse_foreign
from dgn.errors import DgnError
from dgn.evaluation.blind import KEY, draw, key_rows, lay_out, read_answers, read_key, score, table
from dgn.evaluation.real import RealImages
from dgn.evaluation.reference import Made
from dgn.images.fit import resized
from dgn.runs.run import Run, now

MANIFEST, ANSWERS = "blind.json", "answers.csv"
WRITES = ("sheet-[0-9]*.png", "key.csv", "scores.md")
PHOTOGRAPHS = "photographs"


def scored(folder: Path) -> bool:
    """Score the answers that lie beside the sheets; False where there are no answers, or no sheets yet."""
    if not (folder / MANIFEST).is_file() or not (folder / ANSWERS).is_file():
        return False
    text = table(score(read_key(folder / "key.csv"), read_answers(folder / ANSWERS)))
    with hold(folder):
        run = Run(folder, WRITES, MANIFEST)
        facts = run.take_up("blind")
        run.check_way()
        with run.ledger:
            run.write_text("scores.md", text)
            run.write_manifest({**facts, "scored": now()})
    print(text)
    print(folder / "scores.md")
    return True


def write_sheets(folder: Path, made: list[Made], photos: RealImages, seed: int) -> None:
    """Numbered sheets of the first image of each class by each method, photographs among them at the same size.

    Raises:
        DgnError: no method has an image of a class; the folder holds something else.
    """
    images: dict[tuple[str, int], Tensor] = {}
    for one in made:
        for unit, image in zip(one.units, one.images, strict=True):
            if unit.class_index is not None:
                images.setdefault((one.method, unit.class_index), image)
    if not images:
        raise DgnError("blind sheets are of classes: give class names as units")
    size = next(iter(images.values())).shape[1:]
    classes = {label for _, label in images}
    for image, label in zip(photos.images, photos.classes, strict=True):
        if label in classes:
            images.setdefault((PHOTOGRAPHS, label), resized(image[None], (size[0], size[1]), "crop")[0])
    methods: dict[str, list[int]] = {}
    for method, label in images:
        methods.setdefault(method, []).append(label)
    shown = lay_out(methods, seed)
    refuse_foreign(folder, "blind", MANIFEST)
    run = Run(folder, WRITES, MANIFEST)
    with hold(folder):
        run.take_up("blind")
        run.check_way()
        facts: dict[str, Any] = {
            "verb": "blind", "status": "running", "started": now(), "methods": sorted(methods), "seed": seed,
        }  # fmt: skip
        run.write_manifest(facts)
        with run.ledger:
            run.write_table(key_rows(shown), KEY, "key.csv")
            for sheet in range(1, shown[-1].sheet + 1):
                own = [one for one in shown if one.sheet == sheet]
                run.write_picture(f"sheet-{sheet:02}.png", draw(own, [images[one.method, one.label] for one in own]))
            run.write_manifest({**facts, "status": "done", "finished": now()})
    print(
        f"dgn: {len(shown)} images on {shown[-1].sheet} sheets; let somebody write {folder / ANSWERS} "
        f"(number,name,natural: 1 noise to 5 a photograph), then give the same command again"
    )
