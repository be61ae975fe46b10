"""The prediction log in the observer: predictions wait for the disk, so many of them at most."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import Final

import structlog

from tailrace.errors import SetupError
from tailrace.monitor.log.sampling import logged_part
from tailrace.monitor.log.writer import LogWriter
from tailrace.monitor.observed import Observed
from tailrace.monitor.prediction_counts import PredictionCounts
from tailrace.monitor.predictions import Predictions
from tailrace.release.pinned import Pin
from tailrace.server.observing.logged_releases import LoggedReleases
from tailrace.server.options import ServeOptions

PENDING_MAX: Final = 200_000
"""Rows that wait for a slow disk; requests that come then are lost, and counted."""
LOG_S: Final = 60.0
HANGS_S: Final = 3.0
"""How long a disk may take for a second's lines before that is told."""


class ObservedLog:
    """Keeps predictions in the log under a folder, and has the releases kept that it names. pinned: by the server."""

    def __init__(self, folder: Path, options: ServeOptions, pinned: Pin, counts: PredictionCounts) -> None:
        self._releases = LoggedReleases(folder, pinned)
        self._log = LogWriter(folder, age_s_max=options.log_retention_s, bytes_max=options.log_bytes_max)
        self._counts = counts
        self._pending: deque[Predictions] = deque()
        self._rows = 0
        self._logger = structlog.get_logger()
        self._warned_s: dict[str, float] = {}
        self._began_s: float | None = None
        """When a write began that is not over."""

    def take(self, predictions: Predictions) -> None:
        """Have those predictions wait for the disk that are logged."""
        if (found := logged_part(predictions)) is None:
            return
        if (began_s := self._began_s) is not None and time.monotonic() > began_s + HANGS_S:
            self._warn("predictions wait for the disk", "it takes nothing, and refuses nothing")
        predictions, rows = found, _rows(found)
        if self._rows + rows > PENDING_MAX:
            self._counts.lose("unwritten", len(predictions.requests))
            self._warn("predictions are not logged", "the disk does not keep up")
            return
        self._pending.append(predictions)
        self._rows += rows

    def write(self) -> None:
        """Write what waits; what the disk does not take waits for the next time. Raises OSError."""
        self._began_s = time.monotonic()
        try:
            self._write()
        finally:
            self._began_s = None

    def _write(self) -> None:
        """Write what waits, and see to the files that there are."""
        waiting = self._pending.copy()
        found = len(waiting)
        try:
            self._log.write(waiting)
        except OSError as error:
            self._warn("predictions wait for the disk", str(error))
            raise
        finally:
            written = {self._pending.popleft().release for _ in range(found - len(waiting))}
        try:
            self._releases.name(written)
        except (OSError, SetupError) as error:
            self._warn("releases of the log are not kept", str(error))
        try:
            self._log.look()
        except OSError as error:  # what was written is written
            self._warn("the log's files wait for the disk", str(error))

    def tell(self, observed: Observed) -> None:
        """Count what was written; not while it is being written."""
        if self._began_s is not None:
            return
        self._rows = sum(map(_rows, self._pending.copy()))
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
        now_s = time.monotonic()
        if now_s >= self._warned_s.get(event, -LOG_S) + LOG_S:
            self._warned_s[event] = now_s
            self._logger.warning(event, cause=cause, rows=self._rows)


def _rows(predictions: Predictions) -> int:
    """Return what predictions take of the room: a row each, and a request without one as much."""
    return max(predictions.rows, len(predictions.requests))
