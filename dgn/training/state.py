"""What every training keeps of itself: a state from which the same command goes on to the same bits, and its files."""

from __future__ import annotations

import csv
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from dgn.errors import DgnError
from dgn.files.storage import write_atomic
from dgn.files.tensors import load_tensors, save_tensors
from dgn.images.pictures import png, to_image
from dgn.training.settings import FlowSettings, TrainSettings, rate

S = TypeVar("S", bound=TrainSettings | FlowSettings)


@dataclass(frozen=True)
class Machine:
    """What a training runs on; none of it is a part of the outcome.

    Attributes:
        device: ``"cpu"`` or ``"cuda"``.
        workers: processes that decode images.
        compile: ``torch.compile`` what is trained.
        progress: whether bars are drawn.
    """

    device: str = "cpu"
    workers: int = 0
    compile: bool = False
    progress: bool = False


class Training(ABC, Generic[S]):
    """A generator or a flow in training.

    Attributes:
        format: of the state's file.
        columns: of the table of losses.
        shown: losses beside the progress bar.
        weights: name of the file that is trained.
        free: settings that may change between two commands of one training.
        settings, out, device: everything that decides the outcome, the run folder, where it computes.
        modules, optimisers: by their names in the state; ``average`` holds the weights that are kept.
        images: that the training began with; with another number it is another training.
        step, seconds: done so far, by all commands together.
        rows: of the table of losses.
        broken: names of images that could not be read.
    """

    format: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    shown: ClassVar[tuple[str, ...]]
    weights: ClassVar[str]
    free: Set[str] = frozenset({"steps", "cooldown"})
    images: int

    def __init__(self, settings: S, out: Path, machine: Machine) -> None:
        self.settings, self.out, self.machine, self.device = settings, out, machine, torch.device(machine.device)
        self.modules: dict[str, nn.Module] = {}
        self.optimisers: dict[str, torch.optim.Optimizer] = {}
        self.step, self.seconds = 0, 0.0
        self.rows: list[dict[str, float]] = []
        self.broken: set[str] = set()

    @abstractmethod
    def batches(self) -> Iterator[Tensor]:
        """Of the steps that are left; which ones follows from seed and step alone."""

    @abstractmethod
    def update(self, batch: Tensor) -> dict[str, Tensor]:
        """One step; returns its losses."""

    @abstractmethod
    def publish(self) -> None:
        """Write the averaged weights."""

    @abstractmethod
    def picture(self) -> Tensor | None:
        """A picture ``[3, H, W]`` of how far it is; None: none is wanted."""

    @abstractmethod
    def report(self) -> dict[str, Any]:
        """What is measured at the end."""

    def measure(self) -> dict[str, float]:
        """What is measured at each checkpoint, for the table of losses."""
        return {}

    def more_tensors(self) -> dict[str, Tensor]:
        """What else the state holds."""
        return {}

    def more_facts(self) -> dict[str, Any]:
        """What else the state says."""
        return {}

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Take up what else a state holds and says, after modules and optimisers."""

    def compiled(self, module: nn.Module) -> Callable[..., Any]:
        """The module, compiled where the machine asks for it."""
        return torch.compile(module) if self.machine.compile else module

    def set_rate(self, name: str, lr: float) -> float:
        """Give an optimiser the learning rate of this step; returns it."""
        settings = self.settings
        lr = lr * rate(self.step, settings.steps, settings.warmup, settings.cooldown)
        for group in self.optimisers[name].param_groups:
            group["lr"] = lr
        return lr

    def take_up(self) -> bool:
        """Go on from the state that the folder holds; False: it holds none.

        Raises:
            DgnError: the state is another training's, or damaged.
        """
        path = self.out / "state.safetensors"
        if not path.exists():
            return False
        tensors, facts = load_tensors(path, self.format)
        mine, usual = (json.loads(json.dumps(asdict(one))) for one in (self.settings, type(self.settings)()))
        for name, value in mine.items():
            theirs = facts["settings"].get(name, usual[name])  # an earlier version had not all of them
            if name not in self.free and theirs != value:
                raise DgnError(
                    f"{str(self.out)!r} holds a training with {name}={theirs}, not {value}; give another out="
                )
        if facts["images"] != self.images:
            raise DgnError(
                f"{str(self.out)!r} was trained on {facts['images']} images, the data now holds {self.images}"
            )
        for name, module in self.modules.items():
            module.load_state_dict(part(tensors, name))
        for name, optimiser in self.optimisers.items():
            state: dict[int, dict[str, Tensor]] = {}
            for key, tensor in part(tensors, name).items():
                index, field = key.split(".", 1)
                state.setdefault(int(index), {})[field] = tensor
            optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
        self.step, self.seconds, self.rows = int(facts["step"]), float(facts["seconds"]), facts["rows"]
        self.broken |= set(facts["broken"])
        self.restore(tensors, facts)
        return True

    def save(self) -> Path | None:
        """Write state, weights, table of losses and picture; returns the picture's path."""
        tensors = self.more_tensors()
        for name, module in self.modules.items():
            tensors |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
        for name, optimiser in self.optimisers.items():
            for index, values in optimiser.state_dict()["state"].items():
                tensors |= {f"{name}.{index}.{key}": value for key, value in values.items()}
        facts = {**self.facts(), "rows": self.rows, "broken": sorted(self.broken), **self.more_facts()}
        save_tensors(self.out / "state.safetensors", tensors, facts, self.format)
        self.publish()
        table = io.StringIO()
        writer = csv.DictWriter(table, ["step", *self.columns])
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomic(self.out / "losses.csv", table.getvalue().encode())
        picture = self.picture()
        if picture is None:
            return None
        path = self.out / "samples" / f"step-{self.step:07d}.png"
        write_atomic(path, png(to_image(picture)))
        return path

    def finish(self) -> Path:
        """Publish, measure and report; returns the path of the weights."""
        self.publish()
        report = {
            **self.facts(), **self.report(), "broken": sorted(self.broken),
            "parameters": sum(parameter.numel() for parameter in self.modules["average"].parameters()),
        }  # fmt: skip
        write_atomic(self.out / "report.json", json.dumps(report, indent=1).encode())
        return self.out / self.weights

    def facts(self) -> dict[str, Any]:
        """What every file of a training says of it."""
        return {
            "settings": asdict(self.settings), "step": self.step, "seconds": round(self.seconds, 1),
            "images": self.images,
        }  # fmt: skip


def part(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors whose names begin with ``name.``, in order of their names."""
    return {key[len(name) + 1 :]: tensors[key] for key in sorted(tensors) if key.startswith(name + ".")}


def tiled(images: Tensor, across: int) -> Tensor:
    """Images ``[N, 3, S, S]`` side by side, with white lines between them, ``[3, H, W]``."""
    from torchvision.utils import make_grid

    return make_grid(images, nrow=across, padding=2, pad_value=1.0)


@torch.no_grad()
def follow(average: nn.Module, module: nn.Module, decay: float) -> None:
    """Move averaged weights towards the current ones."""
    mine, theirs = ([p.detach() for p in each.parameters()] for each in (average, module))
    torch._foreach_lerp_(mine, theirs, 1 - decay)
    for a, b in zip(average.buffers(), module.buffers(), strict=True):
        a.copy_(b)
