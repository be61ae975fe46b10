"""A pipeline compiled for serving: everything that can be inspected, looked up or decided, once, before traffic.

`compile_plan` loads the model, resolves every name (wiring.py), runs each user function once on sample columns, and
tells all mistakes together. The `Plan` that comes out is five bound steps and the figures admission needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.deadline import NS_PER_MS, Budget, Clock, MonotonicClock
from tailrace.errors import CompileError, InvalidRequestError, ModelPackageError, Problem, SetupError
from tailrace.features.assembly import Assembler
from tailrace.features.retrieval import Retrieval
from tailrace.features.rows import RowCodec
from tailrace.features.view_rows import ViewRows
from tailrace.inference.curve import CostCurve, measure_curve
from tailrace.inference.declaration import Constant, Model
from tailrace.inference.loading import load_model
from tailrace.inference.packaged import PackagedModel
from tailrace.inference.scorer import Scored, Scorer
from tailrace.inference.signature import Signature
from tailrace.inference.thread import InferenceThread
from tailrace.pipeline import Pipeline
from tailrace.postprocess.decider import Decider
from tailrace.readers import input_parts, on_demand_column, reader_of, value_reader, view_columns_type
from tailrace.request.columns import columns_type
from tailrace.request.decoder import RequestDecoder
from tailrace.request.sample import sample_body
from tailrace.response.encoder import ResponseEncoder
from tailrace.types import Batch, Call, Degraded, OnlineStore, Provenance
from tailrace.wiring import Wiring, dtype_problem, wire

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
    """Five steps that take a batch through the layers, bound to what they need. Made by `compile_plan`."""

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
        self._views = list(zip(places, columns, strict=True))
        self._on_demand = [
            (name, feature.function, tuple(map(reader_of, sources)))
            for name, (feature, sources) in wiring.on_demand.items()
        ]
        self._assemblers = model.assemblers
        # 3 inference
        self._scorer = model.scorer
        inline_ns = min(INLINE_NS_MAX, pipeline.budget.total_ns // 10)
        curves = [curve for curve in (model.curve, model.fallback_curve) if curve is not None]
        self.threaded = max(curve.cost_ns(1) for curve in curves) > inline_ns
        self._thread = InferenceThread(clock=clock) if self.threaded else None
        # A second model has a thread of its own: it is asked when the first one is still at work.
        self._fallback_curve = model.fallback_curve
        self._fallback_thread = InferenceThread(clock=clock) if self.threaded and model.fallback_curve else None
        self.infer = self._infer_threaded if self.threaded else self._infer_inline
        limit_ns = pipeline.budget.total_ns // 4 if self.threaded else inline_ns
        self.rows_best = model.curve.best_rows(limit_ns, overhead_ns=OVERHEAD_NS)
        # 4 postprocess, 5 response
        self._decider = _decider_of(pipeline, wiring)
        self.decide = self._decider.decide if wiring.labels else _no_decision
        self._encoder = ResponseEncoder(
            pipeline.response, [value_reader(source, wiring, self._decider) for _, source in wiring.response]
        )
        self.encode = self._encoder.encode
        self.suspends = store.network or self.threaded
        self.batches_in_flight_max = 2 if store.network else 1
        self.cost = Cost(p95_ns=0, least_ns=0, row_ns=0.0)

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
        if self._views:
            by_key = self._ids(batch)
            ids = [by_key[key] for (key, _), _ in self._views]
            limit_ns = self._limit_ns(batch, LAYER_FEATURES, self.budget.features_ns)
            self._take_views(batch, await self.retrieval.read(ids, limit_ns))
        for name, function, readers in self._on_demand:
            column = function(*[read(batch) for read in readers])
            if type(column) is not np.ndarray or column.shape != (batch.rows,):
                column = on_demand_column(name, column, batch.rows)
            batch.on_demand[name] = column
        for name, assembler in self._assemblers:
            batch.feeds[name] = assembler.fill(batch)

    def _take_views(self, batch: Batch, found: list[ViewRows]) -> None:
        """Open the columns of the views, and note why rows are degraded: values stale, or a store late or gone."""
        batch.view_rows = found
        for rows, ((_, expands), columns) in zip(found, self._views, strict=True):
            index = None if expands else batch.row_request
            batch.views.append(columns(rows, index))
            if rows.degraded is not None:
                reasons = rows.degraded.copy() if index is None else rows.degraded[index]
                batch.degraded = reasons if batch.degraded is None else batch.degraded | reasons

    def _ids(self, batch: Batch) -> list[list[Any]]:
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


# -- compiling --------------------------------------------------------------------------------------------------------


def compile_plan(
    pipeline: Pipeline, store: OnlineStore, *, clock: Clock | None = None, array_max: int = ARRAY_MAX
) -> Plan:
    """Compile a pipeline for serving from a store. Raises CompileError that tells every mistake at once."""
    clock = clock or MonotonicClock()
    problems: list[Problem] = []
    model = _load_model(pipeline.model, pipeline.base_dir, problems)
    fallback = _load_fallback(pipeline, model, clock, problems)
    wiring = wire(pipeline, model.signature if model is not None else None)
    problems = [*wiring.problems, *problems]
    if problems or model is None:
        raise CompileError(pipeline.name, problems)
    codecs = [RowCodec(view.spec) for view in wiring.views]
    assemblers = tuple(
        (tensor.name, Assembler(tensor.numpy_dtype, input_parts(wiring, tensor.features, codecs)))
        for tensor in model.signature.inputs
    )
    scorer = Scorer(model, fallback, classes=_classes_of(model.signature), clock=clock)
    second = fallback.model if isinstance(fallback, Scorer) else None
    compiled = CompiledModel(
        model.signature,
        assemblers,
        scorer,
        curve=measure_curve(model, clock=clock),
        fallback_curve=None if second is None else measure_curve(cast(PackagedModel, second), clock=clock),
        kernel=model.kernel,
        kernel_reason=model.kernel_reason,
    )
    budget = pipeline.budget
    retrieval = Retrieval(codecs, store, clock, fair_ns=(budget.features_ns or budget.total_ns // 2) // 2)
    plan = Plan(pipeline, wiring, store, retrieval, compiled, clock, array_max)
    problems = dry_run(plan, codecs)
    if problems:
        raise CompileError(pipeline.name, problems)
    return plan


def _load_model(model: Model, base_dir: Path, problems: list[Problem]) -> PackagedModel | None:
    try:
        return load_model(model.directory(base_dir))
    except ModelPackageError as error:
        problems.append(Problem(error.what, error.where or f"model {model.name!r}", error.next))
        return None


def _load_fallback(
    pipeline: Pipeline, model: PackagedModel | None, clock: Clock, problems: list[Problem]
) -> Constant | Scorer | None:
    fallback = pipeline.model.fallback
    if not isinstance(fallback, Model):
        return fallback
    second = _load_model(fallback, pipeline.base_dir, problems)
    if second is None or model is None:
        return None
    one, other = model.signature, second.signature
    if (one.inputs, one.classes, one.column is None) != (other.inputs, other.classes, other.column is None):
        problems.append(
            Problem(
                f"the fallback {fallback.name!r} takes other inputs or classes than {pipeline.model.name!r}",
                f"model {pipeline.model.name!r}",
                "package both with the same feature columns in the same order",
            )
        )
    return Scorer(second, cast(Constant | None, fallback.fallback), classes=_classes_of(second.signature), clock=clock)


def _classes_of(signature: Signature) -> int:
    """Return how many columns the scores have; 1 where they are one a row."""
    return len(signature.classes) if signature.column is None and signature.classes else 1


def dry_run(plan: Plan, codecs: Sequence[RowCodec]) -> list[Problem]:
    """Run what the user wrote once, on sample requests with default features; return what it does wrong."""
    try:
        requests = [plan.decode(plan.sample_body(seed)) for seed in (1, 2)]
    except SetupError as error:
        return [Problem(error.what, error.where, error.next)]
    batch, *alone = batches = [
        _sample_batch(plan, codecs, some, before)
        for some, before in ((requests, []), (requests[:1], []), (requests[1:], requests[:1]))
    ]
    problems: list[Problem] = []
    for name, function, readers in plan._on_demand:
        columns, found = _try(function, readers, batches, f"@on_demand {name}", "fiubOUST")
        for each, column in zip(batches, columns, strict=True):
            each.on_demand[name] = column
        problems += found or _check_fit(plan, name, batch.on_demand[name])
    _sample_scores(plan, batch, alone)
    for rule, readers in plan._decider.functions():
        problems += _try(rule.when, readers, batches, f"rule {rule.name!r}", "b")[1]
    if not problems:
        problems += _try_response(plan, batch)
    return problems


def _try_response(plan: Plan, batch: Batch) -> list[Problem]:
    """Decide and encode a batch; say so if the response type cannot be built, or a field is given another type."""
    response = plan.pipeline.response
    where = f"response {response.__name__}"
    batch.scores = batch.scores if batch.probabilities is None else batch.probabilities
    try:
        plan.decide(batch)
        plan.encode(batch)
        for body in batch.bodies:
            msgspec.json.decode(body, type=response)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$")
        return [
            Problem(f"its value is of another type: {what}", where + path.rstrip("`"), "declare it as what fills it")
        ]
    except Exception as error:  # whatever a response type of the user's own raises is a mistake to be told
        next_step = "it must be built from its fields in their order, and be JSON"
        return [Problem(f"{type(error).__name__}: {error}", where, next_step)]
    return []


def _sample_batch(plan: Plan, codecs: Sequence[RowCodec], requests: Sequence[Any], before: Sequence[Any]) -> Batch:
    """Return a batch of requests as it stands after the look-ups: number columns count on from the default.

    before: the requests whose rows come first, so that a row holds the same values alone and beside others.
    """
    batch = Batch([Call(None, None, request, 0, 0) for request in requests], 0, 0)
    plan.gather(batch)
    by_key = plan._ids(batch)
    counts = [len(by_key[key]) for (key, _), _ in plan._views]
    earlier = _sample_batch(plan, codecs, before, []).view_rows if before else []
    found = [codec.defaults(count, Provenance.DEFAULT) for codec, count in zip(codecs, counts, strict=True)]
    for index, (codec, rows) in enumerate(zip(codecs, found, strict=True)):
        begin = len(earlier[index]) if before else 0
        for column in codec.spec.columns:
            if column.dtype.kind in "iuf":  # equal rows would hide a mean over a column
                rows.data[column.name] += np.arange(begin, begin + len(rows)).astype(column.dtype)
    plan._take_views(batch, found)
    return batch


def _sample_scores(plan: Plan, batch: Batch, alone: Sequence[Batch]) -> None:
    """Give every row a score and a decision of its own, the same alone as beside others."""
    classes = _classes_of(plan.signature)
    shape = (batch.rows, classes) if classes > 1 else (batch.rows,)
    scores = np.linspace(0.1, 0.9, batch.rows * classes).reshape(shape)
    decisions = np.arange(batch.rows) % max(len(plan.wiring.labels), 1)
    for part, begin in zip((batch, *alone), (0, 0, alone[0].rows), strict=True):
        part.scores = scores[begin : begin + part.rows]
        if classes > 1:  # a rule is given the likeliest class's
            part.probabilities, part.scores = part.scores, part.scores.max(axis=1)
        part.decisions = decisions[begin : begin + part.rows]


def _try(
    function: Callable[..., Any],
    readers: Sequence[Callable[[Batch], Any]],
    batches: Sequence[Batch],
    where: str,
    kinds: str,
) -> tuple[list[NDArray[Any]], list[Problem]]:
    """Call a user's function on sample columns; return what it gives for each batch, and what is wrong with it.

    batches: the first holds the rows of all the others, in their order.
    """
    blanks = [np.zeros(batch.rows) for batch in batches]
    columns = []
    for batch in batches:
        column = _call(function, readers, batch)
        if isinstance(column, Exception):
            what = f"{type(column).__name__}: {column}"
            return blanks, [Problem(what, where, "it must take columns, shape (rows,)")]
        if column.shape not in ((batch.rows,), ()) or column.dtype.kind not in kinds:
            wanted = "bool" if kinds == "b" else "numbers or texts"
            what = f"gives {column.dtype} of shape {column.shape}, not {wanted} of shape (rows,)"
            return blanks, [Problem(what, where, "return one value a row, computed on whole columns")]
        columns.append(np.broadcast_to(column, (batch.rows,)))
    together, *alone = columns
    again = _call(function, readers, batches[0])
    # A function that never gives the same twice (a clock, a random number) cannot be compared.
    if _alike(together, np.concatenate(alone)) or isinstance(again, Exception) or not _alike(together, again):
        return columns, []
    what = "a row's value depends on the other requests of its batch"
    next_step = "compute each row from its own values: no mean, sort or rank over a column"
    return columns, [Problem(what, where, next_step)]


def _call(
    function: Callable[..., Any], readers: Sequence[Callable[[Batch], Any]], batch: Batch
) -> NDArray[Any] | Exception:
    """Return what a user's function gives or raises, whatever that is: a mistake to be told."""
    try:
        return np.asarray(function(*[read(batch) for read in readers]))
    except Exception as error:
        return error


def _alike(one: NDArray[Any], other: NDArray[Any]) -> bool:
    if one.dtype.kind == "f" and other.dtype.kind == "f":
        return bool(np.allclose(one, other, rtol=1e-6, equal_nan=True))
    return bool(np.array_equal(one, other))


def _check_fit(plan: Plan, name: str, column: NDArray[Any]) -> list[Problem]:
    """Hold the type that a function gives against the model's input that it fills."""
    dtype = column.dtype
    if dtype.kind == "O" and not isinstance(column[0] if len(column) else "", str):
        dtype = np.array(column.tolist()).dtype
    problems: list[Problem] = []
    for tensor in plan.signature.inputs:
        if name in tensor.features:
            place = f"{tensor.name!r}[{tensor.features.index(name)}] of the model {plan.pipeline.model.name!r}"
            problems += dtype_problem(name, dtype, place, tensor.dtype)
    return problems
