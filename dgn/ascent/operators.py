"""What is done to the images between steps, and the mask that keeps the gradient at the centre.

Each operator is a plain function ``(images, done, step, ...) -> images``: ``done`` is the share of the ascent that lies
behind (0 to 1), ``step`` the number of the step. No gradient flows through it. On a prior whose code is not the image,
the code moves by what the operator changed: ``code + encode(after) - encode(before)``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dgn.ascent.named import Catalogue
from dgn.ascent.transforms import gaussian
from dgn.errors import DgnError


def blur(
    images: Tensor, done: float, step: int, sigma: float = 1.0, sigma_end: float = 0.5, every: float = 4
) -> Tensor:
    """Gaussian blur every so many steps, its width in pixels falling linearly (Yosinski et al. 2015)."""
    if (step + 1) % max(1, round(every)):
        return images
    width = sigma + (sigma_end - sigma) * done
    return gaussian(images, images.new_full((len(images),), width), width)


def tv_denoise(
    images: Tensor, done: float, step: int, weight: float = 0.4, weight_end: float = -1.0, every: float = 1
) -> Tensor:
    """Total-variation denoising (Nguyen et al. 2016b); ``weight_end`` below 0 keeps the weight as it is.

    The weights are those of the paper's program, for pixels in [0, 255]: the smaller, the smoother.
    """
    if (step + 1) % max(1, round(every)):
        return images
    end = weight if weight_end < 0 else weight_end
    return denoise_tv(images, weight + (end - weight) * done)


def clip_small(images: Tensor, done: float, step: int, share: float = 0.1, every: float = 1) -> Tensor:
    """Pixels nearest to grey become grey, this share of them (small norms clipped: Yosinski et al. 2015)."""
    if (step + 1) % max(1, round(every)) or share <= 0:
        return images
    norm = (images - 0.5).norm(dim=1, keepdim=True)
    edge = norm.flatten(1).quantile(min(share, 1.0), dim=1).view(-1, 1, 1, 1)
    return torch.where(norm <= edge, torch.full_like(images, 0.5), images)


OPERATORS = Catalogue(
    "operator", [blur, tv_denoise, clip_small], own=3, ranges={
        "every": (1, 1e9), "sigma": (0, 100), "sigma_end": (0, 100), "weight": (1e-6, 1e6), "weight_end": (-1, 1e6),
        "share": (0, 1),
    }, shape=lambda images: images,
)  # fmt: skip


def denoise_tv(images: Tensor, weight: float, *, iterations: int = 100, eps: float = 1e-3) -> Tensor:
    """Isotropic total-variation denoising by split Bregman iteration (Goldstein & Osher 2009; Getreuer 2012).

    Minimises ``|grad u| + weight / 2 |u - x|^2`` over pixels in [0, 255], all channels of a pixel sharing one norm.

    Args:
        images: ``[N, C, H, W]`` in [0, 1].
        weight: the smaller, the smoother.
        iterations, eps: at most so many, fewer where no image moves by more than ``eps`` (in [0, 255], root mean
            square) any more.
    """
    if weight <= 0:
        raise DgnError(f"the weight of tv_denoise is {weight}, expected a number above 0")
    x = images.float() * 255
    u = x.clone()
    lam = 2 * weight  # how firmly d = grad u is held; it changes the speed, not the result
    dx, dy, bx, by = (torch.zeros_like(u) for _ in range(4))
    height, width = u.shape[2:]
    done = torch.zeros(len(u), dtype=torch.bool, device=u.device)
    parity = (torch.arange(height, device=u.device)[:, None] + torch.arange(width, device=u.device)) % 2
    for _ in range(iterations):
        before = u
        px, py = dx - bx, dy - by
        flow = px.roll(1, 3) - px + py.roll(1, 2) - py
        for colour in (0, 1):  # Gauss-Seidel, red and black pixels in turn
            edge = torch.nn.functional.pad(u, [1, 1, 1, 1], mode="replicate")
            around = edge[:, :, 1:-1, 2:] + edge[:, :, 1:-1, :-2] + edge[:, :, 2:, 1:-1] + edge[:, :, :-2, 1:-1]
            u = torch.where(parity == colour, (weight * x + lam * (around + flow)) / (weight + 4 * lam), u)
        gx = torch.cat([u[..., 1:] - u[..., :-1], torch.zeros_like(u[..., :1])], 3)
        gy = torch.cat([u[:, :, 1:] - u[:, :, :-1], torch.zeros_like(u[:, :, :1])], 2)
        sx, sy = gx + bx, gy + by
        norm = (sx.square() + sy.square()).sum(1, keepdim=True).sqrt()
        shrink = (norm - 1 / lam).clamp(min=0) / norm.clamp(min=1e-12)
        dx, dy = shrink * sx, shrink * sy
        bx, by = sx - dx, sy - dy
        still = (u - before).square().mean((1, 2, 3)) < eps**2
        u = torch.where(done[:, None, None, None], before, u)  # an image does not depend on the others of its batch
        done = done | still
        if bool(done.all()):
            break
    return (u / 255).to(images.dtype)


def centre_mask(size: tuple[int, int], width: float, device: torch.device | str = "cpu") -> Tensor:
    """``[1, 1, H, W]``: a Gaussian around the centre, ``width`` (a share of the side) its standard deviation.

    Under 1 % it is 0: Adam, which divides each gradient by its own size, would undo any other mask on pixels.
    """
    y, x = (torch.linspace(-0.5, 0.5, side, device=device) for side in size)
    mask = torch.exp(-0.5 * (y[:, None].square() + x.square()) / width**2)
    return torch.where(mask < 0.01, torch.zeros_like(mask), mask)[None, None]
