"""Takes pages of requests through the five layers of two plans; one reading of the store where both share features."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Final

from tailrace.batch import Batch
from tailrace.compile.samples import Samples
from tailrace.deadline import MonotonicClock
from tailrace.offline.whatif.lines import Asked, LeftOut
from tailrace.offline.whatif.recorded import RecordedFeatures
from tailrace.offline.whatif.tally import Page
from tailrace.plan import Plan

PAGE_ROWS: Final = 2_048


def pages_of(requests: Iterable[Asked]) -> Iterator[list[Asked]]:
    """Give requests in pages of at most so many rows, or of one request."""
    page: list[Asked] = []
    rows = 0
    for each in requests:
        if page and rows + each.rows > PAGE_ROWS:
            yield page
            page, rows = [], 0
        page.append(each)
        rows += each.rows
    if page:
        yield page


class Replay:
    """Answers pages by two plans. recorded: of each plan. shares: whether features are read once, for both.

    faulted: takes the requests on which a layer raised, which is a fault of what the user wrote.
    """

    def __init__(
        self, plans: tuple[Plan, Plan], recorded: Sequence[RecordedFeatures], faulted: LeftOut, *, shares: bool
    ) -> None:
        self._plans = plans
        self._recorded = recorded
        self._faulted = faulted
        self._shares = shares
        self._samples = [Samples(plan) for plan in plans]
        self._now_ns = MonotonicClock().now_ns

    async def pages(self, asked: Sequence[Asked]) -> AsyncIterator[Page]:
        """Give a page answered; where a layer raises its halves, until each fault is alone with its request."""
        waiting = [asked]
        while waiting:
            some = waiting.pop()
            try:
                page = await self._answer(some)
            except Exception as error:  # of a user's function, on what one caller sent
                half = len(some) // 2
                if half:
                    waiting += [some[half:], some[:half]]
                else:
                    self._faulted.add(some[0].where, f"{type(error).__name__}: {error}")
                continue
            yield page

    async def _answer(self, asked: Sequence[Asked]) -> Page:
        before, after = self._batch(0, asked), self._batch(1, asked)
        await self._fill(0, before, asked)
        if self._shares:
            self._plans[1].request.run(after)
            after.view_rows, after.views, after.on_demand = before.view_rows, before.views, before.on_demand
            after.degraded = None if before.degraded is None else before.degraded.copy()
        else:
            await self._fill(1, after, asked)
        for plan, batch in zip(self._plans, (before, after), strict=True):
            await plan.inference.run(batch)
            plan.postprocess.run(batch)
            plan.response.run(batch)
        return Page(asked, before, after)

    def _batch(self, side: int, asked: Sequence[Asked]) -> Batch:
        plan, now_ns = self._plans[side], self._now_ns()
        batch = self._samples[side].batch(
            [each.requests[side] for each in asked], now_ns, now_ns + plan.budget.total_ns
        )
        batch.suspends = plan.suspends(sum(each.rows for each in asked))
        return batch

    async def _fill(self, side: int, batch: Batch, asked: Sequence[Asked]) -> None:
        """Layers 1 and 2 of one side; what samples have recorded stands."""
        plan = self._plans[side]
        plan.request.run(batch)
        await plan.features.run(batch)
        samples = [each.sample for each in asked if each.sample is not None]
        if samples:
            self._recorded[side].apply(plan.features, batch, samples)
