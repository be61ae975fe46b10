"""What the tests of the features layer share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from dynamodb_server import KEYS, DynamoServer
from redis_cluster import RedisCluster
from redis_sentinels import RedisSentinels
from redis_server import RedisServer

KINDS = [
    "lmdb", "redis", "memory", "sentinel", "cluster", pytest.param("dynamodb", marks=pytest.mark.slow), "tier",
]  # fmt: skip


@pytest.fixture(scope="module")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """Yield a Redis Cluster, started once; a test leaves it whole."""
    cluster = RedisCluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()


@pytest.fixture(scope="module")
def redis_sentinels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisSentinels]:
    """Yield a Redis behind sentinels, started once; a test leaves it whole."""
    sentinels = RedisSentinels(tmp_path_factory.mktemp("sentinels"))
    try:
        sentinels.start()
        yield sentinels
    finally:
        sentinels.kill()


@pytest.fixture(scope="module")
def shared_dynamodb() -> Iterator[DynamoServer]:
    """Yield a DynamoDB, started once."""
    server = DynamoServer()
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def dynamodb(shared_dynamodb: DynamoServer, monkeypatch: pytest.MonkeyPatch) -> DynamoServer:
    """Return a DynamoDB, with keys for it in the environment."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    return shared_dynamodb


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty store of each kind."""
    kind: str = request.param
    if kind in {"lmdb", "memory"}:
        return f"{kind}:{tmp_path / 'store'}"
    if kind in {"redis", "tier"}:
        server: RedisServer = request.getfixturevalue("redis_server")
        return server.url if kind == "redis" else f"tier:{server.url}|redis://127.0.0.1:{server.port}/1"
    if kind == "dynamodb":
        dynamodb: DynamoServer = request.getfixturevalue("dynamodb")
        return dynamodb.url()
    shared: RedisCluster | RedisSentinels = request.getfixturevalue(
        {"cluster": "redis_cluster", "sentinel": "redis_sentinels"}[kind]
    )
    shared.empty()
    return shared.url
