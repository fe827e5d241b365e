"""The package's rooms: data flows one way, and so do imports, lazy ones too."""

from __future__ import annotations

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import dgn

ROOT = Path(dgn.__file__).parent
FLOORS = [
    ["errors", "resources", "arguments", "memory", "guest", "functions", "__init__"],
    ["files"],
    ["images"],
    ["drawing"],
    ["network"],
    ["units"],
    ["priors"],
    ["ascent"],
    ["synthesis"],
    ["runs"],
    ["analysis", "report", "training"],
    ["evaluation"],
    ["cli", "__main__"],
]
"""From the ground up. What stands on a floor may use those below it, and its own."""

HANDED_IN = {
    "analysis.ablation.ablate", "analysis.atlas.atlas", "analysis.concepts.concept", "analysis.examples.find_examples",
    "analysis.facets.find_facets", "evaluation.evaluate.evaluate", "network.network.__init__",
    "network.sources.load_network", "priors.load_prior", "priors.others.module.__init__", "synthesis.main.synthesize",
    "training.trainer.train", "network.attention._attend",
}  # fmt: skip
"""Functions of more than seven parameters: the public ones, and one in the place of PyTorch's own."""


@cache
def modules() -> dict[str, Path]:
    """By their names below ``dgn``."""
    found = {}
    for path in ROOT.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imported(path: Path) -> list[str]:
    """The modules of dgn that a file imports."""
    tree, known, found = parsed(path), modules(), []
    typing = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    skipped = {id(inner) for node in typing for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dgn.") and id(node) not in skipped:
            home = str(node.module).removeprefix("dgn.")
            for alias in node.names:
                found.append(f"{home}.{alias.name}" if f"{home}.{alias.name}" in known else home)
    return found


def floor(name: str) -> int:
    fitting = [
        (len(room), level)
        for level, rooms in enumerate(FLOORS)
        for room in rooms
        if name == room or name.startswith(f"{room}.")
    ]
    assert fitting, f"dgn/{name.replace('.', '/')} stands on no floor"
    return max(fitting)[1]


def test_imports_run_down() -> None:
    known = modules()
    upward = [
        f"{name} imports {other}"
        for name, path in known.items()
        for other in imported(path)
        if floor(other) > floor(name)
    ]
    assert not upward


def test_no_module_needs_itself() -> None:
    known = modules()
    graph = {name: {other for other in imported(path) if other != name} for name, path in known.items()}
    order = list(TopologicalSorter(graph).static_order())  # raises on a circle
    assert len(order) > 100 and order.index("errors") < order.index("cli.main")


def test_nothing_imports_a_verb() -> None:
    """They are the outermost: what two of them need has a home of its own."""
    known = modules()
    assert not [
        f"{name} imports {other}"
        for name, path in known.items()
        for other in imported(path)
        if other.startswith("cli.verbs.")
    ]


def test_tests_come_by_the_door() -> None:
    """None puts something of its own in the place of a part of dgn, or reaches into what a leading ``_`` keeps private;
    other libraries and the operating system may be made to fail."""
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "setattr":
                replaced = ast.unparse(node.args[0]).strip("\"'")
                assert not replaced.startswith("dgn"), f"{path.name}:{node.lineno}"
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dgn"):
                private = [
                    alias.name for alias in node.names if alias.name.startswith("_") and alias.name != "__version__"
                ]
                assert not private, f"{path.name}:{node.lineno} imports {private}"


def test_modules_and_functions_are_read_in_one_sitting() -> None:
    """No module over 300 lines, half of them under 150; seven parameters at most, but where users hand things in."""
    lengths = sorted(len(path.read_text(encoding="utf-8").splitlines()) for path in modules().values())
    assert lengths[-1] <= 300 and lengths[len(lengths) // 2] < 150
    many = []
    for name, path in modules().items():
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef):
                asked = [each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                if len([each for each in asked if each not in ("self", "cls")]) > 7:
                    many.append(f"{name}.{node.name}")
    assert set(many) <= HANDED_IN, set(many) - HANDED_IN
