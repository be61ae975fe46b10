"""What the tests of the features layer share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis_cluster import RedisCluster
from redis_sentinels import RedisSentinels
from redis_server import RedisServer

KINDS = ["lmdb", "redis", "memory", "sentinel", "cluster"]


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """Yield a Redis Cluster, started once; a test leaves it whole."""
    cluster = RedisCluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()


@pytest.fixture(scope="session")
def redis_sentinels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisSentinels]:
    """Yield a Redis behind sentinels, started once; a test leaves it whole."""
    sentinels = RedisSentinels(tmp_path_factory.mktemp("sentinels"))
    try:
        sentinels.start()
        yield sentinels
    finally:
        sentinels.kill()


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty store of each kind."""
    kind: str = request.param
    if kind in {"lmdb", "memory"}:
        return f"{kind}:{tmp_path / 'store'}"
    if kind == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        return server.url
    shared: RedisCluster | RedisSentinels = request.getfixturevalue(
        {"cluster": "redis_cluster", "sentinel": "redis_sentinels"}[kind]
    )
    shared.empty()
    return shared.url
