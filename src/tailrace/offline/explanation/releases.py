"""Finds the release that a line of the log names among the copies that servers keep, and opens it as a worker would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec

from tailrace.compile.loading import load_pipelines
from tailrace.compile.pinned_modules import PinnedFolder
from tailrace.errors import TailraceError
from tailrace.pipeline import Pipeline
from tailrace.release.pinned import Pin, Release, pinned_as
from tailrace.release.settle import with_pinned_models
from tailrace.release.shelf import SERVERS


@dataclass(frozen=True)
class OpenedRelease:
    """A release whose files are there. root: of the shelf; it may have another name than when the release was made."""

    root: Path
    pin: Pin
    release: Release

    @cached_property
    def pipelines(self) -> dict[str, Pipeline]:
        """Its pipelines by name, with its models. Runs the release's code. Raises TailraceError."""
        found = {}
        for file in map(Path, self.pin.files):
            copy = _moved(self.root, self.pin.copy_of(str(file)))
            for each in load_pipelines(file, PinnedFolder(file.parent, copy)):
                found[each.name] = with_pinned_models(each, self.release)
        return found


def find_release(release_id: str, roots: Sequence[Path]) -> OpenedRelease | str:
    """Return a release from the first shelf that has it whole, or why it is not there."""
    roots = [root.resolve() for root in roots if root.is_dir()]
    if not (places := list(map(str, roots))):
        return f"release {release_id} was not looked for: no directory of releases is known"
    why = f"release {release_id} is not among those that are kept in {', '.join(places)}"
    for root in roots:
        for server in sorted((root / SERVERS).glob("*"), reverse=True):
            for pin, release in pinned_as(release_id, server):
                opened = OpenedRelease(root, pin, _with_models_in(root, release))
                if not (gone := _gone(opened)):
                    return opened
                why = f"release {release_id} is not whole any more: {gone} is gone"
    return why


def pipeline_of(opened: OpenedRelease, name: str) -> Pipeline | str:
    """Return a pipeline of a release, or why it cannot be had."""
    try:
        found = opened.pipelines.get(name)
    except TailraceError as error:
        return f"release {opened.release.id} cannot be loaded: {one_line(error)}"
    return found if found is not None else f"release {opened.release.id} has no pipeline {name!r}"


def _moved(root: Path, copy: str) -> Path:
    """Return where a copy is on a shelf, whatever that was called when it was made: in a container, say."""
    return root.joinpath(*Path(copy).parts[-2:])


def _with_models_in(root: Path, release: Release) -> Release:
    models = tuple(msgspec.structs.replace(each, copy=str(_moved(root, each.copy))) for each in release.models)
    return msgspec.structs.replace(release, models=models)


def _gone(opened: OpenedRelease) -> str:
    """Return the first copy that is not there; nothing where all are."""
    copies = [_moved(opened.root, copy) for _, copy in opened.pin.folders]
    copies += [Path(model.copy) for model in opened.release.models]
    return next((str(copy) for copy in copies if not copy.is_dir()), "" if opened.pin.folders else "its sources")


def one_line(error: Exception) -> str:
    """Return what is wrong, without the lines that it is printed in."""
    return " ".join(str(error).split()) or type(error).__name__
