"""Admission: whether a call that arrives can be answered by its deadline, learned from the batches before it."""

from __future__ import annotations

from typing import Final

DURATIONS_MAX: Final = 128
"""Batches remembered for the p95."""

ROWS_WAITING_MAX: Final = 100_000
"""However much time they have."""

QUEUE_SHARE: Final = 0.5
"""Of the time a call has beside its own batch, what a queue may take by our estimate. A longer one would serve no more
calls, only older ones, and turn an estimate that is a little out into calls that are late (bench/overload.py)."""


class Admission:
    """Holds what a batch takes (its p95, its least) and what a row takes (in a queue, at its least), as they change.

    budget_ns: of a call. p95_ns, least_ns: of a batch of one call, measured at warm-up; row_ns: a row's part of a full
    batch, of at most `rows_best` rows. Where nothing waits only the least times count: they are what brings a call in
    again after a moment in which everything was slow, and so teaches that it is over.
    """

    __slots__ = (
        "_backlog_since_ns", "_budget_ns", "_durations_ns", "_least_row_ns", "_p95_ns", "_row_ns", "_rows_best",
        "least_ns", "rows_allowed",
    )  # fmt: skip

    def __init__(self, budget_ns: int, p95_ns: int, least_ns: int, row_ns: float, rows_best: int) -> None:
        self._budget_ns = budget_ns
        self._rows_best = rows_best
        self._durations_ns = [p95_ns] * (DURATIONS_MAX * 7 // 8)
        self._p95_ns = p95_ns
        self.least_ns = min(least_ns, budget_ns // 2)  # a warm-up in a bad moment must not shed all
        self._row_ns = self._least_row_ns = max(row_ns, 1.0)
        self._backlog_since_ns = 0
        """When the last batch ended, if calls were waiting then; else 0."""
        self.rows_allowed = 1
        """With fewer rows waiting a call of one row and the usual budget is sure to be taken; with more, ask `refuses`.
        """

    def refuses(self, left_ns: int, rows_waiting: int, rows: int = 1) -> str:
        """Return why a call cannot be answered in the time it has left, as a label of the metrics; "" if it can.

        rows: its own; a call of many takes its time for itself too.
        """
        if rows_waiting >= ROWS_WAITING_MAX:
            return "queue_full"
        if rows_waiting:
            needed_ns = rows_waiting * self._row_ns / QUEUE_SHARE + self._p95_ns + (rows - 1) * self._row_ns
        else:
            needed_ns = max(self.least_ns, rows * self._least_row_ns)
        return "" if needed_ns <= left_ns else "deadline"

    def batch_ns(self, rows: int) -> float:
        """Return how long a batch of so many rows is expected to take."""
        return rows * self._row_ns

    def learn(self, started_ns: int, ended_ns: int, rows: int, blocked_ns: int, *, waiting: bool) -> None:
        """Take in what a batch took, and the queue's pace: from one batch's end to the next one's while calls wait.

        So what lies between batches counts too: reading, and refusing others. A small batch says nothing of the pace,
        an empty one of nothing. blocked_ns: how long a call may wait unseen. waiting: whether calls wait now.
        """
        if not rows:
            return
        durations, took_ns = self._durations_ns, ended_ns - started_ns
        durations.append(took_ns)
        self.least_ns = min(self.least_ns, took_ns)
        if took_ns < self._least_row_ns * rows:
            self._least_row_ns = max(took_ns / rows, 1.0)
        row_ns = (ended_ns - (self._backlog_since_ns or started_ns)) / rows
        if row_ns < self._row_ns or 2 * rows >= self._rows_best:
            self._row_ns += (row_ns - self._row_ns) * 0.05
        self._backlog_since_ns = ended_ns if waiting else 0
        if len(durations) >= DURATIONS_MAX:
            self._p95_ns = sorted(durations)[DURATIONS_MAX * 95 // 100]
            del durations[: DURATIONS_MAX // 8]
        spare_ns = self._budget_ns - blocked_ns - self._p95_ns
        self.rows_allowed = min(int(spare_ns * QUEUE_SHARE / self._row_ns), ROWS_WAITING_MAX)
