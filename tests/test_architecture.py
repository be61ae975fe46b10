"""The house keeps its shape: imports run one way, files and functions stay small."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "tailrace"

# A room may import rooms of a lower floor, and itself. Rooms of the same floor are siblings and stay apart.
FLOORS = (
    {"errors", "deadline", "batch", "readers", "delivery", "breaker", "version", "core_share", "signature", "alerting",
     "prediction_log", "traffic"},
    {"request", "features", "inference", "postprocess", "response"},
    {"codecs", "pipeline", "loop_load"},
    {"plan", "refusals"},
    {"engine"},
    {"compile"},
    {"monitor", "release", "ingest"},
    {"server", "offline", "loadtest", "recording"},
    {"deploy", "testing", "refresher", "api"},
    {"cli"},
)  # fmt: skip
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
GROUND = FLOORS[0]  # the ground floor is one room: its files may use each other
STANDALONE = {"client"}  # may import the ground floor only
LINES_PER_FILE_MAX = 400
LINES_PER_FUNCTION_MAX = 60
METHODS_PER_CLASS_MAX = 20
OF_A_TASK = {"TaskGroup", "timeout", "timeout_at", "wait_for", "current_task"}
"""Of asyncio, what works only within a task."""
IN_TASKS = {"inference/remote/pool.py"}  # makes its connections in tasks of its own
FORBIDDEN_NAMES = {"utils", "common", "helpers", "misc"}

FILES = sorted(SRC.rglob("*.py"))


def room_of(path: Path) -> str:
    """Return the room a file belongs to: its first folder, or its own name at the top."""
    parts = path.relative_to(SRC).parts
    return parts[0] if len(parts) > 1 else path.stem


def imports_of(path: Path) -> set[str]:
    """Return the full names of the tailrace modules that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("tailrace")}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "tailrace":
            found |= {node.module} if node.module != "tailrace" else {f"tailrace.{a.name}" for a in node.names}
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"
    return found


def module_of(path: Path) -> str:
    """Return the dotted name of a file."""
    parts = path.relative_to(SRC.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_file_imports_only_lower_floors(path: Path) -> None:
    """Imports run one way, and the five layers never import each other."""
    room = room_of(path)
    if room == "__init__":
        return
    for name in imports_of(path):
        other = name.split(".")[1]
        if other == room:
            continue
        if room in STANDALONE:
            assert other in GROUND, f"{path}: {room} stands alone but imports {name}"
            continue
        assert room in FLOOR_OF, f"{path}: the room {room!r} is not in the plan of the house"
        if room in GROUND and other in GROUND:
            continue
        assert FLOOR_OF[other] < FLOOR_OF[room], f"{path}: {room} must not import {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_file_is_small(path: Path) -> None:
    """A file has at most 400 lines, a function 60, a class 20 methods; each file says what it is for."""
    text = path.read_text()
    assert len(text.splitlines()) <= LINES_PER_FILE_MAX
    tree = ast.parse(text)
    assert ast.get_docstring(tree), f"{path} has no docstring"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= LINES_PER_FUNCTION_MAX, f"{path}:{node.lineno} {node.name} has {lines} lines"
        elif isinstance(node, ast.ClassDef):
            methods = sum(isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) for each in node.body)
            assert methods <= METHODS_PER_CLASS_MAX, f"{path}:{node.lineno} {node.name} has {methods} methods"


def names_of_asyncio(path: Path) -> set[str]:
    """Return what a file uses of asyncio, by name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "asyncio":
            found.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "asyncio":
            found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_inference_asks_for_no_task(path: Path) -> None:
    """A batch that finds its features in the cache comes to its model in no task (server/eager_loop.py)."""
    if room_of(path) == "inference" and path.relative_to(SRC).as_posix() not in IN_TASKS:
        assert not names_of_asyncio(path) & OF_A_TASK


def test_names_are_nouns_of_the_domain() -> None:
    """No drawer for everything."""
    assert not [path for path in FILES if path.stem in FORBIDDEN_NAMES or room_of(path) in FORBIDDEN_NAMES]


def test_modules_have_no_import_cycles() -> None:
    """Every module can be read before the ones that import it."""
    modules = {module_of(path): path for path in FILES}
    graph = {
        name: {found for found in imports_of(path) if found in modules and found != name}
        for name, path in modules.items()
        if name != "tailrace"
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"import cycle: {' -> '.join([*trail, name])}"
        if name in done:
            return
        for other in graph.get(name, ()):
            visit(other, (*trail, name))
        done.add(name)

    for name in graph:
        visit(name, ())


def test_no_two_files_of_tests_share_a_name() -> None:
    """A whole run imports them by their names alone, and fails to collect the second one."""
    names = [path.name for path in Path(__file__).parent.rglob("*.py") if path.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))
