"""The folders ``conf/`` and ``pretrained/``, in a wheel beside the modules, in a checkout beside the package; and the
generators that there are."""

from __future__ import annotations

from pathlib import Path

from dgn.errors import DgnError

DEFAULT = "spatial128"
"""The shipped generator that ``"dgn"`` stands for."""


def resource(name: str) -> Path:
    """The folder ``name`` that came with dgn."""
    package = Path(__file__).resolve().parent
    for folder in (package / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise DgnError(f"dgn was installed without its folder {name!r}; install it again")


def shipped_priors() -> list[str]:
    """Names of the generators that come with dgn; the first is what ``"dgn"`` stands for."""
    return sorted(path.parent.name for path in resource("pretrained").glob("*/generator.safetensors"))


def generator_path(name: str) -> Path | None:
    """Where a generator lies: the folder of a shipped one, or the path that was given; None: there is none.

    Raises:
        DgnError: dgn came without its own.
    """
    shipped = shipped_priors()
    if name == "dgn" and not shipped:
        raise DgnError(f"no shipped generator in {str(resource('pretrained'))!r}; train one with: dgn train")
    if name == "dgn" or name in shipped:
        return resource("pretrained") / (DEFAULT if name == "dgn" else name)
    return Path(name) if Path(name).exists() else None


def prior_family(name: str, space: str = "auto") -> str:
    """What a prior's own settings are looked up by (:data:`dgn.ascent.own.OWN`), told by its name and files alone.

    Args:
        name: as in :func:`dgn.load_prior`; of a generator, also the path of its checkpoint; of a pipeline, its folder.
        space: of a generator's code.
    """
    path = generator_path(name)
    if path is None:
        return name
    if (path / "model_index.json").is_file():
        return "pipeline"
    folder = path if path.is_dir() else path.parent
    if space == "code" or not (folder / "components.safetensors").is_file():
        return "code"
    if space == "noise":
        return "noise"
    return "flow" if (folder / "flow.safetensors").is_file() else "components"
