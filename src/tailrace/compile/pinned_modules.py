"""Modules of a folder, read from a copy of it: what is served stays as it was when the release was made.

A module keeps the place it was copied from as its `__file__`, so that data beside it is found there; its code is the
copy's, and so is a package's `__path__`: what the folder has gained meanwhile is not found. A compiled module's
`__file__` is the copy, since it is the file that the system loads: data beside it is not found by it. Modules that come
from elsewhere, by a path that the code itself has added say, are no part of it (`unpinned_modules`).
"""

from __future__ import annotations

import site
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple


class PinnedFolder(NamedTuple):
    """A folder, and the copy of its modules that is read in its place. Both are absolute."""

    original: Path
    copy: Path

    def copy_of(self, path: Path) -> Path | None:
        """Return where a path of the folder is in the copy; None for a path elsewhere."""
        return self.copy / path.relative_to(self.original) if path.is_relative_to(self.original) else None

    def original_of(self, path: Path) -> Path | None:
        """Return where a path of the copy was copied from; None for a path elsewhere."""
        return self.original / path.relative_to(self.copy) if path.is_relative_to(self.copy) else None


class PinnedLoader(SourceFileLoader):
    """Loads one module from the copy of its file; without the bytecode cache, which belongs to the file."""

    def __init__(self, fullname: str, original: Path, copy: Path) -> None:
        super().__init__(fullname, str(original))
        self._copy = copy

    def get_data(self, path: str) -> bytes:
        """Return the copy of the module's source, or any other file as it is."""
        return self._copy.read_bytes() if path == self.path else super().get_data(path)

    def path_stats(self, path: str) -> Mapping[str, Any]:
        """Say that nothing is known of the file, so that no cache is looked for."""
        raise OSError("a pinned module has no cache")


class PinnedFinder:
    """Finds the modules of one folder in its copy."""

    def __init__(self, folder: PinnedFolder) -> None:
        self.folder = folder

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module that the copy has; None for any other."""
        name = fullname.rpartition(".")[2]
        parents = [self.folder.copy] if path is None else [Path(entry) for entry in path]
        for parent in parents:
            original = self.folder.original_of(parent)
            if original is not None and (spec := self._spec(fullname, original / name, parent / name, path)):
                return spec
        return None

    def _spec(self, fullname: str, original: Path, copy: Path, path: Sequence[str] | None) -> ModuleSpec | None:
        """Return the spec of the module of that name in one folder: a package, a file, a compiled file, a folder."""
        if (copy / "__init__.py").is_file():
            loader = PinnedLoader(fullname, original / "__init__.py", copy / "__init__.py")
            return spec_from_file_location(
                fullname, original / "__init__.py", loader=loader, submodule_search_locations=[str(copy)]
            )
        if copy.with_suffix(".py").is_file():
            file = original.with_suffix(".py")
            return spec_from_file_location(fullname, file, loader=PinnedLoader(fullname, file, copy.with_suffix(".py")))
        for suffix in EXTENSION_SUFFIXES:
            if (compiled := copy.with_name(copy.name + suffix)).is_file():
                return spec_from_file_location(fullname, compiled)
        if copy.is_dir() and PathFinder.find_spec(fullname, path) is None:
            spec = ModuleSpec(fullname, None, is_package=True)
            spec.submodule_search_locations = [str(copy)]
            return spec
        return None


def read_from_copy(folder: PinnedFolder) -> None:
    """Have this process import the folder's modules from its copy, before any installed one of the same name."""
    if any(isinstance(finder, PinnedFinder) and finder.folder == folder for finder in sys.meta_path):
        return
    places = [place for place, finder in enumerate(sys.meta_path) if finder is PathFinder]
    sys.meta_path.insert(places[0] if places else len(sys.meta_path), PinnedFinder(folder))


def unpinned_modules() -> list[str]:
    """Return the modules that this process has loaded which are neither pinned nor installed, by name.

    A worker that is replaced reads these as they are then. A compiled module is pinned where its file is in a copy.
    """
    pinned = [finder.folder.copy for finder in sys.meta_path if isinstance(finder, PinnedFinder)]
    installed = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    installed += [Path(__file__).parents[1], *map(Path, site.getsitepackages()), Path(site.getusersitepackages())]
    return sorted(name for name, module in list(sys.modules.items()) if _is_unpinned(module, [*pinned, *installed]))


def _is_unpinned(module: ModuleType, known: Sequence[Path]) -> bool:
    """Say whether a module is the team's own, and not read from a copy. known: folders of copies and installations."""
    spec, file = getattr(module, "__spec__", None), getattr(module, "__file__", None)
    if spec is None or file is None or isinstance(spec.loader, PinnedLoader) or module.__name__ == "__main__":
        return False
    return not any(Path(file).is_relative_to(folder) for folder in known)
