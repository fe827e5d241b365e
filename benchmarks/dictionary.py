"""Train a TopK sparse autoencoder with overcomplete: python benchmarks/dictionary.py DATA FILE [--layer ...]

    pip install 'dgn[dictionaries]'
    python benchmarks/dictionary.py DATA runs/sae.safetensors            # blocks.4 of the default network, minutes
    dgn examples network.dictionaries.sae='{layer:blocks.4,file:runs/sae.safetensors}' data.root=DATA units=sae:0-63

Vectors are those of all places of the layer's map. Printed, and kept beside the file as JSON: over images that the
training did not see, the share of the variance that the reconstruction explains (R2), the latents that fire a place
(L0), and the share of latents that never fire. The file says its activation and ``k``, so that dgn needs only its name.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import torch
from safetensors.torch import save_file
from torch import Tensor

from dgn.analysis.squares import Squares, as_floats
from dgn.network.network import Network
from dgn.network.sources import load_network

plt.cm.get_cmap = matplotlib.colormaps.get_cmap  # type: ignore[attr-defined]  # gone since 3.9; overcomplete calls it


@torch.no_grad()
def vectors(network: Network, layer: str, data: Squares, indices: list[int], places: int) -> Tensor:
    """``[images x places, C]``: the layer at so many random places of each image; 0: at all."""
    stream, found = torch.Generator().manual_seed(0), []
    fast = network.fast([layer])
    for first in range(0, len(indices), 32):
        pixels = [data[index][0] for index in indices[first : first + 32]]
        maps = fast.maps(as_floats(torch.stack(pixels)), [layer])[layer].flatten(2)
        for one in maps:
            chosen = torch.randperm(one.shape[1], generator=stream)[: places or None]
            found.append(one[:, chosen].T.half())  # of 60 million numbers
    return torch.cat(found)


def train(x: Tensor, latents: int, k: int, steps: int, batch: int, lr: float) -> torch.nn.Module:
    """Gao et al. 2024, without their auxiliary loss: mean square error, Adam, a rate that falls along a half cosine."""
    from overcomplete.sae import TopKSAE

    torch.manual_seed(0)
    sae = TopKSAE(x.shape[1], nb_concepts=latents, top_k=k)
    first = x[torch.randperm(len(x))[:latents]].float()
    with torch.no_grad():  # each latent begins as one vector of the data: few are dead then
        sae.dictionary._weights.copy_(first)
        encoder = sae.encoder.final_block[0]
        encoder.weight.copy_(sae.get_dictionary())
        encoder.bias.zero_()
    optimizer = torch.optim.Adam(sae.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    began = time.perf_counter()
    for step in range(steps):
        rows = x[torch.randint(len(x), (batch,))].float()
        _, _, decoded = sae(rows)
        loss = (decoded - rows).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step}: loss {loss.item():.4f}, {time.perf_counter() - began:.0f} s", flush=True)
    return sae.eval()


@torch.no_grad()
def measured(sae: torch.nn.Module, x: Tensor) -> dict[str, float]:
    """R2, L0 and the share of dead latents over vectors ``[N, C]``."""
    errors, firing, fired = 0.0, 0.0, torch.zeros(sae.nb_concepts, dtype=torch.bool)
    mean = x.float().mean(0)
    for rows in x.split(8192):
        _, codes, decoded = sae(rows.float())
        errors += float((decoded - rows).square().sum())
        firing += float((codes > 0).sum())
        fired |= (codes > 0).any(0)
    total = sum(float((rows.float() - mean).square().sum()) for rows in x.split(8192))
    return {"r2": 1 - errors / total, "l0": firing / len(x), "dead": 1 - float(fired.float().mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="images: a folder, tar files")
    parser.add_argument("file", type=Path, help="of the dictionary, .safetensors")
    parser.add_argument("--network", default="efficientnet_lite0")
    parser.add_argument("--layer", default="blocks.4")
    parser.add_argument("--latents", type=int, default=1024)
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--places", type=int, default=64, help="of each image")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--lr", type=float, default=1e-3)
    given = parser.parse_args()
    network = load_network(given.network)
    data = Squares(given.data, network.sight)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0)).tolist()
    held, used = order[:300], order[300 : 300 + given.images]
    began = time.perf_counter()
    x = vectors(network, given.layer, data, used, given.places)
    print(f"{len(x)} vectors of {len(used)} images in {time.perf_counter() - began:.0f} s", flush=True)
    sae = train(x, given.latents, given.k, given.steps, given.batch, given.lr)
    found = measured(sae, vectors(network, given.layer, data, held, 0))
    found |= {"seconds": round(time.perf_counter() - began)}
    given.file.parent.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.contiguous() for name, tensor in sae.state_dict().items()}
    save_file(state, given.file, {"activation": "topk", "k": str(given.k)})
    settings = {name: value for name, value in vars(given).items() if name not in ("data", "file")}
    given.file.with_suffix(".json").write_text(json.dumps({**settings, **found}, indent=1) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
