from __future__ import annotations

import asyncio
import gc
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol_server import ProtocolServer

from tailrace.deadline import NS_PER_MS, MonotonicClock
from tailrace.inference.remote import pool
from tailrace.inference.remote.address import RemoteAddress
from tailrace.inference.remote.client import RemoteClient
from tailrace.inference.remote.failure import RemoteError, RemoteFault
from tailrace.inference.remote.oip import OipProtocol
from tailrace.inference.remote.pool import WAITING_MAX, RemotePool
from tailrace.inference.remote.protocol import RemoteProtocol, RemoteSignature, RemoteTarget
from tailrace.inference.remote.tensorflow import TensorflowProtocol
from tailrace.inference.remote.torchserve import TorchserveProtocol
from tailrace.inference.signature import Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "float32", ("a", "b", "c", "d")),), "score")
PROTOCOLS = ("oip", "oip-binary", "tensorflow", "tensorflow-columns", "torchserve")
JSON_PROTOCOLS = tuple(name for name in PROTOCOLS if name != "oip-binary")


def protocol_of(name: str, path: str, signature: Signature = SIGNATURE) -> RemoteProtocol:
    """Return what asks the test's model by a protocol."""
    target = RemoteTarget(path, "fraud", "3")
    if name.startswith("oip"):
        return OipProtocol(target, RemoteSignature(signature, is_binary=name == "oip-binary"))
    if name.startswith("tensorflow"):
        return TensorflowProtocol(target, RemoteSignature(signature), by_column=name == "tensorflow-columns")
    return TorchserveProtocol(target, RemoteSignature(signature))


def client_of(server: ProtocolServer, name: str = "oip", connections_max: int = 8, **more: Any) -> RemoteClient:
    """Return a client of a server."""
    address = RemoteAddress.parse(server.url(name.partition("-")[0]))
    connections = RemotePool(address, connections_max=connections_max, body_bytes_max=1 << 20)
    return RemoteClient(address, protocol_of(name, address.path), connections, MonotonicClock(), **more)


def feeds_of(*firsts: float) -> dict[str, Any]:
    """Return rows that begin with these numbers."""
    x = np.zeros((len(firsts), 4), np.float32)
    x[:, 0] = firsts
    return {"x": x}


async def ask(client: RemoteClient, *firsts: float, within_ms: float = 5_000, fair_ms: float = 0) -> list[float]:
    """Return the scores of rows."""
    deadline_ns = time.monotonic_ns() + int(within_ms * NS_PER_MS)
    scores = await client.infer(feeds_of(*firsts), len(firsts), deadline_ns, fair_ns=fair_ms * NS_PER_MS)
    found: list[float] = scores.tolist()
    return found


def run(work: Callable[[], Any]) -> Any:
    """Run a coroutine on a loop of its own."""
    return asyncio.run(work())


@pytest.fixture
def server() -> Iterator[ProtocolServer]:
    """Yield a server."""
    with ProtocolServer() as found:
        yield found


@pytest.fixture(scope="module")
def tls_certificate(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the file of a certificate of localhost that it signed itself; its key is beside it."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
         "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")],
        capture_output=True, check=True,
    )  # fmt: skip
    return str(folder / "cert.pem")


