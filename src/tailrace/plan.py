"""A pipeline compiled for serving: everything that can be inspected, looked up or decided, once, before traffic.

Made by the compiler (compiler.py) from resolved names (wiring.py): five bound steps, and the figures admission needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final, cast

import msgspec
import numpy as np

from tailrace.deadline import NS_PER_MS, Budget, Clock
from tailrace.errors import InvalidRequestError
from tailrace.features.assembly import Assembler
from tailrace.features.retrieval import Retrieval
from tailrace.features.view_rows import ViewRows
from tailrace.inference.curve import CostCurve
from tailrace.inference.scorer import Scored, Scorer
from tailrace.inference.signature import Signature
from tailrace.inference.thread import InferenceThread
from tailrace.pipeline import Pipeline
from tailrace.postprocess.decider import Decider
from tailrace.readers import on_demand_column, reader_of, value_reader, view_columns_type
from tailrace.request.columns import columns_type
from tailrace.request.decoder import RequestDecoder
from tailrace.request.sample import sample_body
from tailrace.response.encoder import ResponseEncoder
from tailrace.types import Batch, Degraded, OnlineStore
from tailrace.wiring import Wiring

INLINE_NS_MAX: Final = 1 * NS_PER_MS
"""A model call under this runs on the loop; a heavier one on the inference thread, while the next batch gathers."""

SLICE_NS: Final = 8 * NS_PER_MS
"""How long a second model may wait for its turn on a core that the first, which is late, still computes on."""

OVERHEAD_NS: Final = 150_000
"""What a batch costs beside its model, roughly (bench/layers.py): cutting a batch in two pays it twice."""

ARRAY_MAX: Final = 1_000
"""Requests in one array, unless the server is told otherwise."""

LAYER_FEATURES: Final = 1
LAYER_INFERENCE: Final = 2


@dataclass(frozen=True, slots=True)
class Cost:
    """What running the plan costs, measured at warm-up. Times of one whole batch, the five layers together."""

    p95_ns: int
    """Of a batch of one call, 95th percentile."""
    least_ns: int
    """Of a batch of one call, median: with less time left than this a call is lost."""
    row_ns: float
    """A row's part of a full batch."""


@dataclass(frozen=True, slots=True)
class CompiledModel:
    """The model, ready to be called: its inputs, what fills them, the guarded call and what it costs.

    fallback_curve: what its second model costs, if it falls back to one. kernel: what computes it; kernel_reason: why
    it is not a faster one, empty where there is none.
    """

    signature: Signature
    assemblers: tuple[tuple[str, Assembler], ...]
    scorer: Scorer
    curve: CostCurve
    fallback_curve: CostCurve | None
    kernel: str
    kernel_reason: str


