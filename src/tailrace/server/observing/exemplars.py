"""Exemplars in the observer: which traces /metrics names beside the buckets that their calls fell into."""

from __future__ import annotations

import time

from tailrace.monitor.exemplars import Exemplars
from tailrace.monitor.observed import Observed
from tailrace.monitor.predictions import Predictions
from tailrace.server.control import CompanionAssignment
from tailrace.server.declared import load_all


class ObservedExemplars:
    """Keeps one of each bucket: of the traces that callers tell, or, with `--traces`, of those that are sent."""

    def __init__(self, task: CompanionAssignment) -> None:
        self.kept = Exemplars({each.name: each.budget.total_ns for each in load_all(task.pin)})
        self._listens = task.options.traces is None

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
