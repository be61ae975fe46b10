"""Scores to decisions, for all rows of a batch at once: bands or class labels, then rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailrace.postprocess.bands import Bands, Labels
from tailrace.postprocess.rules import Rule
from tailrace.types import Batch

ColumnReader = Callable[[Batch], Any]
"""From a batch to one argument of a rule: a column, or an object with columns."""


class Decider:
    """The compiled postprocess layer.

    labels: the decisions in their order; a decision is an index into it. rules: each with what reads its arguments
    from a batch. The index array is written to `batch.decisions`, the reasons to `batch.reasons`.
    """

    def __init__(
        self,
        decision: Bands | Labels | None,
        labels: Sequence[str],
        rules: Sequence[tuple[Rule, Sequence[ColumnReader]]],
    ) -> None:
        self.labels = np.array(labels, dtype=object)
        self._edges = np.array(decision.edges[1:] if isinstance(decision, Bands) else (), dtype=np.float64)
        self._classes = isinstance(decision, Labels)
        # Applied from the weakest to the strongest, so that the strongest is written last.
        ordered = sorted(enumerate(rules), key=lambda item: (item[1][0].priority, -item[0]))
        self._rules = [(rule, tuple(readers), labels.index(rule.then)) for _, (rule, readers) in ordered]

    def decide(self, batch: Batch) -> None:
        """Fill `batch.decisions` (int, shape (rows,)) and `batch.reasons` (a tuple of codes for each row, or None)."""
        scores = batch.scores
        if self._classes and scores.ndim == 2:
            batch.decisions = scores.argmax(axis=1)
            batch.probabilities, batch.scores = scores, scores.max(axis=1)
        elif self._classes:
            batch.decisions = (scores >= 0.5).astype(np.intp)
        else:
            batch.decisions = self._edges.searchsorted(scores, side="right")
        for rule, readers, then in self._rules:
            holds = np.asarray(rule.when(*[read(batch) for read in readers]), dtype=bool)
            if np.count_nonzero(holds):  # a third of the time of any()
                batch.decisions[holds] = then
                _give_reason(batch, holds, rule.code)

    def functions(self) -> list[tuple[Rule, tuple[ColumnReader, ...]]]:
        """Return each rule with what reads its arguments."""
        return [(rule, readers) for rule, readers, _ in self._rules]

    def decision_column(self, batch: Batch) -> NDArray[Any]:
        """Return the label of each row."""
        column: NDArray[Any] = self.labels[batch.decisions]
        return column


def _give_reason(batch: Batch, holds: NDArray[np.bool_], code: str) -> None:
    """Put the code first among the reasons of the rows a rule held for: the strongest rule comes last here."""
    reasons = batch.reasons
    if reasons is None:
        reasons = batch.reasons = [()] * batch.rows
    for row in holds.nonzero()[0].tolist() if holds.ndim else range(batch.rows):
        reasons[row] = (code, *reasons[row])
