"""One worker process: one event loop, the inherited sockets, an engine for each pipeline.

Started by the supervisor as `python -m tailrace.server.worker FD`, with FD its control channel.
"""

from __future__ import annotations

import asyncio
import gc
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any, Final

import structlog
import uvloop

from tailrace.codecs.json import JsonCodec
from tailrace.compile.compiler import compile_plan
from tailrace.compile.loading import load_pipelines
from tailrace.compile.materialised import unknown_views
from tailrace.compile.pinned_modules import PinnedFolder
from tailrace.compile.warm_up import LayerTimes, warm_up
from tailrace.deadline import MonotonicClock
from tailrace.engine import Engine
from tailrace.errors import SetupError, TailraceError, UnavailableError
from tailrace.features.stores.opening import open_store, resolve_url, store_identity
from tailrace.features.stores.protocol import OnlineStore
from tailrace.loop_load import LoopLoad
from tailrace.monitor.layout import PipelineShape, worker_layout
from tailrace.monitor.recorder import BatchRecorder, WorkerRecorder
from tailrace.monitor.shared import MetricBlock
from tailrace.pipeline import Pipeline
from tailrace.plan import Plan
from tailrace.release.pin import Pin, Release
from tailrace.release.settle import chosen_kernels, settle, with_pinned_models
from tailrace.server.control import (
    Assignment,
    Drain,
    Draining,
    Failed,
    HandBack,
    LayerCost,
    Listen,
    ModelReady,
    PipelineReady,
    PreDrain,
    Ready,
    Warm,
    WorkerChannel,
    rss_bytes,
)
from tailrace.server.endpoint import Answer, Endpoint, Page
from tailrace.server.http.limits import HttpLimits
from tailrace.server.http.server import HttpServer
from tailrace.server.logging import configure_logging
from tailrace.server.slots import BACKLOG, shut_listener, turn_away

SWEEP_S: Final = 1.0
DRAIN_LOOK_S: Final = 0.05
"""How often a stopping worker looks whether it may go."""
PENDING_S: Final = 0.05
"""How long a stopping worker waits for handshakes that were under way."""
QUIET_S: Final = 10
COLLECTION_SWEEPS: Final = 30
"""Sweeps between two full collections of garbage when idle, and between two young ones when never idle."""
BUSY_SWEEPS_MAX: Final = 600
"""Sweeps without a full collection, idle or not: one pause in ten minutes bounds what never idling would gather."""


class Collection:
    """Collects garbage in place of Python, once `gc.disable()` has left it to the sweep: when no call waits for it.

    A full one takes 0.6 ms with 1,000 connections and 6 ms with 9,000; what was there at the start is frozen.
    """

    def __init__(self) -> None:
        self._since_young = self._since_full = 0

    def sweep(self, *, is_idle: bool) -> int | None:
        """Collect what is due this second; return the generation, or None. is_idle: no batch ran since the last."""
        self._since_young += 1
        self._since_full += 1
        if self._since_full >= (COLLECTION_SWEEPS if is_idle else BUSY_SWEEPS_MAX):
            generation = 2
            self._since_full = 0
        elif is_idle or self._since_young >= COLLECTION_SWEEPS:
            generation = 0
        else:
            return None
        self._since_young = 0
        gc.collect(generation)
        return generation


class FaultLog:
    """Logs when a pipeline begins to answer degraded and when it has not for `QUIET_S`; never once a call."""

    def __init__(self, plan: Plan, recorder: BatchRecorder, log: Any) -> None:
        self._retrieval = plan.features.retrieval
        self._recorder = recorder
        self._log = log.bind(pipeline=plan.name)
        self._rows = recorder.degraded_rows()  # a successor goes on with the counters of the worker before it
        self._quiet_s: dict[str, int] = {}
        if self._retrieval.failure is not None:
            self._log.warning("store does not answer", error=str(self._retrieval.failure))

    def look(self) -> None:
        """Look at the counters, once a second."""
        before, self._rows = self._rows, self._recorder.degraded_rows()
        for reason, rows in self._rows.items():
            if rows > before[reason]:
                if reason not in self._quiet_s:
                    error = self._retrieval.failure if reason.startswith("store_") else None
                    self._log.warning("answers degraded", reason=reason, error=str(error or "") or None)
                self._quiet_s[reason] = 0
            elif reason in self._quiet_s:
                self._quiet_s[reason] += 1
                if self._quiet_s[reason] >= QUIET_S:
                    del self._quiet_s[reason]
                    self._log.info("answers no longer degraded", reason=reason)


