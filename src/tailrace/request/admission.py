"""Admission: whether a call that arrives can be answered by its deadline, learned from the batches before it.

A queue is judged by how fast it really drains: the time from one batch's end to the next one's, whatever the loop did
in between. How far such predictions were off is kept back as a margin, and a queue that does not go away is allowed
less and less of a call's time, since a longer one serves no more calls, only older ones (Nichols and Jacobson 2012 on
standing queues).
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Final

from tailrace.deadline import NS_PER_MS

DURATIONS_MAX: Final = 128
"""Batches remembered for the p95."""

ROWS_WAITING_MAX: Final = 100_000
"""However much time they have."""

QUEUE_SHARE: Final = 0.4
"""Of the time a call has beside its own batch, what a queue may take by our estimate."""
QUEUE_SHARE_MIN: Final = 0.2
"""What a queue may take that has been there for long; one that has been there for a budget begins to shrink."""
BATCHES_SHARE: Final = 0.8
"""What a queue may take of which two full batches, one that runs and the next, are a large part: with fewer rows each
would cost more."""
BATCHING_GAIN_MIN: Final = 2
"""How many times a row of a full batch a batch of one takes, where rows are cheaper together."""

MEDIANS_MAX: Final = 2
"""A batch is expected to take so many times the median at most. Beside other programs one in ten takes ten times as
long: to refuse all for that would answer none of the nine."""

WINDOW_NS: Final = 10 * NS_PER_MS
"""What the drain of a queue is averaged over, at least; a slow batch may take longer."""
DRAIN_GAIN: Final = 0.25
"""Of the difference to a new window's drain, what the estimate moves."""

MARGIN_SHARE_MAX: Final = 0.25
"""Of the budget, what may be kept back for predictions that were off."""

LEAST_BATCHES: Final = 64
"""Batches after which a least time begins to be forgotten; after as many more it is."""
PROBE_NS: Final = 100 * NS_PER_MS
"""Without a batch for so long, a call that seems to have too little time is taken all the same, to learn from it."""


Least = tuple[float, float]
"""The least time of a batch, and of a row."""

_NONE_YET: Final = (inf, inf)


