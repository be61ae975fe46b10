"""The example of a remote feature service: a real HTTP server of Tecton's form, and what it may do to a batch."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import tailrace as tr
from tailrace.batch import Degraded, Provenance
from tailrace.deadline import NS_PER_MS, NS_PER_S, MonotonicClock
from tailrace.errors import StoreError
from tailrace.features.retrieval import Retrieval
from tailrace.features.rows import RowCodec
from tailrace.features.stores.opening import open_store, open_writer

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "remote_features"))

from remote_store import CONNECTIONS_MAX, RemoteFeatures, opens


class CustomerProfile(tr.BatchFeatureView):
    """Numbers and a text of a customer."""

    entity = tr.Entity("customer", key="customer_id")
    source = tr.Parquet("unused.parquet")
    max_staleness = "1d"
    avg_amount: float = 1.5
    tx_count: int = -1
    country: str = "??"


class TerminalRisk(tr.BatchFeatureView):
    """A number of a terminal, whose ids are texts."""

    entity = tr.Entity("terminal", key="terminal_id")
    source = tr.Parquet("unused.parquet")
    fraud_share: float = 0.25


class FeatureService:
    """Serves get-features on a free port. customers: their features, by id. status, wait_s: of each answer.

    refused: a customer who gets 503 at once, whatever the others get. reply: the body of each answer, if given.
    """

    def __init__(self) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        self.customers: dict[str, list[Any]] = {str(each): [each + 0.5, str(each), f"c{each}"] for each in range(100)}
        self.time = now
        self.status = 200
        self.wait_s = 0.0
        self.refused = ""
        self.reply: bytes | None = None
        self.asked: list[dict[str, Any]] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                service.asked.append(body | {"path": self.path, "authorization": self.headers["Authorization"]})
                is_refused = body["params"]["joinKeyMap"].get("customer_id") == service.refused
                if not is_refused:
                    time.sleep(service.wait_s)
                data = service.reply or json.dumps(service.answer(body["params"]["joinKeyMap"])).encode()
                self.send_response(503 if is_refused else service.status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def answer(self, keys: dict[str, str]) -> dict[str, Any]:
        """Return the features of an entity, nulls where it is unknown."""
        if "customer_id" in keys:
            names = [f"customer_profile.{name}" for name in ("avg_amount", "tx_count", "country")]
            values = self.customers.get(keys["customer_id"], [None] * 3)
        else:
            names, values = ["terminal_risk.fraud_share"], [len(keys["terminal_id"]) / 8]
        told = [{"name": name, "effectiveTime": self.time} for name in names]
        return {"result": {"features": values}, "metadata": {"features": told}}

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"features+http://127.0.0.1:{self._server.server_port}/prod/fraud"

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def service() -> Iterator[FeatureService]:
    """Yield a running service."""
    service = FeatureService()
    yield service
    service.close()


def after_ms(milliseconds: float) -> int:
    """Return a deadline."""
    return time.monotonic_ns() + int(milliseconds * NS_PER_MS)


def test_remote_features_are_served_as_a_store_s(service: FeatureService, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values of every type come fresh, an unknown entity gets defaults, and each entity is asked for once."""
    monkeypatch.setenv("FEATURE_SERVICE_TOKEN", "secret")
    tr.register_store("features+http", opens(CustomerProfile, TerminalRisk))

    async def scenario() -> None:
        store = open_store(service.url, MonotonicClock())
        await store.open()
        retrieval = Retrieval([RowCodec(CustomerProfile.spec), RowCodec(TerminalRisk.spec)], store, MonotonicClock())
        customers, terminals = await retrieval.read([[7, 999, 8, 7], ["ab", "abcd"]], after_ms(10_000))
        assert customers.column("avg_amount").tolist() == [7.5, 1.5, 8.5, 7.5]
        assert customers.column("tx_count").tolist() == [7, -1, 8, 7]
        assert list(customers.column("country")) == ["c7", "??", "c8", "c7"]
        assert customers.provenance.tolist() == [
            Provenance.FRESH,
            Provenance.DEFAULT,
            Provenance.FRESH,
            Provenance.FRESH,
        ]
        assert terminals.column("fraud_share").tolist() == [0.25, 0.5]
        store.close()

    asyncio.run(scenario())
    assert len(service.asked) == 5
    assert {each["path"] for each in service.asked} == {"/api/v1/feature-service/get-features"}
    assert {each["authorization"] for each in service.asked} == {"Tecton-key secret"}
    params = service.asked[0]["params"]
    assert (params["workspaceName"], params["featureServiceName"]) == ("prod", "fraud")


