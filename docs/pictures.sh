#!/bin/sh
# Every picture of docs/, made again by the commands that the pages show. From the repository's root:
#     sh docs/pictures.sh [NAME ...]        over an hour on two busy CPU cores; chromium for the gallery's
# docs/evaluate.png and docs/sweeps.png come from benchmarks/ (docs/evaluate.md, docs/sweeps.md).
set -e
PHOTOS=$(python -c "import skimage, pathlib; print(pathlib.Path(skimage.__file__).parent / 'data')")
OUT=${OUT:-runs/pictures}
mkdir -p "$OUT" && OUT=$(cd "$OUT" && pwd)

figure() { # NAME [KEY=VALUE ...]
    name=$1 && shift
    dgn figure "name=$name" "$@" tracking=off "out=$OUT/$name"
    cp "$OUT/$name/$name.png" "docs/$name.png"
}

grid() {
    dgn synthesize tracking=off "out=$OUT/grid"
    cp "$OUT/grid/grid.png" docs/grid.png
}

regularisers() { figure regularisers; }
layers() { figure layers; }
two_neurons() { figure two_neurons; }
convergence() { figure convergence; }
start() { figure start "figure.images=[$PHOTOS/rocket.jpg]"; }
priors() { figure priors "data.root=$PHOTOS" 'figure.units=[espresso,Egyptian cat,moped,missile]' figure.title=; }

examples() {
    dgn examples "data.root=$PHOTOS" "units=[espresso,tabby,'blocks.1:9','blocks.2:5']" k=5 tracking=off "out=$OUT/examples"
    cp "$OUT/examples/examples.png" docs/examples.png
}

ablation() {
    dgn ablate "image=[$PHOTOS/chelsea.png,$PHOTOS/rocket.jpg,$PHOTOS/coffee.png,$PHOTOS/motorcycle_left.png]" \
        tracking=off "out=$OUT/ablation"
    cp "$OUT/ablation/ablation.png" docs/ablation.png
}

facets() {
    dgn synthesize units=[candle,volcano] prior=dgn seeds=3 tracking=off "out=$OUT/pool"
    dgn facets 'unit="0.5*candle + 0.5*volcano"' "data.root=$OUT/pool/images" facets=2 examples=6 members=3 shown=3 \
        prior=dgn tracking=off "out=$OUT/facets"
    cp "$OUT/facets/facets.png" docs/facets.png
}

gallery() { # of the run that grid has made
    [ -f "$OUT/grid/index.html" ] || grid
    chromium --headless --no-sandbox --hide-scrollbars --window-size=1100,760 --virtual-time-budget=4000 \
        "--screenshot=$(pwd)/docs/gallery.png" "file://$OUT/grid/index.html"
}

[ $# -gt 0 ] || set -- grid gallery regularisers layers two_neurons convergence start priors examples ablation facets
for name in "$@"; do "$name"; done
