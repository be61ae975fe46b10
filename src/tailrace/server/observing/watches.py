"""Who is told of predictions in the observer: the log, and whatever else watches them."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from tailrace.monitor.observed import Observed
from tailrace.monitor.prediction_counts import PredictionCounts
from tailrace.monitor.predictions import Predictions
from tailrace.monitor.shared import MetricBlock
from tailrace.server.control import CompanionAssignment
from tailrace.server.observing.ages import ObservedAges
from tailrace.server.observing.drift import ObservedDrift
from tailrace.server.observing.exemplars import ObservedExemplars
from tailrace.server.observing.slow import ObservedSlow


class Watch(Protocol):
    """Is told of all predictions, and tells what it makes of them once a second. Its faults cost no other.

    `write` and `close` run on a thread, beside `take`; all others on the observer's loop, and hold it up for no time.
    """

    def take(self, predictions: Predictions) -> None:
        """Hear of predictions."""
        ...

    def write(self) -> None:
        """Write what is to outlive the process; once a second. Where it raises, frames are read again."""
        ...

    def tell(self, observed: Observed) -> None:
        """Fill in what is to be shown, and count what was written.

        After each `write`, also one that has raised; and once a second during one that takes longer.
        """
        ...

    def close(self) -> None:
        """Let go of what is written, after the last `write`."""
        ...


def open_watches(task: CompanionAssignment, block: MetricBlock, counts: PredictionCounts) -> tuple[Watch, ...]:
    """Return the watches that a server's options ask for. What writes most comes last."""
    options = task.options
    folder = None if options.log is None else Path(options.log)
    exemplars = ObservedExemplars(task)
    watches: list[Watch] = [ObservedDrift(task.pin, folder, block), ObservedSlow(), ObservedAges(), exemplars]
    if options.traces is not None:
        from tailrace.server.observing.traces import ObservedTraces

        watches.append(ObservedTraces(task, block, exemplars.kept))
    if folder is not None:
        from tailrace.server.observing.log import ObservedLog
        from tailrace.server.observing.outcomes import ObservedOutcomes

        watches.append(ObservedOutcomes(task.pin, folder))
        watches.append(ObservedLog(folder, options, task.pin, counts))
    return tuple(watches)
