from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tailrace.batch import Batch, Degraded
from tailrace.deadline import NS_PER_MS, NS_PER_US, Budget, MonotonicClock
from tailrace.inference.curve import SIZES, CostCurve
from tailrace.inference.declaration import Constant
from tailrace.inference.learned import CALLS_PER_CURVE
from tailrace.inference.model_stage import LEARN_EVERY, ModelStage
from tailrace.inference.scorer import Scorer
from tailrace.inference.signature import Signature
from tailrace.inference.step import take_scores
from tailrace.testing import ManualClock

BUDGET = Budget("50ms")
FAR_NS = 10**18


class Model:
    """A model that takes, by a clock moved by hand, what it is told to; it keeps who called it, and with how many."""

    def __init__(self, clock: ManualClock | None = None, cost_ns: Callable[[int], int] = lambda rows: 0) -> None:
        self.clock, self.cost_ns = clock, cost_ns
        self.release: threading.Event | None = None
        self.calls: list[tuple[str, int]] = []

    def predict(self, feeds: Any) -> Any:
        """Score a row with what it holds."""
        rows = len(feeds["x"])
        self.calls.append((threading.current_thread().name, rows))
        if self.release is not None:
            self.release.wait(60)
        if self.clock is not None:
            self.clock.advance(self.cost_ns(rows) / NS_PER_MS)
        return feeds["x"][:, 0].astype(np.float32)


class Numbers:
    """Fills the input `x` with 0, 1, 2 and so on."""

    name = "x"

    def fill(self, batch: Batch) -> Any:
        """Return a column."""
        return np.arange(batch.rows, dtype=np.float64)[:, None]


def curve_of(cost_ns: Callable[[int], int]) -> CostCurve:
    """Return the curve of a model."""
    costs_ns = tuple(map(cost_ns, SIZES))
    return CostCurve(SIZES, costs_ns, costs_ns)


def ten_us(rows: int) -> int:
    """Return the cost of a model that takes 10 µs a row."""
    return 10 * NS_PER_US * rows


Make = Callable[..., ModelStage]


@pytest.fixture
def make() -> Iterator[Make]:
    """Return what makes a stage; it is closed after the test."""
    made: list[ModelStage] = []

    def stage(model: Model, cost_ns: Callable[[int], int] = ten_us, fallback: Any = None, **more: Any) -> ModelStage:
        clock = model.clock or MonotonicClock()
        scorer = Scorer(model, fallback, clock=clock)
        numbers: Any = Numbers()
        signature = Signature((), "score")
        given = {"budget": BUDGET, "clock": clock} | more
        made.append(ModelStage("amount", signature, [numbers], scorer, curve_of(cost_ns), **given))
        made[-1].learns = True
        return made[-1]

    yield stage
    for each in made:
        each.close()


def run(stage: ModelStage, rows: int, *, deadline_ns: int = FAR_NS, suspends: bool | None = None) -> Batch:
    """Score a batch as an engine does."""
    batch = Batch([], 0, deadline_ns, rows > stage.rows_inline_max if suspends is None else suspends, rows=rows)
    take_scores(batch, asyncio.run(stage.score(batch, None, deadline_ns)))
    return batch


def test_batch_of_many_rows_runs_on_the_thread_and_small_ones_inline(make: Make) -> None:
    """Its rows decide: at 10 µs a row, a hundred of them are the millisecond that the loop may be held up."""
    model = Model()
    stage = make(model)
    assert stage.rows_inline_max == 100
    assert not stage.is_threaded
    for rows in (1, 100, 101, 256, 2):
        assert run(stage, rows).scores.tolist() == list(range(rows))
    here, there = threading.current_thread().name, "tailrace-inference"
    assert model.calls == [(here, 1), (here, 100), (there, 101), (there, 256), (here, 2)]


def test_batch_that_may_not_wait_runs_inline(make: Make) -> None:
    """What is learned between the tick and its third layer does not suspend a batch that says that it does not."""
    model = Model()
    batch = Batch([], 0, FAR_NS, suspends=False, rows=200)
    run_of = make(model).score(batch, None, FAR_NS)
    with pytest.raises(StopIteration):
        run_of.send(None)
    assert model.calls == [(threading.current_thread().name, 200)]


def test_model_that_is_dear_for_one_row_is_threaded(make: Make) -> None:
    """Every batch waits, and the best size is bounded by a quarter of the budget, not by what the loop may wait."""
    stage = make(Model(), lambda rows: 2 * NS_PER_MS + rows * NS_PER_US)
    assert stage.is_threaded
    assert stage.rows_best == 256


def test_short_budget_holds_the_loop_for_a_tenth_of_it(make: Make) -> None:
    """Of 2 ms, a batch on the loop takes 0.2."""
    assert make(Model(), budget=Budget("2ms")).rows_inline_max == 20


