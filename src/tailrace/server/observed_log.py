"""The prediction log in the observer: predictions wait for the disk, so many of them at most."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import Final

import structlog

from tailrace.monitor.log.writer import LogWriter
from tailrace.monitor.observed import Observed
from tailrace.monitor.prediction_counts import PredictionCounts
from tailrace.monitor.predictions import Predictions
from tailrace.server.options import ServeOptions

PENDING_MAX: Final = 200_000
"""Requests that wait for a slow disk; those that come then are lost, and counted."""
LOG_S: Final = 60.0


class ObservedLog:
    """Keeps predictions in the log under a folder."""

    def __init__(self, folder: Path, options: ServeOptions, counts: PredictionCounts) -> None:
        self._log = LogWriter(folder, age_s_max=options.log_retention_s, bytes_max=options.log_bytes_max)
        self._counts = counts
        self._pending: deque[Predictions] = deque()
        self._requests = 0
        self._is_open = False
        self._logger = structlog.get_logger()
        self._logged_s = -LOG_S

    def take(self, predictions: Predictions) -> None:
        """Have predictions wait for the disk."""
        requests = len(predictions.requests)
        if self._requests + requests > PENDING_MAX:
            self._counts.lose("unwritten", requests)
            self._warn("predictions are not logged", "the disk does not keep up")
            return
        self._pending.append(predictions)
        self._requests += requests

    def write(self) -> None:
        """Write what waits; what the disk does not take waits for the next time. Raises OSError."""
        waiting = self._pending.copy()
        found = len(waiting)
        try:
            if not self._is_open:
                self._log.open()
                self._is_open = True
            self._log.write(waiting)
            self._log.look()
        except OSError as error:
            self._warn("predictions wait for the disk", str(error))
            raise
        finally:
            for _ in range(found - len(waiting)):
                self._pending.popleft()

    def tell(self, observed: Observed) -> None:
        """Count what was written."""
        self._requests = sum(len(each.requests) for each in self._pending)
        self._counts.set_logged(self._log.logged)
        unfit, fault = self._log.take_unfit()
        if unfit:
            self._counts.lose("unreadable", unfit)
            self._warn("predictions are not logged", fault)

    def close(self) -> None:
        """Make the files whole."""
        self._log.close()

    def _warn(self, event: str, cause: str) -> None:
        """Log a fault, at most once a minute."""
        now_s = time.monotonic()
        if now_s >= self._logged_s + LOG_S:
            self._logged_s = now_s
            self._logger.warning(event, cause=cause, requests=self._requests)
