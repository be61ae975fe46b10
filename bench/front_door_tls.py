"""What TLS adds to a request on a connection that is kept: processor time of the worker, beside one without."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from figures import Figures
from machine import LOAD_CORE, SERVER_CORE, BenchError, on_core
from part import Line, Part, Session
from peers import Server, start_tailrace

ROUNDS: Final = 11
CALLS: Final = 3_840
"""Of a round: turn by turn, every connection asks once, and all are answered."""
CONNECTIONS: Final = (64, 8)
"""At work at once: as the batches of a server that has much to do, and of one that has little."""


class Caller:
    """A connection. What it sends and receives is sealed before and opened after, so that it shapes no batch."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext | None) -> None:
        self.sock = socket.create_connection((host, port), 10)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = None
        if context is not None:
            self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")
            self._shake(self._tls)

    def _shake(self, tls: ssl.SSLObject) -> None:
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.sock.sendall(self._outgoing.read())
                self._incoming.write(self.sock.recv(65_536))
        self.sock.sendall(self._outgoing.read())

    def sealed(self, message: bytes) -> bytes:
        """Return how a message is sent."""
        if self._tls is None:
            return message
        self._tls.write(message)
        return self._outgoing.read()

    def opened(self, answer: bytes) -> bytes:
        """Return what was received."""
        if self._tls is None:
            return answer
        self._incoming.write(answer)
        return self._tls.read(65_536)


class Callers:
    """Connections to one server, that ask all at once. context: of those that are secret; None for plain ones."""

    def __init__(
        self, stack: ExitStack, server: Server, bodies: Sequence[bytes], context: ssl.SSLContext | None, count: int
    ) -> None:
        place = urlsplit(server.url)
        self._pids = server.worker_pids()
        self._callers = [Caller(place.hostname or "", place.port or 0, context) for _ in range(count)]
        for caller in self._callers:
            stack.callback(caller.sock.close)
        head = f"POST {place.path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: "
        self._messages = [f"{head}{len(body)}\r\n\r\n".encode() + body for body in bodies]

    def turn(self, number: int) -> int:
        """Ask once on each connection; return how many calls were shed. Raises BenchError where an answer is none."""
        callers, messages = self._callers, self._messages
        first = number * len(callers)
        sealed = [each.sealed(messages[(first + place) % len(messages)]) for place, each in enumerate(callers)]
        for caller, message in zip(callers, sealed, strict=True):
            caller.sock.sendall(message)
        answers = [caller.sock.recv(65_536) for caller in callers]
        statuses = [caller.opened(answer)[9:12] for caller, answer in zip(callers, answers, strict=True)]
        if not set(statuses) <= {b"200", b"503"}:
            raise BenchError(f"front_door_tls: callers are answered {statuses}")
        return statuses.count(b"503")

    def cost_us(self, calls: int) -> float:
        """Return the processor time that a request takes the worker. Raises BenchError where over 1% are shed."""
        turns = calls // len(self._callers)
        before_ns = cpu_ns(self._pids)
        if (shed := sum(map(self.turn, range(turns)))) > calls / 100:
            raise BenchError(f"front_door_tls: {shed} calls of {calls} were shed: the machine is too busy")
        return (cpu_ns(self._pids) - before_ns) / (turns * len(self._callers)) / 1_000


def cpu_ns(pids: Sequence[int]) -> int:
    """Return the processor time that processes have taken, all their threads together."""
    files = [file for pid in pids for file in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return sum(int(file.read_text().split()[0]) for file in files)


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Write a certificate for this host that signs itself, and its key; return where they are."""
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]), datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(hours=1))
    certificate = builder.not_valid_after(now + timedelta(days=1)).add_extension(names, critical=False)
    cert, key_file = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(certificate.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return cert, key_file


def measure(session: Session) -> Figures:
    """Return the medians of the rounds, within which the two take turns."""
    with ExitStack() as stack:
        session.tell("front door, TLS: starting the servers")
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="tailrace-")))
        cert, key = make_certificate(folder)
        context = ssl.create_default_context(cafile=str(cert))
        options: dict[str, tuple[str, ...]] = {"plain": (), "tls": ("--tls-cert", str(cert), "--tls-key", str(key))}
        with session.bodies.open("rb") as opened:
            bodies = [next(opened).rstrip() for _ in range(200)]
        callers: dict[tuple[str, int], Callers] = {}
        for name, own in options.items():
            server = start_tailrace(stack, cores={SERVER_CORE}, name=f"tailrace-{name}", options=own)
            for count in CONNECTIONS:
                callers[name, count] = Callers(stack, server, bodies, context if own else None, count)
        costs_us: dict[tuple[str, int], list[float]] = {name: [] for name in callers}
        stack.enter_context(on_core(LOAD_CORE))
        rounds, calls = session.pick(ROUNDS, 2), session.pick(CALLS, 640)
        for number in range(rounds + 1):
            session.tell(f"front door, TLS, {number} of {rounds}")
            for name, caller in callers.items():
                cost_us = caller.cost_us(calls)
                costs_us[name] += [cost_us] if number else []  # the first round warms up
    return {"front_door": summarize(costs_us)}


def summarize(costs_us: dict[tuple[str, int], list[float]]) -> Figures:
    """Return what a request takes more over TLS, pair by pair, and what it takes without."""
    added = {
        count: round(median(a - b for a, b in zip(costs_us["tls", count], costs_us["plain", count], strict=True)), 2)
        for count in CONNECTIONS
    }
    most, least = CONNECTIONS
    return {
        "tls_us": added[most],
        "tls_few_us": added[least],
        "tls_none_request_us": round(median(costs_us["plain", most]), 1),
        "tls_none_few_request_us": round(median(costs_us["plain", least]), 1),
    }


def lines(figures: Figures) -> list[Line]:
    """Return the lines of the table."""
    door = figures["front_door"]
    return [
        Line("TLS, added to a request of 64 at once", door["tls_us"], 8, 5, " µs"),
        Line("  to a request without, of", door["tls_none_request_us"], unit=" µs"),
        Line("TLS, added to a request of 8 at once", door["tls_few_us"], unit=" µs"),
        Line("  to a request without, of", door["tls_none_few_request_us"], unit=" µs"),
    ]


PART: Final = Part(
    name="front_door_tls",
    about="what TLS adds to a request on a connection that is kept: processor time of a worker",
    caveats=(
        "front_door_tls: 64 connections ask at once, or 8, over TLS 1.3 with AES-256-GCM; no handshake is in it.",
    ),
    steps=lambda session: 2 + session.pick(ROUNDS, 2),
    measure=measure,
    lines=lines,
)
