"""Limits over gRPC: the same buckets, and the code and the pause that its clients know."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

grpc = pytest.importorskip("grpc")
from grpc_server import WIRE, running_grpc, wire_of  # noqa: E402

from tailrace.monitor.counts.limit import LimitCounts  # noqa: E402
from tailrace.pipeline import Pipeline  # noqa: E402
from tailrace.request.limit import Limit  # noqa: E402
from tailrace.server.key_file import changing, make_key  # noqa: E402
from tailrace.server.keys import Keys  # noqa: E402
from tailrace.server.limiting.limiter import Limiter  # noqa: E402
from tailrace.testing import ManualClock  # noqa: E402


def test_call_beyond_its_keys_limit_is_resource_exhausted(
    pipeline_of: Callable[[str], Pipeline], tmp_path: Path
) -> None:
    """A caller is told its limit and, as a retry policy reads it, when to come again; then it is answered."""
    file, clock = tmp_path / "keys", ManualClock(now_ns=10**15)
    secret, key = make_key("caller", ["pipelines/*"], limit=Limit(rate="30/m", burst=2, concurrent=8))
    with changing(file, create=True) as known:
        known.append(key)
    pipeline = wire_of(pipeline_of("log"))
    keys = Keys(file, lambda kind: None)
    with running_grpc(pipeline, keys=keys) as server, server.channel() as channel:
        keys._limiter = limiter = Limiter({}, clock, LimitCounts(server.http.block))
        predict = channel.unary_unary(f"{WIRE}/Predict")

        def ask() -> bytes:
            answer: bytes = predict(b"\x09" + b"\0" * 7 + b"\x40", metadata=[("x-api-key", secret)], timeout=10)
            return answer

        assert ask()
        assert ask()
        with pytest.raises(grpc.RpcError) as caught:
            ask()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert caught.value.details() == "the key may ask 30/m, 2 at once (ask again in 2 s)"
        assert dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"] == "2000"
        clock.advance(2_000)
        assert ask()
        assert server.http.counts("tailrace_rate_limited_total", pipeline.name) == {"key_rate": 1}
        server.http.settle()
        assert len(limiter._in_flight) == 0
