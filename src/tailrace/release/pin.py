"""A pinned release: the sources and models that one server serves, whatever becomes of the files they come from.

The server copies the modules of each file's folder at its start (`pin`), before anything of them runs. Which models
they declare is known once they run: the first worker to load them copies the models (settle.py), and says so in a file
that all others read, then and after any restart.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from tailrace.errors import SetupError
from tailrace.release.logged import is_logged
from tailrace.release.modules import find_modules
from tailrace.release.pinned import PIN, Pin, Release, write_whole
from tailrace.release.shelf import HELD, NAME_ANOTHER, SERVERS, SOURCES, Shelf, copy_files, folder_digest, hold

DEFAULT_FOLDER: Final = ".tailrace/releases"
"""Beside the first file that is served, as the default store is."""


@contextmanager
def pin(
    files: Sequence[str], root: str | None, store: str | None = None, *, warn: Callable[[str], None] = lambda text: None
) -> Iterator[Pin]:
    """Copy the modules that files declare pipelines with, and hold the copies until the end of the block.

    root: the shelf's directory; None takes one beside the store, or beside the first file. Where that cannot be written
    it is a temporary one, of which `warn` hears.
    Raises SetupError for a file that is not there, or a directory that was named and cannot be written.
    """
    paths = [Path(file).resolve() for file in files]
    modules = {path: find_modules(path) for path in paths}
    _check_names(modules)
    shelf = _open_shelf(paths[0], root, store, warn)
    descriptor = -1
    try:
        with shelf.locked():
            folder = shelf.make_folder(SERVERS)
            descriptor = hold(folder / HELD)
            pinned = Pin(
                root=str(shelf.root), folder=str(folder), number=1, files=tuple(map(str, paths)),
                folders=_copy_sources(shelf, modules),
            )  # fmt: skip
            write_whole(pinned.pin_file, pinned)
            shelf.sweep(_holds_of, is_logged)
        yield pinned
    finally:
        if descriptor >= 0:
            os.close(descriptor)
        shelf.close()


def pin_again(pinned: Pin) -> Pin:
    """Copy the modules as they are now, for another release of the server that holds a pin; it holds this one too."""
    modules = {Path(file): find_modules(Path(file)) for file in pinned.files}
    _check_names(modules)
    with shelf_of(pinned) as shelf, shelf.locked():
        numbers = [int(file.stem.removeprefix(PIN)) for file in Path(pinned.folder).glob(f"{PIN}*.json")]
        again = msgspec.structs.replace(
            pinned, number=max(numbers, default=0) + 1, folders=_copy_sources(shelf, modules)
        )
        write_whole(again.pin_file, again)
        return again


def let_go(pinned: Pin) -> None:
    """Hold a pin no more, and its release: for one that is served no longer by a server that goes on with another.

    Its number is not given again: the pin's file stays, without copies.
    """
    with shelf_of(pinned) as shelf, shelf.locked():
        pinned.release_file.unlink(missing_ok=True)
        write_whole(pinned.pin_file, msgspec.structs.replace(pinned, folders=()))
        shelf.sweep(_holds_of, is_logged)


@contextmanager
def shelf_of(pinned: Pin) -> Iterator[Shelf]:
    """Open the shelf of a pin."""
    shelf = Shelf(Path(pinned.root))
    try:
        yield shelf
    finally:
        shelf.close()


def _open_shelf(file: Path, root: str | None, store: str | None, warn: Callable[[str], None]) -> Shelf:
    """Return the shelf: at `root`, or beside the store or the file, or in the temporary directory."""
    place = Path(os.path.realpath(_beside(file, store) if root is None else root))
    try:
        return Shelf(place)
    except OSError as error:
        what = f"releases cannot be kept there: {error.strerror}"
        if root is not None:
            raise SetupError(what, where=root, next=NAME_ANOTHER) from error
    try:
        shelf = Shelf(Path(os.path.realpath(_own_temporary())))
    except OSError as error:
        raise SetupError(what, where=str(place), next=NAME_ANOTHER) from error
    warn(f"{place}: {what}; they are kept in {shelf.root}")
    return shelf


def _beside(file: Path, store: str | None) -> Path:
    """Return the directory of releases beside a store of files that was named, else beside the file."""
    scheme, colon, rest = (store or "").partition(":")
    if store and not colon:
        return Path(store).resolve().parent / "releases"
    if scheme == "lmdb" and rest:
        return Path(rest).resolve().parent / "releases"
    return file.parent / DEFAULT_FOLDER


def _own_temporary() -> Path:
    """Return this user's directory of releases under the temporary one. Raises OSError where another has taken it."""
    import tempfile  # only now: most servers need no temporary directory, and it takes its time to import

    place = Path(tempfile.gettempdir()) / f"tailrace-{os.geteuid()}"
    place.mkdir(mode=0o700, exist_ok=True)
    if place.lstat().st_uid != os.geteuid() or place.is_symlink():
        raise PermissionError(f"{place} is another user's")
    return place / "releases"


def _copy_sources(shelf: Shelf, modules: Mapping[Path, Sequence[Path]]) -> tuple[tuple[str, str], ...]:
    """Keep the modules of each file's folder; return the folders and their copies."""
    kept = []
    for folder in dict.fromkeys(file.parent for file in modules):
        files = [path for file in modules if file.parent == folder for path in modules[file]]
        kept.append((str(folder), str(_copy_folder(shelf, folder, files))))
    return tuple(kept)


def _copy_folder(shelf: Shelf, folder: Path, files: Sequence[Path]) -> Path:
    """Keep files of a folder; return where."""
    named = {str(path.relative_to(folder)): path for path in files}
    return shelf.add(SOURCES, lambda draft: copy_files(named, draft), folder_digest)


def _holds_of(server: Path) -> Iterator[Path]:
    """Give the copies that a server holds, by its files. Raises ValueError for a file that another version wrote."""
    for file in server.glob("*.json"):
        try:
            content = file.read_bytes()
            if file.name.startswith(PIN):
                yield from (Path(copy) for _, copy in msgspec.json.decode(content, type=Pin).folders)
            else:
                yield from (Path(model.copy) for model in msgspec.json.decode(content, type=Release).models)
        except (OSError, msgspec.DecodeError) as error:
            raise ValueError(f"{file} cannot be read") from error


def _check_names(modules: Mapping[Path, Sequence[Path]]) -> None:
    """Raise SetupError where files of two folders import modules of one name: a process has one of them.

    Of equal ones too: each finds data beside its own `__file__`, and the second file would be served with the first's.
    """
    found: dict[str, Path] = {}
    for file, paths in modules.items():
        for path in (each for each in paths if each.suffix != ".lock"):
            name = path.relative_to(file.parent).parts[0].partition(".")[0]
            folder = found.setdefault(name, file.parent) if path not in modules else file.parent
            if folder != file.parent:
                raise SetupError(
                    f"it imports a module {name!r}, as a file of {folder} does: a process has one of a name",
                    where=str(file),
                    next="give one of them another name, install the one that both need, put the files into one "
                    "folder, or serve them by servers of their own",
                )
