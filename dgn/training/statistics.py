"""The code's statistics on real images: per channel, principal components of whole codes, and centres among them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dgn.priors.generator import Components, Generator


@torch.no_grad()
def measure_code(codes: Iterator[Tensor], generator: Generator) -> None:
    """Fill the generator's code statistics (mean, std, min, max per channel) from raw codes ``[N, C, h, w]``."""
    count, total, square = 0, torch.zeros(()), torch.zeros(())
    low = torch.full_like(generator.code_mean, torch.inf)
    high = torch.full_like(generator.code_mean, -torch.inf)
    for code in codes:
        code = code.double()
        count += code.shape[0] * code.shape[2] * code.shape[3]
        total = total.to(code) + code.sum((0, 2, 3))
        square = square.to(code) + code.square().sum((0, 2, 3))
        low = torch.minimum(low, code.amin((0, 2, 3))[:, None, None].to(low))
        high = torch.maximum(high, code.amax((0, 2, 3))[:, None, None].to(high))
    mean = total / count
    std = (square / count - mean.square()).clamp(min=0).sqrt()
    generator.code_mean.copy_(mean[:, None, None])
    generator.code_std.copy_(std[:, None, None].clamp(min=1e-4 * max(float(std.max()), 1e-12)))
    generator.code_min.copy_(low)
    generator.code_max.copy_(high)


BEYOND = 0.005
"""Share of real images whose extremes lie outside of a channel's range: of a few, too, a channel goes wild."""


@torch.no_grad()
def measure_ranges(codes: Iterator[Tensor], generator: Generator) -> None:
    """Bound each channel of a generator in eval mode by what it reaches on real images, raw codes ``[N, C, h, w]``."""
    stages: list[Any] = list(generator.stages)
    for stage in stages:
        stage.low.fill_(-torch.inf)
        stage.high.fill_(torch.inf)
    seen: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {norm: [] for stage in stages for norm in stage.norms}

    def note(norm: nn.Module, _given: Any, output: Tensor) -> None:
        seen[norm].append((output.float().amin((2, 3)), output.float().amax((2, 3))))

    hooks = [norm.register_forward_hook(note) for norm in seen]
    try:
        for code in codes:
            generator(generator.normalise(code.float()))
    finally:
        for hook in hooks:
            hook.remove()
    for stage in stages:
        for norm, low, high in zip(stage.norms, stage.low, stage.high, strict=True):
            lowest, highest = (torch.cat(part) for part in zip(*seen[norm], strict=True))
            low.copy_(lowest.quantile(BEYOND, 0).view_as(low))
            high.copy_(highest.quantile(1 - BEYOND, 0).view_as(high))


@torch.no_grad()
def measure_components(codes: Iterator[Tensor], generator: Generator, images: int, count: int) -> Components:
    """Principal components of normalised codes by randomised SVD (Halko et al. 2011).

    Args:
        codes: raw codes ``[N, C, h, w]``, ``images`` of them in all.
        generator: whose statistics normalise them.
        images, count: number of codes, and of components to keep (fewer where there are fewer codes).
    """
    shape = generator.config.code_shape
    size = shape[0] * shape[1] * shape[2]
    rows = torch.empty(images, size)
    filled = 0
    for code in codes:
        block = generator.normalise(code.float()).flatten(1)[: images - filled].cpu()
        rows[filled : filled + len(block)] = block
        filled += len(block)
    rows = rows[:filled]
    mean = rows.mean(0)
    rows -= mean
    keep = min(count, filled - 1, size)
    torch.manual_seed(0)
    _, singular, basis = torch.svd_lowrank(rows, q=min(keep + 64, filled, size), niter=2)
    scale = singular[:keep] / filled**0.5
    explained = float(scale.square().sum() / rows.square().mean(0).sum())
    return Components(mean, scale, basis[:, :keep].contiguous(), shape, explained)


LEAST_MEMBERS = 4
"""Images that a centre is the mean of, at least: no single image can be read back from it."""


@torch.no_grad()
def measure_centres(
    seen: Iterator[tuple[Tensor, Tensor]],
    generator: Generator,
    components: Components,
    groups: int,
) -> Tensor:
    """Start codes between real ones: means over groups of images that look alike, ``[M, K]`` whitened coordinates.

    k-means (mini-batches; Sculley 2010) on the first 64 principal components of the encoder's late features: codes
    themselves don't cluster. A mean of codes is short, and its image pale, so each is given the mean norm of real
    codes. Groups of fewer than four images are left out, and the order is random.

    Args:
        seen: raw codes ``[N, C, h, w]`` and late features ``[N, D]`` of the same images.
        generator: whose statistics normalise the codes.
        components: in whose coordinates the centres are written.
        groups: of k-means; M is smaller by the groups that are too small.
    """
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.decomposition import PCA

    codes, features = [], []
    for code, feature in seen:
        codes.append(components.to_coordinates(generator.normalise(code.float())).cpu())
        features.append(feature.float().cpu())
    coordinates, x = torch.cat(codes), torch.cat(features).double().numpy()
    points = PCA(min(64, *x.shape), random_state=0).fit_transform(x)
    groups = min(groups, len(x))
    fit = MiniBatchKMeans(groups, batch_size=4096, n_init=1, max_iter=50, random_state=0).fit(points)
    labels = torch.from_numpy(fit.labels_).long()
    sizes = torch.bincount(labels, minlength=groups)
    sums = torch.zeros(groups, coordinates.shape[1]).index_add(0, labels, coordinates)
    means = (sums / sizes.clamp(min=1)[:, None])[sizes >= LEAST_MEMBERS]
    order = torch.randperm(len(means), generator=torch.Generator().manual_seed(0))
    return (means / means.norm(dim=1, keepdim=True).clamp(min=1e-12) * coordinates.norm(dim=1).mean())[order]
