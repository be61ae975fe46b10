"""What the tests of the features layer share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis_server import RedisServer


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """Yield a running Redis of this test's own."""
    server = RedisServer(tmp_path)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(params=["lmdb", "redis", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Yield the URL of an empty store of each kind."""
    if request.param == "redis":
        server = RedisServer(tmp_path)
        server.start()
        yield server.url
        server.kill()
    else:
        yield f"{request.param}:{tmp_path / 'store'}"
