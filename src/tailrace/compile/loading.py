"""A Python file that declares pipelines, run to have them."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from traceback import extract_tb
from types import ModuleType

from tailrace.compile.pinned_modules import PinnedFolder, PinnedLoader, read_from_copy
from tailrace.errors import CompileError, SetupError
from tailrace.pipeline import Pipeline


def load_pipelines(path: Path, pinned: PinnedFolder | None = None) -> list[Pipeline]:
    """Run a Python file and return the pipelines at its top level, in order: its own, and those that it imports.

    pinned: its folder, with the copy that it and the modules beside it are read from; None reads them as they are now.
    Raises SetupError for a missing file, an error in it (with its line), or a file without a pipeline.
    """
    module = _run(path, pinned)
    base_dir = path.resolve().parent
    declared = {id(value): value for value in vars(module).values() if isinstance(value, Pipeline)}
    sources_dir = base_dir if pinned is None else pinned.copy
    found = [replace(value, base_dir=base_dir, sources_dir=sources_dir) for value in declared.values()]
    if not found:
        raise SetupError("the file declares no pipeline", where=str(path), next="add `name = tr.Pipeline(…)` to it")
    names = [pipeline.name for pipeline in found]
    if len(set(names)) < len(names):
        raise SetupError(f"two pipelines share a name: {names}", where=str(path), next="give each its own name")
    return found


def _run(path: Path, pinned: PinnedFolder | None) -> ModuleType:
    """Import the file as a module of its own name, with its folder on the path for the files beside it."""
    copy = path if pinned is None else pinned.copy_of(path.resolve())
    if pinned is not None and copy is not None and not copy.is_file():
        raise SetupError("the release's copy of it is gone", where=str(copy), next="start the server again")
    if copy is None or not copy.is_file():
        raise SetupError("no such file", where=str(path), next="name a Python file that declares a tr.Pipeline")
    path = path.resolve()
    folder = str(path.parent)
    if pinned is not None:
        read_from_copy(pinned)
    elif folder not in sys.path:
        sys.path.insert(0, folder)
    # A name of its own for each file, since annotations are looked up in the module of that name.
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    name = f"tailrace_pipeline_{path.stem}_{digest}"
    loader = None if pinned is None else PinnedLoader(name, path, copy)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    if spec is None or spec.loader is None:
        raise SetupError("not a Python file", where=str(path), next="name a .py file that declares a tr.Pipeline")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # any error of the user's own code is a mistake in the declaration
        del sys.modules[spec.name]
        if isinstance(error, CompileError):  # it names the pipeline and each argument
            raise
        raise SetupError(
            f"{type(error).__name__}: {error}", where=_place_of(error, path), next="the file must run; mend this line"
        ) from error
    return module


def _place_of(error: Exception, path: Path) -> str:
    """Return where in a file an error was raised, as path:line: the innermost line of that file."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{error.filename}:{error.lineno}"
    lines = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{path}:{lines[-1]}" if lines else str(path)