class Admission:
    """What one engine has learned of its batches and its queue, and what a call needs by it.

    budget_ns: of a call. p95_ns, least_ns: of a batch of one call; row_ns: a row's part of a full batch, which has
    `rows_best` rows. All times are of the first moment, measured before traffic; they follow what is learned.
    missing_of: of a model on a thread, how much longer a full batch takes than one of so many rows; None of any other.

    rows_waiting: rows taken and not yet answered, in the inbox or in a running batch. A call of one row that has more
    time than `rows_waiting * price_ns + base_ns` is taken without asking `refuses`. soonest_ns: the least time in which
    a batch can be expected to be answered.
    """

    def __init__(
        self,
        budget_ns: int,
        p95_ns: int,
        least_ns: int,
        row_ns: float,
        rows_best: int,
        missing_of: Callable[[int], int] | None = None,
    ) -> None:
        self.rows_waiting = 0
        self.rows_best = rows_best
        self._missing_of = missing_of
        self._budget_ns = budget_ns
        self._durations_ns = [p95_ns] * (DURATIONS_MAX * 7 // 8)
        self._p95_ns = p95_ns
        # A warm-up in a bad moment must not shed all.
        self.row_ns = max(row_ns, 1.0)
        self._least: Least = (min(least_ns, budget_ns // 2), min(self.row_ns, budget_ns / 2))
        self._former: Least = self._least
        self._floor: Least = self._least
        """What a batch and a row took at least: of late, in the last round of `LEAST_BATCHES`, and ever."""
        self._recent: Least = _NONE_YET
        self.soonest_ns = int(self._least[0])
        self._is_probing = False
        self._batches = 0
        self._ended_ns = 0
        self._backlog_since_ns = 0
        """When the last batch ended, if calls were waiting then; else 0."""
        self._standing_since_ns = 0
        """Since when calls have been waiting at the end of every batch; 0 when none are."""
        self._window_ns, self._window_rows = 0, 0
        self._done = 0
        self._promise_rows, self._promise_ns = 0, 0
        self._margin_ns = 0
        self._others_ns = 0.0
        self.price_ns = self.base_ns = 0.0
        self._share = QUEUE_SHARE
        self._set_price()

    @property
    def expected_ns(self) -> float:
        """What is waiting is expected to take."""
        return self.rows_waiting * self.row_ns

    @property
    def turn_ns(self) -> float:
        """How long other engines of the loop may wait for this one's next batch."""
        return min(self.rows_waiting, self.rows_best) * self.row_ns

    def refuses(self, left_ns: int, now_ns: int, rows: int = 1, weight: float = 1.0) -> str:
        """Return why a call cannot be answered in the time it has left, as a label of the metrics; "" if it can.

        rows: its own; a call of many takes its time for itself too. weight: what each row that waits counts for
        (priority.py). With nothing waiting only the least times of late count: they let a call in again after a moment
        in which everything was slow, and so show that it is over.
        """
        if self.rows_waiting >= ROWS_WAITING_MAX:
            return "queue_full"
        if self.rows_waiting:
            waiting_ns, own_ns = self.rows_waiting * self.price_ns, self.base_ns + (rows - 1) * self.row_ns
            if waiting_ns * weight + own_ns <= left_ns:
                return ""
            return "deadline" if waiting_ns + own_ns > left_ns else "priority"
        if _longest_ns(self._least, rows) <= left_ns:
            return ""
        if _longest_ns(self._floor, rows) > left_ns or now_ns - self._ended_ns < PROBE_NS:
            return "deadline"
        self.soonest_ns, self._is_probing = int(self._floor[0]), True
        return ""

    def fits_before(self, rows_before: int, left_ns: int, rows: int, last_left_ns: int) -> bool:
        """Return whether a call can be answered in time where only some rows go before it, and the last of all too.

        rows_before: those that run, and those that are more urgent. last_left_ns: what the last call has left.
        """
        if self.rows_waiting >= ROWS_WAITING_MAX:
            return False
        needed_ns = rows_before * self.price_ns + self.base_ns + (rows - 1) * self.row_ns
        whole_ns = (self.rows_waiting + rows) * self.row_ns + self._p95_ns
        return needed_ns <= left_ns and whole_ns <= last_left_ns

    def batch_ns(self, rows: int) -> float:
        """Return how long a batch of so many rows is expected to take."""
        return rows * self.row_ns

    def promise(self, now_ns: int) -> None:
        """Note when the last row that waits now should be answered, to see later how far that was off."""
        if not self._promise_rows:
            self._promise_rows = self._done + self.rows_waiting
            self._promise_ns = now_ns + int(self.rows_waiting * self.row_ns) + self._p95_ns

    def drop(self, rows: int) -> None:
        """Take out rows that waited and are refused."""
        self.rows_waiting -= rows
        self._done += rows

    def learn(self, started_ns: int, ended_ns: int, rows: int, *, waiting: bool, failed: bool = False) -> None:
        """Take out the rows of a batch that has ended, and learn what it took and how fast the queue drains.

        waiting: whether calls wait now. failed: a batch with a fault says nothing of what others take, but the queue
        waits for it all the same.
        """
        self.rows_waiting -= rows
        self._done += rows
        self._ended_ns = ended_ns
        took_ns = ended_ns - started_ns
        if not failed:
            self._durations_ns.append(took_ns)
            self._batches += 1
            least_ns, least_row_ns = self._recent
            if (
                took_ns < least_ns
                or took_ns < least_row_ns * rows
                or self._batches == LEAST_BATCHES
                or self._is_probing
            ):
                self._learn_least((took_ns, max(took_ns / rows, 1.0)))
        elapsed_ns = ended_ns - self._backlog_since_ns if self._backlog_since_ns else took_ns
        # A small batch that takes long says nothing of how a queue drains; one that is halved for its faults does.
        if failed or 2 * rows >= self.rows_best or elapsed_ns <= self.row_ns * rows:
            self._window_ns += elapsed_ns
            self._window_rows += rows
            if self._window_ns >= WINDOW_NS:
                self._learn_drain()
        elif self._missing_of is not None and (missing_ns := self._missing_of(rows)):
            self._learn_few(elapsed_ns + missing_ns)
        if self._promise_rows and self._done >= self._promise_rows:
            self._learn_margin(ended_ns - self._promise_ns)
        if not waiting:
            self._backlog_since_ns = self._standing_since_ns = 0
            if self._share < QUEUE_SHARE or self._margin_ns:
                self._share = QUEUE_SHARE
                self._shrink_margin()
        else:
            self._learn_standing(ended_ns)
        if len(self._durations_ns) >= DURATIONS_MAX:
            self._learn_p95()

    def learn_slice(self, started_ns: int, now_ns: int, rows: int) -> None:
        """Take out rows of a batch that runs on, or has ended, and learn what they took since others were done.

        started_ns: of the batch. What such a batch takes as a whole says nothing of what others take.
        """
        self.rows_waiting -= rows
        self._done += rows
        self._window_ns += now_ns - max(started_ns, self._ended_ns)
        self._window_rows += rows
        self._ended_ns = now_ns
        if self._window_rows and self._window_ns >= WINDOW_NS:
            self._learn_drain()

    def take_turns_with(self, others_ns: float) -> None:
        """Learn how long other engines of the loop hold up a batch of this one."""
        self.base_ns += others_ns - self._others_ns
        self._others_ns = others_ns

    def _learn_few(self, full_ns: int) -> None:
        """Take in a small batch as what a full one would have taken.

        Few are let in where a row seems dear; were it so because they are few, it stayed so.
        """
        self._window_ns += full_ns
        self._window_rows += self.rows_best
        if self._window_ns >= WINDOW_NS:
            self._learn_drain()

    def _learn_p95(self) -> None:
        """Learn the 95th percentile of what batches take; what stalled is none, however often the machine does."""
        durations_ns = sorted(self._durations_ns)
        median_ns, p95_ns = durations_ns[DURATIONS_MAX // 2], durations_ns[DURATIONS_MAX * 95 // 100]
        self._p95_ns = min(p95_ns, MEDIANS_MAX * median_ns, max(median_ns, self._budget_ns // 2))
        del self._durations_ns[: DURATIONS_MAX // 8]
        self._set_price()

    def _learn_least(self, took: Least) -> None:
        """Learn the least times, and forget those of two rounds ago."""
        self._recent = _lesser(self._recent, took)
        self._floor = _lesser(self._floor, took)
        if self._batches >= LEAST_BATCHES:
            self._batches, self._former, self._recent = 0, self._recent, _NONE_YET
        batch_ns, row_ns = _lesser(self._recent, self._former)
        self._least = (min(batch_ns, self._budget_ns // 2), min(row_ns, self._budget_ns / 2))
        self.soonest_ns, self._is_probing = int(self._least[0]), False

    def _learn_drain(self) -> None:
        """Learn what a row takes of a queue's time, from a window of batches."""
        self.row_ns += (self._window_ns / self._window_rows - self.row_ns) * DRAIN_GAIN
        self._window_ns = self._window_rows = 0
        self._set_price()

    def _learn_standing(self, now_ns: int) -> None:
        """Learn for how long there has been a queue; one that stays over a budget's time is allowed less."""
        if self._margin_ns and self.rows_waiting <= self.rows_best:  # so few make no promise that would show
            self._shrink_margin()
        self._backlog_since_ns = now_ns
        if not self._standing_since_ns:
            self._standing_since_ns = now_ns
        elif now_ns - self._standing_since_ns > self._budget_ns:
            standing_ns = now_ns - self._standing_since_ns
            self._share = max(QUEUE_SHARE * self._budget_ns / standing_ns, QUEUE_SHARE_MIN)
            self._set_price()

    def _shrink_margin(self) -> None:
        self._margin_ns -= self._margin_ns // 32 + 1 if self._margin_ns else 0
        self._set_price()

    def _learn_margin(self, late_ns: int) -> None:
        """Learn how late a promise was kept: the margin grows fast and shrinks slowly."""
        self._promise_rows = 0
        late_ns = min(max(late_ns, 0), int(self._budget_ns * MARGIN_SHARE_MAX))
        self._margin_ns += (late_ns - self._margin_ns) // (2 if late_ns > self._margin_ns else 32)
        self._set_price()

    def _set_price(self) -> None:
        """Say what a call needs beside its own row, by what is known now."""
        share, own_ns, least_ns = self._share, float(self._p95_ns), self._least[0]
        rest_ns = self._margin_ns + self._others_ns
        if self._missing_of is not None and least_ns >= BATCHING_GAIN_MIN * self.row_ns:
            batches_ns, left_ns = 2 * self.rows_best * self.row_ns, self._budget_ns - rest_ns - own_ns
            if batches_ns > QUEUE_SHARE * left_ns:
                share, own_ns = BATCHES_SHARE, least_ns  # its own batch is among those that drain
            else:
                share = max(share, batches_ns / left_ns)
        self.base_ns = rest_ns + own_ns
        self.price_ns = max(self.row_ns / share, self._budget_ns / ROWS_WAITING_MAX)


def _lesser(one: Least, other: Least) -> Least:
    return min(one[0], other[0]), min(one[1], other[1])


def _longest_ns(least: Least, rows: int) -> float:
    """Return what a call of so many rows takes at least."""
    return max(least[0], rows * least[1])
