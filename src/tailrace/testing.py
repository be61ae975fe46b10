"""For tests of pipelines: a clock moved by hand, and a client that calls a pipeline without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from operator import index
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import msgspec

from tailrace.batch import Batch, Call
from tailrace.codecs.offer import Offer
from tailrace.compile.compiler import compile_plan
from tailrace.compile.loading import load_pipelines
from tailrace.deadline import INFERENCE, NS_PER_MS, Clock, LayerLimit, MonotonicClock
from tailrace.engine import Engine
from tailrace.errors import InvalidRequestError, ServingError, SetupError
from tailrace.features.batch_views import BatchFeatureView
from tailrace.features.keys import EntityId, composite_id
from tailrace.features.stores.memory import MemoryStore, MemoryWriter
from tailrace.features.streams import Stream
from tailrace.features.updates import Fate
from tailrace.features.view_spec import Entity
from tailrace.inference.curve import SIZES, CostCurve
from tailrace.inference.inline import OVERHEAD_NS, inline_ns_of, slice_ns_of
from tailrace.inference.step import InferenceStep
from tailrace.ingest.local import LocalEvents
from tailrace.loop_load import LoopLoad
from tailrace.pipeline import Pipeline
from tailrace.plan import Cost, Plan
from tailrace.request.priority import Priority
from tailrace.request.rows import ARRAY_MAX
from tailrace.server.endpoint import Endpoint


class ManualClock:
    """A clock that moves only by hand."""

    def __init__(self, now_ns: int = 0, wall_ns: int = 1_750_000_000 * 10**9) -> None:
        self._now_ns = now_ns
        self._wall_ns = wall_ns

    def now_ns(self) -> int:
        """Return the time it was moved to."""
        return self._now_ns

    def wall_ns(self) -> int:
        """Return the wall time it was moved to."""
        return self._wall_ns

    def advance(self, milliseconds: float) -> None:
        """Move both times forward."""
        self._now_ns += int(milliseconds * NS_PER_MS)
        self._wall_ns += int(milliseconds * NS_PER_MS)


class Turns:
    """An event loop turned by hand: what is asked for in one turn runs in the next, as asyncio has it.

    A batch that must wait (a heavy model, on its thread) is waited for within its turn.
    """

    def __init__(self) -> None:
        self._ready: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Run a callback in the next turn."""
        self._ready.append(callback)

    def call_later(self, delay: float, callback: Callable[[], None]) -> None:
        """Run a callback in the next turn: seconds pass only on the clock that the test moves."""
        self._ready.append(callback)

    def create_task(self, run: Any) -> _Done:
        """Run a coroutine to its end, here and now."""
        with asyncio.Runner() as runner:
            runner.run(run)
        return _Done()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left to do."""
        return not self._ready

    def turn(self) -> None:
        """Run what was asked for until now."""
        ready, self._ready = self._ready, []
        for callback in ready:
            callback()


class _Done:
    """A task that has ended."""

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        """Call it at once."""
        callback(self)


class TestCall(Call, gc=False, eq=False):
    """A call of a test. answer: its body; error: why it failed or was refused; batch: that it was part of."""

    __test__ = False

    answer: bytes | None = None
    error: ServingError | None = None
    batch: Batch | None = None

    @property
    def is_open(self) -> bool:
        """Whether it waits for its answer."""
        return self.answer is None and self.error is None


class TestClient:
    """Calls a pipeline in this process, on a store in memory: the engine that serves, on a loop turned by hand.

        with TestClient(fraud) as client:
            client.put(CustomerProfile, 4021, avg_amount_90d=55.0)
            assert client.predict({"customer_id": 4021, …})["decision"] == "allow"

    With a clock moved by hand and a cost given, what a busy server does can be tried: `submit` takes calls that wait
    until the next `turn`, which takes the time that the batch costs, and answers, sheds or fails each.

        client = TestClient(fraud, clock=ManualClock(), cost=Cost(p95_ns=…, least_ns=…, row_ns=…))
        calls = [client.submit({"customer_id": 1, …}) for _ in range(1_000)]
        client.turn()

    Raises CompileError for a pipeline with mistakes, and the errors that a caller would get, as they are.
    """

    __test__ = False  # not a test case, whatever pytest thinks of its name

    def __init__(self, pipeline: Pipeline, *, clock: Clock | None = None, cost: Cost | None = None) -> None:
        self._clock = clock or MonotonicClock()
        self._rows: dict[bytes, bytes] = {}
        self._events = LocalEvents(pipeline, MemoryWriter(self._rows), self._clock)
        plan = compile_plan(pipeline, MemoryStore(self._rows), clock=self._clock)
        if pipeline.record_requests:
            plan.features.record_to(self._events)
        if cost is not None:
            if not isinstance(self._clock, ManualClock):
                raise TypeError("a given cost needs a clock that it can move: clock=ManualClock()")
            plan = replace(plan, cost=cost, inference=_CostedInference(plan, self._clock, cost))
        self.plan: Plan = plan
        self.turns = Turns()
        self.engine = Engine(plan, LoopLoad(self.turns), [], self._clock, self.turns)
        self._endpoint = Endpoint(self.engine, Offer(pipeline.request, array_max=ARRAY_MAX))
        self._transport = _Transport()

    @classmethod
    def of_file(
        cls, path: Path | str, name: str | None = None, *, clock: Clock | None = None, cost: Cost | None = None
    ) -> TestClient:
        """Return a client of the pipeline of that name in a file, or of its only one.

        Raises SetupError for a file without it, or of several where no name is given.
        """
        found = {pipeline.name: pipeline for pipeline in load_pipelines(Path(path))}
        if name is None and len(found) == 1:
            (name,) = found
        if name not in found:
            what = "the file declares several pipelines" if name is None else f"the file declares no pipeline {name!r}"
            raise SetupError(what, where=str(path), next=f"name one of {', '.join(found)}")
        return cls(found[name], clock=clock, cost=cost)

    def __enter__(self) -> TestClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.plan.close()

    def put(self, view: Any, entity_id: EntityId | tuple[EntityId, ...], **columns: Any) -> None:
        """Write one entity's row of a view; a column not given is null.

        entity_id: a tuple of values where the entity's key is a tuple of fields. Raises TypeError for a column it has
        not or an id that is neither int nor str, ValueError for a value that the column does not hold.
        """
        if not issubclass(view, BatchFeatureView):
            raise TypeError(f"{view.__name__} has no rows to be written: send events, with client.push(stream, …)")
        entity_id = _plain_id(view.spec.entity, entity_id)
        codec = view.spec.codec()
        if unknown := columns.keys() - {column.name for column in view.spec.columns}:
            raise TypeError(f"{view.__name__} has no column {', '.join(sorted(unknown))}")
        values: dict[str, Any] = {column.name: [columns.get(column.name)] for column in view.spec.columns}
        now_ns = self._clock.wall_ns()
        (row,) = codec.pack([entity_id], values, now_ns, now_ns)
        self._rows[codec.key(entity_id)] = row

    def push(self, stream: Stream, *events: Any) -> list[Fate]:
        """Send events (dicts) of a stream; return what became of each.

        Raises InvalidRequestError for an event that the stream's schema does not take, KeyError for a stream of which
        the pipeline has no view.
        """
        try:
            decoded = [msgspec.convert(event, stream.schema, strict=False) for event in events]
        except msgspec.ValidationError as error:
            raise InvalidRequestError(str(error), where=f"streams.{stream.name}") from None
        return list(map(Fate, self._events.apply(stream, decoded).tolist()))

    def submit(self, request: Any, *, budget_ms: float | None = None) -> TestCall:
        """Send one request (a dict), or a list of them; its answer is there after a `turn`, a refusal at once.

        budget_ms: the caller's own, if it is sooner than the pipeline's.
        """
        return self.submit_bytes(msgspec.json.encode(request), budget_ms=budget_ms)

    def submit_bytes(
        self, body: bytes, *, budget_ms: float | None = None, priority: Priority = Priority.NORMAL
    ) -> TestCall:
        """Send a body. priority: of the call."""
        call = TestCall(self._transport, None, None, 0, 0, 1)
        own_ns = self.engine.budget_ns if budget_ms is None else int(budget_ms * NS_PER_MS)
        endpoint = self._endpoint.at_priority(priority)
        call.error = endpoint.accept(call, body, min(own_ns, self.engine.budget_ns))
        return call

    def turn(self) -> None:
        """Let the loop turn once: what was submitted becomes one batch, as long as it is not over `rows_best`."""
        self.turns.turn()

    def _turn_until_idle(self) -> None:
        """Turn until all is answered and the loop has looked for what came meanwhile.

        Without that last look, what a test sends next would count as come while this batch ran.
        """
        while not self.turns.is_idle:
            self.turn()

    def predict(self, request: Any) -> Any:
        """Answer one request (a dict), or a list of them, as JSON would have it."""
        return msgspec.json.decode(self.predict_bytes(msgspec.json.encode(request)))

    def predict_bytes(self, body: bytes) -> bytes:
        """Answer a body. Raises the ServingError of a request that cannot be answered."""
        call = self.submit_bytes(body)
        self._turn_until_idle()
        if call.error is not None:
            raise copy(call.error)
        assert call.answer is not None
        return call.answer

    def run(self, bodies: list[bytes]) -> Batch:
        """Answer several bodies as one batch and return it, with all that the layers left in it."""
        calls = [self.submit_bytes(body) for body in bodies]
        for call in calls:
            if call.error is not None:
                raise copy(call.error)
        self._turn_until_idle()
        batch = calls[0].batch
        assert batch is not None
        if len(batch.calls) < len(calls):
            raise ValueError(f"{len(calls)} calls are more than one batch: at most {len(batch.calls)}")
        return batch


def _plain_id(entity: Entity, entity_id: EntityId | tuple[EntityId, ...]) -> EntityId:
    """Return an id as it is stored. Raises TypeError for one that is none of the entity."""
    if not entity.is_composite:
        return entity_id if isinstance(entity_id, str) else index(entity_id)  # type: ignore[arg-type]  # of NumPy too
    if not isinstance(entity_id, tuple) or len(entity_id) != len(entity.fields):
        raise TypeError(f"{entity_id!r} is no {entity.name}: give a tuple of {', '.join(entity.fields)}")
    return composite_id(entity_id)


class _Transport:
    """Keeps what becomes of each call."""

    def deliver(self, batch: Batch, places: Sequence[int]) -> None:
        """Keep the bodies and errors of a batch."""
        for place in places:
            call = cast(TestCall, batch.calls[place])
            call.answer, call.error, call.batch = batch.bodies[place], batch.errors.get(place), batch

    def refuse(self, call: Call, error: ServingError) -> None:
        """Keep the error."""
        cast(TestCall, call).error = error


class _CostedInference(InferenceStep):
    """A layer 3 that takes, by a clock moved by hand, what a batch is said to cost."""

    def __init__(self, plan: Plan, clock: ManualClock, cost: Cost) -> None:
        super().__init__(plan.inference.stage, LayerLimit(plan.budget, INFERENCE, clock))
        self._clock = clock
        self._cost = cost
        costs_ns = tuple(int(cost.least_ns + (rows - 1) * cost.row_ns) for rows in SIZES)
        inline_ns = inline_ns_of(plan.budget)
        limit_ns = inline_ns if costs_ns[0] <= inline_ns else slice_ns_of(plan.budget)
        self._rows_best = CostCurve(SIZES, costs_ns, costs_ns).best_rows(limit_ns, overhead_ns=OVERHEAD_NS)

    @property
    def rows_best(self) -> int:
        """Rows of a batch with the least cost each, as a stage would find by these costs."""
        return self._rows_best

    async def run(self, batch: Batch) -> None:
        """Move the clock, then score."""
        cost = self._cost
        self._clock.advance((cost.least_ns + (batch.rows - 1) * cost.row_ns) / NS_PER_MS)
        await super().run(batch)
