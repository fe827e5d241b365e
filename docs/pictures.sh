#!/bin/sh
# Every picture of docs/, made again by the commands that the pages show. From the repository's root:
#     sh docs/pictures.sh [NAME ...]        over an hour on two busy CPU cores; chromium for the gallery's
# atlas needs a folder of photographs, EVAL=FOLDER, and is made only where it is named.
# docs/trade.png comes from dgn evaluate (docs/results/trade.md), docs/sweeps.png from benchmarks/ (docs/sweeps.md).
set -e
PHOTOS=docs/photos # each with its author, source and licence in docs/photos/README.md
OUT=${OUT:-runs/pictures}
mkdir -p "$OUT" && OUT=$(cd "$OUT" && pwd)

show() { # FILE NAME: as docs/NAME.webp, at most 1400 px wide
    python - "$1" "docs/$2.webp" <<'END'
import pathlib
import sys

from PIL import Image

picture = Image.open(sys.argv[1]).convert("RGB")
picture.thumbnail((1400, 4000), Image.Resampling.LANCZOS)
for quality in (82, 70, 55, 40):  # noise costs most
    picture.save(sys.argv[2], quality=quality, method=6)
    if pathlib.Path(sys.argv[2]).stat().st_size < 400_000:
        break
END
}

figure() { # NAME [KEY=VALUE ...]
    name=$1 && shift
    dgn figure "name=$name" "$@" tracking=off "out=$OUT/$name"
    show "$OUT/$name/$name.png" "$name"
}

grid() {
    dgn synthesize tracking=off "out=$OUT/grid"
    show "$OUT/grid/grid.png" grid
}

regularisers() { figure regularisers; }
layers() { figure layers; }
two_neurons() { figure two_neurons; }
convergence() { figure convergence; }
start() { figure start "figure.images=[$PHOTOS/balloon.webp]" figure.unit=jellyfish; }
priors() { figure priors "data.root=$PHOTOS" 'figure.units=[espresso,zebra,strawberry,school bus,volcano]' 'figure.title=" "'; }
atlas() { # of photographs that are not in this repository: EVAL names their folder
    figure atlas "data.root=${EVAL:?a folder of photographs}" figure.grid=12
}

inputs() {
    dgn synthesize prior=dgn units=[classifier.input:17,classifier.input:200,classifier.input:583,classifier.input:1001] seeds=2 \
        tracking=off "out=$OUT/inputs"
    show "$OUT/inputs/grid.png" inputs
}

latents() {
    figure latents 'network.dictionaries.sae={layer:blocks.4,file:pretrained/sae_blocks4/sae.safetensors}' "data.root=$PHOTOS" \
        'figure.units=[sae:198@max,sae:919@max,sae:186@max,sae:337@max,sae:512@max,sae:571@max,sae:629@max,sae:417@max]' 'figure.title=" "'
}

likeness() { # the photographs above what was made
    set -- lighthouse flamingo fire-engine espresso-1 dome-1
    files=$(printf ",$PHOTOS/%s.webp" "$@") && units=$(printf ',%s' "$@")
    dgn synthesize prior=dgn "network.images=[${files#,}]" "units=[${units#,}]" seeds=2 tracking=off "out=$OUT/likeness"
    show "$OUT/likeness/grid.png" likeness
}

vital() { # aligned with photographs, beside samples and climbed spectra
    dgn synthesize 'units=[church,daisy]' 'prior=[dgn,fourier]' '+prior.aligned={path: fourier, size: 128, references: 3}' \
        '+prior.aligned_dgn={path: dgn, size: 128, ascent: {rule: adam}, references: 3, layers: [blocks.6, bn2]}' \
        "data.root=$PHOTOS" tracking=off "out=$OUT/vital"
    show "$OUT/vital/grid.png" vital
}

examples() {
    dgn examples "data.root=$PHOTOS" "units=[espresso,daisy,'blocks.1:9','blocks.2:5']" k=5 tracking=off "out=$OUT/examples"
    show "$OUT/examples/examples.png" examples
}

ablation() {
    dgn ablate "image=[$PHOTOS/flamingo.webp,$PHOTOS/school-bus.webp,$PHOTOS/daisy-3.webp,$PHOTOS/fire-engine.webp]" \
        tracking=off "out=$OUT/ablation"
    show "$OUT/ablation/ablation.png" ablation
}

facets() {
    dgn facets unit=church "data.root=$PHOTOS" facets=2 examples=6 members=2 shown=4 prior=dgn tracking=off "out=$OUT/facets"
    show "$OUT/facets/facets.png" facets
}

concept() { # a direction from photographs, and what it wants to see
    buildings=$(printf ',%s' "$PHOTOS"/church-*.webp "$PHOTOS"/dome-*.webp)
    others=$(printf ",$PHOTOS/%s.webp" daisy-1 daisy-2 daisy-3 espresso-1 espresso-2 guitar-1 guitar-2 zebra strawberry flamingo monarch)
    dgn concept layer=blocks.4 "positives=[${buildings#,}]" "negatives=[${others#,}]" tracking=off "out=$OUT/concept"
    show "$OUT/concept/concept.png" concept
    (
        cd "$OUT"
        dgn synthesize "units=[blocks.4:concept/direction.safetensors,-1*blocks.4:concept/direction.safetensors]" \
            prior=dgn seeds=2 tracking=off out=concept_synthesis
    )
    show "$OUT/concept_synthesis/grid.png" concept_synthesis
}

gallery() { # of the run that grid has made
    [ -f "$OUT/grid/index.html" ] || grid
    chromium --headless --no-sandbox --hide-scrollbars --window-size=1100,760 --virtual-time-budget=4000 \
        "--screenshot=$OUT/gallery.png" "file://$OUT/grid/index.html"
    show "$OUT/gallery.png" gallery
}

tour() { # runs the notebook, and keeps its pictures as JPEG: the file stays under 400 kB
    python - docs/tour.ipynb <<'END'
import base64
import io
import re
import sys

import nbclient
import nbformat
from PIL import Image


def jpeg(data: str) -> str:
    file = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB").save(file, "JPEG", quality=80, optimize=True)
    return base64.b64encode(file.getvalue()).decode()


notebook = nbformat.read(sys.argv[1], 4)
nbclient.NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": "docs"}}, record_timing=False).execute()
for cell in notebook.cells:
    if cell.cell_type == "code":  # warnings name folders of this machine
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
    data = output.get("data", {})
    if "image/png" in data:
        data["image/jpeg"] = jpeg(data.pop("image/png"))
    if "text/html" in data:
        inline = r"image/png;base64,([^\"]+)"
        data["text/html"] = re.sub(inline, lambda found: "image/jpeg;base64," + jpeg(found[1]), data["text/html"])
        data["text/plain"] = re.sub(r"\(.*", "", data["text/plain"], flags=re.DOTALL)
notebook.metadata.pop("widgets", None)
notebook.metadata["language_info"] = {"name": "python"}
nbformat.write(notebook, sys.argv[1])
END
}

[ $# -gt 0 ] || set -- grid gallery regularisers layers two_neurons convergence start priors likeness examples ablation facets concept inputs latents tour
for name in "$@"; do "$name"; done
