"""Runs a load plan: starts the sending processes, starts their clocks together, gathers their records, ends them."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from tailrace.deadline import NS_PER_MS, NS_PER_S
from tailrace.errors import LoadtestError
from tailrace.loadtest.messages import (
    Failure,
    Job,
    Message,
    Progress,
    Ready,
    Result,
    Start,
    encode_message,
    take_messages,
    unpack_record,
)
from tailrace.loadtest.plan import LoadPlan
from tailrace.loadtest.record import merge_records
from tailrace.loadtest.report import LoadReport, build_report

START_DELAY_NS: Final = 50 * NS_PER_MS
READY_S_MAX: Final = 60.0
RESULT_S_MAX: Final = 60.0
END_S_MAX: Final = 2.0
READ_BYTES: Final = 1 << 20


class LoadProgress(NamedTuple):
    """How far a run is, over all its processes."""

    elapsed_s: float
    shots: int
    sent: int
    answered: int
    failed: int


class SenderProcess:
    """One sending process and what it has said."""

    def __init__(self, job: Job) -> None:
        self.progress = Progress(0, 0, 0)
        self.is_ready = False
        self.result: Result | None = None
        self._buffer = bytearray()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tailrace.loadtest.sender"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the caller, which then ends this process
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        try:
            self.tell(job)
        except BaseException:
            self.end()
            raise

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when it says something."""
        return self._stdout.fileno()

    def tell(self, message: Message) -> None:
        """Send it a message; that it is gone shows when it is listened to."""
        try:
            self._stdin.write(encode_message(message))
            self._stdin.flush()
        except BrokenPipeError:
            return

    def listen(self) -> None:
        """Take in what it has said. Raises LoadtestError when it failed or died."""
        piece = os.read(self.fileno(), READ_BYTES)
        self._buffer += piece
        for message in take_messages(self._buffer):
            match message:
                case Ready():
                    self.is_ready = True
                case Progress():
                    self.progress = message
                case Result():
                    self.result = message
                case Failure():
                    raise LoadtestError(message.what, where=message.where, next=message.next)
        if not piece and self.result is None:
            raise LoadtestError(
                f"a sending process ended with exit status {self._process.wait()}",
                where=f"pid {self._process.pid}",
                next="see its traceback above; if there is none, it was killed, perhaps for lack of memory",
            )

    def end(self) -> None:
        """End it, whatever it is doing."""
        if self._process.poll() is None and self.result is None:
            self._process.terminate()
        try:
            self._process.wait(END_S_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stdout.close()
        try:
            self._stdin.close()
        except BrokenPipeError:
            return


def run_load(plan: LoadPlan, on_progress: Callable[[LoadProgress], None] | None = None) -> LoadReport:
    """Send a plan and return what came of it; takes its duration plus at most its drain time.

    on_progress: called about ten times a second. Raises LoadtestError when the server cannot be reached at the start
    or a sending process dies. No sending process outlives the call, whatever ends it.
    """
    senders: list[SenderProcess] = []
    try:
        for shard in range(plan.processes):
            senders.append(SenderProcess(Job(plan, shard)))  # noqa: PERF401 - those before one that fails are ended too
        listen_until(senders, lambda sender: sender.is_ready, READY_S_MAX)
        start_ns = time.monotonic_ns() + START_DELAY_NS
        for sender in senders:
            sender.tell(Start(start_ns))

        def tell_progress() -> None:
            if on_progress is not None:
                counts = [sum(column) for column in zip(*(vars_of(sender.progress) for sender in senders), strict=True)]
                elapsed_s = max(0.0, (time.monotonic_ns() - start_ns) / NS_PER_S)
                on_progress(LoadProgress(elapsed_s, plan.shots, *counts))

        wait_s = plan.duration_s + plan.drain_s + RESULT_S_MAX
        listen_until(senders, lambda sender: sender.result is not None, wait_s, tell_progress)
    finally:
        for sender in senders:
            sender.end()
    results = [sender.result for sender in senders if sender.result is not None]
    record = merge_records([unpack_record(result) for result in results])
    reconnects = sum(result.reconnects for result in results)
    return build_report(plan, record, start_ns, reconnects, sum(result.cpu_s for result in results))


def vars_of(progress: Progress) -> tuple[int, int, int]:
    """Return the counts of a progress message, in the order of `LoadProgress`."""
    return progress.sent, progress.answered, progress.failed


def listen_until(
    senders: Sequence[SenderProcess],
    is_done: Callable[[SenderProcess], bool],
    timeout_s: float,
    on_message: Callable[[], None] = lambda: None,
) -> None:
    """Listen to the senders until all are done. Raises LoadtestError when one fails, dies or takes too long."""
    deadline = time.monotonic() + timeout_s
    with selectors.DefaultSelector() as selector:
        for sender in senders:
            selector.register(sender, selectors.EVENT_READ, sender)
        while waiting := [sender for sender in senders if not is_done(sender)]:
            events = selector.select(max(0.0, deadline - time.monotonic()))
            if not events and time.monotonic() >= deadline:
                raise LoadtestError(
                    f"{len(waiting)} sending processes said nothing for {timeout_s:.0f} s",
                    where="loadtest.runner",
                    next="look for what keeps them from the processor",
                )
            for key, _ in events:
                key.data.listen()
                if is_done(key.data):
                    selector.unregister(key.data)
            on_message()
