"""Batches of a heavy model: at once when it is idle, the most urgent first when it is not, and nobody stranded."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from time import monotonic_ns
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tailrace.batch import Degraded
from tailrace.deadline import NS_PER_MS, NS_PER_S, MonotonicClock
from tailrace.inference import batching
from tailrace.inference.batching import WORKS_MAX, Batcher, Formed, Reason
from tailrace.inference.curve import SIZES, CostCurve
from tailrace.inference.declaration import Constant
from tailrace.inference.scored import Scored
from tailrace.inference.scorer import Scorer

FAR_NS = 3600 * NS_PER_S


class Costs:
    """Costs that stand still: a call takes `fixed_us` and as much a row."""

    def __init__(self, fixed_us: int = 1_000, row_us: int = 10) -> None:
        ns = tuple((fixed_us + row_us * rows) * 1_000 for rows in SIZES)
        self.curve = CostCurve(SIZES, ns, ns)


class Model:
    """Scores a row with what it holds; `hold` keeps it in its first call until `release`. It knows its batches."""

    def __init__(self) -> None:
        self.batches: list[list[float]] = []
        self.release = threading.Event()
        self.began = threading.Event()
        self.holds = False

    def score(self, feeds: Any, rows: int, deadline_ns: int | None) -> Scored:
        """Score a batch."""
        values = feeds["x"][:, 0]
        assert len(values) == rows
        self.batches.append(values.tolist())
        if self.holds and len(self.batches) == 1:
            self.began.set()
            assert self.release.wait(60)
        return Scored(values.astype(np.float64))


def feeds_of(*values: float) -> dict[str, Any]:
    """Return a tensor with a row for each value."""
    return {"x": np.array(values, np.float32)[:, None]}


def due(ms: float = 3_600_000) -> int:
    """Return a deadline so far away."""
    return monotonic_ns() + int(ms * NS_PER_MS)


def drive(main: Callable[[Batcher], Awaitable[None]], model: Model, costs: Any = None, **more: Any) -> list[Formed]:
    """Run a scenario with a batcher; return the batches that it formed."""
    formed: list[Formed] = []

    async def whole() -> None:
        given: dict[str, Any] = {"slice_ns": 100 * NS_PER_MS} | more
        batcher = Batcher(model.score, costs or Costs(), MonotonicClock(), **given)
        batcher.observe = formed.append
        try:
            await asyncio.wait_for(main(batcher), 30)
        finally:
            model.release.set()
            batcher.close()

    asyncio.run(whole())
    return formed


async def begun(model: Model, batcher: Batcher) -> asyncio.Task[Scored]:
    """Return the first call, once the model is held in it."""
    model.holds = True
    first = asyncio.ensure_future(batcher.score(feeds_of(0), 1, due()))
    await asyncio.sleep(0)
    assert await asyncio.to_thread(model.began.wait, 30)
    return first


async def put(batcher: Batcher, *values: float, ms: float = 3_600_000) -> asyncio.Task[Scored]:
    """Return a call that waits in the batcher."""
    task = asyncio.ensure_future(batcher.score(feeds_of(*values), len(values), due(ms)))
    await asyncio.sleep(0)
    return task


def test_idle_model_runs_at_once_and_what_comes_meanwhile_is_one_batch() -> None:
    """The first call waits for nobody; those behind it are computed together, each with its own scores."""
    model = Model()

    async def main(batcher: Batcher) -> None:
        first = await begun(model, batcher)
        others = [await put(batcher, 10 * index, 10 * index + 1) for index in range(1, 5)]
        model.release.set()
        assert (await first).scores.tolist() == [0]
        for index, other in enumerate(others, 1):
            assert (await other).scores.tolist() == [10 * index, 10 * index + 1]

    formed = drive(main, model)
    assert model.batches == [[0], [10, 11, 20, 21, 30, 31, 40, 41]]
    assert [(each.rows, each.reason) for each in formed] == [(1, Reason.IDLE), (8, Reason.FREE)]
    assert formed[1].waited_ns > 0


def test_earliest_deadline_is_first() -> None:
    """Whoever came first: a batch is filled in the order of deadlines, up to the rows that are cheapest together."""
    model = Model()

    async def main(batcher: Batcher) -> None:
        first = await begun(model, batcher)
        tasks = [await put(batcher, value, ms=ms) for value, ms in ((1, 9_000), (2, 7_000), (3, 8_000))]
        tasks.append(await put(batcher, 4, ms=6_000))
        model.release.set()
        await asyncio.gather(first, *tasks)

    drive(main, model, Costs(fixed_us=0, row_us=40_000), slice_ns=100 * NS_PER_MS)
    assert model.batches == [[0], [4, 2], [3, 1]]


def test_batch_is_no_larger_than_its_first_deadline_allows() -> None:
    """At 10 ms a row and a deadline in half a second fifty rows at most go with the most urgent one."""
    model = Model()
    ns = tuple((1_000 + 10_000 * rows) * 1_000 for rows in SIZES)
    flat = Costs()
    flat.curve = CostCurve(SIZES, tuple(1_000_000 for _ in SIZES), ns)  # all sizes cost the same, but for the p95

    async def main(batcher: Batcher) -> None:
        first = await begun(model, batcher)
        calm = [await put(batcher, *range(10, 30)) for _ in range(6)]
        urgent = await put(batcher, 1, ms=600)
        model.release.set()
        await asyncio.gather(first, urgent, *calm)

    drive(main, model, flat)
    assert model.batches[1][0] == 1
    assert 21 <= len(model.batches[1]) <= 60
    assert sum(map(len, model.batches)) == 122


def test_urgent_call_runs_between_the_slices_of_a_big_one() -> None:
    """A call of many rows goes in slices; the urgent one that comes later waits for one slice, not for all."""
    model = Model()
    big = [float(value) for value in range(100, 140)]

    async def main(batcher: Batcher) -> None:
        model.holds = True
        whole = await put(batcher, *big)
        assert await asyncio.to_thread(model.began.wait, 30)
        urgent = await put(batcher, 1, ms=5_000)
        model.release.set()
        assert (await urgent).scores.tolist() == [1]
        assert not whole.done() or len(model.batches) > 2
        assert (await whole).scores.tolist() == big

    drive(main, model, Costs(fixed_us=0, row_us=1_000), slice_ns=8 * NS_PER_MS, overhead_ns=NS_PER_MS)
    assert model.batches[0] == big[:8]
    assert model.batches[1][0] == 1
    assert [value for batch in model.batches for value in batch if value != 1] == big


def test_late_rows_are_never_computed() -> None:
    """A call whose deadline passes in the queue is told then, and the model does not learn of it."""
    model = Model()

    async def main(batcher: Batcher) -> None:
        first = await begun(model, batcher)
        late = await put(batcher, 1, ms=20)
        other = await put(batcher, 2)
        with pytest.raises(TimeoutError, match="passed its deadline"):
            await late
        model.release.set()
        await asyncio.gather(first, other)

    drive(main, model)
    assert model.batches == [[0], [2]]


def test_cancelled_call_strands_nobody() -> None:
    """Cancelled while it waits it is left out; cancelled while it is computed its neighbours have their scores."""
    model = Model()

    async def main(batcher: Batcher) -> None:
        first = await begun(model, batcher)
        gone, other = await put(batcher, 1), await put(batcher, 2)
        gone.cancel()
        first.cancel()
        await asyncio.sleep(0)
        model.release.set()
        assert (await other).scores.tolist() == [2]
        with pytest.raises(asyncio.CancelledError):
            await first

    drive(main, model)
    assert model.batches == [[0], [2]]


def test_row_that_cannot_be_scored_is_its_own_calls_alone() -> None:
    """One call's bad row is degraded in its own answer; the call it shared a batch with knows nothing of it."""
    scorer = Scorer(_Picky(), Constant(0.5))
    model = Model()

    def score(feeds: Any, rows: int, deadline_ns: int | None) -> Scored:
        model.score(feeds, rows, deadline_ns)
        return scorer.score(feeds, rows, deadline_ns)

    async def main() -> None:
        batcher = Batcher(score, Costs(), MonotonicClock(), slice_ns=100 * NS_PER_MS)
        first = await begun(model, batcher)
        bad, good = await put(batcher, 7, 13, 8), await put(batcher, 9, 10)
        model.release.set()
        await first
        told, clean = await bad, await good
        assert told.scores.tolist() == [7, 0.5, 8]
        assert told.degraded is not None
        assert told.degraded.tolist() == [0, Degraded.MODEL_ERROR, 0]
        assert (clean.scores.tolist(), clean.degraded, clean.failed) == ([9, 10], None, None)
        batcher.close()

    asyncio.run(main())
    assert model.batches == [[0], [7, 13, 8, 9, 10]]


