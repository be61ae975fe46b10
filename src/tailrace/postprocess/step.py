"""Layer 4 of a batch: scores to decisions, for all rows at once: bands or class labels, then rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailrace.batch import Batch
from tailrace.postprocess.bands import Bands, Labels
from tailrace.postprocess.rules import Rule
from tailrace.readers import Reader


class BoundRule:
    """A rule, what reads its arguments from a batch, and the index of the decision that it sets."""

    def __init__(self, rule: Rule, arguments: Sequence[Reader], then: int) -> None:
        self.rule = rule
        self.arguments = tuple(arguments)
        self.then = then
        self._when = rule.when
        self._reads = [reader.read for reader in arguments]

    def holds(self, batch: Batch) -> NDArray[np.bool_]:
        """Return the rows that it holds for: (rows,), or () for all or none."""
        return np.asarray(self._when(*[read(batch) for read in self._reads]), dtype=bool)


class PostprocessStep:
    """Decides a batch.

    decision: bands or labels; None decides nothing. labels: the decisions in their order; a decision is an index into
    it. rules: each with what reads its arguments from a batch.
    """

    def __init__(
        self,
        decision: Bands | Labels | None,
        labels: Sequence[str],
        rules: Sequence[tuple[Rule, Sequence[Reader]]],
    ) -> None:
        self._decides = decision is not None
        self.labels = tuple(labels)
        self._edges = np.array(decision.edges[1:] if isinstance(decision, Bands) else (), dtype=np.float64)
        self._classes = isinstance(decision, Labels)
        # Applied from the weakest to the strongest, so that the strongest is written last.
        ordered = sorted(enumerate(rules), key=lambda item: (item[1][0].priority, -item[0]))
        self.rules = tuple(BoundRule(rule, arguments, labels.index(rule.then)) for _, (rule, arguments) in ordered)

    def run(self, batch: Batch) -> None:
        """Fill `decisions` (int, shape (rows,)) and `reasons` (a tuple of codes for each row, or None)."""
        if not self._decides:
            return
        scores = batch.scores
        if self._classes and scores.ndim == 2:
            batch.decisions = scores.argmax(axis=1)
            batch.probabilities, batch.scores = scores, scores.max(axis=1)
            batch.scores.flags.writeable = False
        elif self._classes:
            batch.decisions = (scores >= 0.5).astype(np.intp)
        else:
            batch.decisions = self._edges.searchsorted(scores, side="right")
        for rule in self.rules:
            holds = rule.holds(batch)
            if np.count_nonzero(holds):  # a third of the time of any()
                decisions: Any = batch.decisions
                decisions[holds] = rule.then
                _give_reason(batch, holds, rule.rule.code)


def _give_reason(batch: Batch, holds: NDArray[np.bool_], code: str) -> None:
    """Put the code first among the reasons of the rows a rule held for: the strongest rule comes last here."""
    reasons = batch.reasons
    if reasons is None:
        reasons = batch.reasons = [()] * batch.rows
    for row in holds.nonzero()[0].tolist() if holds.ndim else range(batch.rows):
        reasons[row] = (code, *reasons[row])
