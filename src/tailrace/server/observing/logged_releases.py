"""The releases of a prediction log: it says which ones it names, and the shelf keeps them for it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tailrace.deadline import NS_PER_S
from tailrace.errors import SetupError
from tailrace.monitor.log.listing import log_files, log_pipelines
from tailrace.release.logged import forget_releases, is_told, keep_logged, name_release
from tailrace.release.pin import shelf_of
from tailrace.release.pinned import Pin

LOOK_S: Final = 60.0
DOUBT_S: Final = 3_600.0
"""By how much the time of a name may be behind that of its lines' file: a clock is set back, and a file's has ticks."""


class LoggedReleases:
    """Notes which releases a log has lines of. pinned: by the server whose predictions they are."""

    def __init__(self, log: Path, pinned: Pin) -> None:
        self._log, self._pinned = log, pinned
        self._kept: set[str] = set()
        self._unnamed: set[str] = set()
        self._looked_s = -LOOK_S

    def name(self, releases: Iterable[str]) -> None:
        """Note that lines of releases were written. Raises OSError; SetupError where the shelf cannot be written.

        What could not be noted is noted the next time.
        """
        self._unnamed |= set(releases)
        for release in sorted(self._unnamed):
            name_release(self._log, release)
            if release not in self._kept or not is_told(self._log, release):  # its log was removed meanwhile
                with shelf_of(self._pinned) as shelf:
                    keep_logged(shelf, self._pinned, release, self._log)
                self._kept.add(release)
            self._unnamed.discard(release)
        if time.monotonic() >= self._looked_s + LOOK_S:
            self._looked_s = time.monotonic()
            self._forget()

    def _forget(self) -> None:
        """Drop the releases of which all lines are swept."""
        try:
            pipelines = log_pipelines(self._log)
        except SetupError:  # there is no log yet
            return
        made_ns = [file.made_ns for pipeline in pipelines for file in log_files(self._log, pipeline)]
        forget_releases(self._log, min(made_ns, default=time.time_ns()) / NS_PER_S - DOUBT_S)
