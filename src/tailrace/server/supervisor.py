"""The supervisor: owns the listening sockets, the children and the admin port. Carries no traffic.

A child that dies, or is silent for too long, is replaced. Until the successor of a worker is ready, a sibling accepts
on its slot's socket. Each child's role says whether the server waits for it, and whether it ends with it.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from threading import Thread
from typing import NamedTuple

import msgspec
import uvloop

from tailrace.core_share import giving_way
from tailrace.errors import SetupError
from tailrace.release.pin import pin
from tailrace.release.pinned import Pin
from tailrace.server.admin import AdminServer
from tailrace.server.adoption import Adoption
from tailrace.server.alerting import sinks_of
from tailrace.server.callers import check_callers
from tailrace.server.child import Child
from tailrace.server.companions import open_companions, open_rings
from tailrace.server.console.console import Console
from tailrace.server.console.explain_page import explain_pages
from tailrace.server.console.explaining import Explaining
from tailrace.server.console.page import console_pages
from tailrace.server.control import ListenUnix
from tailrace.server.draining import drain
from tailrace.server.endpoint import Gate, Page
from tailrace.server.event_links import EventLinks
from tailrace.server.grpc.port import GrpcPort
from tailrace.server.holds import renew_holds
from tailrace.server.log_lines import LINES
from tailrace.server.logging import configure_logging, logger, tell
from tailrace.server.open_files import fit_open_files
from tailrace.server.options import ServeOptions
from tailrace.server.overview import Overview
from tailrace.server.runbooks import runbooks_url
from tailrace.server.slots import Slot, open_slots, url_of
from tailrace.server.unix_socket import UnixSocket
from tailrace.server.workers import WORKER_COMMAND, open_workers, worker_role


def serve(options: ServeOptions) -> int:
    """Pin what the files declare, and serve it until SIGTERM or SIGINT; return the exit code of `Supervisor.run`."""
    configure_logging()
    log = logger(pid=os.getpid())
    check_callers(options)
    if options.tls is not None:
        options.tls.read()
    with ExitStack() as stack:
        loading = stack.enter_context(ExitStack())
        loading.enter_context(giving_way())  # another server may serve beside it
        pinned = stack.enter_context(
            pin(
                options.files, options.releases, options.store,
                warn=lambda text: log.warning("releases are kept elsewhere", cause=text),
            )
        )  # fmt: skip
        rings = stack.enter_context(open_rings(options))
        companions = open_companions(options, pinned, rings)

        def announce(addresses: Addresses) -> None:
            Thread(target=loading.close, daemon=True).start()  # the kernel may refuse it for a while

        return Supervisor(options, pinned, companions=companions, rings=rings, announce=announce).run()


class Addresses(NamedTuple):
    """Where the supervisor serves, once it is ready."""

    host: str
    port: int
    admin_host: str
    admin_port: int


class Supervisor:
    """Runs the children of one `tailrace serve`.

    pin: what the workers load. worker_command: started once a slot, with the descriptor of its control channel as the
    last argument.
    companions: the children beside the workers; their metrics are closed with the server. rings: by which
    workers tell the observer, as many of each slot; none where there is none.
    announce: called once, when every child that the server waits for has been ready.
    """

    def __init__(
        self,
        options: ServeOptions,
        pin: Pin,
        *,
        worker_command: Sequence[str] = WORKER_COMMAND,
        companions: Sequence[Child] = (),
        rings: Sequence[int] = (),
        announce: Callable[[Addresses], None] | None = None,
    ) -> None:
        self.options = options
        self._pin = pin
        self._command = tuple(worker_command)
        self._companions = tuple(companions)
        self._rings = tuple(rings)
        self._announce = announce
        self._children: tuple[Child, ...] = ()
        self._adoption = Adoption(())
        self._links = EventLinks(())
        self._unix: UnixSocket | None = None
        self._grpc: GrpcPort | None = None
        self._stopping = asyncio.Event()
        self._failure: str | None = None
        self._was_ready = False
        self._log = logger(pid=os.getpid())

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; return the exit code: 0 after a drain, 1 when the start failed."""
        configure_logging()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(self.serve())

    async def serve(self) -> int:
        """Do the work of `run` on the running loop."""
        self.options = fit_open_files(self.options)
        slots = open_slots(
            self.options.host, self.options.port, self.options.workers,
            warn=self._warn_of_claim,
        )  # fmt: skip
        try:
            self._open_unix()
            self._open_grpc()
            role = worker_role(self.options, self._command)
            workers = open_workers(role, self.options, slots, self._pin, rings=self._rings)
            self._children = (*workers, *self._companions)
            uptime_s = await self._serve_from(slots)
        finally:
            for child in self._children:
                child.close()
            for slot in slots:
                slot.close()
            if self._unix is not None:
                self._unix.close()
            if self._grpc is not None:
                self._grpc.close()
        if self._failure is not None:
            tell(f"error: {self._failure}")
            return 1
        self._log.info("stopped", uptime_s=round(uptime_s, 1))
        return 0

    async def _serve_from(self, slots: Sequence[Slot]) -> float:
        """Serve on the slots' sockets, from the start of the children to the end of the last; return the seconds."""
        options = self.options
        host, port = slots[0].listener.getsockname()[:2]
        self._adoption = Adoption(self._children)
        self._links = EventLinks(self._children)
        overview = Overview(
            self._children, self._adoption, url=self._url_of((host, port)), is_open=self._is_open,
            signatures_required=bool(options.trusted_keys), sinks=sinks_of(options),
        )  # fmt: skip
        console = Console(overview, LINES, explains=options.log is not None)
        explaining = Explaining(options, self._pin.root)

        def pages(gates: Sequence[Gate]) -> dict[bytes, Page]:
            return console_pages(console, gates) | explain_pages(explaining, gates)

        admin = AdminServer(overview, options.admin_token, options.admin_tls, pages)
        try:
            await admin.open(options.admin_host, options.admin_port)
            self._addresses = Addresses(host, port, *admin.address)
            overview.alerting.send_to(runbooks_url(options, admin.address))
            self._handle_signals()
            self._log.info("starting", workers=options.workers, files=list(options.files), releases=self._pin.root,
                           signatures="required" if options.trusted_keys else "not required")  # fmt: skip
            keepers = {child: asyncio.create_task(child.keep(self)) for child in self._children}
            watchers = [asyncio.create_task(child.watch()) for child in self._children]
            renewing = renew_holds(self._pin, options.registry_choice, self._log)
            looks = map(asyncio.create_task, (overview.sample(), overview.alerting.keep(), console.run(), renewing))
            tasks = [*keepers.values(), *watchers, *looks]
            await self._wait_for_end(tasks)
            await self._pre_drain(tasks)
            if self._unix is not None:
                self._unix.turn_away()
            await drain(keepers)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._blame(tasks)
        finally:
            console.listeners.close()
            explaining.close()
            admin.close()
        return overview.uptime_s

    async def _wait_for_end(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """Wait for the stop, or until a task fails: without it no child would be replaced.

        The task of a child that was stopped, for another release say, ends without an error.
        """
        stopping = asyncio.create_task(self._stopping.wait())
        pending = {stopping, *tasks}
        while not stopping.done() and self._failure is None:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            self._blame([task for task in tasks if task in done])
        stopping.cancel()

    async def _pre_drain(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """Say that the server is not ready, and serve on: balancers send requests until they have seen it.

        Ends sooner where a task ends: a child's does, once all are killed by a second signal. Those that have ended
        before, of a child that was stopped for another release say, tell nothing.
        """
        if self._failure is not None or not self._was_ready or not self.options.pre_drain_s:
            return
        for child in self._children:
            if child.slot is not None:
                child.pre_drain()
        running = [task for task in tasks if not task.done()]
        done, _ = await asyncio.wait(running, timeout=self.options.pre_drain_s, return_when=asyncio.FIRST_COMPLETED)
        self._blame(list(done))
        self._log.info("draining", drain_s=self.options.drain_s)

    def _url_of(self, address: tuple[str, int]) -> str:
        """Return where a port that traffic comes to is reached."""
        return url_of(address, is_secret=self.options.tls is not None)

    def _is_open(self) -> bool:
        """Return whether the server has been ready, and is not asked to stop."""
        return self._was_ready and not self._stopping.is_set()

    def _open_unix(self) -> None:
        """Look whether the socket at a path, if one is wanted, can be made once a worker is ready."""
        options = self.options
        if options.unix is not None:
            self._unix = UnixSocket(options.unix, options.unix_mode, takeover=options.unix_takeover)
            self._unix.check()

    def _open_grpc(self) -> None:
        """Keep the port of gRPC, if one is wanted, and have the workers told which it is."""
        if self.options.grpc_port is not None:
            self._grpc = GrpcPort(self.options.host, self.options.grpc_port, warn=self._warn_of_claim)
            self.options = msgspec.structs.replace(self.options, grpc_port=self._grpc.port)

    def _warn_of_claim(self, cause: str) -> None:
        self._log.warning("a second server on the port may not be noticed", cause=cause)

    # Hearing of children (they call these)

    def on_ready(self, child: Child) -> None:
        """See to the slot of a worker that is ready; the first time that all awaited children are, say so."""
        self._links.on_ready(child)
        if child.slot is not None:
            self._adoption.hand_back(child.slot.index)
            self._adoption.cover()
            self._share_unix(child)
        all_ready = all(other.was_ready for other in self._children if other.role.is_awaited)
        if all_ready and not self._was_ready and not self._stopping.is_set():
            self._was_ready = True
            host, port, admin_host, admin_port = self._addresses
            place = {} if self._unix is None else {"unix": self._unix.path}
            place |= {} if self._grpc is None else {"grpc": self._grpc.address}
            admin = url_of((admin_host, admin_port), is_secret=self.options.admin_tls is not None)
            self._log.info("ready", address=self._url_of((host, port)), **place, admin=admin)
            if self._announce is not None:
                self._announce(self._addresses)

    def _share_unix(self, child: Child) -> None:
        """Have a worker that is ready accept on the socket at a path too; the first one has it made."""
        if self._unix is None or child.process is None:
            return
        try:
            listener = self._unix.open()
        except SetupError as error:
            self._fail(str(error))
            return
        if not child.process.send(ListenUnix(), listener.fileno()):
            child.kill("it cannot be given the socket at a path")  # for a successor

    def on_wants_events(self, child: Child) -> None:
        """Link a worker that has streams to the ingester."""
        self._links.on_wanted(child)

    def on_death(self, child: Child) -> None:
        """Have a sibling accept for a worker that is gone."""
        if child.slot is not None:
            self._adoption.cover()

    def on_failed_start(self, child: Child, error: str) -> None:
        """End the start with a child's error, unless the end is under way."""
        if not self._stopping.is_set():
            self._fail(error)

    # Stopping

    def _handle_signals(self) -> None:
        """Stop on the first SIGTERM or SIGINT, kill on the second."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: int) -> None:
        """Begin to stop, or stop at once when asked again."""
        if self._stopping.is_set():
            for child in self._children:
                child.stop()
                child.kill()
            return
        self._stopping.set()
        name, options = signal.Signals(number).name, self.options
        self._log.info("stopping", signal=name, pre_drain_s=options.pre_drain_s, drain_s=options.drain_s)

    def _fail(self, error: str) -> None:
        """End the server with the first error there is."""
        if self._failure is None:
            self._failure = error
        self._stopping.set()

    def _blame(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """Fail with the error that has ended a task, if one has; logged once."""
        for task in tasks:
            if not task.cancelled() and (error := task.exception()) is not None and self._failure is None:
                self._fail(f"the supervisor cannot go on: {error!r}")
                self._log.error("supervisor failed", error=repr(error), exc_info=error)
