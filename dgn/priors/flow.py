"""A distribution of codes that was learned: what the Gaussian of the components gets wrong, told by a transformer."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgn.errors import DgnError


@dataclass(frozen=True)
class FlowConfig:
    """The form of a :class:`Flow`.

    Attributes:
        code_shape: ``(C, h, w)`` of the codes.
        patch: cells of a token's side.
        width, depth, heads: numbers of a token, blocks, attention heads.
    """

    code_shape: tuple[int, int, int]
    patch: int = 2
    width: int = 384
    depth: int = 8
    heads: int = 6

    def check(self) -> None:
        """Raise :class:`DgnError` where the numbers don't fit each other."""
        _, height, width = self.code_shape
        if min(self.patch, self.width, self.depth, self.heads) < 1:
            raise DgnError("patch, width, depth and heads of a flow are whole numbers above 0")
        if height % self.patch or width % self.patch:
            raise DgnError(f"codes of {height} x {width} cells can't be cut into patches of {self.patch}")
        if self.width % self.heads:
            raise DgnError(f"a width of {self.width} can't be shared by {self.heads} heads")

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


class Flow(nn.Module):
    """``E[code | x_t]`` less what a Gaussian says, in units of the Gaussian's own error.

    A diffusion transformer (Peebles & Xie 2023, arXiv 2212.09748) over patches of the code, with one modulation by the
    time for all blocks and a table a block (Chen et al. 2023, arXiv 2310.00426, section 2.3), normalised queries and
    keys, and SwiGLU. Its last layer begins at zero: untrained, it is the Gaussian.
    """

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        config.check()
        self.config = config
        channels, height, width = config.code_shape
        self.grid = (height // config.patch, width // config.patch)
        values = channels * config.patch**2
        self.read = nn.Linear(2 * values, config.width)
        self.place = nn.Parameter(0.02 * torch.randn(1, self.grid[0] * self.grid[1], config.width))
        self.time = nn.Sequential(nn.Linear(256, config.width), nn.SiLU(), nn.Linear(config.width, 6 * config.width))
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, elementwise_affine=False)
        self.write = nn.Linear(config.width, values)
        nn.init.zeros_(self.write.weight)
        nn.init.zeros_(self.write.bias)

    def forward(self, code: Tensor, guess: Tensor, t: Tensor) -> Tensor:
        """Codes mixed with noise and the Gaussian's estimates ``[n, C, h, w]``, times ``[n]``; gives the same shape."""
        rows, columns = self.grid
        patch = self.config.patch
        x = torch.cat([code, guess], 1).view(len(code), -1, rows, patch, columns, patch)
        x = self.read(x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)) + self.place
        angles = t[:, None] * torch.exp(torch.linspace(0, math.log(1000), 128, device=t.device))
        change = self.time(torch.cat([angles.sin(), angles.cos()], 1)).view(len(code), 6, -1)
        for block in self.blocks:
            x = block(x, change)
        x = self.write(self.norm(x)).view(len(code), rows, columns, -1, patch, patch)
        return x.permute(0, 3, 1, 4, 2, 5).reshape(code.shape).float()


class Block(nn.Module):
    """Attention and a gated layer, each scaled, shifted and weighed by the time."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, hidden = heads, 8 * width // 3
        self.first, self.second = (nn.LayerNorm(width, elementwise_affine=False) for _ in range(2))
        self.attend, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)
        change = torch.zeros(6, width)
        change[[2, 5]] = 1
        self.change = nn.Parameter(change)

    def forward(self, x: Tensor, change: Tensor) -> Tensor:
        """Tokens ``[n, T, D]``, and of the time ``[n, 6, D]``."""
        scale, shift, weight, scale2, shift2, weight2 = (change + self.change)[:, :, None].unbind(1)
        n, tokens, width = x.shape
        parts = self.attend(self.first(x) * (1 + scale) + shift).view(n, tokens, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        q, k = (8 * F.normalize(q, dim=-1)).to(v), F.normalize(k, dim=-1).to(v)  # under autocast norms are float32
        seen = (q @ k.mT).softmax(-1).to(v) @ v
        x = x + weight * self.mix(seen.transpose(1, 2).reshape(n, tokens, width))
        values, gate = self.up(self.second(x) * (1 + scale2) + shift2).chunk(2, -1)
        return x + weight2 * self.down(F.silu(gate) * values)
