"""One worker process: one event loop, the inherited sockets, an engine for each pipeline.

Started by the supervisor as `python -m tailrace.server.worker FD`, with FD its control channel.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog
import uvloop

from tailrace.compile.pinned_modules import unpinned_modules
from tailrace.core_share import be_prompt, giving_way
from tailrace.deadline import Clock, MonotonicClock
from tailrace.errors import TailraceError
from tailrace.ingest.link import EventLink
from tailrace.ingest.origin import StreamOrigin, check_origins
from tailrace.ingest.routes import streams_of
from tailrace.loop_load import LoopLoad
from tailrace.monitor.claimed_ring import ClaimedRing
from tailrace.monitor.counts.accepted import AcceptedCounts
from tailrace.monitor.counts.limit import LimitCounts
from tailrace.monitor.counts.loop import LoopCounts
from tailrace.monitor.layout import worker_layout
from tailrace.monitor.recorder import WorkerRecorder
from tailrace.monitor.samples import SampleWriter
from tailrace.monitor.shared import MetricBlock
from tailrace.pipeline import Pipeline
from tailrace.server.accepted.opening import Accepting
from tailrace.server.callers import callers_of
from tailrace.server.certified import Certified
from tailrace.server.channel import WorkerChannel
from tailrace.server.collection import Collection
from tailrace.server.control import (
    Assignment,
    Drain,
    Draining,
    Failed,
    HandBack,
    Link,
    Listen,
    ListenUnix,
    PreDrain,
    Ready,
    WantsEvents,
    Warm,
)
from tailrace.server.declared import shape_of
from tailrace.server.doors import Doors
from tailrace.server.entrance import entrance_of
from tailrace.server.events import EventsEndpoint, stream_endpoints
from tailrace.server.http.limits import HttpLimits
from tailrace.server.http.secure import Secured
from tailrace.server.http.server import HttpServer
from tailrace.server.limiting.limiter import Limiter
from tailrace.server.limiting.opening import open_limiter
from tailrace.server.log_lines import LINES
from tailrace.server.logging import configure_logging, log_warnings
from tailrace.server.openapi.page import description_routes
from tailrace.server.process_use import rss_bytes
from tailrace.server.proxies import Proxies
from tailrace.server.readiness import Readiness
from tailrace.server.released import released_pipelines
from tailrace.server.request_ids import RequestIds
from tailrace.server.routing import model_routes, pipeline_routes, probe_routes, stream_routes
from tailrace.server.served import ServedPipelines, load_release
from tailrace.server.tls.certificates import Certificates
from tailrace.traffic import STORES

if TYPE_CHECKING:
    from tailrace.server.grpc.door import GrpcDoor

FIRST_LINK_S: Final = 30.0
LINK_S: Final = 2.0
"""How long a worker waits for its link to the ingester before it serves without: the first of a release, and others."""
SWEEP_S: Final = 1.0
DRAIN_LOOK_S: Final = 0.05
"""How often a stopping worker looks whether it may go."""


class Worker:
    """Serves every pipeline of its files until it is to drain."""

    def __init__(self, start: Assignment, channel: WorkerChannel, began_s: float) -> None:
        self._start = start
        self._options = start.options
        self._channel = channel
        self._began_s = began_s
        self._load = LoopLoad(asyncio.get_running_loop())
        self._streams: dict[bytes, EventsEndpoint] = {}
        self._readiness = Readiness()
        self._is_pre_draining = False
        self._link: EventLink | None = None
        self._looks: list[Callable[[], None]] = []
        self._grpc: GrpcDoor | None = None
        self._accepting: Accepting | None = None
        self._swept_s = time.monotonic()
        self._log = structlog.get_logger().bind(slot=start.slot, pid=os.getpid())

    async def run(self) -> int:
        """Serve; return the exit code."""
        obeying = asyncio.create_task(self._obey())
        try:
            with giving_way():  # a sibling may serve beside it
                await self._prepare()
        except TailraceError as error:
            self._channel.send(Failed(str(error)))
            return 1
        except Exception as error:  # of what a user's file does in a successor, say: the supervisor is to know of it
            self._channel.send(Failed(f"{type(error).__name__}: {error}"))
            self._log.error("worker cannot start", error=repr(error), exc_info=error)
            return 1
        be_prompt()
        gc.collect()
        gc.freeze()
        gc.disable()  # collected by the sweep, when nothing is in flight
        self._warm_s = time.monotonic() - self._began_s
        self._channel.send(Warm())
        beats = asyncio.create_task(self._channel.beat(self._options.heartbeat_s))
        sweeps = asyncio.create_task(self._sweep())
        accepted = [] if self._accepting is None else [self._accepting.start()]
        done, _ = await asyncio.wait({beats, sweeps, obeying, *accepted}, return_when=asyncio.FIRST_COMPLETED)
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
        self._served.close()
        self._log.error("worker failed", error=repr(error), exc_info=error)
        return 1

    async def _prepare(self) -> None:
        """Load, compile and warm up every pipeline."""
        declared, release = load_release(self._start.pin, self._options.registry_choice)
        self._release = release
        if unpinned := unpinned_modules():
            self._log.warning("modules are no part of the release", modules=unpinned[:10], count=len(unpinned))
        was_served = self._start.pin.served_file.exists()
        streams = streams_of(declared)
        check_origins([StreamOrigin.parse(origin) for origin in self._options.ingest], streams)
        if streams:
            await self._wait_for_link(FIRST_LINK_S if not was_served else LINK_S)
        layout = worker_layout([shape_of(pipeline) for pipeline in declared], self._start.slot, release.id)
        block = MetricBlock.create(layout, self._start.metrics_fd)
        self._recorder = WorkerRecorder(block, self._start.slot)
        self._readiness.listeners.append(self._recorder.set_ready)
        clock = MonotonicClock()
        self._served = ServedPipelines(
            release, self._options, block, self._load, clock, self._log, is_successor=was_served, link=self._link,
            samples=self._samples(refuse=not was_served), pin=self._start.pin, ring=self._ring(),
        )  # fmt: skip
        for pipeline in declared:
            await self._served.add(pipeline)
        self._looks.append(LoopCounts(block, self._start.slot, STORES).look)
        self._released = released_pipelines(release, declared)
        if self._link is not None:
            self._streams = stream_endpoints(
                streams, self._link, clock, self._options.array_max, self._recorder.record_failure
            )
        self._make_servers(declared, clock, block)
        if not was_served:
            with suppress(OSError):  # a disk that is read-only by now: successors are asked as much as this one
                self._start.pin.served_file.touch()

    def _make_servers(self, declared: Sequence[Pipeline], clock: Clock, block: MetricBlock) -> None:
        """Make what brings calls to the pipelines, in every protocol that is asked for; none is accepted yet."""
        options, release = self._options, self._release.id
        endpoints = [each.endpoint(options) for each in self._served.pipelines]
        if options.accepted is not None:
            self._accepting = Accepting(
                endpoints, options, self._start.slot, self._load, clock, release, AcceptedCounts(block), self._log
            )
        limiter, with_keys = self._limiter(declared, clock, block), options.asks_callers
        entrances = [entrance_of(each, options, release).within(limiter) for each in endpoints]
        routes = (
            probe_routes(self._readiness)
            | pipeline_routes(entrances)
            | model_routes(entrances, self._readiness, with_keys=with_keys)
            | stream_routes({path: limiter.within(each) for path, each in self._streams.items()})
            | description_routes(declared, options.array_max, self._log, with_keys=with_keys, with_arrow=options.arrow)
        )
        count_failure = self._recorder.record_failure
        ids = RequestIds() if self._start.ring_fds else None  # what is logged can be asked for
        self._http = HttpServer(routes, HttpLimits.of(options), self._load, count_failure, release.encode(), ids)
        asked = callers_of(options, count_failure, limiter)
        self._http.shared.keys = asked.callers
        self._looks += asked.looks
        self._doors = Doors(self._http, self._secret(asked.certified))
        if options.trusted_proxies:
            self._http.shared.trust(Proxies(options.trusted_proxies, options.proxy_header))
        if options.grpc_port is not None:
            from tailrace.server.grpc.door import GrpcDoor

            self._grpc = GrpcDoor(entrances, options, self._http.shared, clock, release, self._readiness, ids)

    def _secret(self, certified: Certified | None) -> Secured | None:
        """Return what makes secret connections, if they are to be secret. certified: tells callers by certificates."""
        if (files := self._options.tls) is None:
            return None
        certificates = Certificates(files)
        self._looks.append(certificates.look)
        return Secured(self._http.shared, certificates, certified)

    def _limiter(self, declared: Sequence[Pipeline], clock: Clock, block: MetricBlock) -> Limiter:
        """Return what holds callers to their limits."""
        limiter = open_limiter(declared, self._options, self._start.limits_fd, clock, LimitCounts(block))
        self._looks.append(limiter.look)
        return limiter

    async def _wait_for_link(self, wait_s: float) -> None:
        """Ask for a link to the ingester, and wait for it: it makes the store, where there is none yet."""
        self._link = EventLink(MonotonicClock())
        self._channel.send(WantsEvents())
        with suppress(TimeoutError):
            await asyncio.wait_for(self._link.attached.wait(), wait_s)
        if not self._link.attached.is_set():
            self._log.warning("there is no ingester yet: events are refused until it is there")

    def _samples(self, *, refuse: bool) -> SampleWriter | None:
        """Return what takes the sample of this worker's slot, if one is wanted."""
        path = self._options.sample_requests
        return None if path is None else SampleWriter(Path(f"{path}.{self._start.slot}"), self._log, refuse=refuse)

    def _ring(self) -> ClaimedRing | None:
        """Return what tells the observer, if there is one."""
        return ClaimedRing(self._start.ring_fds, self._start.slot) if self._start.ring_fds else None

    async def _listen(self, slot: int, descriptor: int) -> None:
        """Accept on a slot's socket. Its own makes the worker ready."""
        if await self._doors.open_slot(slot, descriptor) and slot == self._start.slot:
            if self._grpc is not None:
                self._grpc.open()
            self._readiness.set(not self._is_pre_draining)
            warm_s, release_id = self._warm_s, self._release.id
            self._channel.send(
                Ready(os.getpid(), warm_s, rss_bytes(os.getpid()), release_id, self._released, self._served.ready)
            )

    async def _take_link(self, descriptor: int) -> None:
        """Send events to the ingester at the other end."""
        sock = socket.socket(fileno=descriptor)
        if self._link is None:
            sock.close()
        else:
            await self._link.attach(sock)

    async def _obey(self) -> bool:
        """Do as the supervisor says until it says to stop, or is gone; return whether it said so."""
        for number in (signal.SIGTERM, signal.SIGINT):  # the supervisor gets it too, and decides
            asyncio.get_running_loop().add_signal_handler(number, lambda: None)
        while True:
            match await self._channel.receive():
                case Listen(slot=slot):
                    await self._listen(slot, self._channel.take_descriptor())
                case ListenUnix():
                    self._doors.open_unix(self._channel.take_descriptor())
                case HandBack(slot=slot) if slot != self._start.slot:
                    self._doors.close_slot(slot)
                case Link():
                    await self._take_link(self._channel.take_descriptor())
                case PreDrain():
                    self._is_pre_draining = True
                    self._readiness.set(False)
                case Drain():
                    return True
                case None:
                    return False

    async def _drain(self, *, alone: bool) -> None:
        """Accept what is pending, and nothing more; answer what is in flight; leave.

        alone: there is no supervisor that turns new connections away meanwhile, and shuts the sockets after.
        """
        self._readiness.set(False)
        self._http.drain()
        leaving = [] if self._grpc is None else [asyncio.create_task(self._grpc.drain())]
        await self._doors.close(alone=alone, within_s=self._options.drain_s)
        self._channel.send(Draining(self._calls_waiting()))
        end_s = time.monotonic() + self._options.drain_s
        while self._http.connections and (now_s := time.monotonic()) < end_s:
            if now_s >= self._swept_s + SWEEP_S:  # no sooner: it is how connections count their seconds
                self._sweep_http()
            await asyncio.sleep(DRAIN_LOOK_S)
        await asyncio.gather(*leaving)
        if self._accepting is not None:
            await self._accepting.close(max(end_s - time.monotonic(), DRAIN_LOOK_S))
        self._served.close()

    async def _sweep(self) -> None:
        """Once a second: look after connections and gauges, and collect garbage."""
        collection = Collection()
        while True:
            await asyncio.sleep(SWEEP_S)
            self._sweep_http()
            if self._grpc is not None:
                self._grpc.sweep()
            self._ask_for_link()
            in_flight = self._served.take_calls_most() + sum(each.take_calls_most() for each in self._streams.values())
            self._recorder.set_in_flight(in_flight)
            self._recorder.set_connections(len(self._http.connections))
            self._served.look()
            collection.sweep(is_idle=in_flight == 0)

    def _calls_waiting(self) -> int:
        """Return how many calls are not answered yet."""
        return self._served.calls_waiting + sum(each.calls_waiting for each in self._streams.values())

    def _ask_for_link(self) -> None:
        """Ask again, where the link was lost: it may be cut while both ends live."""
        if self._link is not None and not self._link.attached.is_set():
            self._channel.send(WantsEvents())

    def _sweep_http(self) -> None:
        self._swept_s = time.monotonic()
        for look in self._looks:
            look()
        self._http.sweep()


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
    LINES.who = f"worker {start.slot}"
    configure_logging()
    log_warnings()
    return uvloop.run(_work(start, channel, began_s))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
