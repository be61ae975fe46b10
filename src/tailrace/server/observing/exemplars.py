"""Exemplars in the observer: which traces /metrics names beside the buckets that their calls fell into."""

from __future__ import annotations

import time

from tailrace.monitor.exemplars import Exemplars
from tailrace.monitor.observed import Observed
from tailrace.monitor.predictions import Predictions


class ObservedExemplars:
    """Keeps one of each bucket: of the traces that callers tell, or, with `--traces`, of those that are sent.

    budgets_ns: of each pipeline. listens: whether it hears of traces itself.
    """

    def __init__(self, budgets_ns: dict[str, int], *, listens: bool) -> None:
        self.kept = Exemplars(budgets_ns)
        self._listens = listens

    def take(self, predictions: Predictions) -> None:
        """Hear of predictions."""
        if self._listens:
            self.kept.take(predictions)

    def write(self) -> None:
        """Write nothing: a successor begins anew."""

    def tell(self, observed: Observed) -> None:
        """Tell of those that are kept."""
        observed.exemplars = self.kept.told(time.time())

    def close(self) -> None:
        """Let go of nothing."""
