from __future__ import annotations

import threading
import time

import pytest
from protocol_server import ProtocolServer

import tailrace as tr
from tailrace.inference.remote import exchange
from tailrace.inference.remote.failure import RemoteError, RemoteFault
from tailrace.inference.remote.metadata import describe


@pytest.mark.parametrize("protocol", ["oip", "tensorflow"])
def test_server_that_never_ends_is_waited_for_once(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then is no answer: there is one deadline for all of it, and then no thread is left."""
    monkeypatch.setattr(exchange, "EXCHANGE_S_MAX", 0.2)
    with ProtocolServer() as server:
        server.fault = "slow_description"
        began_s = time.monotonic()
        with pytest.raises(RemoteError, match="has not answered whole") as caught:
            describe(tr.RemoteModel("fraud", url=server.url(protocol)), None)
        assert caught.value.reason is RemoteFault.LATE
        assert time.monotonic() - began_s < 1.0
        for thread in threading.enumerate():
            if thread.name == exchange.THREAD:
                thread.join(1.0)
                assert not thread.is_alive()


def test_server_that_says_what_it_has_is_heard() -> None:
    """Both answers of the protocol come in one exchange, with its inputs, outputs and extensions."""
    with ProtocolServer(binary=True) as server:
        found = describe(tr.RemoteModel("fraud", url=server.url()), "Bearer one")
        assert [tensor.name for tensor in (*found.inputs, *found.outputs)] == ["x", "score"]
        assert found.is_binary
        assert [request.headers["authorization"] for request in server.requests] == ["Bearer one"] * 2
