"""The package's rooms: data flows one way, and so do imports, lazy ones too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
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


def modules() -> dict[str, Path]:
    """By their names below ``dgn``."""
    found = {}
    for path in ROOT.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def imported(path: Path, known: dict[str, Path]) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    skipped = {id(inner) for node in typing for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dgn.") and id(node) not in skipped:
            home = str(node.module).removeprefix("dgn.")
            for alias in node.names:
                yield f"{home}.{alias.name}" if f"{home}.{alias.name}" in known else home


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
        for other in imported(path, known)
        if floor(other) > floor(name)
    ]
    assert not upward


def test_no_module_needs_itself() -> None:
    known = modules()
    graph = {name: {other for other in imported(path, known) if other != name} for name, path in known.items()}
    order = list(TopologicalSorter(graph).static_order())  # raises on a circle
    assert len(order) > 100 and order.index("errors") < order.index("cli.main")


def test_nothing_imports_a_verb() -> None:
    """They are the outermost: what two of them need has a home of its own."""
    known = modules()
    assert not [
        f"{name} imports {other}"
        for name, path in known.items()
        for other in imported(path, known)
        if other.startswith("cli.verbs.")
    ]