@pytest.fixture
def tls_context(tls_certificate: str) -> ssl.SSLContext:
    """Return how a server shows that certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls_certificate, tls_certificate.replace("cert.pem", "key.pem"))
    return context


@pytest.mark.parametrize("fault", ["", "chunked", "pieces", "continue_first", "closes"])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_rows_get_their_scores(server: ProtocolServer, name: str, fault: str) -> None:
    """By every protocol, however the answer is framed, each row gets its own score, again and again."""
    server.fault = fault
    client = client_of(server, name)

    async def twice() -> None:
        assert await ask(client, 1.5, -2.0, 3.25) == [1.5, -2.0, 3.25]
        assert await ask(client, 4.0) == [4.0]

    run(twice)
    assert server.connections == (2 if fault == "closes" else 1)
    assert not client.failures


WRONG: dict[str, RemoteFault] = {
    "garbage": RemoteFault.UNREADABLE,
    "not_json": RemoteFault.UNREADABLE,
    "deep": RemoteFault.UNREADABLE,
    "gzip": RemoteFault.UNREADABLE,
    "reset_midway": RemoteFault.UNREACHABLE,
    "close_midway": RemoteFault.UNREACHABLE,
    "close_at_once": RemoteFault.UNREACHABLE,
    "no_length": RemoteFault.UNREACHABLE,
    "huge": RemoteFault.TOO_LARGE,
    "huge_chunked": RemoteFault.TOO_LARGE,
    "redirect": RemoteFault.STATUS,
    "status_503": RemoteFault.STATUS,
    "status_500": RemoteFault.STATUS,
    "status_204": RemoteFault.STATUS,
    "rows_many": RemoteFault.MISSHAPEN,
    "rows_few": RemoteFault.MISSHAPEN,
    "rows_none": RemoteFault.MISSHAPEN,
    "texts": RemoteFault.MISSHAPEN,
    "three_columns": RemoteFault.MISSHAPEN,
}
WRONG_OIP = {
    "other_model": RemoteFault.FOREIGN,
    "other_version": RemoteFault.FOREIGN,
    "other_id": RemoteFault.FOREIGN,
    "no_id": RemoteFault.FOREIGN,
    "other_output": RemoteFault.MISSHAPEN,
    "two_outputs": RemoteFault.MISSHAPEN,
}
CASES = [
    *((name, fault, reason) for name in ("oip", "torchserve") for fault, reason in WRONG.items()),
    *((name, fault, reason) for name in ("oip", "oip-binary") for fault, reason in WRONG_OIP.items()),
    *(
        ("tensorflow", fault, WRONG[fault])
        for fault in ("rows_many", "rows_none", "texts", "three_columns", "not_json")
    ),
    ("oip-binary", "rows_few", RemoteFault.MISSHAPEN),
    ("oip-binary", "short_binary", RemoteFault.UNREADABLE),
    ("oip", "literal_nan", RemoteFault.UNREADABLE),
]


@pytest.mark.parametrize(("name", "fault", "reason"), CASES)
def test_wrong_answer_is_no_score(server: ProtocolServer, name: str, fault: str, reason: RemoteFault) -> None:
    """Whatever is wrong with an answer has its reason, never becomes a score, and the next call is answered."""
    client = client_of(server, name)

    async def wrong_then_well() -> None:
        server.fault = fault
        with pytest.raises(RemoteError) as caught:
            await ask(client, 1.0, 2.0)
        assert caught.value.reason is reason
        server.fault = ""
        assert await ask(client, 3.0, 4.0) == [3.0, 4.0]

    run(wrong_then_well)
    assert dict(client.failures) == {reason: 1}


@pytest.mark.parametrize("name", ["tensorflow", "torchserve"])
def test_nan_is_a_rows_own(server: ProtocolServer, name: str) -> None:
    """A score that is NaN, or null, is left to the row that has it."""
    client = client_of(server, name)
    for server.fault in ("literal_nan", "null_first"):
        first, second = run(lambda: ask(client, 1.0, 2.0))
        assert np.isnan(first)
        assert second == 2.0


@pytest.mark.parametrize("fault", ["stall", "slow_head"])
def test_late_answer_is_given_up_at_the_deadline(server: ProtocolServer, fault: str) -> None:
    """A server that stalls, or drips, costs the caller its deadline and no more, and its connection is let go of."""
    client = client_of(server)

    async def late_then_well() -> None:
        assert await ask(client, 1.0) == [1.0]
        server.fault = fault
        began_s = time.monotonic()
        with pytest.raises(RemoteError) as caught:
            await ask(client, 1.0, within_ms=60)
        assert caught.value.reason is RemoteFault.LATE
        assert 0.05 < time.monotonic() - began_s < 2.0
        server.fault = ""
        assert await ask(client, 2.0) == [2.0]

    run(late_then_well)
    assert server.connections == 2


@pytest.mark.parametrize("name", PROTOCOLS)
def test_answer_that_comes_late_is_nobody_elses(server: ProtocolServer, name: str) -> None:
    """The answer to a call that was given up, or cancelled, never comes to the next one."""
    client = client_of(server, name, connections_max=1)

    async def late_then_next() -> None:
        server.delay_s = 0.08
        with pytest.raises(RemoteError):
            await ask(client, 1.0, within_ms=40)
        cancelled = asyncio.create_task(ask(client, 2.0))
        await asyncio.sleep(0.04)
        cancelled.cancel()
        assert await ask(client, 3.0) == [3.0]

    run(late_then_next)


def test_second_answer_to_one_request_is_nobody_elses(server: ProtocolServer) -> None:
    """A server that sends more than it was asked for has its connection closed."""
    server.fault = "twice"
    client = client_of(server, "torchserve")

    async def twice() -> None:
        for first in (1.0, 2.0):
            assert await ask(client, first, first) == [first, first]

    run(twice)
    assert server.connections == 2


def test_request_is_sent_again_where_an_idle_connection_was_closed(server: ProtocolServer) -> None:
    """A server closes what is idle when it likes; a request that met that is sent once more, and no other is."""
    client = client_of(server)

    async def thrice() -> None:
        for first in (1.0, 2.0, 3.0):
            assert await ask(client, first) == [first]

    server.fault = "close_when_used"
    run(thrice)
    assert not client.failures
    assert len(server.requests) == 5
    server.fault = "close_at_once"
    with pytest.raises(RemoteError):
        run(lambda: ask(client, 1.0))
    assert len(server.requests) == 6


def test_idle_connection_is_closed_before_the_server_would(
    server: ProtocolServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is idle for long is let go of; then a new one is made."""
    monkeypatch.setattr(pool, "IDLE_S_MAX", 0.02)
    monkeypatch.setattr(pool, "LOOK_S", 0.01)
    client = client_of(server)

    async def idle() -> None:
        await ask(client, 1.0)
        assert client.pool.connections == 1
        while client.pool.connections:  # bounded by the test's own limit
            await asyncio.sleep(0.01)
        assert await ask(client, 2.0) == [2.0]

    run(idle)
    assert server.connections == 2


