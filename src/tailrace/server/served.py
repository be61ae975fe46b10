"""The pipelines of a worker at work: each with its plan, engine, counters and fault log, on the stores they share."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tailrace.batch import Codec
from tailrace.codecs.arrow import ArrowCodec
from tailrace.codecs.offer import Offer
from tailrace.codecs.protobuf import protobuf_codecs
from tailrace.compile.compiler import compile_plan
from tailrace.compile.materialised import check_views
from tailrace.compile.warm_up import LayerTimes, warm_up
from tailrace.deadline import NS_PER_S, Clock
from tailrace.engine import Engine, Recorder
from tailrace.errors import ModelPackageError
from tailrace.features.cache import CacheLimits
from tailrace.features.cached_retrieval import CachedRetrieval
from tailrace.features.stores.memory import MemoryStore
from tailrace.features.stores.opening import open_store, store_identity
from tailrace.features.stores.protocol import OnlineStore
from tailrace.inference.model_stage import model_stages
from tailrace.inference.remote.stage import remote_stages
from tailrace.ingest.link import EventLink, LinkedEvents
from tailrace.loop_load import Loop, LoopLoad
from tailrace.monitor.branch_recorder import BranchRecorder
from tailrace.monitor.claimed_ring import ClaimedRing
from tailrace.monitor.counts.coalesced import CoalescedCounts, KeptCounts
from tailrace.monitor.counts.model import ModelCounts
from tailrace.monitor.counts.queue import LoopPace, QueueCounts
from tailrace.monitor.counts.remote import RemoteCounts
from tailrace.monitor.counts.retrieval import RetrievalCounts
from tailrace.monitor.recorder import BatchRecorder
from tailrace.monitor.sampler import Sampler
from tailrace.monitor.samples import SampleWriter
from tailrace.monitor.shared import MetricBlock
from tailrace.monitor.tap import Tap
from tailrace.monitor.tracing.onward import OnwardTrace
from tailrace.pipeline import Pipeline
from tailrace.plan import Plan
from tailrace.release.pinned import Pin, Release
from tailrace.release.registry.child import RegistryChoice
from tailrace.release.settle import chosen_backends, settle, with_pinned_models
from tailrace.server.checking.link import Checking
from tailrace.server.control import LayerCost, PipelineReady
from tailrace.server.declared import branches_of, load_all, store_url
from tailrace.server.eager_loop import EagerLoop
from tailrace.server.endpoint import Endpoint
from tailrace.server.fault_log import FaultLog
from tailrace.server.options import ServeOptions

Counts = RetrievalCounts | RemoteCounts | KeptCounts | QueueCounts
"""What is looked at once a second."""


@dataclass(frozen=True, slots=True)
class Served:
    """One pipeline at work. ready: what the supervisor is told of it."""

    plan: Plan
    engine: Engine
    recorder: BatchRecorder
    faults: FaultLog
    counts: list[Counts]
    ready: PipelineReady

    def endpoint(self, options: ServeOptions) -> Endpoint:
        """Return what takes its calls. Raises SetupError where its codecs cannot be made."""
        offer = offer_of(self.plan.pipeline, options.array_max, options.body_bytes_max, arrow=options.arrow)
        return Endpoint(self.engine, offer)


class ServedPipelines:
    """All pipelines that a worker serves, of one release.

    block: of its metrics. load: of the loop that they share. is_successor: whether a worker has served the release
    before; it must come back, whatever has become of the store's views. link: counts the requests of pipelines that
    record them. samples: takes a sample of what is served. ring: tells the observer. pin: what a process loads that
    checks requests after their answers; without one nothing is checked then.
    """

    def __init__(
        self,
        release: Release,
        options: ServeOptions,
        block: MetricBlock,
        load: LoopLoad,
        clock: Clock,
        log: Any,
        *,
        is_successor: bool,
        link: EventLink | None = None,
        samples: SampleWriter | None = None,
        pin: Pin | None = None,
        ring: ClaimedRing | None = None,
    ) -> None:
        self._release = release
        self._is_successor = is_successor
        self._link = link
        self._backends = chosen_backends(release)
        self._options = options
        self._block = block
        self._load = load
        self._clock = clock
        self._log = log
        self._samples = samples
        self._ring = ring
        self._taps: list[Tap] = []
        self._checking = None if pin is None else Checking(pin, log)
        self._stores: dict[str, OnlineStore] = {}
        self._served: list[Served] = []
        self._pace = LoopPace(block)

    async def add(self, declared: Pipeline) -> Served:
        """Compile and warm up a pipeline, and serve it. Raises TailraceError."""
        pipeline = with_pinned_models(declared, self._release)
        plan = compile_plan(
            pipeline, self._store(pipeline), clock=self._clock, array_max=self._options.array_max,
            backends=self._backends,
        )  # fmt: skip
        await plan.open()
        checked = await check_views(plan, self._clock, refuse=not self._is_successor)
        for view in checked.unknown:
            self._log.warning("view has never been materialised", pipeline=pipeline.name, view=view)
        for fault in checked.unfit:
            self._log.warning("view cannot be served as it should", pipeline=pipeline.name, fault=fault)
        plan, times = await warm_up(plan, self._clock)
        if pipeline.record_requests and self._link is not None:
            plan.features.record_to(LinkedEvents(self._link, pipeline.name, self._clock))
        if self._options.cache_bytes_max:  # only now, so that what a plan is said to cost has the store in it
            plan.features.keep_rows(_cache_limits(self._options))
        recorder = BatchRecorder(self._block, pipeline.name)
        _observe_fetches(plan, recorder)
        for stage in model_stages(plan.inference.stage):
            stage.tell_batches(ModelCounts(self._block, pipeline.name, stage.name).count)
        if self._options.traces is not None:
            for remote in remote_stages(plan.inference.stage):
                onward = OnwardTrace(self._options.trace_sample, remote.name, self._clock)
                remote.trace_lines, remote.note_asked = onward.lines, onward.note
        recorders = self._recorders(plan, recorder)
        engine = Engine(plan, self._load, recorders, self._clock, _loop_for(plan))
        faults = FaultLog(plan, recorder, self._log)
        counts: list[Counts] = [  # all hops share what the first one counts
            RetrievalCounts(self._block, pipeline.name, plan.features.retrieval),
            QueueCounts(self._block, pipeline.name, engine.admission, self._pace),
            *(RemoteCounts(self._block, pipeline.name, stage) for stage in remote_stages(plan.inference.stage)),
        ]
        if engine.coalescing is not None:
            counts.append(KeptCounts(self._block, pipeline.name, engine.coalescing, self._clock))
        served = Served(plan, engine, recorder, faults, counts, ready_of(plan, times))
        self._served.append(served)
        return served

    @property
    def pipelines(self) -> Sequence[Served]:
        """Those that are added, in order."""
        return self._served

    def _recorders(self, plan: Plan, own: BatchRecorder) -> list[Recorder]:
        """Return what is told of each batch of a pipeline."""
        pipeline = plan.pipeline
        recorders: list[Recorder] = [own]
        if branches := branches_of(pipeline):
            recorders.append(BranchRecorder(self._block, pipeline.name, branches))
        if self._samples is not None:
            recorders.append(Sampler(pipeline, self._release.id, self._samples, self._clock))
        if self._ring is not None:
            loop, release_id = asyncio.get_running_loop(), self._release.id
            traced = self._options.traces is not None
            tap = Tap(
                pipeline, release_id, self._ring, self._clock, loop, self._log, traced=traced,
                labels=plan.postprocess.labels,
            )  # fmt: skip
            self._taps.append(tap)
            recorders.append(self._taps[-1])
        if pipeline.coalesce is not None:
            recorders.append(CoalescedCounts(self._block, pipeline.name, own))
        if pipeline.validate_later and self._checking is not None:
            recorders.append(self._checking.add(pipeline, self._block))
        return recorders

    @property
    def ready(self) -> tuple[PipelineReady, ...]:
        """What the supervisor is told of them."""
        return tuple(served.ready for served in self._served)

    @property
    def calls_waiting(self) -> int:
        """Calls taken and not yet answered."""
        return sum(served.engine.calls_waiting for served in self._served)

    def take_calls_most(self) -> int:
        """Return how many calls were in flight at most since this was last asked."""
        return max(sum(served.recorder.take_calls_most() for served in self._served), self.calls_waiting)

    def look(self) -> None:
        """Log what has begun to degrade answers, and count what caches and remote models say, once a second."""
        self._pace.look()
        for served in self._served:
            served.faults.look()
            for counts in served.counts:
                counts.look()
        if self._checking is not None:
            self._checking.look()

    def close(self) -> None:
        """Let go of threads, stores and the sample, and tell the observer what it is still to be told."""
        for tap in self._taps:
            tap.flush()
        for served in self._served:
            for counts in served.counts:
                counts.look()
            served.plan.close()
        if self._samples is not None:
            self._samples.close()
        if self._checking is not None:
            self._checking.close()

    def _store(self, pipeline: Pipeline) -> OnlineStore:
        """Return the store of a pipeline, which others may share."""
        url = store_url(pipeline, self._options.store)
        identity = store_identity(url)
        if identity not in self._stores:
            self._stores[identity] = open_store(url, self._clock)
        return self._stores[identity]


def offer_of(pipeline: Pipeline, array_max: int, body_bytes_max: int, *, arrow: bool = False) -> Offer:
    """Return the codecs of a pipeline. arrow: whether that is one.

    Raises SetupError where the numbers that are kept of its fields do not fit, or for Arrow without pyarrow.
    """
    types = pipeline.request, pipeline.response
    more: list[Codec] = [*protobuf_codecs(pipeline.name, *types, pipeline.sources_dir, array_max=array_max)]
    if arrow:
        more.append(ArrowCodec(*types, array_max=array_max, body_bytes_max=body_bytes_max))
    return Offer(pipeline.request, array_max=array_max, body_bytes_max=body_bytes_max, more=more)


def _observe_fetches(plan: Plan, recorder: BatchRecorder) -> None:
    """Have the fetches of a plan counted: of several hops each by the views that it reads, too."""
    retrievals = plan.features.retrievals
    for retrieval in retrievals:
        is_alone = len(retrievals) == 1
        counting = recorder if is_alone else recorder.hop_of(retrieval.codecs[0].spec.name)
        retrieval.observe_fetch = counting.count_fetch


def _cache_limits(options: ServeOptions) -> CacheLimits:
    """Return what may be kept of a pipeline's rows."""
    return CacheLimits(
        bytes_max=options.cache_bytes_max,
        ttl_ns=int(options.cache_ttl_s * NS_PER_S),
        stale_ns=int(options.cache_stale_s * NS_PER_S),
    )


