"""The sending loop: one thread, one epoll, raw sockets; each shot goes out when it is due, whatever came back.

Why a plain loop and not asyncio: both wait with epoll_wait, which counts in milliseconds. At 5,000/s to nginx, one
core each, asyncio's median schedule lag was 0.42 ms; uvloop rounds a shorter wait down to none and so spins, holding
the whole core. This loop waits with `select` on the epoll's own descriptor, which counts in microseconds, with the
thread's timer slack at 1 µs: median lag 35 µs at 0.43 of a core, nearly all of it the price of being woken on an idle
virtual machine (28 µs a time; timerfd and nanosleep cost the same). All three send 60,000/s and more on one core. The
loop spins only where asked to (`LoadPlan.spin`): on a small machine the core that a busy wait holds is the server's.

What is measured: latency = answer read − INTENDED send time, and schedule lag = actual − intended send time. A shot
that finds no connection with room (all down, or `depth_max` in flight on each) is not skipped: it waits with its
latency clock running, and is marked as held, since that wait is not the generator's lag. Held is only what falls due
while there is known to be no room: while none is, the connections are looked at every millisecond. A sender that is
itself kept from the processor looks at nothing; if there is room when it comes back, what fell due meanwhile was its
own lag.
"""

from __future__ import annotations

import ctypes
import gc
import select
import time
from collections.abc import Callable, Sequence
from typing import Final

from tailrace.deadline import NS_PER_MS, NS_PER_S
from tailrace.errors import LoadtestError
from tailrace.loadtest.connection import Connection, State
from tailrace.loadtest.plan import BODIES_BYTES_MAX
from tailrace.loadtest.pool import Pool
from tailrace.loadtest.record import BROKEN, UNREADABLE, ShotRecord

SENDS_PER_PASS_MAX: Final = 64
"""After so many sends the loop looks for answers, so that a burst of due shots does not age the answers unread."""
TICK_NS: Final = 100 * NS_PER_MS
EVENTS_MAX: Final = 256
LOOK_NS: Final = NS_PER_MS
"""Between two looks for room while there is none. Of a held shot's wait no more than two can be the own lag."""
PR_SET_TIMERSLACK: Final = 29

Tick = Callable[[int, int, int], None]
"""Called every 100 ms with: shots sent, answered, failed."""


