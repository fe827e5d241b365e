"""The decoder's own promises."""

from __future__ import annotations

import torch
from conftest import small_generator


def test_no_square_of_pixels_has_a_checkerboard() -> None:
    """Not even that of weights which leave one; what else the squares hold is theirs."""
    generator = small_generator()
    code = torch.randn(2, *generator.config.code_shape)
    with torch.no_grad():
        before = generator(code)
        generator.head.bias += torch.tensor([1.0, -1.0, -1.0, 1.0]).repeat(3)  # type: ignore[operator]
        same = generator(code)
        generator.head.bias += torch.tensor([1.0, -1.0, 1.0, -1.0]).repeat(3)  # type: ignore[operator]
        striped = generator(code)
    a, b, c, d = (before[:, :, y::2, x::2] for y in (0, 1) for x in (0, 1))
    assert float((a - b - c + d).abs().max()) < 1e-5 < float((a - b).abs().max())
    torch.testing.assert_close(same, before)
    torch.testing.assert_close(striped[..., ::2] - before[..., ::2], torch.full_like(before[..., ::2], 0.5))