class Plan:
    """Five steps that take a batch through the layers, bound to what they need. Made by the compiler."""

    def __init__(
        self,
        pipeline: Pipeline,
        wiring: Wiring,
        store: OnlineStore,
        retrieval: Retrieval,
        model: CompiledModel,
        clock: Clock,
        array_max: int,
    ) -> None:
        self.name, self.pipeline = pipeline.name, pipeline
        self.budget: Budget = pipeline.budget
        self.wiring = wiring
        self.signature, self.curve = model.signature, model.curve
        self.kernel, self.kernel_reason = model.kernel, model.kernel_reason
        self._now_ns = clock.now_ns
        # 1 request
        decoder = RequestDecoder(pipeline.request, array_max=array_max)
        self.decode: Callable[[bytes], Any] = decoder.decode
        self.one_row = decoder.request_type if wiring.expanded is None else None
        self._columns = columns_type(pipeline.request, wiring.expanded)
        self._read_list = attrgetter(wiring.expanded) if wiring.expanded else None
        names = {field.name: field.encode_name for field in msgspec.structs.fields(pipeline.request)}
        self._list_name = names.get(wiring.expanded or "", "")
        self._call_rows_max = max(pipeline.rows_max, array_max)
        # 2 features
        self._store = store
        self.retrieval = retrieval
        self._keys = tuple(dict.fromkeys(wiring.keys))
        self._id_readers = [(attrgetter(key), key == wiring.expanded) for key in self._keys]
        columns = [view_columns_type(view.spec) for view in wiring.views]
        places = [(self._keys.index(key), key == wiring.expanded) for key in wiring.keys]
        self.views = list(zip(places, columns, strict=True))
        self.on_demand = [
            (name, feature.function, tuple(map(reader_of, sources)))
            for name, (feature, sources) in wiring.on_demand.items()
        ]
        self._assemblers = model.assemblers
        # 3 inference
        self._bind_model(model, clock)
        # 4 postprocess, 5 response
        self.decider = _decider_of(pipeline, wiring)
        self.decide = self.decider.decide if wiring.labels else _no_decision
        self._encoder = ResponseEncoder(
            pipeline.response, [value_reader(source, wiring, self.decider) for _, source in wiring.response]
        )
        self.encode = self._encoder.encode
        self.suspends = store.network or self.threaded
        self.batches_in_flight_max = 2 if store.network else 1
        self.cost = Cost(p95_ns=0, least_ns=0, row_ns=0.0)

    def _bind_model(self, model: CompiledModel, clock: Clock) -> None:
        """Decide where the model runs, by what it costs: on the loop, or on a thread of its own."""
        self._scorer = model.scorer
        inline_ns = min(INLINE_NS_MAX, self.budget.total_ns // 10)
        curves = [curve for curve in (model.curve, model.fallback_curve) if curve is not None]
        self.threaded = max(curve.cost_ns(1) for curve in curves) > inline_ns
        self._thread = InferenceThread(clock=clock) if self.threaded else None
        # A second model has a thread of its own: it is asked when the first one is still at work.
        self._fallback_curve = model.fallback_curve
        self._fallback_thread = InferenceThread(clock=clock) if self.threaded and model.fallback_curve else None
        self.infer = self._infer_threaded if self.threaded else self._infer_inline
        self.rest = self._thread.rest if self._thread is not None else None
        limit_ns = self.budget.total_ns // 4 if self.threaded else inline_ns
        self.rows_best = model.curve.best_rows(limit_ns, overhead_ns=OVERHEAD_NS)

    async def open(self) -> None:
        """Connect to the store."""
        await self._store.open()

    def close(self) -> None:
        """Let go of the store and the inference thread."""
        self._store.close()
        for thread in (self._thread, self._fallback_thread):
            if thread is not None:
                thread.close()

    def sample_body(self, seed: int) -> bytes:
        """Return the JSON of a valid request, for warming up and measuring."""
        return sample_body(self.pipeline.request, seed=seed, list_length=min(64, self.pipeline.rows_max))

    # -- 1 request ----------------------------------------------------------------------------------------------------

    def rows_of(self, requests: Any) -> int:
        """Return how many rows a call makes.

        Raises InvalidRequestError for a request of more than `rows_max`, or an array that makes more than either limit.
        """
        if self._read_list is None:
            return len(requests) if type(requests) is list else 1
        many = type(requests) is list
        lengths = [len(self._read_list(r)) for r in (requests if many else (requests,))]
        if max(lengths, default=0) > self.pipeline.rows_max:
            place = f"$[{lengths.index(max(lengths))}]" if many else "$"
            what = f"Expected `array` of length <= {self.pipeline.rows_max}"
            raise InvalidRequestError(what, where=f"{place}.{self._list_name}")
        rows = sum(lengths)
        if rows > self._call_rows_max:
            raise InvalidRequestError(
                f"Expected at most {self._call_rows_max} rows in one call, got {rows}",
                where="$",
                next="send fewer a call",
            )
        return rows

    def gather(self, batch: Batch) -> None:
        """Lay the requests of all calls in one row, note where each call's begin, and open their columns."""
        requests: list[Any] = [call.requests for call in batch.calls]
        if list in map(type, requests):
            flat: list[Any] = []
            offsets = [0]
            for item in requests:
                flat.extend(item if type(item) is list else (item,))
                offsets.append(len(flat))
            requests, batch.offsets = flat, offsets
        batch.requests = requests
        if self._read_list is None:
            batch.rows = len(requests)
        else:
            counts = np.fromiter(map(len, map(self._read_list, requests)), np.intp, len(requests))
            batch.row_bounds = np.concatenate(([0], counts.cumsum()))
            batch.row_request = np.repeat(np.arange(len(requests)), counts)
            batch.rows = int(batch.row_bounds[-1])
        batch.request = self._columns(requests, batch.row_request)

    # -- 2 features ---------------------------------------------------------------------------------------------------

    async def retrieve(self, batch: Batch) -> None:
        """Read all views in one round trip, compute the on-demand features, and fill the model's inputs."""
        if self.views:
            by_key = self.ids(batch)
            ids = [by_key[key] for (key, _), _ in self.views]
            limit_ns = self._limit_ns(batch, LAYER_FEATURES, self.budget.features_ns)
            self.take_views(batch, await self.retrieval.read(ids, limit_ns))
        for name, function, readers in self.on_demand:
            column = function(*[read(batch) for read in readers])
            if type(column) is not np.ndarray or column.shape != (batch.rows,):
                column = on_demand_column(name, column, batch.rows)
            batch.on_demand[name] = column
        for name, assembler in self._assemblers:
            batch.feeds[name] = assembler.fill(batch)

    def take_views(self, batch: Batch, found: list[ViewRows]) -> None:
        """Open the columns of the views, and note why rows are degraded: values stale, or a store late or gone."""
        batch.view_rows = found
        for rows, ((_, expands), columns) in zip(found, self.views, strict=True):
            index = None if expands else batch.row_request
            batch.views.append(columns(rows, index))
            if rows.degraded is not None:
                reasons = rows.degraded.copy() if index is None else rows.degraded[index]
                batch.degraded = reasons if batch.degraded is None else batch.degraded | reasons

    def ids(self, batch: Batch) -> list[list[Any]]:
        """Return the entity ids of each key: one a request, or one a row where the key is a list."""
        requests = batch.requests
        return [
            [item for request in requests for item in read(request)] if expands else list(map(read, requests))
            for read, expands in self._id_readers
        ]

    # -- 3 inference --------------------------------------------------------------------------------------------------

    async def _infer_inline(self, batch: Batch) -> None:
        """Score on the loop: the model is quicker than a thread switch."""
        if batch.rows:
            limit_ns = self._limit_ns(batch, LAYER_INFERENCE, self.budget.inference_ns)
            self._take_scores(batch, self._scorer.score(batch.feeds, batch.rows, limit_ns))

    async def _infer_threaded(self, batch: Batch) -> None:
        """Score on the inference thread; what is late gets the fallback, and its result is dropped."""
        assert self._thread is not None
        if not batch.rows:
            return
        limit_ns = self._limit_ns(batch, LAYER_INFERENCE, self.budget.inference_ns)
        first_ns = limit_ns - self._fallback_ns(batch.rows, limit_ns)
        try:
            scored = await self._thread.run(self._scorer.score, batch.feeds, batch.rows, first_ns, deadline_ns=first_ns)
        except TimeoutError:
            scored = await self._fall_back(batch, limit_ns)
        self._take_scores(batch, scored)

    def _fallback_ns(self, rows: int, limit_ns: int) -> int:
        """Return what of the time until the limit is kept for the second model, half of it at most."""
        if self._fallback_curve is None:
            return 0
        needed_ns = 2 * self._fallback_curve.p95_ns(rows) + SLICE_NS
        return min(needed_ns, max(limit_ns - self._now_ns(), 0) // 2)

    async def _fall_back(self, batch: Batch, limit_ns: int) -> Scored:
        """Score a batch whose model was late: by the second model where there is one, and it is in time."""
        scorer, feeds, rows, reason = self._scorer, batch.feeds, batch.rows, Degraded.MODEL_TIMEOUT
        if self._fallback_thread is not None:
            try:
                run = self._fallback_thread.run(scorer.fall_back, feeds, rows, reason, limit_ns, deadline_ns=limit_ns)
                return await run
            except TimeoutError:
                scorer = cast(Scorer, scorer.fallback)
        return scorer.fall_back(feeds, rows, reason)

    @staticmethod
    def _take_scores(batch: Batch, scored: Scored) -> None:
        # As float64: a band's edge and a rule's number are, and so is what the caller is told.
        batch.scores = scored.scores.astype(np.float64, copy=False)
        batch.failed = scored.failed
        if scored.degraded is not None:
            if batch.degraded is None:
                batch.degraded = scored.degraded
            else:
                batch.degraded |= scored.degraded

    def _limit_ns(self, batch: Batch, layer: int, own_ns: int) -> int:
        """Return when a layer must end: after its own part, and never in what the later layers are owed."""
        latest_ns = batch.deadline_ns - self.budget.owed_after_ns(layer)
        return min(latest_ns, self._now_ns() + own_ns) if own_ns else latest_ns


def _decider_of(pipeline: Pipeline, wiring: Wiring) -> Decider:
    """Return the postprocess layer: the decision, and each rule with what reads its arguments."""
    readers = [[reader_of(source, wiring.labels) for source in sources] for sources in wiring.rules]
    return Decider(pipeline.decision, wiring.labels, list(zip(pipeline.rules, readers, strict=True)))


def _no_decision(batch: Batch) -> None:
    """Leave the scores as they are: the pipeline decides nothing."""
