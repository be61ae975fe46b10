"""What the tests of the features layer share."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis_server import RedisServer


@pytest.fixture(params=["lmdb", "redis", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty store of each kind."""
    if request.param != "redis":
        return f"{request.param}:{tmp_path / 'store'}"
    server: RedisServer = request.getfixturevalue("redis_server")
    return server.url
