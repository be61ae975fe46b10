"""A server that keeps rows: Redis sees few reads, and stopped it is answered for by stale rows, as the metrics say."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis as redis_client
from serving import Answer, Server, serving, wait_for
from visits import BUDGET_MS, TRACE, fill, source_of

from features.redis_server import RedisServer

REQUEST = {"customer_id": 7, "shop_id": "shop-7"}
OPEN_S_MAX = 2.0
CLOSED_S_MAX = 10.0
SWEEP_S = 1.5
"""What the metrics say is a second old, at most, on a machine that is not busy."""

CACHE = ("--cache-bytes-max", str(1 << 20), "--cache-ttl-s", "0.2")


@pytest.fixture
def file(pipelines_dir: Path) -> Path:
    """Return the declaration that is served."""
    return pipelines_dir / "faulted.py"


@pytest.fixture
def redis(tmp_path: Path, file: Path) -> Iterator[RedisServer]:
    """Return a Redis that holds every row."""
    server = RedisServer(tmp_path)
    server.start()
    try:
        fill(server.url, file)
        yield server
    finally:
        server.kill()


def ask(server: Server) -> Answer:
    """Return an answer, which is in time and has the entity's own values, fresh or stale."""
    began_s = time.monotonic()
    answer = server.ask("faulted", REQUEST, dict([TRACE]))
    assert (time.monotonic() - began_s) * 1e3 < 2 * BUDGET_MS
    assert source_of(answer.body) == "1"
    return answer


def test_redis_stopped_is_answered_for_by_rows_that_are_kept(tmp_path: Path, file: Path, redis: RedisServer) -> None:
    """Stopped, Redis costs no answer its values: they are stale, and say so; back, they are fresh, the breaker shut."""
    with serving(tmp_path / "log", file, "--store", redis.url, *CACHE) as server:
        assert not ask(server).degraded
        redis.pause()
        stopped_s = time.monotonic()
        try:
            wait_for(lambda: ask(server).degraded >= {"stale_features", "store_timeout"}, OPEN_S_MAX)
            wait_for(lambda: ask(server) and server.metric("tailrace_store_breaker_open"), OPEN_S_MAX + SWEEP_S)
            assert time.monotonic() - stopped_s < OPEN_S_MAX + SWEEP_S
        finally:
            redis.resume()
        wait_for(lambda: not ask(server).degraded, CLOSED_S_MAX)
        wait_for(lambda: ask(server) and not server.metric("tailrace_store_breaker_open"), CLOSED_S_MAX)
        assert server.metric("tailrace_store_breaker_openings_total") >= 1
        assert server.metric("tailrace_feature_values_total", 'provenance="stale"') > 0
        assert server.metric("tailrace_feature_values_total", 'provenance="timeout"') == 0
        (told,) = {event["reason"]: event for event in server.events("answers degraded")}.keys() & {"store_timeout"}
        assert told == "store_timeout"


def test_cache_of_a_server_spares_redis(tmp_path: Path, file: Path, redis: RedisServer) -> None:
    """Asked again and again for one entity, a server asks Redis once, and its metrics say how often it did not."""
    with serving(tmp_path / "log", file, "--store", redis.url, *CACHE[:2]) as server:
        ask(server)
        with redis_client.Redis.from_url(redis.url) as client:
            client.config_resetstat()
            for _ in range(50):
                ask(server)
            assert "cmdstat_mget" not in client.info("commandstats")
        wait_for(lambda: server.metric("tailrace_cache_hits_total") == 100, 2 * SWEEP_S)
        assert server.metric("tailrace_cache_misses_total") == 2
        assert 0 < server.metric("tailrace_cache_bytes") < 1 << 20
