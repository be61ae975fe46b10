"""What other packages do not make public is read in few places, each known and guarded."""

from __future__ import annotations

import ast
from pathlib import Path

SRC = Path(__file__).parents[1] / "src" / "tailrace"

NAMED_TUPLES = {"_asdict", "_fields", "_replace"}
"""Documented, and named so that no field is called like them."""
KNOWN = {
    "inference/backends/onnx.py: _sess",  # tried at every load, else the public method (backends/test_onnx.py)
    "release/trees.py: _predictors",  # scikit-learn is pinned, and other trees are told (release/test_conversions.py)
    "release/trees.py: _baseline_prediction",
}


def private_names(path: Path) -> set[str]:
    """Return the private attributes that a file reads of what is neither `self` nor `cls`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            own = isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}
            name = "" if own else node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"getattr", "hasattr"}:
            argument = node.args[1]
            name = argument.value if isinstance(argument, ast.Constant) and isinstance(argument.value, str) else ""
        else:
            continue
        if name.startswith("_") and not name.endswith("__") and name not in NAMED_TUPLES:
            found.add(name)
    return found


def test_private_api_of_frameworks_is_read_where_it_is_guarded() -> None:
    """A new use of what is not public in release/ or inference/ needs a guard, and its line here; an old one goes."""
    rooms = [path for room in ("inference", "release") for path in sorted((SRC / room).rglob("*.py"))]
    assert {f"{path.relative_to(SRC)}: {name}" for path in rooms for name in private_names(path)} == KNOWN
