"""Which modules of its own folder a Python file imports, found by reading it; nothing of it runs.

Every import counts, also one inside a function, and `import_module("name")` with a name that stands there. A package is
taken whole, since what it imports of itself may be named anywhere; what is installed is no part of the folder.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Final

from tailrace.errors import SetupError

FILES_MAX: Final = 10_000
"""Files of one folder's modules: more is no source code, but an installation that lies in it."""

_SKIPPED: Final = frozenset({"__pycache__", "node_modules", "site-packages"})


def find_modules(file: Path) -> list[Path]:
    """Return a file and the files of the modules that it imports from its folder, themselves or through each other.

    The numbers of messages that are kept beside it go along: by others, what is sent means something else.
    Raises SetupError for a file that is not there, or over `FILES_MAX` files.
    """
    if not file.is_file():
        raise SetupError("no such file", where=str(file), next="name a Python file that declares a tr.Pipeline")
    folder = file.parent
    found: set[Path] = set()
    names: set[str] = set()
    packages: set[Path] = set()
    waiting = [file]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        if len(found) > FILES_MAX:
            raise SetupError(
                f"the file imports over {FILES_MAX:,} files from its folder", where=str(folder),
                next="move it away from what is installed, or install the packages that it imports",
            )  # fmt: skip
        if path.suffix == ".py":
            for name in set(_imported_names(path, folder)) - names:
                names.add(name)
                waiting += _files_of(name, folder, packages)
    return sorted(found.union(folder.glob("*.proto.lock")))


def _imported_names(path: Path, folder: Path) -> Iterator[str]:
    """Give the absolute names of the modules that a file may import; none of a file that is no Python."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # whoever runs it says so, with its line
        return
    package = path.relative_to(folder).parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            around = package[: len(package) + 1 - node.level] if node.level else ()
            parent = ".".join(filter(None, (*around, node.module)))
            yield parent
            yield from (f"{parent}.{alias.name}" if parent else alias.name for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and _is_import(node.func):
            named = [each.value for each in node.args[:2] if isinstance(each, ast.Constant)]
            names = [name for name in named if isinstance(name, str)]
            if names:
                yield names[0] if not names[0].startswith(".") else f"{names[-1]}.{names[0].lstrip('.')}"


def _is_import(function: ast.expr) -> bool:
    """Say whether a call is one that imports the module it names."""
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in {"import_module", "__import__"}


def _files_of(name: str, folder: Path, packages: set[Path]) -> Iterator[Path]:
    """Give the files of the module of that name in a folder, and of the packages around it; none if it has none.

    packages: those that were given already, whose files are not given again; a new one is added.
    """
    at = folder
    for part in filter(None, name.split(".")):
        if (at / part / "__init__.py").is_file():
            if at / part not in packages:
                packages.add(at / part)
                yield from _package_files(at / part)
            return
        if (module := at / f"{part}.py").is_file():
            yield module
            return
        for suffix in EXTENSION_SUFFIXES:
            if (compiled := at / f"{part}{suffix}").is_file():
                yield compiled
                return
        at = at / part
        if not at.is_dir():
            return


def _package_files(package: Path) -> Iterator[Path]:
    """Give the code of a package and of those within it."""
    for path in sorted(package.iterdir()):
        if path.is_dir():
            if path.name not in _SKIPPED and not path.name.startswith("."):
                yield from _package_files(path)
        elif path.suffix in {".py", ".so"} and not path.name.startswith("."):
            yield path