def _loop_for(plan: Plan) -> Loop | None:
    """Return the loop of an engine: one that begins batches at once, where they may find all they need in the cache.

    None: asyncio's own. A batch whose requests are events waits for their writer first, cache or not.
    """
    features = plan.features
    if isinstance(features.retrieval, CachedRetrieval) and features.events is None:
        return EagerLoop(asyncio.get_running_loop())
    return None


def load_release(pin: Pin, choice: RegistryChoice) -> tuple[list[Pipeline], Release]:
    """Return the pipelines of a pin as they are declared, and their release.

    choice: the registry of models that name none.
    Raises TailraceError; for a model that cannot be had, with the other mistakes of its pipeline.
    """
    declared = load_all(pin)
    try:
        return declared, settle(pin, declared, choice)
    except ModelPackageError:
        for pipeline in declared:
            compile_plan(pipeline, MemoryStore({}))
        raise


def ready_of(plan: Plan, times: tuple[LayerTimes, ...]) -> PipelineReady:
    """Return a pipeline's budget table as the control channel carries it."""
    layers = tuple(LayerCost(each.layer, each.budget_ns, each.p99_ns) for each in times)
    return PipelineReady(plan.name, plan.budget.total_ns, plan.budget.buffer_ns, layers, plan.pipeline.alerts)