class Generator:
    """Sends the shots of a record over a pool of connections and fills the record in.

    requests: whole HTTP requests; shot i sends `requests[(first + i * stride) % len(requests)]`, so that the shots
    dealt out over processes keep the bodies of their places in the whole schedule.
    """

    def __init__(
        self,
        record: ShotRecord,
        pool: Pool,
        requests: Sequence[bytes],
        *,
        first: int = 0,
        stride: int = 1,
        spin: bool = False,
    ) -> None:
        self._record = record
        self._pool = pool
        self._requests = requests
        self._first, self._stride = first, stride
        self._spin = spin
        # Memory views give Python ints at half the cost of NumPy scalars; these are touched once a shot.
        self._intended = record.intended_ns.data
        self._sent = record.sent_ns.data
        self._answered = record.answered_ns.data
        self._statuses = record.statuses.data
        self._held = record.held.data
        self._next = 0
        self._is_blocked = False
        self._judged = 0
        """The first shot of which it is not yet said whether it is held."""
        self._answered_count = 0
        self._failed_count = 0
        self._kept_bytes = 0

    def run(self, end_ns: int, on_tick: Tick) -> None:
        """Send every shot and read the answers until all are in, or until `end_ns` (monotonic)."""
        clock, pool, shots = time.monotonic_ns, self._pool, self._record.shots
        next_tick_ns = looked_ns = 0
        set_timer_slack(1_000)
        gc.collect()
        gc.disable()
        try:
            while True:
                now_ns = clock()
                if now_ns >= next_tick_ns:
                    next_tick_ns = now_ns + TICK_NS
                    on_tick(self._next, self._answered_count, self._failed_count)
                    pool.revive(now_ns)
                if now_ns >= end_ns or self._answered_count + self._failed_count == shots:
                    return
                self._send_due(now_ns)
                wake_ns = 0 if self._spin else min(next_tick_ns, end_ns)
                if self._next < shots:
                    wake_ns = min(wake_ns, now_ns + LOOK_NS if self._is_blocked else self._intended[self._next])
                before_ns, (looked_ns, events) = looked_ns, wait(pool.epoll, wake_ns)
                if self._is_blocked:
                    self._judge(looked_ns, held=not events or looked_ns - before_ns <= 2 * LOOK_NS)
                for fd, mask in events:
                    self._serve(pool.find(fd), mask)
        finally:
            gc.enable()

    def _send_due(self, now_ns: int) -> None:
        """Send the shots due by now, those for one connection in one call."""
        shot, stop = self._next, min(self._next + SENDS_PER_PASS_MAX, self._record.shots)
        intended, requests = self._intended, self._requests
        flushed: list[Connection] = []
        was_blocked, self._is_blocked = self._is_blocked, False
        while shot < stop and intended[shot] <= now_ns:
            connection = self._pool.choose()
            if connection is None:
                self._is_blocked = True
                break
            if connection.queue(shot, requests[(self._first + shot * self._stride) % len(requests)]):
                flushed.append(connection)
            shot += 1
        self._next = shot
        if self._is_blocked and not was_blocked:
            self._judge(now_ns - LOOK_NS, held=False)  # late before there was no room
        for connection in flushed:
            self._flush(connection)

    def _judge(self, until_ns: int, *, held: bool) -> None:
        """Say of the shots due by then that still wait whether there was no room for them."""
        shot, stop, intended = max(self._judged, self._next), self._record.shots, self._intended
        while shot < stop and intended[shot] <= until_ns:
            self._held[shot] = held
            shot += 1
        self._judged = shot

    def _flush(self, connection: Connection) -> None:
        sent_ns = time.monotonic_ns()
        for shot in connection.take_queued():
            self._sent[shot] = sent_ns
        try:
            if not connection.flush():
                self._pool.watch(connection, for_room=True)
        except OSError:
            self._drop(connection)

    def _serve(self, connection: Connection, mask: int) -> None:
        """Act on one event: connected, writable again, or answers to read."""
        try:
            if connection.state is State.CONNECTING:
                self._pool.settle(connection)
                return
            if mask & select.EPOLLOUT and connection.flush():
                self._pool.watch(connection, for_room=False)
            if mask & ~select.EPOLLOUT:
                self._take(connection, connection.receive())
        except OSError:
            self._drop(connection)

    def _take(self, connection: Connection, answers: list[tuple[int, bytes]]) -> None:
        """Write the answers into the record. Raises OSError when the connection is over."""
        now_ns = time.monotonic_ns()
        inflight, bodies = connection.inflight, self._record.bodies
        for status, body in answers:
            if not inflight:
                raise ConnectionAbortedError("an answer that nobody asked for")
            shot = inflight.popleft()
            self._answered[shot] = now_ns
            self._statuses[shot] = status
            self._answered_count += 1
            if bodies:
                self._keep(shot, body)
        if connection.is_over:
            raise ConnectionAbortedError(connection.fault or "the server closes this connection")
        if answers and not inflight:
            self._pool.rest(connection)

    def _keep(self, shot: int, body: bytes) -> None:
        """Keep an answer's body. Raises LoadtestError when all of them together become too large."""
        self._record.bodies[shot] = body
        self._kept_bytes += len(body)
        if self._kept_bytes > BODIES_BYTES_MAX:
            raise LoadtestError(
                f"the answers' bodies are over {BODIES_BYTES_MAX:,} bytes",
                where="keep_bodies",
                next="send fewer requests, use more processes, or do without the bodies",
            )

    def _drop(self, connection: Connection) -> None:
        """Count what a broken connection loses, and connect again."""
        is_unreadable = bool(connection.fault)
        lost = self._pool.drop(connection, time.monotonic_ns())
        for place, shot in enumerate(lost):
            self._statuses[shot] = UNREADABLE if is_unreadable and place == 0 else BROKEN
        self._failed_count += len(lost)


def wait(epoll: select.epoll, wake_ns: int) -> tuple[int, list[tuple[int, int]]]:
    """Return the events that have come by a time, and that time; waits for one until `wake_ns` (monotonic) at most."""
    timeout_ns = wake_ns - time.monotonic_ns()
    if timeout_ns > 0:
        select.select((epoll,), (), (), timeout_ns / NS_PER_S)
    looked_ns = time.monotonic_ns()  # before the look: after it, another may have had the processor
    return looked_ns, epoll.poll(0, EVENTS_MAX)


def set_timer_slack(slack_ns: int) -> None:
    """Let this thread's waits end that close to their time (Linux; 50 µs by default). See prctl(2)."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_TIMERSLACK, ctypes.c_ulong(slack_ns), 0, 0, 0)
