"""Tiny networks, generators and images that every tier of tests shares."""

from __future__ import annotations

import gc
import importlib.util
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from watched import Watched, looks

from dgn.network.network import Network
from dgn.priors.generator import Components, Generator, GeneratorConfig

WORKERS = 2
"""Whole tiers run on as many processes: the suite is timed on two cores."""

ALONE = pytest.mark.xdist_group("alone")
"""For tests with processes of their own, and tests that kill, fill or measure: no two of them at once."""


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist's own
def pytest_cmdline_main(config: pytest.Config) -> None:
    """A tier that is asked for without paths is shared out; ``-n`` decides otherwise, and a GPU is not shared."""
    option = config.option
    whole = config.args_source is not pytest.Config.ArgsSource.ARGS and option.markexpr != "gpu"
    if hasattr(config, "workerinput"):
        option.loadgroup = True  # a worker reads the command line alone
    elif whole and not option.usepdb and getattr(option, "numprocesses", 0) is None:
        option.numprocesses, option.dist = WORKERS, "loadgroup"
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the workers, and of what they start


def rest_slow(cases: Iterable[Any], *fast: Any) -> list[Any]:
    """The cases of a parametrised test, of which only those that are named belong to the fast tier."""
    return [case if case in fast else pytest.param(*as_tuple(case), marks=pytest.mark.slow) for case in cases]


def as_tuple(case: Any) -> tuple[Any, ...]:
    return case if isinstance(case, tuple) else (case,)


@pytest.fixture(autouse=True)
def _threads(request: pytest.FixtureRequest) -> None:
    """One thread for tiny networks, where more only wait for each other, and where tests share the cores."""
    torch.set_num_threads(1 if "unit" in request.path.parts or hasattr(request.config, "workerinput") else 2)


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    """What a command told Hydra about logging (``hydra.verbose``) ends with its test."""
    root = logging.getLogger()
    level, handlers, off = root.level, root.handlers[:], root.manager.disable
    yield
    root.setLevel(level)
    root.handlers[:] = handlers
    logging.disable(off)


@pytest.hookimpl(tryfirst=True)  # before the marks are chosen from
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fuzzed commands come last: whatever they set in this process, no other test meets it."""
    items.sort(key=lambda item: item.path.name == "test_faults_commands.py")
    for item in items:
        packages = [package for mark in item.iter_markers("needs") for package in mark.args]
        if packages:
            item.add_marker(pytest.mark.slow)
        missing = [package for package in packages if importlib.util.find_spec(package) is None]
        if missing:
            item.add_marker(pytest.mark.skip(f"needs {missing[0]}: pip install -e '.[test-all]'"))
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip("needs a GPU"))


def pytest_collection_finish() -> None:
    """What was imported stays: tests that collect garbage need not look through it."""
    gc.collect()
    gc.freeze()


class Block(nn.Module):
    """A residual block that adds in place, as torchvision's do."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        y += x
        return self.relu(y)


class SmallCNN(nn.Module):
    """Convolution, residual block, pool, classifier."""

    def __init__(self, channels: int = 3, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 8, 3, stride=2, padding=1)
        self.block = Block(8)
        self.late = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.head = nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.late(self.block(self.stem(x)))).mean((2, 3)))


class Repeated(nn.Module):
    """A layer of so many numbers an image, which are all the same one: it takes no memory and no time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        return x.detach()[:, 0, 0, :1].expand(-1, self.width)


class WideCNN(SmallCNN):
    """The same with a layer beside it that is so large that few images are seen together: see ``PIECE`` of
    :mod:`dgn.ascent.objectives`."""

    def __init__(self, together: int, like: SmallCNN | None = None) -> None:
        super().__init__()
        self.wide = Repeated(round(30e6 / 4 / together))
        self.load_state_dict((like or self).state_dict())

    def forward(self, x: Tensor) -> Tensor:
        self.wide(x)
        return super().forward(x)


class OddCNN(SmallCNN):
    """Its second class is not a number, its third has always the lowest."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("odd", torch.tensor([0.0, torch.nan, -torch.inf, 0.0, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.odd