class _Picky:
    def predict(self, feeds: Any) -> Any:
        """Refuse any batch with a 13 in it."""
        if 13 in feeds["x"]:
            raise ValueError("no 13")
        return feeds["x"][:, 0].astype(np.float32)


def test_model_that_raises_tells_all_of_its_batch_and_goes_on() -> None:
    """What comes out of the scorer itself is a fault of ours: every waiter hears it, and the next batch is computed."""
    model = Model()

    def score(feeds: Any, rows: int, deadline_ns: int | None) -> Scored:
        model.score(feeds, rows, deadline_ns)
        if len(model.batches) == 2:
            raise RuntimeError("broken")
        return Scored(feeds["x"][:, 0])

    async def main() -> None:
        batcher = Batcher(score, Costs(), MonotonicClock(), slice_ns=100 * NS_PER_MS)
        first = await begun(model, batcher)
        both = [await put(batcher, 1), await put(batcher, 2)]
        model.release.set()
        await first
        for each in both:
            with pytest.raises(RuntimeError, match="broken"):
                await each
        assert (await batcher.score(feeds_of(3), 1, due())).scores.tolist() == [3]
        batcher.close()

    asyncio.run(main())


def test_queue_is_bounded() -> None:
    """Beyond its room a call is told at once, and later there is room again."""
    model = Model()

    async def main(batcher: Batcher) -> None:
        first = await begun(model, batcher)
        others = [await put(batcher, index) for index in range(1, WORKS_MAX)]
        with pytest.raises(TimeoutError, match="no room"):
            await batcher.score(feeds_of(99), 1, due())
        model.release.set()
        await asyncio.gather(first, *others)
        assert (await batcher.score(feeds_of(99), 1, due())).scores.tolist() == [99]

    drive(main, model)
    assert 99 not in model.batches[1]