def test_connections_are_bounded_and_kept(server: ProtocolServer) -> None:
    """Many calls at once share the connections that there may be; each gets its own answer."""
    server.delay_s = 0.01
    client = client_of(server, connections_max=3)

    async def many() -> None:
        found = await asyncio.gather(*(ask(client, float(index)) for index in range(24)))
        assert found == [[float(index)] for index in range(24)]
        assert client.pool.connections == 3

    run(many)
    assert server.connections == server.at_once_most == 3


@settings(max_examples=12, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.sampled_from([0, 20, 5_000])), min_size=2, max_size=24))
def test_many_batches_in_flight_keep_their_answers_apart(calls: list[tuple[int, int]]) -> None:
    """However many calls are under way, and given up midway, a score is always that of the row it was asked for."""
    with ProtocolServer() as server:
        server.delay_s = 0.003
        client = client_of(server, connections_max=4)

        async def one(place: int, rows: int, within_ms: int) -> None:
            firsts = [place * 100.0 + row for row in range(rows)]
            with suppress(RemoteError) if within_ms < 5_000 else nullcontext():
                assert await ask(client, *firsts, within_ms=within_ms) == firsts

        async def all_of_them() -> None:
            await asyncio.gather(*(one(place, *call) for place, call in enumerate(calls)))
            assert await ask(client, 7.0) == [7.0]

        client.breaker.allows = lambda: True  # type: ignore[method-assign]  # who is in a hurry asks all the same
        run(all_of_them)


def test_server_that_is_gone_is_left_alone_and_found_again(server: ProtocolServer) -> None:
    """Calls to a server that is gone fail at once, then without being made; when it is back, it is asked again."""
    client = client_of(server)
    server.fault = "close_at_once"

    async def gone_then_back() -> None:
        for _ in range(6):
            with pytest.raises(RemoteError):
                await ask(client, 1.0)
        assert client.breaker.is_open
        assert client.failures == {RemoteFault.UNREACHABLE: 3, RemoteFault.LEFT_ALONE: 3}
        server.fault = ""
        await asyncio.sleep(0.35)  # its open time at most: the clock is the real one
        assert await ask(client, 1.0) == [1.0]
        assert not client.breaker.is_open

    run(gone_then_back)


def test_refused_connection_has_its_reason() -> None:
    """Where nobody listens a call fails at once, and says so."""
    server = ProtocolServer()
    server.close()
    client = client_of(server)
    with pytest.raises(RemoteError) as caught:
        run(lambda: ask(client, 1.0))
    assert caught.value.reason is RemoteFault.UNREACHABLE
    assert str(server.port) in str(caught.value)


def test_refused_connection_is_no_secret_from_those_who_wait() -> None:
    """With one connection allowed, the calls that wait for a refused one are told at once too."""
    server = ProtocolServer()
    server.close()
    client = client_of(server, connections_max=1)

    async def three() -> list[Any]:
        return await asyncio.gather(*(ask(client, 1.0) for _ in range(3)), return_exceptions=True)

    began_s = time.monotonic()
    assert [error.reason for error in run(three)] == [RemoteFault.UNREACHABLE] * 3
    assert time.monotonic() - began_s < 2.0  # of the five seconds that each had


def test_each_of_many_connections_may_be_waited_for(server: ProtocolServer) -> None:
    """A first burst of as many calls as there may be connections is refused nothing, however many these are."""
    client = client_of(server, connections_max=WAITING_MAX + 20)

    async def burst() -> None:
        calls = [ask(client, float(call)) for call in range(WAITING_MAX + 20)]
        assert await asyncio.gather(*calls) == [[float(call)] for call in range(WAITING_MAX + 20)]

    run(burst)


