"""The prediction log in the observer: predictions wait for the disk, so many of them at most.

A pipeline whose log is not taken has its share of the room: of two one has half, so that the other's lines are written.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from pathlib import Path
from typing import Final

import structlog

from tailrace.errors import SetupError
from tailrace.monitor.counts.prediction import PredictionCounts
from tailrace.monitor.log.sampling import logged_part
from tailrace.monitor.log.writer import LogWriter
from tailrace.monitor.observed import Observed
from tailrace.monitor.predictions import Predictions
from tailrace.monitor.seldom import Seldom
from tailrace.release.pinned import Pin
from tailrace.server.observing.logged_releases import LoggedReleases
from tailrace.server.options import ServeOptions

PENDING_MAX: Final = 200_000
"""Rows that wait for a slow disk; requests that come then are lost, and counted."""
PENDING_BYTES_MAX: Final = 256 << 20
"""Of those rows, about: requests may be long."""
HANGS_S: Final = 3.0
"""How long a disk may take for a second's lines before that is told."""


class ObservedLog:
    """Keeps predictions in the log under a folder, and has the releases kept that it names. pinned: by the server."""

    def __init__(self, folder: Path, options: ServeOptions, pinned: Pin, counts: PredictionCounts) -> None:
        self._releases = LoggedReleases(folder, pinned)
        self._log = LogWriter(folder, age_s_max=options.log_retention_s, bytes_max=options.log_bytes_max)
        self._counts = counts
        self._pending: deque[Predictions] = deque()
        self._rows: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._seldom = Seldom(structlog.get_logger())
        self._began_s: float | None = None
        """When a write began that is not over."""

    def take(self, predictions: Predictions) -> None:
        """Have those predictions wait for the disk that are logged."""
        if (found := logged_part(predictions)) is None:
            return
        if (began_s := self._began_s) is not None and time.monotonic() > began_s + HANGS_S:
            self._warn("predictions wait for the disk", "it takes nothing, and refuses nothing")
        rows, size = _rows(found), found.size_bytes
        name, waiting = found.pipeline, len(self._rows.keys() | {found.pipeline})
        has_room = self._rows[name] + rows <= PENDING_MAX // waiting
        if not has_room or self._bytes[name] + size > PENDING_BYTES_MAX // waiting:
            self._counts.lose("unwritten", len(found.requests))
            self._warn("predictions are not logged", "the disk does not keep up")
            return
        self._pending.append(found)
        self._rows[name] += rows
        self._bytes[name] += size

    def write(self) -> None:
        """Write what waits; what the disk does not take waits for the next time. Raises OSError."""
        self._began_s = time.monotonic()
        try:
            self._write()
        finally:
            self._began_s = None

    def _write(self) -> None:
        """Write what waits, and see to the files that there are, also to those of a pipeline beside one that waits."""
        waiting, fault = self._pending.copy(), None
        found = len(waiting)
        try:
            self._log.write(waiting)
        except Exception as error:
            fault = error
        left = set(map(id, waiting))
        taken = [self._pending.popleft() for _ in range(found)]
        self._pending.extendleft(reversed(waiting))
        try:
            self._releases.name({each.release for each in taken if id(each) not in left})
        except (OSError, SetupError) as error:
            self._warn("releases of the log are not kept", str(error))
        try:
            self._log.look()
        except OSError as error:  # what was written is written
            self._warn("the log's files wait for the disk", str(error))
        if isinstance(fault, OSError):
            self._warn("predictions wait for the disk", str(fault))
        if fault is not None:
            raise fault

    def tell(self, observed: Observed) -> None:
        """Count what was written; not while it is being written."""
        if self._began_s is not None:
            return
        self._rows.clear()
        self._bytes.clear()
        for found in self._pending.copy():
            self._rows[found.pipeline] += _rows(found)
            self._bytes[found.pipeline] += found.size_bytes
        self._counts.set_logged(self._log.logged.copy())
        unfit, fault = self._log.take_unfit()
        if unfit:
            self._counts.lose("unreadable", unfit)
            self._warn("predictions are not logged", fault)

    def close(self) -> None:
        """Make the files whole."""
        self._log.close()

    def _warn(self, event: str, cause: str) -> None:
        """Log a fault, each at most once a minute."""
        self._seldom.warn(event, cause=cause, rows=self._rows.total())


def _rows(predictions: Predictions) -> int:
    """Return what predictions take of the room: a row each, and a request without one as much."""
    return max(predictions.rows, len(predictions.requests))