class Worker:
    """Serves every pipeline of its files until it is to drain."""

    def __init__(self, start: Assignment, channel: WorkerChannel, began_s: float) -> None:
        self._start = start
        self._options = start.options
        self._channel = channel
        self._began_s = began_s
        self._clock = MonotonicClock()
        self._load = LoopLoad(asyncio.get_running_loop())
        self._plans: list[Plan] = []
        self._faults: list[FaultLog] = []
        self._engines: list[Engine] = []
        self._recorders: list[BatchRecorder] = []
        self._listeners: dict[int, socket.socket] = {}
        self._servers: dict[int, asyncio.Server] = {}
        self._ready = self._is_pre_draining = False
        self._swept_s = time.monotonic()
        self._log = structlog.get_logger().bind(slot=start.slot, pid=os.getpid())

    async def run(self) -> int:
        """Serve; return the exit code."""
        try:
            self._pipelines = await self._prepare()
        except TailraceError as error:
            self._channel.send(Failed(str(error)))
            return 1
        gc.collect()
        gc.freeze()
        gc.disable()  # collected by the sweep, when nothing is in flight
        self._warm_s = time.monotonic() - self._began_s
        self._channel.send(Warm())
        beats = asyncio.create_task(self._channel.beat(self._options.heartbeat_s))
        sweeps = asyncio.create_task(self._sweep())
        obeying = asyncio.create_task(self._obey())
        done, _ = await asyncio.wait({beats, sweeps, obeying}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if (fault := task.exception()) is not None:
                return self._give_up(fault)
        sweeps.cancel()
        await self._drain(alone=not obeying.result())
        beats.cancel()
        return 0

    def _give_up(self, error: BaseException) -> int:
        """End for a successor, since without its sweep, say, a worker would time nothing out; return the exit code."""
        self._channel.send(Failed(f"worker {self._start.slot} cannot go on: {error!r}"))
        for plan in self._plans:
            plan.close()
        self._log.error("worker failed", error=repr(error), exc_info=error)
        return 1

    async def _prepare(self) -> tuple[PipelineReady, ...]:
        """Load, compile and warm up every pipeline."""
        declared = load_all(self._start.pin)
        self._release = release = settle(self._start.pin, declared)
        pipelines = [with_pinned_models(pipeline, release) for pipeline in declared]
        layout = worker_layout([shape_of(pipeline) for pipeline in pipelines], self._start.slot, release.id)
        block = MetricBlock.create(layout, self._start.metrics_fd)
        self._recorder = WorkerRecorder(block, self._start.slot)
        routes: dict[bytes, dict[bytes, Endpoint | Page]] = {
            b"/livez": {b"GET": Page(self._livez)},
            b"/readyz": {b"GET": Page(self._readyz)},
        }
        limits = HttpLimits.of(self._options)
        self._http = HttpServer(routes, limits, self._load, self._recorder.record_failure, release.id.encode())
        kernels = chosen_kernels(release)
        ready = []
        stores: dict[str, OnlineStore] = {}
        for pipeline in pipelines:
            url = store_url(pipeline, self._options.store)
            store = stores.setdefault(store_identity(url), open_store(url, self._clock))
            plan = compile_plan(pipeline, store, clock=self._clock, array_max=self._options.array_max, kernels=kernels)
            await plan.open()
            for view in await unknown_views(plan, self._clock):
                self._log.warning("view has never been materialised", pipeline=pipeline.name, view=view)
            plan, times = await warm_up(plan, self._clock)
            recorder = BatchRecorder(block, pipeline.name)
            plan.features.retrieval.observe_fetch = recorder.count_fetch
            engine = Engine(plan, self._load, [recorder], self._clock)
            codec = JsonCodec(pipeline.request, array_max=self._options.array_max)
            routes[f"/v1/pipelines/{pipeline.name}/predict".encode()] = {b"POST": Endpoint(engine, codec)}
            self._faults.append(FaultLog(plan, recorder, self._log))
            self._recorders.append(recorder)
            self._plans.append(plan)
            self._engines.append(engine)
            ready.append(ready_of(plan, times, release))
        return tuple(ready)

    async def _listen(self, slot: int, descriptor: int) -> None:
        """Accept on a slot's socket: a copy of it, since the supervisor's must stay open. Its own makes it ready."""
        self._listeners[slot] = listener = socket.socket(fileno=descriptor)
        loop = asyncio.get_running_loop()
        self._servers[slot] = await loop.create_server(self._http, sock=listener, backlog=BACKLOG)
        if slot == self._start.slot:
            self._set_ready(not self._is_pre_draining)
            ready = Ready(os.getpid(), self._warm_s, rss_bytes(), self._release.id, self._pipelines)
            self._channel.send(ready)

    async def _obey(self) -> bool:
        """Do as the supervisor says until it says to stop, or is gone; return whether it said so."""
        for number in (signal.SIGTERM, signal.SIGINT):  # the supervisor gets it too, and decides
            asyncio.get_running_loop().add_signal_handler(number, lambda: None)
        while True:
            match await self._channel.receive():
                case Listen(slot=slot):
                    descriptor = self._channel.take_descriptor()
                    if slot in self._servers:
                        os.close(descriptor)
                    else:
                        await self._listen(slot, descriptor)
                case HandBack(slot=slot) if slot in self._servers and slot != self._start.slot:
                    self._servers.pop(slot).close()
                    del self._listeners[slot]
                case PreDrain():
                    self._is_pre_draining = True
                    self._set_ready(False)
                case Drain():
                    return True
                case None:
                    return False

    async def _drain(self, *, alone: bool) -> None:
        """Accept what is pending, and nothing more; answer what is in flight; leave.

        alone: there is no supervisor that turns new connections away meanwhile, and shuts the sockets after.
        """
        self._set_ready(False)
        self._http.drain()
        listeners = [socket.socket(fileno=os.dup(each.fileno())) for each in self._listeners.values()] if alone else []
        for listener in listeners:
            turn_away(listener)
        await self._accept_pending()
        for server in self._servers.values():
            server.close()
        for listener in listeners:
            shut_listener(listener)
            listener.close()
        self._channel.send(Draining(self._in_flight()))
        end_s = time.monotonic() + self._options.drain_s
        while self._http.connections and (now_s := time.monotonic()) < end_s:
            if now_s >= self._swept_s + SWEEP_S:  # no sooner: it is how connections count their seconds
                self._sweep_http()
            await asyncio.sleep(DRAIN_LOOK_S)
        for plan in self._plans:
            plan.close()

    async def _accept_pending(self) -> None:
        """Go on accepting until nothing waits for it, while no new handshake begins."""
        queues = select.poll()
        for listener in self._listeners.values():
            queues.register(listener.fileno(), select.POLLIN)
        end_s = time.monotonic() + self._options.drain_s
        await asyncio.sleep(PENDING_S)
        while queues.poll(0) and time.monotonic() < end_s:
            await asyncio.sleep(0)

    async def _sweep(self) -> None:
        """Once a second: look after connections and gauges, and collect garbage."""
        collection = Collection()
        while True:
            await asyncio.sleep(SWEEP_S)
            self._sweep_http()
            in_flight = max(sum(each.take_calls_most() for each in self._recorders), self._in_flight())
            self._recorder.set_in_flight(in_flight)
            self._recorder.set_connections(len(self._http.connections))
            for faults in self._faults:
                faults.look()
            collection.sweep(is_idle=in_flight == 0)

    def _sweep_http(self) -> None:
        self._swept_s = time.monotonic()
        self._http.sweep()

    def _set_ready(self, is_ready: bool) -> None:
        self._ready = is_ready
        self._recorder.set_ready(is_ready)

    def _in_flight(self) -> int:
        return sum(engine.calls_waiting for engine in self._engines)

    def _livez(self) -> Answer:
        return Answer(200, b"text/plain", b"live\n")

    def _readyz(self) -> Answer:
        if not self._ready:
            raise UnavailableError("not ready", where="/readyz", next="send requests to another server")
        return Answer(200, b"text/plain", b"ready\n")


def load_all(pin: Pin) -> list[Pipeline]:
    """Return the pipelines of all files, from their pinned sources.

    Raises SetupError for two of one name, or a file that cannot be loaded.
    """
    found: dict[str, str] = {}
    pipelines = []
    for file in pin.files:
        for pipeline in load_pipelines(Path(file), PinnedFolder(Path(file).parent, Path(pin.copy_of(file)))):
            if pipeline.name in found:
                what = f"two pipelines are called {pipeline.name!r}: in {found[pipeline.name]} and here"
                raise SetupError(what, where=file, next="give each its own name, and each file once")
            found[pipeline.name] = file
            pipelines.append(pipeline)
    return pipelines


def shape_of(pipeline: Pipeline) -> PipelineShape:
    """Return what the metrics of a pipeline need to know of it."""
    return PipelineShape(pipeline.name, pipeline.budget, tuple(view.__name__ for view in pipeline.views))


def store_url(pipeline: Pipeline, override: str | None) -> str:
    """Return the store of a pipeline, its relative path made one beside its file. Without views it needs none."""
    if not pipeline.views:
        return "memory:"
    return override or resolve_url(pipeline.store, pipeline.base_dir)


def ready_of(plan: Plan, times: tuple[LayerTimes, ...], release: Release) -> PipelineReady:
    """Return a pipeline's budget table and models as the control channel carries them."""
    models = tuple(
        ModelReady(model.name, model.version, model.kernel, model.kernel_reason)
        for model in release.models
        if model.pipeline == plan.name
    )
    layers = tuple(LayerCost(each.layer, each.budget_ns, each.p99_ns) for each in times)
    return PipelineReady(plan.name, plan.budget.total_ns, plan.budget.buffer_ns, layers, models)


async def _work(assignment: Assignment, channel: WorkerChannel, began_s: float) -> int:
    """Run a worker on the running loop."""
    return await Worker(assignment, channel, began_s).run()


def main(arguments: list[str]) -> int:
    """Run a worker on the control channel whose descriptor is the last argument."""
    began_s = time.monotonic()
    channel = WorkerChannel(int(arguments[-1]))
    start: Any = channel.receive_blocking(30.0)
    if not isinstance(start, Assignment):
        return 1
    configure_logging()
    return uvloop.run(_work(start, channel, began_s))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