def test_time_to_encode_is_the_calls_own(server: ProtocolServer) -> None:
    """A call ends at its deadline however long its rows took to encode; with none left the server is not asked."""
    client = client_of(server)
    encode = client.protocol.encode

    def slow(*given: Any) -> Any:
        time.sleep(0.1)
        return encode(*given)

    client.protocol.encode = slow  # type: ignore[method-assign]
    server.fault = "stall"
    for within_ms, asked in ((150, 1), (50, 1)):
        began_s = time.monotonic()
        with pytest.raises(RemoteError) as caught:
            run(lambda within_ms=within_ms: ask(client, 1.0, within_ms=within_ms))
        assert caught.value.reason is RemoteFault.LATE
        assert time.monotonic() - began_s < 0.22
        assert len(server.requests) == asked


def test_caller_in_a_hurry_opens_no_breaker(server: ProtocolServer) -> None:
    """A server is not broken because a caller gave it no time; nor because it refuses what it was sent."""
    server.delay_s = 0.05
    client = client_of(server)

    async def hurry() -> None:
        for _ in range(5):
            with pytest.raises(RemoteError):
                await ask(client, 1.0, within_ms=5, fair_ms=100)

    run(hurry)
    server.delay_s, server.fault = 0.0, "status_422"

    async def refused() -> None:
        for _ in range(5):
            with pytest.raises(RemoteError):
                await ask(client, 1.0)

    run(refused)
    assert not client.breaker.is_open


def test_authorization_goes_with_each_request_and_into_no_error(server: ProtocolServer) -> None:
    """The header is sent, also over TLS-less connections to a test; no message has it."""
    client = client_of(server, authorization="Bearer secret-7")
    run(lambda: ask(client, 1.0))
    assert server.requests[-1].headers["authorization"] == "Bearer secret-7"
    server.fault = "redirect"
    with pytest.raises(RemoteError) as caught:
        run(lambda: ask(client, 1.0))
    assert "secret-7" not in str(caught.value)
    assert all(request.path != "/elsewhere" for request in server.requests)


def test_oip_tells_how_long_there_is(server: ProtocolServer) -> None:
    """A request by the Open Inference Protocol carries the time that is left, in microseconds, as Triton takes it."""
    run(lambda: ask(client_of(server), 1.0, within_ms=3_000))
    body = server.requests[-1].body.decode()
    left_us = int(body.partition('"timeout":')[2].partition("}")[0])
    assert 2_000_000 < left_us <= 3_000_000


def test_server_without_a_trusted_certificate_is_not_asked(tls_context: ssl.SSLContext) -> None:
    """Over https a server shows who it is; one that cannot gets no request."""
    with ProtocolServer(tls=tls_context) as server:
        with pytest.raises(RemoteError) as caught:
            run(lambda: ask(client_of(server), 1.0))
        assert caught.value.reason is RemoteFault.UNREACHABLE
        assert "CERTIFICATE_VERIFY_FAILED" in str(caught.value)
        assert not server.requests


def test_server_with_a_trusted_certificate_is_asked(
    tls_context: ssl.SSLContext, tls_certificate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The authorities are the system's, or those that SSL_CERT_FILE names."""
    monkeypatch.setenv("SSL_CERT_FILE", tls_certificate)
    with ProtocolServer(tls=tls_context) as server:
        assert run(lambda: ask(client_of(server), 1.0)) == [1.0]


@pytest.mark.parametrize(
    "url", ["ftp://host/x", "http://", "http://user:pw@host/x", "http://host/x?y=1", "http://host/a b", "http://h:x/p"]
)
def test_url_that_is_none_is_refused(url: str) -> None:
    """What is no address, or would show a password, is refused where it is declared."""
    with pytest.raises(ValueError):  # noqa: PT011 - urlsplit has words of its own
        RemoteAddress.parse(url)


@pytest.mark.parametrize("fault", ["", "status_503", "not_json", "garbage", "close_at_once", "stall"])
def test_calls_leave_no_garbage_in_cycles(server: ProtocolServer, fault: str) -> None:
    """A worker collects when it is idle: what each call left in a cycle, or each failing one, would pile up."""
    server.fault = fault
    client = client_of(server)
    client.breaker.allows = lambda: True  # type: ignore[method-assign]  # each is made

    async def some(calls: int) -> None:
        for _ in range(calls):
            with suppress(RemoteError):
                await ask(client, 1.0, within_ms=5 if fault == "stall" else 5_000)

    async def garbage() -> set[str]:
        await some(3)
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            await some(10)
            await asyncio.sleep(0.01)
            gc.collect()
            return {type(each).__name__ for each in gc.garbage}
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()

    ours = {"RemoteConnection", "HttpResponseParser", "RemoteError", "traceback", "frame", "Future", "coroutine"}
    assert not run(garbage) & ours  # asyncio's own transports are in cycles, uvloop's are not
