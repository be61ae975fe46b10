"""What the tests of materialisation share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from customer_runs import Folder, profiles, write_parquet

from features.redis_server import RedisServer
from tailrace.features.stores.opening import open_writer


@pytest.fixture(params=["lmdb", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty store of each kind that a process can share."""
    if request.param == "lmdb":
        return f"lmdb:{tmp_path / 'store'}"
    server: RedisServer = request.getfixturevalue("redis_server")
    return server.url


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    """Yield a folder whose runs write an LMDB store."""
    writer = open_writer(f"lmdb:{tmp_path / 'store'}")
    yield Folder(tmp_path, writer)
    writer.close()


@pytest.fixture
def filled(folder: Folder) -> Folder:
    """Return a folder, beside its store, whose view has been materialised."""
    filled = Folder(folder.path / "first", folder.writer)
    write_parquet(filled.path / "profile.parquet", profiles(1))
    filled.run()
    return filled
