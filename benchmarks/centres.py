"""Start codes for a trained generator: python benchmarks/centres.py FOLDER DATA

Adds to ``FOLDER/components.safetensors`` what ``dgn train`` measures at its end (``training.centres``): the mean codes
of groups of real images that look alike. For generators trained before there were any, or for other numbers.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from dgn.images.reading import list_images
from dgn.network.layers import feature_layer
from dgn.network.sources import load_network
from dgn.priors.checkpoint import load_components, load_generator, save_components
from dgn.priors.generator import encode, reduced
from dgn.training.data import StepBatches
from dgn.training.statistics import measure_centres

BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the generator and its components")
    parser.add_argument("data", type=Path, help="real images")
    parser.add_argument("--images", type=int, default=16000)
    parser.add_argument("--groups", type=int, default=1024)
    options = parser.parse_args()
    generator, _ = load_generator(options.folder / "generator.safetensors")
    components, meta = load_components(options.folder / "components.safetensors")
    config = generator.config
    encoder = load_network(config.network).at(config.encoder_size)
    late = feature_layer(encoder)
    batches = StepBatches(list_images(options.data), config.image_size, BATCH, 103)

    def seen() -> Iterator[tuple[Tensor, Tensor]]:
        for step in tqdm(range(options.images // BATCH), unit="batch"):
            images = batches[step][0].float() / 255
            read = encoder.maps(reduced(images, config), [config.layer, late])
            feature = read[late].flatten(2).mean(2) if read[late].dim() > 2 else read[late]
            yield encode(read[config.layer].float(), config.code), feature

    components.centres = measure_centres(seen(), generator, components, options.groups)
    save_components(options.folder / "components.safetensors", components, {**meta, "centre_images": options.images})
    print(f"{len(components.centres)} centres")


if __name__ == "__main__":
    main()
