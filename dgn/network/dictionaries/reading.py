"""Dictionaries from their files, as layers of a network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from dgn.errors import DgnError, first_line, nearest
from dgn.files.storage import digest, read_notes
from dgn.files.weights import read_weights
from dgn.network.derived import Derived
from dgn.network.dictionaries.dictionary import Dictionary
from dgn.network.dictionaries.formats import Encoder, read_encoder

_FILES = ("sae_weights.safetensors", "ae.pt", "weights.pt")
"""How SAELens, dictionary-learning and ViT-Prisma call their weights."""
_CONFIGS = ("cfg.json", "config.json")
ALIASES = {"batch_topk": "jumprelu", "nmf": "nnls", "semi_nmf": "nnls"}
"""Activations that are another by inference: BatchTopK has learned a threshold then."""


@dataclass(frozen=True)
class DictionaryFile:
    """A dictionary as it is asked for. None: as its file says.

    Attributes:
        layer: over whose features it is.
        file: of its weights, or the folder that its package wrote.
        activation: one of :data:`dgn.network.dictionaries.dictionary.ACTIVATIONS`, ``batch_topk`` (which needs its
            threshold), ``nmf`` or ``semi_nmf``.
        k: latents a place, of ``topk``.
        threshold: of ``jumprelu`` and ``batch_topk``.
        normalize: see :data:`dgn.network.dictionaries.dictionary.NORMALISATIONS`.
        center: whether ``b_dec`` is taken off the input; None: where the format does so, of a plain file too.
    """

    layer: str
    file: str | Path
    activation: str | None = None
    k: int | None = None
    threshold: float | None = None
    normalize: str | None = None
    center: bool | None = None

    def files(self) -> list[Path]:
        """What is read: the weights, and a configuration where one lies beside them."""
        path = Path(self.file).expanduser()
        weights = next((path / name for name in _FILES if (path / name).is_file()), path)
        folder = weights if weights.is_dir() else weights.parent
        return [weights, *(folder / name for name in _CONFIGS if (folder / name).is_file())]

    def read(self) -> tuple[Dictionary, Encoder]:
        """The dictionary, and its encoder as the file has it.

        Raises:
            DgnError: no such file, pickled objects, a format that is not known, something that it doesn't say.
        """
        weights, *configs = self.files()
        tensors = read_weights(weights).tensors
        try:
            encoder = read_encoder(tensors, _config(configs))
            notes = read_notes(weights)
            return self._as_told(encoder, notes), encoder
        except DgnError as error:
            raise DgnError(f"dictionary {str(self.file)!r}: {error}") from error
        except (RuntimeError, TypeError, ValueError, IndexError) as error:  # shapes, a configuration's values
            raise DgnError(f"dictionary {str(self.file)!r} makes no sense: {first_line(error)}") from error

    def _as_told(self, encoder: Encoder, notes: Mapping[str, str]) -> Dictionary:
        """What the user said counts before the file, and a ``.safetensors`` file's notes where its format is silent."""
        activation = self.activation or encoder.activation or notes.get("activation")
        if activation is None:
            raise DgnError("its file does not say the activation: give activation=relu, topk (and k), batch_topk "
                           "or jumprelu (and threshold)")  # fmt: skip
        k = self.k or encoder.k or (int(notes["k"]) if notes.get("k", "").isdigit() else None)
        threshold: Tensor | float | None = encoder.threshold if self.threshold is None else self.threshold
        if threshold is None and "threshold" in notes:
            with suppress(ValueError):
                threshold = float(notes["threshold"])
        normalize = self.normalize or encoder.normalize
        if normalize in ("expected_average_only_in", "covariance_whitening"):
            raise DgnError(f"its inputs are to be scaled ({normalize}) by numbers that its file does not hold: save it "
                           "with these folded into its weights, or give normalize=none if they are")  # fmt: skip
        center = encoder.center if self.center in (None, True) else None
        bias = encoder.bias
        if center is not None:  # W (x - c) + b = W x + (b - W c)
            shift = (encoder.weight.double() @ center.double()).float()
            bias = -shift if bias is None else bias - shift
        activation = ALIASES.get(activation, activation)
        return Dictionary(encoder.weight, bias, activation, k=k, threshold=threshold, normalize=normalize)

    def over(self, name: str, features: int) -> Derived:
        """The layer of its latents, over one of so many features; ``name``: of the dictionary.

        Raises:
            DgnError: it is over another number of features.
        """
        dictionary, encoder = self.read()
        if dictionary.features != features:
            raise DgnError(
                f"dictionary {name!r} is over {dictionary.features} features, layer {self.layer!r} has {features}"
            )
        words = f"dictionary, {dictionary.latents:,} latents over {self.layer}"
        k = f", k {dictionary.k}" if dictionary.activation in ("topk", "abs_topk") else ""
        more = f"{words} ({encoder.package}: {dictionary.activation}{k})"
        identity: dict[str, Any] = {**dictionary.state_dict(), "settings": dictionary.extra_repr()}
        return Derived(self.layer, dictionary, dictionary.latents, words, more, digest(identity))


def told_file(name: str, told: Any) -> dict[str, Any]:
    """The keys of a :class:`DictionaryFile` in a mapping, as a configuration has it.

    Raises:
        DgnError: a key that it doesn't have, or no layer or file.
    """
    known = [field.name for field in fields(DictionaryFile)]
    if not isinstance(told, Mapping):
        raise DgnError(f"dictionary {name!r} is {told!r}, expected {{layer:LAYER,file:FILE}}, quoted for the shell")
    for key in told:
        if key not in known:
            raise DgnError(f"no key {str(key)!r} of dictionary {name!r}{nearest(str(key), known)}")
    for key, kind, word in (("k", int, "a whole number"), ("threshold", (int, float), "a number")):
        if told.get(key) is not None and (not isinstance(told[key], kind) or isinstance(told[key], bool)):
            raise DgnError(f"{key} of dictionary {name!r} is {told[key]!r}, expected {word}")
    if missing := [key for key in ("layer", "file") if not told.get(key)]:
        raise DgnError(f"dictionary {name!r} has no {missing[0]}: expected {{layer: LAYER, file: FILE}}")
    return {str(key): value for key, value in told.items()}


def _config(files: list[Path]) -> dict[str, Any]:
    """The first of these that holds a configuration."""
    for file in files:
        with suppress(OSError, ValueError):
            values = json.loads(file.read_text(encoding="utf-8"))
            if isinstance(values, dict):
                return values
    return {}
