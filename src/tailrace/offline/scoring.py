"""A Parquet file of requests scored by the pipeline that serves: the same five layers, in large batches.

requests --page by page--> validated as a body is --> batches through the layers --> + what each is answered
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tailrace.batch import Batch
from tailrace.codecs.arrow_form import columns_of, plain_value
from tailrace.codecs.msgpack import MsgpackCodec
from tailrace.compile.compiler import compile_plan
from tailrace.compile.materialised import check_views
from tailrace.compile.samples import Samples
from tailrace.deadline import Budget, MonotonicClock
from tailrace.engine import answer
from tailrace.errors import ServingError, SetupError
from tailrace.features.stores.memory import MemoryStore
from tailrace.features.stores.opening import open_store, resolve_url
from tailrace.features.stores.protocol import OnlineStore
from tailrace.offline.parquet_file import make_folder, write_tables
from tailrace.offline.parquet_requests import ParquetRequests
from tailrace.pipeline import Pipeline
from tailrace.plan import Plan

if TYPE_CHECKING:
    import pyarrow as pa

PAGE_REQUESTS: Final = 4_096
BUDGET: Final = "60s"
"""Of a batch: nobody waits for it, and a score that would be late in serving is one here."""
ERROR: Final = "error"
DEGRADED: Final = "degraded"
EXAMPLES_MAX: Final = 5
_CLOCK: Final = MonotonicClock()

OnPage = Callable[[int, int], None]
"""Is told of requests that are done, and of how many."""


@dataclass(slots=True)
class ScoredFile:
    """What became of the requests of a file. refused: those that are none, or failed; examples: the first, and why."""

    path: str
    requests: int = 0
    refused: int = 0
    degraded: int = 0
    examples: list[str] = field(default_factory=list)


def score_file(
    pipeline: Pipeline,
    requests: Path,
    out: Path,
    *,
    store: str | None = None,
    on_page: OnPage = lambda done, whole: None,
) -> ScoredFile:
    """Write the file's columns with a column for each field of the response, `error` and `degraded`.

    store: read from, in place of the declared one. Nothing is written to it; requests that a pipeline records are no
    events here. A request that is invalid, or fails, has its reason under `error` and no answer. Raises SourceError for
    a file that cannot be read or written, CompileError, StoreError.
    """
    report = ScoredFile(str(out))
    make_folder(out)
    with closing(_Scoring(pipeline, requests, store, report, on_page)) as scoring:
        write_tables(scoring.tables(), out)
    return report


class _Page:
    """What becomes of some requests: of each its answer, why it has none, and whether it is degraded."""

    def __init__(self, requests: int) -> None:
        self.answers: list[Any] = [None] * requests
        self.errors: list[str | None] = [None] * requests
        self.degraded = [False] * requests

    def take(self, places: Sequence[int], batch: Batch) -> None:
        """Take in a batch that was answered."""
        for index, place in enumerate(places):
            fault = batch.errors.get(index)
            self.answers[place] = batch.responses[index] if fault is None else None
            self.errors[place] = None if fault is None else str(fault)
            if batch.degraded is not None:
                self.degraded[place] = bool(batch.degraded[batch.rows_of_call(index)].any())


class _Scoring:
    """A file while it is scored."""

    def __init__(
        self, pipeline: Pipeline, requests: Path, store: str | None, report: ScoredFile, on_page: OnPage
    ) -> None:
        self._requests = ParquetRequests(requests, [pipeline.request])
        self._runner = asyncio.Runner()
        url = store or resolve_url(pipeline.store, pipeline.base_dir)
        self._store: OnlineStore = open_store(url, _CLOCK) if pipeline.views else MemoryStore()
        try:
            self._runner.run(self._store.open())
            quiet = replace(pipeline, budget=Budget(BUDGET), record_requests=False)
            self._plan: Plan = compile_plan(quiet, self._store, clock=_CLOCK)
            checked = self._runner.run(check_views(self._plan, _CLOCK, refuse=True))
        except BaseException:
            self.close()
            raise
        if checked.failure:
            self.close()
            raise SetupError(f"the store failed: {checked.failure}", where=f"pipeline {pipeline.name!r}",
                             next="see that it runs, or name another: --store URL")  # fmt: skip
        self._samples = Samples(self._plan)
        self._decode = MsgpackCodec(pipeline.request, array_max=1).decode
        self._answers = columns_of(pipeline.response)
        self._report, self._on_page = report, on_page
        taken = set(self._requests.names)
        self._error, self._degraded = (_free_name(name, taken) for name in (ERROR, DEGRADED))
        self._names = {name: _free_name(name, taken) for name in self._answers}

    def close(self) -> None:
        """Let go of the store, of the models' threads and of the loop."""
        if hasattr(self, "_plan"):
            self._plan.inference.close()
        self._store.close()
        self._runner.close()

    def tables(self) -> Iterator[pa.Table]:
        """Give the pages with their answers, in the file's order."""
        import pyarrow as pa

        for page in self._requests.pages(PAGE_REQUESTS):
            table, found = page, self._runner.run(self._score(self._requests.bodies(page)))
            for name, kind in self._answers.items():
                values = [None if each is None else plain_value(getattr(each, name), kind) for each in found.answers]
                table = table.append_column(self._names[name], pa.array(values, kind))
            self._count(found)
            table = table.append_column(self._error, pa.array(found.errors, pa.string()))
            yield table.append_column(self._degraded, pa.array(found.degraded, pa.bool_()))
            self._on_page(self._report.requests, self._requests.rows)

    async def _score(self, rows: Sequence[dict[str, Any]]) -> _Page:
        """Return what becomes of each request."""
        page = _Page(len(rows))
        read = [self._decode(msgspec.msgpack.encode(row)) for row in rows]
        places = [place for place, request in enumerate(read) if not isinstance(request, ServingError)]
        page.errors = [str(each) if isinstance(each, ServingError) else None for each in read]
        step = max(self._plan.inference.rows_best, 1)
        waiting = [places[begin : begin + step] for begin in range(0, len(places), step)]
        while waiting:
            some = waiting.pop()
            try:
                page.take(some, await self._answer([read[place] for place in some]))
            except Exception as error:  # of a user's function, on what one request holds
                if len(some) > 1:
                    waiting += [some[: len(some) // 2], some[len(some) // 2 :]]
                else:
                    page.errors[some[0]] = f"{type(error).__name__}: {error}"
        return page

    def _count(self, page: _Page) -> None:
        report = self._report
        for place, why in enumerate(page.errors):
            if why is not None and len(report.examples) < EXAMPLES_MAX:
                report.examples.append(f"row {report.requests + place}: {why}")
        report.refused += sum(why is not None for why in page.errors)
        report.degraded += sum(page.degraded)
        report.requests += len(page.errors)

    async def _answer(self, requests: Sequence[Any]) -> Batch:
        now_ns = _CLOCK.now_ns()
        batch = self._samples.batch(requests, now_ns, now_ns + self._plan.budget.total_ns)
        batch.suspends = self._plan.suspends(sum(map(self._samples.rows, requests)))
        await answer(self._plan, batch, _CLOCK.now_ns)
        return batch


def _free_name(name: str, taken: set[str]) -> str:
    """Return a name for a column that no other has, and take it."""
    while name in taken:
        name = f"answer_{name}"
    taken.add(name)
    return name
