"""A worker's side of late checks: requests that are answered go to a process of its own, and counts come back.

A check in Python would hold the interpreter, and with it the loop, for as long as it takes, on a thread too; so it has
a process. What that cannot take at once is dropped and counted: a call never waits for a check.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

from tailrace.batch import Batch
from tailrace.deadline import LAYERS
from tailrace.monitor.shared import MetricBlock
from tailrace.pipeline import Pipeline
from tailrace.release.pinned import Pin
from tailrace.server.checking.messages import (
    BUFFER_BYTES,
    PACKET_BYTES_MAX,
    Outcome,
    Outcomes,
    Requests,
    decode,
    encode,
)

COMMAND: Final = (sys.executable, "-m", "tailrace.server.checking.process")
BACK_OFF_S: Final = (1.0, 60.0)
"""How long a successor of a process that died waits at first and at most; twice as long each time."""
END_S: Final = 2.0
"""How long it has to end with its worker."""
_MARKS: Final = len(LAYERS) + 1


class Checking:
    """The process of one worker, begun when the first pipeline with checks is added. pin: what it loads."""

    def __init__(self, pin: Pin, log: Any) -> None:
        self._pin = pin
        self._log = log
        self._sock: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._back_off_s, self._begin_s = 0.0, 0.0
        self.pipelines: list[LateChecks] = []

    def add(self, pipeline: Pipeline, block: MetricBlock) -> LateChecks:
        """Return what takes the requests of a pipeline to the process: a recorder of its engine."""
        checks = LateChecks(self, len(self.pipelines), pipeline, block)
        self.pipelines.append(checks)
        if self._process is None:
            self._begin()
        return checks

    @property
    def pid(self) -> int:
        """The process that checks now; 0 for none."""
        return 0 if self._process is None or self._sock is None else self._process.pid

    def send(self, packet: bytes) -> bool:
        """Send requests; return False where the process is not there, or has enough to do."""
        if self._sock is None:
            return False
        try:
            self._sock.send(packet)
        except OSError:  # also for a socket that is full
            return False
        return True

    def look(self) -> None:
        """Once a second: take in what was found, and replace a process that died."""
        self._receive()
        if self._process is not None and self._process.poll() is not None:
            if self._sock is not None:
                self._back_off_s = min(max(2 * self._back_off_s, BACK_OFF_S[0]), BACK_OFF_S[1])
                self._begin_s = time.monotonic() + self._back_off_s
                told = {"code": self._process.returncode, "next_s": self._back_off_s}
                self._log.error("checking process died", **told)
                self._sock.close()
                self._sock = None
            if time.monotonic() >= self._begin_s:
                self._begin()

    def close(self) -> None:
        """End the process; what it has not checked by then is not checked."""
        if self._sock is not None:
            self._receive()
            self._sock.close()
            self._sock = None
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _begin(self) -> None:
        """Start a process, and tell it what to load."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
            ours.setblocking(False)
            descriptor = theirs.fileno()
            self._process = subprocess.Popen(
                [*COMMAND, str(descriptor)],
                pass_fds=(descriptor,),
                start_new_session=True,  # a terminal's Ctrl-C is for the supervisor; and what gives way is a session
            )
            self._sock = ours
        self.send(encode(self._pin))

    def _receive(self) -> None:
        if self._sock is None:
            return
        with suppress(OSError):
            while packet := self._sock.recv(PACKET_BYTES_MAX):
                found = decode(packet, Outcomes)
                self.pipelines[found.place].count(found.counts)
                self._back_off_s = 0.0  # it is at work


class LateChecks:
    """Takes the requests of one pipeline to the process, and counts what it finds; a recorder of the engine.

    place: of the pipeline among those that have checks.
    """

    def __init__(self, checking: Checking, place: int, pipeline: Pipeline, block: MetricBlock) -> None:
        self._checking = checking
        self._place = place
        self._encode = msgspec.msgpack.Encoder().encode
        self._cells = block.cells
        self._offsets = [
            [
                block.find("tailrace_late_checks_total", pipeline.name, check.name, outcome.name.lower()).offset
                for outcome in Outcome
            ]
            for check in pipeline.validate_later
        ]

    def record(self, batch: Batch, finished_ns: int) -> None:
        """Send the requests of one delivered batch; one that broke off is answered again in parts."""
        if len(batch.marks_ns) == _MARKS:
            self._send(batch.requests)

    def record_coalesced(self, batch: Batch, finished_ns: int) -> None:
        """Send the requests that share others' answers: what is compared of them is not all that is checked."""
        self._send(batch.requests)

    def count(self, counts: Sequence[Sequence[int]]) -> None:
        """Add what the process has found."""
        for offsets, each in zip(self._offsets, counts, strict=True):
            for offset, count in zip(offsets, each, strict=True):
                self._cells[offset] += count

    def _send(self, requests: Sequence[Any]) -> None:
        """Send requests in one packet, or in two where they do not fit in one; drop what is not taken."""
        content = b""
        with suppress(OverflowError, TypeError, ValueError, RecursionError):  # which MessagePack has no form for
            content = self._encode(requests)
        fits = 0 < len(content) <= PACKET_BYTES_MAX
        if not fits and len(requests) > 1:
            half = len(requests) // 2
            self._send(requests[:half])
            self._send(requests[half:])
            return
        packet = encode(Requests(self._place, time.monotonic(), len(requests), content))
        if not fits or not self._checking.send(packet):
            for offsets in self._offsets:
                self._cells[offsets[Outcome.DROPPED]] += len(requests)
