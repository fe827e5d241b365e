"""Image statistics for the spectral priors: python -m dgn.training.spectrum IMAGES OUT.safetensors [--images N]."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from dgn.files.tensors import save_tensors
from dgn.guest import guest
from dgn.images.reading import crop, decode, list_images, reason
from dgn.priors.fourier import FORMAT, ImageStatistics, natural_spread


@guest
def measure_images(root: Path, *, size: int = 128, most: int = 5000, progress: bool = True) -> ImageStatistics:
    """Mean colour, square root of the colour covariance, and mean magnitude of the spectrum in white colours.

    Args:
        root: images, see :func:`dgn.images.reading.list_images`; central squares, shrunk or enlarged to ``size``
            pixels, a random ``most`` of those at least as large as ``size`` (of all, where none is).
        size, most, progress: see above; a bar.
    """
    entries = list_images(root)
    order = np.random.default_rng(0).permutation(len(entries))
    large: list[np.ndarray] = []
    small: list[np.ndarray] = []
    for index in tqdm(order, desc="images", disable=not progress):
        try:
            image = decode(entries[int(index)].read())
        except Exception as error:
            tqdm.write(f"left out: {entries[int(index)].name!r}: {reason(error)}")
            continue
        kind = large if min(image.size) >= size else small
        if len(kind) < most:
            kind.append(crop(image, size, None).copy())
        if len(large) >= most:
            break
    pixels = torch.from_numpy(np.stack(large or small)).permute(0, 3, 1, 2).float() / 255
    flat = pixels.permute(1, 0, 2, 3).flatten(1)
    mean = flat.mean(1)
    values, vectors = torch.linalg.eigh(torch.cov(flat.double()))
    colours = (vectors * values.clamp(min=1e-8).sqrt()).float()
    white = torch.einsum("ij,njhw->nihw", torch.linalg.inv(colours), pixels - mean[:, None, None])
    return ImageStatistics(mean, colours, natural_spread(white))


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--images", dest="most", type=int, default=5000)
    options = parser.parse_args()
    found = measure_images(options.root, size=options.size, most=options.most)
    tensors = {"mean": found.mean, "colours": found.colours, "magnitude": found.magnitude.half()}
    save_tensors(options.out, tensors, {"size": options.size}, FORMAT)


if __name__ == "__main__":
    main()