def test_instances_compute_side_by_side() -> None:
    """While one is held the other goes on, and takes what comes."""
    model = Model()

    async def main(batcher: Batcher) -> None:
        first = await begun(model, batcher)
        for value in (1, 2, 3):
            assert (await batcher.score(feeds_of(value), 1, due())).scores.tolist() == [value]
        assert not first.done()
        model.release.set()
        await first

    formed = drive(main, model, instances=2)
    assert {each.reason for each in formed} == {Reason.IDLE}


def test_idle_model_waits_for_more_rows_only_where_that_pays() -> None:
    """Calls that come one after another wait where a call is dear, not where it is cheap or a deadline is near."""

    def formed_with(costs: Costs, ms: float) -> list[Formed]:
        model = Model()

        async def main(batcher: Batcher) -> None:
            for _ in range(40):
                await asyncio.gather(*[batcher.score(feeds_of(value), 1, due(ms)) for value in range(6)])

        return drive(main, model, costs, max_wait_ns=5 * NS_PER_MS)[-10:]

    waited = formed_with(Costs(fixed_us=5_000, row_us=1), 10_000)
    assert {each.reason for each in waited} == {Reason.WAITED}
    assert max(each.rows for each in waited) == 6
    assert Reason.WAITED not in {each.reason for each in formed_with(Costs(fixed_us=0, row_us=500), 10_000)}
    assert Reason.WAITED not in {each.reason for each in formed_with(Costs(fixed_us=9_000, row_us=1), 10)}


def test_long_silence_is_soon_forgotten() -> None:
    """The first calls of a worker, or of a morning, come after hours: some dozens later the model waits for others."""
    model = Model()

    async def main(batcher: Batcher) -> None:
        batcher._last_ns = -3600 * NS_PER_S
        for _ in range(20):
            await asyncio.gather(*[batcher.score(feeds_of(value), 1, due()) for value in range(4)])

    formed = drive(main, model, Costs(fixed_us=50_000, row_us=1), max_wait_ns=20 * NS_PER_MS)
    assert Reason.WAITED in {each.reason for each in formed}


def test_call_that_never_ends_does_not_take_the_model_from_those_that_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread is given up and another one takes its place; when it ends after all, it is not used again."""
    monkeypatch.setattr(batching, "STUCK_NS", 20 * NS_PER_MS)
    model = Model()

    async def main(batcher: Batcher) -> None:
        await begun(model, batcher)
        with pytest.raises(TimeoutError):
            await batcher.score(feeds_of(1), 1, due(40))
        with capture_logs() as logs:
            assert (await batcher.score(feeds_of(2), 1, due())).scores.tolist() == [2]
        assert [log["event"] for log in logs] == ["a model call does not end, and is given up"]
        stuck = next(iter(batcher._stuck))
        model.release.set()
        while batcher._stuck:
            await asyncio.sleep(0)
        assert stuck not in batcher._idle
        assert (await batcher.score(feeds_of(3), 1, due())).scores.tolist() == [3]

    drive(main, model)
    assert model.batches == [[0], [2], [3]]


@settings(max_examples=60, deadline=None)
@given(
    calls=st.lists(
        st.tuples(st.integers(1, 30), st.sampled_from([5_000, 6_000, 9_000, 20_000])), min_size=1, max_size=20
    ),
    instances=st.integers(1, 3),
    slice_ms=st.integers(1, 40),
)
@pytest.mark.hypothesis
def test_every_row_is_computed_once_and_answered_to_its_own_call(
    calls: list[tuple[int, int]], instances: int, slice_ms: int
) -> None:
    """Whatever is merged and sliced: each call has the scores of its rows in their order, none of them twice."""
    model = Model()
    numbers = iter(range(10_000))
    rows = [[float(next(numbers)) for _ in range(count)] for count, _ in calls]

    async def main(batcher: Batcher) -> None:
        tasks = [await put(batcher, *own, ms=ms) for own, (_, ms) in zip(rows, calls, strict=True)]
        for own, task in zip(rows, tasks, strict=True):
            assert (await task).scores.tolist() == own

    drive(main, model, Costs(fixed_us=500, row_us=500), slice_ns=slice_ms * NS_PER_MS, instances=instances)
    computed = sorted(value for batch in model.batches for value in batch)
    assert computed == sorted(value for own in rows for value in own)
