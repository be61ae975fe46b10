"""Which files a prediction log has: by pipeline, by the hour in which they were written, drafts among them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tailrace.deadline import NS_PER_S
from tailrace.errors import SetupError
from tailrace.monitor.log.names import DRAFT, HOUR, SEALED

_NAME: Final = re.compile(r"(\d+)-(\d+)-(\d+)")
_HOUR_NS: Final = 3_600 * NS_PER_S
LATE_NS_MAX: Final = _HOUR_NS
"""By how much a line may be written after its answer, and still be found by the time of that."""
_NS_PER_US: Final = 1_000
_LISTINGS_MAX: Final = 5


@dataclass(frozen=True, slots=True, order=True)
class LogFile:
    """One file of a log. made_ns: when it was begun, since the epoch; process: that did; number: among its files.

    hour_ns: the beginning of the hour that its folder stands for. Files sort by when they were begun.
    """

    made_ns: int
    process: int
    number: int
    hour_ns: int
    path: Path

    @property
    def is_draft(self) -> bool:
        """Whether lines may still be added to it."""
        return self.path.suffix == DRAFT

    @property
    def is_gone(self) -> bool:
        """Whether it is there no longer: it was swept, or it is a draft that became whole."""
        return not self.path.exists()

    def sealed(self) -> LogFile:
        """Return what a draft becomes when it is whole."""
        return LogFile(self.made_ns, self.process, self.number, self.hour_ns, self.path.with_suffix(SEALED))


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A file that is not read, and why."""

    path: Path
    why: str


def log_pipelines(root: Path) -> list[str]:
    """Return the pipelines that a log has lines of, by name. Raises SetupError where there is no such directory."""
    try:
        folders = sorted(each for each in root.iterdir() if each.is_dir())
        return [folder.name for folder in folders if any(True for _ in _hours(folder))]
    except OSError as error:
        raise _unreadable(error, root) from None


def chosen_log(root: Path, pipeline: str | None) -> str:
    """Return the pipeline whose log is meant: the one named, or the only one. Raises SetupError."""
    known = log_pipelines(root)
    if not known:
        raise SetupError("the log has no lines", where=str(root),
                         next="serve with --log DIR, and send a request; lines come within a second")  # fmt: skip
    pipeline = known[0] if pipeline is None and len(known) == 1 else pipeline
    if pipeline not in known:
        what = "the log has several pipelines" if pipeline is None else f"the log has no pipeline {pipeline!r}"
        raise SetupError(what, where=str(root), next=f"name one of {', '.join(known)}")
    try:
        log_files(root, pipeline)
    except OSError as error:
        raise _unreadable(error, root) from None
    return pipeline


def _unreadable(error: OSError, root: Path) -> SetupError:
    what = f"the log cannot be read: {error.strerror or error}"
    if isinstance(error, PermissionError):
        return SetupError(what, where=error.filename or str(root), next="read it as the user that the server runs as")
    return SetupError(what, where=str(root), next="give the directory that `tailrace serve --log` was given")


def log_files(root: Path, pipeline: str, *, since_ns: int | None = None, until_ns: int | None = None) -> list[LogFile]:
    """Return the files of a pipeline's log that may have lines of a time, those begun first in front.

    since_ns, until_ns: of answers, since the epoch; a line is written after its answer, seldom much later.
    A draft that became whole meanwhile is there once, as what it became. Raises OSError for a folder that cannot be
    read.
    """
    found = _listed(root / pipeline, since_ns, until_ns)
    for _ in range(_LISTINGS_MAX):  # while a draft becomes whole, one reading of a folder may miss both of its names
        again = _listed(root / pipeline, since_ns, until_ns)
        if again == found:
            break
        found = again
    return sorted(found.values())


def _listed(folder: Path, since_ns: int | None, until_ns: int | None) -> dict[Path, LogFile]:
    found: dict[Path, LogFile] = {}
    for hour, hour_ns in _hours(folder):
        if (since_ns is not None and hour_ns + _HOUR_NS <= since_ns) or (
            until_ns is not None and hour_ns > until_ns + LATE_NS_MAX
        ):
            continue
        try:
            paths = list(hour.iterdir())
        except FileNotFoundError:  # it was swept
            continue
        for path in paths:
            match = _NAME.fullmatch(path.stem)
            if match is None or path.suffix not in {DRAFT, SEALED}:
                continue
            stem = path.with_suffix("")
            if path.suffix == SEALED or stem not in found:
                made_us, process, number = map(int, match.groups())
                found[stem] = LogFile(made_us * _NS_PER_US, process, number, hour_ns, path)
    return found


def _hours(folder: Path) -> Iterator[tuple[Path, int]]:
    """Give the folders of hours, each with the time of its beginning."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        try:
            begin = datetime.strptime(path.name, HOUR).replace(tzinfo=UTC)
        except ValueError:  # labels, and what else stands there
            continue
        yield path, int(begin.timestamp()) * NS_PER_S
