"""Who is told of predictions in the observer: the log, and whatever else watches them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from tailrace.monitor.counts.prediction import PredictionCounts
from tailrace.monitor.observed import Observed
from tailrace.monitor.predictions import Predictions
from tailrace.monitor.shared import MetricBlock
from tailrace.pipeline import Pipeline
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


def open_watches(
    task: CompanionAssignment, declared: Sequence[Pipeline], block: MetricBlock, counts: PredictionCounts
) -> tuple[Watch, ...]:
    """Return the watches that a server's options ask for. What writes most comes last. declared: what is served."""
    options = task.options
    folder = None if options.log is None else Path(options.log)
    budgets_ns = {each.name: each.budget.total_ns for each in declared}
    exemplars = ObservedExemplars(budgets_ns, listens=options.traces is None)
    drift = ObservedDrift(task.pin, declared, folder, block)
    watches: list[Watch] = [drift, ObservedSlow(), ObservedAges(), exemplars]
    if options.traces is not None:
        from tailrace.server.observing.traces import ObservedTraces

        watches.append(ObservedTraces(options, budgets_ns, block, exemplars.kept))
    if folder is not None:
        from tailrace.server.observing.log import ObservedLog
        from tailrace.server.observing.outcomes import ObservedOutcomes

        watches.append(ObservedOutcomes(declared, folder))
        watches.append(ObservedLog(folder, options, task.pin, counts))
    return tuple(watches)
