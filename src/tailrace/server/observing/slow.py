"""The slowest requests in the observer: kept in memory alone, for whoever looks at the console."""

from __future__ import annotations

import time

from tailrace.monitor.observed import Observed
from tailrace.monitor.predictions import Predictions
from tailrace.monitor.slowest import Slowest


class ObservedSlow:
    """Tells which requests took longest."""

    def __init__(self) -> None:
        self._slowest = Slowest()

    def take(self, predictions: Predictions) -> None:
        """Hear of predictions."""
        self._slowest.take(predictions, time.monotonic())

    def write(self) -> None:
        """Write nothing: a successor begins anew."""

    def tell(self, observed: Observed) -> None:
        """Tell of the slowest by now."""
        observed.slow = self._slowest.find(time.monotonic())

    def close(self) -> None:
        """Let go of nothing."""
