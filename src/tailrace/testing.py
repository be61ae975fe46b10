"""For tests of pipelines: a clock moved by hand, and a client that calls a pipeline without a server."""

from __future__ import annotations

import asyncio
from operator import index
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from tailrace.compiler import compile_plan
from tailrace.deadline import NS_PER_MS, Clock, MonotonicClock
from tailrace.engine import answer, drive
from tailrace.errors import SetupError
from tailrace.features.rows import RowCodec
from tailrace.features.stores.memory import MemoryStore
from tailrace.pipeline import Pipeline, load_pipelines
from tailrace.plan import Plan
from tailrace.types import Batch, Call, EntityId


class ManualClock:
    """A clock that stands still until it is moved."""

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


class TestClient:
    """Calls a pipeline's five layers in this process, on a store in memory.

        with TestClient(fraud) as client:
            client.put(CustomerProfile, 4021, avg_amount_90d=55.0)
            assert client.predict({"customer_id": 4021, …})["decision"] == "allow"

    Raises CompileError for a pipeline with mistakes, and the errors a caller would be told, as they are.
    """

    __test__ = False  # not a test case, whatever pytest thinks of its name

    def __init__(self, pipeline: Pipeline, *, clock: Clock | None = None) -> None:
        self._clock = clock or MonotonicClock()
        self._rows: dict[bytes, bytes] = {}
        self.plan: Plan = compile_plan(pipeline, MemoryStore(self._rows), clock=self._clock)

    @classmethod
    def of_file(cls, path: Path | str, name: str | None = None, *, clock: Clock | None = None) -> TestClient:
        """Return a client of the pipeline of that name in a file, or of its only one.

        Raises SetupError for a file without it, or of several where no name is given.
        """
        found = {pipeline.name: pipeline for pipeline in load_pipelines(Path(path))}
        if name is None and len(found) == 1:
            (name,) = found
        if name not in found:
            what = "the file declares several pipelines" if name is None else f"the file declares no pipeline {name!r}"
            raise SetupError(what, where=str(path), next=f"name one of {', '.join(found)}")
        return cls(found[name], clock=clock)

    def __enter__(self) -> TestClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.plan.close()

    def put(self, view: Any, entity_id: EntityId, **columns: Any) -> None:
        """Write one entity's row of a view; a column not given is null.

        Raises TypeError for a column it has not or an id that is neither int nor str, ValueError for a value that the
        column does not hold.
        """
        if not isinstance(entity_id, str):
            entity_id = index(entity_id)  # of NumPy too
        codec = RowCodec(view.spec)
        if unknown := columns.keys() - {column.name for column in view.spec.columns}:
            raise TypeError(f"{view.__name__} has no column {', '.join(sorted(unknown))}")
        values: dict[str, Any] = {column.name: [columns.get(column.name)] for column in view.spec.columns}
        now_ns = self._clock.wall_ns()
        (row,) = codec.pack([entity_id], values, now_ns, now_ns)
        self._rows[codec.key(entity_id)] = row

    def predict(self, request: Any) -> Any:
        """Answer one request (a dict), or a list of them, as JSON would have it."""
        return msgspec.json.decode(self.predict_bytes(msgspec.json.encode(request)))

    def predict_bytes(self, body: bytes) -> bytes:
        """Answer a body. Raises the ServingError of a request that cannot be answered."""
        batch = self.run([body])
        for error in batch.errors.values():
            raise error
        return batch.bodies[0]

    def run(self, bodies: list[bytes]) -> Batch:
        """Answer several bodies as one batch and return it, with all that the layers left in it."""
        now_ns = self._clock.now_ns()
        deadline_ns = now_ns + self.plan.budget.total_ns
        calls = [Call(None, None, request, now_ns, deadline_ns) for request in map(self.plan.decode, bodies)]
        for call in calls:
            call.rows = self.plan.rows_of(call.requests)
        batch = Batch(calls, now_ns, deadline_ns)
        run = self._answer(batch)
        if self.plan.suspends:
            asyncio.run(run)
        else:
            drive(run)  # works inside a running loop too
        return batch

    async def _answer(self, batch: Batch) -> None:
        await answer(self.plan, batch, self._clock.now_ns)