def test_second_model_that_is_dearer_bounds_what_runs_inline(make: Make) -> None:
    """A batch on the loop may have to be scored by the second model there."""
    second = curve_of(lambda rows: 5 * ten_us(rows))
    assert make(Model(), fallback=Constant(0.5), fallback_curve=second).rows_inline_max == 20


def test_rows_inline_and_best_follow_what_is_learned(make: Make) -> None:
    """A model found ten times dearer than the warm-up said keeps fewer rows on the loop and in a batch, and back."""
    clock = ManualClock()
    model = Model(clock, ten_us)
    stage = make(model)
    assert (stage.rows_inline_max, stage.rows_best) == (100, 64)
    calls = 6 * LEARN_EVERY * CALLS_PER_CURVE
    model.cost_ns = lambda rows: 10 * ten_us(rows)
    for _ in range(calls):
        run(stage, 8, suspends=False)
    assert stage.curve.cost_ns(8) == pytest.approx(800 * NS_PER_US, rel=0.05)
    assert 8 <= stage.rows_inline_max <= 50
    assert stage.rows_best == 32
    model.cost_ns = ten_us
    for _ in range(calls):
        run(stage, 8, suspends=False)
    assert stage.rows_inline_max == pytest.approx(100, rel=0.1)
    assert stage.rows_best == 64


def test_one_call_of_some_is_learned_from(make: Make) -> None:
    """Looking at the clock is spared for the others."""
    clock = ManualClock()
    stage = make(Model(clock, lambda rows: NS_PER_MS))
    first = stage.curve
    for _ in range(LEARN_EVERY * CALLS_PER_CURVE - 1):
        run(stage, 1)
    assert stage.curve is first
    run(stage, 1)
    assert stage.curve is not first


def test_sample_calls_are_not_learned_from(make: Make) -> None:
    """Before traffic the stage keeps to what was measured."""
    stage = make(Model(ManualClock(), lambda rows: NS_PER_MS))
    stage.learns, first = False, stage.curve
    for _ in range(2 * LEARN_EVERY * CALLS_PER_CURVE):
        run(stage, 1)
    assert stage.curve is first


def test_degraded_call_is_not_learned_from(make: Make) -> None:
    """What a batch takes whose rows are isolated or fall back says nothing of the model's cost."""
    clock = ManualClock()
    model = Model(clock, lambda rows: NS_PER_MS)
    model.predict = lambda feeds: clock.advance(1) or np.full(len(feeds["x"]), np.nan)  # type: ignore[func-returns-value, method-assign]
    stage = make(model, fallback=Constant(0.5))
    first = stage.curve
    for _ in range(LEARN_EVERY * CALLS_PER_CURVE):
        batch = run(stage, 1)
    assert stage.curve is first
    assert batch.scores.tolist() == [0.5]
    assert batch.degraded is not None
    assert batch.degraded.tolist() == [Degraded.MODEL_ERROR]


@pytest.mark.parametrize("rows", [3, 200])
def test_rules_get_read_only_scores(make: Make, rows: int) -> None:
    """As float64; who writes to them is told, on the loop and on the thread."""
    batch = run(make(Model()), rows)
    assert batch.scores.dtype == np.float64
    with pytest.raises(ValueError, match="read-only"):
        batch.scores *= 2
    assert batch.scores.tolist() == list(range(rows))


def test_picked_rows_alone_are_scored(make: Make) -> None:
    """In the order asked for, and no others."""
    model = Model()
    stage = make(model)
    batch = Batch([], 0, FAR_NS, suspends=False, rows=6)
    first = asyncio.run(stage.score(batch, np.array([4, 1]), FAR_NS))
    asyncio.run(stage.score(batch, np.array([5]), FAR_NS))
    assert (first.scores.tolist(), [rows for _, rows in model.calls]) == ([4, 1], [2, 1])


def test_batch_that_is_late_on_the_thread_takes_the_fallback(make: Make) -> None:
    """The batch waits no longer than it may, says so, and the result that comes later is dropped."""
    model = Model()
    model.release = threading.Event()
    stage = make(model, fallback=Constant(0.25))
    now_ns = MonotonicClock.now_ns

    async def main() -> Batch:
        batch = Batch([], 0, 0, suspends=True, rows=150)
        take_scores(batch, await stage.score(batch, None, now_ns() + 20 * NS_PER_MS))
        assert stage.is_computing
        assert model.release is not None
        model.release.set()
        while stage.is_computing:
            await asyncio.sleep(0.001)
        return batch

    batch = asyncio.run(main())
    assert batch.scores.tolist() == [0.25] * 150
    assert batch.degraded is not None
    assert set(batch.degraded.tolist()) == {Degraded.MODEL_TIMEOUT}
    assert batch.failed is None
