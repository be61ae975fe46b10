"""The process that checks requests after their answers: `python -m tailrace.server.checking.process FD`.

It has what no loop wants of the core, loads the worker's own release, and ends with its worker, whatever a check does.
"""

from __future__ import annotations

import ctypes
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec
import structlog

from tailrace.core_share import give_way_whole
from tailrace.errors import TailraceError
from tailrace.pipeline import Pipeline
from tailrace.release.pinned import Pin
from tailrace.request.late_check import LateCheck
from tailrace.request.schema import bounded_type
from tailrace.server.checking.messages import LATE_S, Outcome, Outcomes, Requests, decode, encode
from tailrace.server.declared import load_all
from tailrace.server.logging import configure_logging, log_warnings

NICE: Final = 19
PACKET_BYTES: Final = 1 << 20
LOG_S: Final = 1.0
"""How often the log tells of a check."""
PR_SET_PDEATHSIG: Final = 1
_NONE: Final = object()

_split: Final = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode


class Checks:
    """The checks of one pipeline, as they are made. place: of it among those that have some."""

    def __init__(self, place: int, pipeline: Pipeline) -> None:
        self._place = place
        self._name = pipeline.name
        self._checks: Sequence[LateCheck] = pipeline.validate_later
        self._type = bounded_type(pipeline.request)
        self._decode = msgspec.msgpack.Decoder(list[self._type]).decode  # type: ignore[name-defined]
        self._defaults = _defaults_of(pipeline.request)
        self._log = structlog.get_logger()
        self._counts = [[0] * len(Outcome) for _ in self._checks]
        self._untold: dict[tuple[str, str], int] = {}
        self._logged_s = 0.0

    def take(self, packet: Requests, now_s: float) -> None:
        """Check the requests of a packet."""
        if now_s - packet.sent_s > LATE_S:
            for counts in self._counts:
                counts[Outcome.DROPPED] += packet.count
            return
        requests = self._read(packet.content)
        for check, counts in zip(self._checks, self._counts, strict=True):
            for request in requests:
                counts[self._outcome(check, request)] += 1

    def tell(self, sock: socket.socket, now_s: float) -> None:
        """Tell the worker what was found since the last time, and the log at most once a second."""
        if any(map(any, self._counts)):
            try:
                sock.send(encode(Outcomes(self._place, self._counts)), socket.MSG_DONTWAIT)
            except BlockingIOError:
                return  # with the next
            self._counts = [[0] * len(Outcome) for _ in self._checks]
        if self._untold and now_s - self._logged_s >= LOG_S:
            self._logged_s = now_s
            for (check, what), requests in self._untold.items():
                self._log.warning("late check", pipeline=self._name, check=check, found=what, requests=requests)
            self._untold = {}

    def _read(self, content: bytes) -> list[Any]:
        """Return the requests of a packet, in place of one that cannot be read again why not."""
        try:
            return list(self._decode(content))
        except Exception:  # of a default, or of the type's own __post_init__
            return list(map(self._read_one, _split(content)))

    def _read_one(self, content: bytes) -> Any:
        """Return a request, with its defaults from where it had them: those are held to no bounds."""
        try:
            values = msgspec.msgpack.decode(content)
            given = {name: value for name, value in values.items() if value != self._defaults.get(name, _NONE)}
            return msgspec.convert(given, self._type)
        except Exception as error:
            return error

    def _outcome(self, check: LateCheck, request: Any) -> Outcome:
        """Return what a check says of a request; one that raises is told by the kind of its error alone."""
        try:
            if isinstance(request, Exception):
                raise request
            outcome, what = (Outcome.HELD, "") if check.holds(request) else (Outcome.BROKEN, "broken")
        except Exception as error:  # of a user's function, on what one request holds
            outcome, what = Outcome.FAILED, f"failed: {type(error).__name__}"
        if what:
            self._untold[check.name, what] = self._untold.get((check.name, what), 0) + 1
        return outcome


def _defaults_of(request_type: type[Any]) -> dict[str, Any]:
    """Return the defaults of a type, by their fields' names, as they come in a packet."""
    found = {}
    for field in msgspec.structs.fields(request_type):
        if field.default is not msgspec.NODEFAULT:
            found[field.encode_name] = msgspec.msgpack.decode(encode(field.default))
    return found


def work(sock: socket.socket) -> int:
    """Check what comes until the worker is gone; return the exit code."""
    log = structlog.get_logger()
    try:
        declared = load_all(decode(sock.recv(PACKET_BYTES), Pin))
    except TailraceError as error:
        log.error("checking process cannot start", error=str(error))
        return 1
    pipelines = [pipeline for pipeline in declared if pipeline.validate_later]
    checks = [Checks(place, pipeline) for place, pipeline in enumerate(pipelines)]
    sock.settimeout(LOG_S)
    while True:
        packet = None
        with suppress(TimeoutError):
            packet = sock.recv(PACKET_BYTES)
            if not packet:
                return 0
            found = decode(packet, Requests)
            checks[found.place].take(found, time.monotonic())
        for each in checks:
            each.tell(sock, time.monotonic())


def main(arguments: list[str]) -> int:
    """Check on the socket whose descriptor is the last argument."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a check without an end ends with the worker too
    give_way_whole(NICE)
    configure_logging()
    log_warnings()
    with socket.socket(fileno=int(arguments[-1])) as sock, suppress(ConnectionError):
        return work(sock)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
