"""Freshness in the observer: how old the rows were that requests have been served from."""

from __future__ import annotations

import time

import structlog

from tailrace.monitor.ages import Ages
from tailrace.monitor.observed import Observed
from tailrace.monitor.predictions import Predictions


class ObservedAges:
    """Tells how old each batch view's rows are."""

    def __init__(self) -> None:
        self._ages = Ages()
        self._is_broken = False

    def take(self, predictions: Predictions) -> None:
        """Hear of predictions. A fault ends the watch and is logged: what else is observed goes on without it."""
        if self._is_broken:
            return
        try:
            self._ages.take(predictions, time.monotonic())
        except Exception as error:
            self._is_broken = True
            structlog.get_logger().error("ages of rows are not watched", error=repr(error), exc_info=error)

    def write(self) -> None:
        """Write nothing: a successor begins anew."""

    def tell(self, observed: Observed) -> None:
        """Tell how old rows are by now."""
        observed.ages = self._ages.told(time.monotonic())

    def close(self) -> None:
        """Let go of nothing."""
