"""Freshness in the observer: how old the rows were that requests have been served from."""

from __future__ import annotations

import time

from tailrace.monitor.ages import Ages
from tailrace.monitor.observed import Observed
from tailrace.monitor.predictions import Predictions


class ObservedAges:
    """Tells how old each batch view's rows are."""

    def __init__(self) -> None:
        self._ages = Ages()

    def take(self, predictions: Predictions) -> None:
        """Hear of predictions."""
        self._ages.take(predictions, time.monotonic())

    def write(self) -> None:
        """Write nothing: a successor begins anew."""

    def tell(self, observed: Observed) -> None:
        """Tell how old rows are by now."""
        observed.ages = self._ages.told(time.monotonic())

    def close(self) -> None:
        """Let go of nothing."""
