"""An engine for tests of shared answers: its calls, and what was computed for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import msgspec

from tailrace.batch import Batch, Call, Source
from tailrace.codecs.offer import Offer
from tailrace.compile.compiler import compile_plan
from tailrace.engine import Engine
from tailrace.errors import ServingError
from tailrace.features.stores.memory import MemoryStore
from tailrace.loop_load import LoopLoad
from tailrace.pipeline import Pipeline
from tailrace.plan import Cost
from tailrace.server.endpoint import CallEndpoint, Endpoint
from tailrace.testing import ManualClock, Turns


class Asked(Call, gc=False, eq=False):
    """A call of a test, and what became of it."""

    body: bytes | None = None
    error: ServingError | None = None
    batch: Batch | None = None
    scope: bytes = b""

    @property
    def callers(self) -> bytes:
        """The scope of its caller."""
        return self.scope

    def source(self) -> Source:
        """Where it comes from: its scope, where it has one."""
        return self.scope, b"", b""

    @property
    def json(self) -> Any:
        """The answer, which there must be."""
        assert self.error is None, self.error
        assert self.body is not None
        return msgspec.json.decode(self.body)


class Counting:
    """The inference of a plan, counting the rows of each batch. act: is done to a batch once it is scored."""

    def __init__(self, step: Any) -> None:
        self.rows: list[int] = []
        self.act: Callable[[Batch], Any] = lambda batch: None
        self._step = step

    async def run(self, batch: Batch) -> None:
        """Count, score, act."""
        self.rows.append(batch.rows)
        await self._step.run(batch)
        self.act(batch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._step, name)


class Sharing:
    """A pipeline at work, on a loop turned by hand. scored: rows of each batch that the model was asked for.

    It is its calls' transport and the engine's recorder. shared: batches of calls that shared answers; sheds: reasons.
    """

    def __init__(self, pipeline: Pipeline, *, cost: Cost | None = None, events: Any = None) -> None:
        self.clock, self.turns = ManualClock(), Turns()
        plan = compile_plan(pipeline, MemoryStore(), clock=self.clock)
        if events is not None:
            plan.features.record_to(events)
        self.inference = Counting(plan.inference)
        self.plan = replace(plan, inference=cast(Any, self.inference), cost=cost or plan.cost)
        self.engine = Engine(self.plan, LoopLoad(self.turns), [self], self.clock, self.turns)
        self.offer = Offer(pipeline.request, array_max=100)
        self.endpoint = Endpoint(self.engine, self.offer)
        self.shared: list[Batch] = []
        self.recorded: list[Batch] = []
        self.sheds: list[str] = []
        self.act_on_shared: Callable[[Batch], Any] = lambda batch: None
        self.failures: list[type[ServingError]] = []

    @property
    def scored(self) -> list[int]:
        """The rows of each batch."""
        return self.inference.rows

    def ask(
        self,
        request: Any,
        *,
        budget_ms: float = 50,
        at: CallEndpoint | None = None,
        body: bytes = b"",
        scope: bytes = b"",
    ) -> Asked:
        """Send a request, or a list of them; it is answered by the next turn."""
        call = Asked(self, None, None, 0, 0, 1, scope=scope)
        body = body or msgspec.json.encode(request)
        call.error = (at or self.endpoint).accept(call, body, int(budget_ms * 1e6))
        return call

    def turn(self) -> None:
        """Turn until all is answered."""
        while not self.turns.is_idle:
            self.turns.turn()

    def close(self) -> None:
        """Let go of threads and the store."""
        self.plan.close()

    def deliver(self, batch: Batch, places: Sequence[int]) -> None:
        """Keep the bodies and errors of a batch."""
        for place in places:
            call = cast(Asked, batch.calls[place])
            assert call.body is None, "answered twice"
            assert call.error is None, "answered twice"
            call.body, call.error, call.batch = batch.bodies[place], batch.errors.get(place), batch

    def refuse(self, call: Call, error: ServingError) -> None:
        """Keep the error."""
        asked = cast(Asked, call)
        assert asked.body is None, "answered twice"
        assert asked.error is None, "answered twice"
        asked.error = error

    def record(self, batch: Batch, finished_ns: int) -> None:
        """Keep a computed batch, whose calls are its transports' own."""
        assert all(type(call) is Asked for call in batch.calls)
        self.recorded.append(batch)

    def record_coalesced(self, batch: Batch, finished_ns: int) -> None:
        """Keep a batch of calls that shared answers."""
        assert len(batch.calls) == len(batch.bodies) == len(batch.responses)
        self.shared.append(batch)
        self.act_on_shared(batch)

    def record_shed(self, reason: str) -> None:
        """Keep the reason."""
        self.sheds.append(reason)

    def record_failure(self, kind: type[ServingError]) -> None:
        """Keep the kind."""
        self.failures.append(kind)
