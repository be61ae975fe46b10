"""A stage whose model another server computes: many batches in flight, each under its deadline.

What the server does not score in time, or wrongly, takes the fallback: a constant, or a model that is computed here.
One row that the server refuses does not cost its neighbours their scores: the rows are asked again in halves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.batch import Batch
from tailrace.deadline import INFERENCE, Budget, Clock
from tailrace.inference.assembly import Assembler
from tailrace.inference.curve import CostCurve
from tailrace.inference.declaration import Constant
from tailrace.inference.learned import LearnedCosts
from tailrace.inference.model_stage import ModelStage, kept_ns
from tailrace.inference.predictor import Feeds, slice_feeds
from tailrace.inference.remote.client import RemoteClient
from tailrace.inference.remote.failure import RemoteError
from tailrace.inference.remote.json_rows import finite_rows
from tailrace.inference.remote.places import CallPlaces
from tailrace.inference.scored import Gaps, Scored, has_scores
from tailrace.inference.signature import Signature
from tailrace.inference.stage import Stage, walk_stages

CALLS_MAX: Final = 32
"""Calls for one batch, beside those for its parts, in which rows that the server refuses are looked for."""


class _Calls:
    """How many more calls a batch may make, and what the server has refused.

    deadline_ns: of all of them. fair_ns: with less time than this it is not the server's fault to be late.
    was_refused: whether it was something that no single row can be why of; has_failed: whether the server said that it
    had failed itself. asked: bool, (rows,): the rows that it was asked for; None for all. head: lines of each call.
    """

    def __init__(self, deadline_ns: int, fair_ns: float, head: bytes) -> None:
        self.deadline_ns = deadline_ns
        self.head = head
        self.fair_ns = fair_ns
        self.left = CALLS_MAX
        self.was_refused = self.has_failed = False
        self.asked: NDArray[np.bool_] | None = None


class RemoteStage:
    """One remote model, ready to score the batches of a pipeline. Satisfies `Stage`.

    name: of its scores. assemblers: fill its inputs. budget: of the pipeline. fallback: what scores a row that the
    server does not. rows_max: of one call. notice: what is to be known of how it started; empty where there is nothing.
    learns: whether it learns yet what calls cost. trace_lines: gives the header lines that hand on a batch's trace.
    note_asked: is told, where traces are made, since when a batch has asked, and whether all rows were scored.
    """

    members: Final = ()
    rows_inline_max: Final = 0
    explained_by: Final = "it is computed elsewhere"

    def __init__(
        self,
        name: str,
        signature: Signature,
        assemblers: Sequence[Assembler],
        client: RemoteClient,
        clock: Clock,
        *,
        budget: Budget,
        fallback: Constant | ModelStage | None = None,
        in_flight_max: int = 32,
        rows_max: int = 256,
        notice: str = "",
    ) -> None:
        self.name = name
        self.signature = signature
        self.client = client
        self.in_flight_max = in_flight_max
        self.rows_best = rows_max
        self.notice = notice
        self.url = client.url
        self.learns = False
        self.trace_lines: Callable[[Batch], bytes] = trace_lines
        self.note_asked: Callable[[Batch, int, bool], None] | None = None
        self._fills = [(assembler.name, assembler.fill) for assembler in assemblers]
        self._fallback = fallback
        self._rows_max = rows_max
        self._layer_ns = budget.inference_ns or budget.total_ns // 2
        self._owed_ns = budget.owed_after_ns(INFERENCE)
        self._now_ns = clock.now_ns
        self._costs: LearnedCosts | None = None
        self._places = CallPlaces(in_flight_max, clock)
        self._was_refused = False

    @property
    def second(self) -> ModelStage | None:
        """The model that it falls back to, if that is one."""
        return self._fallback if isinstance(self._fallback, ModelStage) else None

    @property
    def failure(self) -> str:
        """What the last call without a score said of the server."""
        return str(self.client.failure or "")

    @property
    def is_computing(self) -> bool:
        """Whether the thread of the model that it falls back to is at work; its own is another server's."""
        return self.second is not None and self.second.is_computing

    def cost_ns(self, rows: int) -> int:
        """Return what a call of so many rows takes, the median, as far as is known now; 0 before the first."""
        return 0 if self._costs is None else self._costs.curve.cost_ns(rows)

    async def score(self, batch: Batch, picked: NDArray[np.intp] | None, deadline_ns: int) -> Scored:
        """Return the scores of a batch's rows, or of the picked ones.

        deadline_ns: when the scores must be there.
        """
        feeds = {name: fill(batch) if picked is None else fill(batch)[picked] for name, fill in self._fills}
        rows = batch.rows if picked is None else len(picked)
        now_ns = self._now_ns()
        calls = _Calls(
            now_ns + self._granted_ns(rows, deadline_ns - now_ns), self._fair_ns(batch, rows), self.trace_lines(batch)
        )
        scores, late = await self._ask(feeds, rows, calls)
        found = has_scores(scores)
        if self.note_asked is not None:
            self.note_asked(batch, now_ns, bool(found.all()))
        if found.all():
            self._was_refused = False
            return Scored(scores)
        if found.any():
            self._was_refused = False
        elif calls.was_refused:
            self._note_refused(batch, picked, calls)
        return await self._fall_back(batch, picked, scores, ~found, late, deadline_ns)

    # -- the server -------------------------------------------------------------------------------------------------

    async def _ask(self, feeds: Feeds, rows: int, calls: _Calls) -> tuple[NDArray[Any], bool]:
        """Return the scores, NaN where there are none, and whether the server was late with some of them."""
        scores = self._blank(rows)
        asked = None if self.client.protocol.takes_nan else finite_rows(feeds)
        if asked is not None:  # JSON has no such numbers: these rows are not asked, their neighbours are
            feeds, rows = {name: tensor[asked] for name, tensor in feeds.items()}, int(asked.sum())
        calls.asked = asked
        if not rows:
            return scores, False
        ask = self._ask_alone if rows <= self._rows_max else self._ask_parts
        found, late = await ask(feeds, rows, calls)
        if asked is None:
            return found, late
        scores[asked] = found
        return scores, late

    async def _ask_alone(self, feeds: Feeds, rows: int, calls: _Calls) -> tuple[NDArray[Any], bool]:
        """Ask for rows that are one part."""
        if not await self._places.take(calls.deadline_ns):
            self.client.count_late(1)
            return self._blank(rows), True
        try:
            return await self._ask_part(feeds, rows, calls)
        finally:
            self._places.give_back()

    async def _ask_parts(self, feeds: Feeds, rows: int, calls: _Calls) -> tuple[NDArray[Any], bool]:
        """Ask for some rows, in parts of `rows_max` side by side, as many at once as there are places."""
        size, parts = self._rows_max, range(0, rows, self._rows_max)
        asked: list[asyncio.Task[tuple[NDArray[Any], bool]]] = []
        try:  # no TaskGroup: a batch that finds its features in the cache comes here in no task (server/eager_loop.py)
            for begin in parts:
                if asked:
                    await asyncio.sleep(0)  # to encode a part takes milliseconds: others have their turn between two
                if not await self._places.take(calls.deadline_ns, len(asked)):
                    break
                part, part_rows = slice_feeds(feeds, begin, begin + size), min(size, rows - begin)
                asked.append(asyncio.ensure_future(self._ask_part(part, part_rows, calls)))
                asked[-1].add_done_callback(self._places.give_back)
            found = await asyncio.gather(*asked)
        finally:
            for task in asked:
                task.cancel()
        if unasked := len(parts) - len(asked):
            self.client.count_late(unasked)
            found.append((self._blank(rows - len(asked) * size), True))
        return np.concatenate([scores for scores, _ in found]), any(late for _, late in found)

    async def _ask_part(self, feeds: Feeds, rows: int, calls: _Calls) -> tuple[NDArray[Any], bool]:
        """Ask for rows in one call; where the server refuses them, for each half, until the fault is alone."""
        began_ns = self._now_ns()
        try:
            scores = await self.client.infer(feeds, rows, calls.deadline_ns, fair_ns=calls.fair_ns, head=calls.head)
        except RemoteError as error:
            calls.has_failed |= error.of_rows and error.status >= 500
            calls.was_refused |= error.of_rows and (rows > 1 or error.status >= 500)
            if not error.of_rows or rows == 1 or calls.left < 2:
                return self._blank(rows), self.client.was_late(error)
        else:
            self._learn(rows, self._now_ns() - began_ns)
            return scores, False
        calls.left -= 2
        middle = rows // 2
        first, first_late = await self._ask_part(slice_feeds(feeds, 0, middle), middle, calls)
        last, last_late = await self._ask_part(slice_feeds(feeds, middle, rows), rows - middle, calls)
        return np.concatenate([first, last]), first_late or last_late

    def _note_refused(self, batch: Batch, picked: NDArray[np.intp] | None, calls: _Calls) -> None:
        """Tell the breaker of a batch of which the server scored no row, where that is a sign of the server.

        Where it says that the rows are at fault they may well be, if one call has brought them all: its caller would
        open the breaker for the others. Two such calls, one after the other, are a sign.
        """
        if calls.has_failed or self._was_refused or not _is_of_one_call(batch, picked, calls.asked):
            self.client.note_refused()
        self._was_refused = True

    def _blank(self, rows: int) -> NDArray[Any]:
        width = self.signature.scores_width
        return np.full(rows if width == 1 else (rows, width), np.nan)

    def _learn(self, rows: int, took_ns: int) -> None:
        """Take in what a call took, however it was measured first: a warm-up's call may have made the connection."""
        if self._costs is None:
            self._costs = LearnedCosts(CostCurve((1, max(self._rows_max, 2)), (took_ns,) * 2, (took_ns,) * 2))
        elif self.learns:
            self._costs.learn(rows, took_ns)

    # -- the fallback -----------------------------------------------------------------------------------------------

    def _granted_ns(self, rows: int, left_ns: int) -> int:
        """Return what of the time left the server has: half of it at least, the rest is kept for the second model."""
        if not isinstance(self._fallback, ModelStage):
            return left_ns
        return left_ns - kept_ns(self._fallback.curve, rows, left_ns)

    def _fair_ns(self, batch: Batch, rows: int) -> float:
        """Return how long a call must have had for its being late to be the server's fault.

        Nothing is in a batch that came with less than half of the layer's time: a caller in a hurry would open the
        breaker for all. Else it is a quarter of what a whole layer grants, or what the server is known to take, where
        that is less: behind a slow stage of a cascade it has no more.
        """
        began_ns = batch.marks_ns[-1] if batch.marks_ns else batch.started_ns
        if batch.deadline_ns - self._owed_ns - began_ns < self._layer_ns // 2:
            return inf
        return min(self._granted_ns(rows, self._layer_ns) // 4, self.cost_ns(rows))

    async def _fall_back(
        self,
        batch: Batch,
        picked: NDArray[np.intp] | None,
        scores: NDArray[Any],
        bad: NDArray[np.bool_],
        late: bool,
        deadline_ns: int,
    ) -> Scored:
        """Return the scores with the fallback's in the bad rows; a row without one is NaN and failed."""
        gaps = Gaps(scores, bad, np.full(len(bad), late))
        if not isinstance(self._fallback, ModelStage):
            return gaps.filled_by(self._fallback)
        rows = np.flatnonzero(bad) if picked is None else picked[bad]
        return gaps.filled_by(await self._fallback.score(batch, rows, deadline_ns))

    def yield_core(self, limit_ns: int) -> None:
        """Leave the core to the model that it falls back to."""
        if self.second is not None:
            self.second.yield_core(limit_ns)

    def close(self) -> None:
        """Let go of the connections, and of the fallback's threads."""
        self.client.close()
        if self.second is not None:
            self.second.close()


def _is_of_one_call(batch: Batch, picked: NDArray[np.intp] | None, asked: NDArray[np.bool_] | None) -> bool:
    """Return whether all rows that were asked for are one call's."""
    rows = np.arange(batch.rows) if picked is None else picked
    rows = rows if asked is None else rows[asked]
    first, last = rows.min(), rows.max()
    parts = map(batch.rows_of_call, range(len(batch.calls)))
    return any(part.start <= first and last < part.stop for part in parts)


def trace_lines(batch: Batch) -> bytes:
    """Return the lines that hand on the trace of a batch: that of its call, and none where it has several."""
    trace = batch.calls[0].trace if len(batch.calls) == 1 else None
    if trace is None:
        return b""
    state = b"tracestate: %b\r\n" % trace.state if trace.state else b""
    return b"traceparent: %b\r\n%b" % (trace.parent, state)


def remote_stages(stage: Stage) -> list[RemoteStage]:
    """Return the remote models of a stage, in their order; each once."""
    return list(dict.fromkeys(found for found in walk_stages(stage) if isinstance(found, RemoteStage)))