def export_small(path: Path, classes: int = 5, module: nn.Module | None = None) -> Path:
    """A random :class:`SmallCNN`, or another, as a file that ``network.name=`` takes, for batches of up to 64."""
    torch.manual_seed(0)
    batch = torch.export.Dim("batch", min=1, max=64)
    module = (module or SmallCNN(classes=classes)).eval()
    torch.export.save(torch.export.export(module, (torch.rand(2, 3, 16, 16),), dynamic_shapes={"x": {0: batch}}), path)
    return path


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random network as a file."""
    return export_small(tmp_path_factory.mktemp("network") / "small.pt2")


@pytest.fixture(scope="session")
def small(exported: Path) -> list[str]:
    """The same as arguments."""
    return [f"network.name={exported}", "trust=true"]


@pytest.fixture(scope="session")
def odd(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """An :class:`OddCNN` as arguments."""
    path = export_small(tmp_path_factory.mktemp("network") / "odd.pt2", module=OddCNN())
    return [f"network.name={path}", "trust=true"]


def lay_out(folder: Path) -> Path:
    """What a job needs, in a folder: ``small.pt2`` of 1,000 classes and labelled ``pictures``."""
    export_small(folder / "small.pt2", classes=1000)
    rng = np.random.default_rng(0)
    for name in ("a", "0/b", "0/c", "1/d", "1/e", "1/f"):
        path = folder / "pictures" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(path)
    return folder


class SmallTokens(nn.Module):
    """Patches as tokens with a class token in front: B x N x C, N = 1 + 4 x 4."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 6, 4, stride=4)
        self.first = nn.Parameter(torch.randn(1, 1, 6))
        self.mix = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = self.mix(torch.cat([self.first.expand(len(x), -1, -1), tokens], 1))
        return self.head(tokens[:, 0])


NAMES = ("ant", "crane", "bee", "crane", "sea urchin")


@pytest.fixture
def cnn() -> SmallCNN:
    torch.manual_seed(0)
    return SmallCNN()


@pytest.fixture
def network(cnn: SmallCNN) -> Network:
    return Network(cnn, 16, class_names=NAMES, name="small")


@pytest.fixture
def tokens() -> Network:
    torch.manual_seed(1)
    return Network(SmallTokens(), 16, name="tokens")


def small_generator(*, positive: bool = False) -> Generator:
    """A random generator of 16 px images from codes 4 x 4 x 4, signed or (as after a ReLU) never negative."""
    torch.manual_seed(2)
    config = GeneratorConfig("none", "none", 16, 16, "spatial", (4, 4, 4), (8, 6), (1, 1))
    generator = Generator(config)
    generator.code_mean.copy_(torch.tensor([0.5, 1.0, 1.5, 2.0]).view(4, 1, 1))
    generator.code_std.copy_(torch.tensor([0.4, 0.6, 0.8, 1.0]).view(4, 1, 1))
    generator.code_min.fill_(0.0 if positive else -3.0)
    generator.code_max.fill_(6.0)
    for parameter in generator.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(2)
    return generator.eval()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of 24 pictures, 70 x 80 px."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(24):
        small = Image.fromarray(rng.integers(0, 255, (6, 7, 3), dtype=np.uint8))
        small.resize((80, 70)).save(folder / f"{index:02d}.png")
    return folder


@pytest.fixture
def components() -> Components:
    """Of codes 4 x 4 x 4: five directions, and 0.3 in each of the others."""
    generator = torch.Generator().manual_seed(3)
    basis = torch.linalg.qr(torch.randn(64, 5, generator=generator))[0]
    scale = torch.tensor([4.0, 3.0, 2.0, 1.5, 1.0])
    held, rest = float(scale.square().sum()), 0.3 * (64 - 5)
    return Components(torch.randn(64, generator=generator), scale, basis, (4, 4, 4), held / (held + rest))


@pytest.fixture
def watched() -> Iterator[type[Watched]]:
    """The prior of :mod:`watched`, of which nothing was asked yet."""
    Watched.reset()
    looks.seen, looks.stop = [], 0
    yield Watched
    Watched.reset()
    looks.stop = 0


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network of 1,000 classes as a file, and labelled pictures."""
    return lay_out(tmp_path_factory.mktemp("desk"))
