"""The tokens that a transformer has before those of the image, by name: class token, registers."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn

_PARAMETERS: tuple[tuple[str, frozenset[str], str], ...] = (
    ("cls", frozenset({"cls_token", "class_token", "class_embedding"}), "class"),
    ("dist", frozenset({"dist_token", "distillation_token"}), "distillation"),
    ("reg", frozenset({"reg_token", "reg_tokens", "register_tokens"}), "registers"),
)
"""What each kind is called as a position, as a parameter (of timm, torchvision, transformers, DINOv2's own code), and
in words; in the order in which all of these put them before the patches."""


def prefix(module: nn.Module) -> tuple[str, ...]:
    """``("cls", "reg0", "reg1", ...)``, from the parameters in which a module keeps these tokens, ``[..., C]``.

    Empty where it has none, or several of a kind: then it has several sequences, and nobody knows which is meant.
    """
    names: list[str] = []
    for name, known, _ in _PARAMETERS:
        found = [each for path, each in module.named_parameters() if path.rpartition(".")[2] in known]
        if len(found) > 1:
            return ()
        if found:
            count = found[0].numel() // found[0].shape[-1]
            names += [f"{name}{index}" for index in range(count)] if name == "reg" else [name] * count
    return tuple(names) if len(set(names)) == len(names) else ()


def is_token(name: str) -> bool:
    """Whether a position is the name of a token."""
    return bool(re.fullmatch(r"cls|dist|reg\d+", name))


def in_words(names: Sequence[str]) -> str:
    """As ``class + 4 registers``."""
    parts = []
    for name, _, words in _PARAMETERS:
        count = sum(each.rstrip("0123456789") == name for each in names)
        if count:
            parts.append(words if name != "reg" else f"{count} {words if count > 1 else words.removesuffix('s')}")
    return " + ".join(parts)