def test_remote_features_that_are_old_are_stale(service: FeatureService) -> None:
    """The service's time of a feature is the row's."""
    service.time = "2020-01-01T00:00:00Z"

    async def scenario() -> None:
        store = RemoteFeatures(service.url, [CustomerProfile], MonotonicClock())
        (rows,) = await Retrieval([RowCodec(CustomerProfile.spec)], store, MonotonicClock()).read(
            [[7]], after_ms(10_000)
        )
        assert rows.provenance.tolist() == [Provenance.STALE]
        store.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("fault", "value", "why"),
    [
        ("wait_s", 0.5, Degraded.STORE_TIMEOUT),
        ("status", 503, Degraded.STORE_ERROR),
        ("status", 403, Degraded.STORE_ERROR),
    ],
)
def test_remote_service_that_fails_costs_the_deadline_at_most(
    service: FeatureService, fault: str, value: Any, why: Degraded
) -> None:
    """Late, overloaded or refusing: the defaults, in time, and the reason."""

    async def scenario() -> None:
        store = RemoteFeatures(service.url, [CustomerProfile], MonotonicClock())
        retrieval = Retrieval([RowCodec(CustomerProfile.spec)], store, MonotonicClock())
        setattr(service, fault, value)
        began_s = time.monotonic()
        (rows,) = await retrieval.read([[1, 2, 3]], after_ms(100))
        assert time.monotonic() - began_s < 0.4
        assert rows.column("tx_count").tolist() == [-1, -1, -1]
        assert rows.degraded is not None
        assert set(rows.degraded.tolist()) == {why}
        store.close()

    asyncio.run(scenario())


def test_remote_reply_that_came_too_late_is_nobodys(service: FeatureService) -> None:
    """After batches that gave up, every later one gets its own values, over a bounded number of connections."""

    async def scenario() -> None:
        store = RemoteFeatures(service.url, [CustomerProfile], MonotonicClock())
        codec = RowCodec(CustomerProfile.spec)
        service.wait_s = 0.02
        for number in range(20):
            with pytest.raises(TimeoutError):
                await store.fetch(codec.keys([number]), after_ms(5))
        service.wait_s = 0.0
        retrieval = Retrieval([codec], store, MonotonicClock())
        reads = [retrieval.read([[number, number + 1]], time.monotonic_ns() + 20 * NS_PER_S) for number in range(90)]
        for number, (rows,) in enumerate(await asyncio.gather(*reads)):
            assert rows.column("tx_count").tolist() == [number, number + 1]
        assert 0 < len(store._idle) <= CONNECTIONS_MAX
        store.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "reply",
    [
        b"<html>sign in</html>",
        b"{}",
        b'{"result": {"features": [1.0, "3", "c"]}}',
        b'{"result": {"features": [1.0]}, "metadata": {"features": []}}',
        b'{"result": {"features": ["3.0"]}, "metadata": {"features": [{"name": "customer_profile.tx_count"}]}}',
        b'{"result": {"features": [[1]]}, "metadata": {"features": [{"name": "customer_profile.avg_amount"}]}}',
        b'{"result": {"features": [1e99]}, "metadata": {"features": [{"name": "customer_profile.tx_count"}]}}',
        b'{"result": {"features": [1]}, "metadata": {"features": [{"name": "customer_profile.tx_count", '
        b'"effectiveTime": "yesterday"}]}}',
    ],
)
def test_remote_reply_that_cannot_be_read_gives_defaults(service: FeatureService, reply: bytes) -> None:
    """Whatever answers at the address, the batch is answered with the defaults, and the reason is told."""

    async def scenario() -> None:
        store = RemoteFeatures(service.url, [CustomerProfile], MonotonicClock())
        service.reply = reply
        (rows,) = await Retrieval([RowCodec(CustomerProfile.spec)], store, MonotonicClock()).read(
            [[7]], after_ms(10_000)
        )
        assert rows.column("tx_count").tolist() == [-1]
        assert rows.degraded is not None
        assert rows.degraded.tolist() == [Degraded.STORE_ERROR]
        store.close()

    asyncio.run(scenario())


def test_remote_call_beside_a_failed_one_ends_with_it(service: FeatureService) -> None:
    """What else the batch asked for holds no connection when the batch has failed."""

    async def scenario() -> None:
        store = RemoteFeatures(service.url, [CustomerProfile], MonotonicClock())
        service.wait_s, service.refused = 0.5, "2"
        with pytest.raises(ConnectionError, match="503"):
            await store.fetch(RowCodec(CustomerProfile.spec).keys([1, 2, 3]), after_ms(10_000))
        await asyncio.sleep(0.01)
        assert store._free._value == CONNECTIONS_MAX
        store.close()

    asyncio.run(scenario())


def test_remote_store_cannot_be_written(service: FeatureService) -> None:
    """It is filled elsewhere, and says so; a scheme of Tailrace's own is not for others."""
    tr.register_store("features+http", opens(CustomerProfile))
    with pytest.raises(StoreError, match="filled elsewhere"):
        open_writer(service.url)
    for scheme in ("redis", "Not One", ""):
        with pytest.raises(StoreError):
            tr.register_store(scheme, opens(CustomerProfile))
