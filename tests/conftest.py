"""What the tests share: the small pipelines of tests/pipelines, beside their packaged models; a Redis."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from feast_repository import FeastPython, FeastRepository
from features.redis_server import RedisServer
from pipelines.model_graphs import write_models
from tailrace.compile.loading import load_pipelines
from tailrace.pipeline import Pipeline
from tailrace.testing import TestClient

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the threads that train a small model spin where cores are busy
settings.register_profile("suite", deadline=None)  # no example is timed: other tests run beside it
settings.load_profile("suite")
settings.register_profile("fuzz", max_examples=3_000, deadline=None)  # make fuzz

PIPELINES = Path(__file__).parent / "pipelines"
SHARED_DATA = Path(__file__).parents[2] / "shared" / "data" / "card-transactions.parquet"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Run files side by side, where pytest is given `-n`."""
    from side_by_side import SideBySide

    return SideBySide(config, log)


@pytest.fixture(scope="session", autouse=True)
def _temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give the processes that tests start a place for what they leave when they are killed, which pytest removes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("processes")))
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the Handbook's own transactions, or skip where they are absent."""
    if not SHARED_DATA.is_file():
        pytest.skip(f"{SHARED_DATA.name} is not beside the repository")
    return SHARED_DATA


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """Yield a running Redis of this test's own."""
    server = RedisServer(tmp_path)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def feast_python(tmp_path_factory: pytest.TempPathFactory) -> FeastPython:
    """Return a Python that Feast is installed for, or skip where it cannot be."""
    return FeastPython(tmp_path_factory.mktemp("feast") / "venv")


@pytest.fixture(scope="session")
def feast_on_sqlite(feast_python: FeastPython, tmp_path_factory: pytest.TempPathFactory) -> FeastRepository:
    """Return a repository of Feast's, materialised into SQLite, with entity keys as earlier versions wrote them."""
    folder = tmp_path_factory.mktemp("feast_sqlite") / "repository"
    return FeastRepository(feast_python, folder, "  type: sqlite\n  path: data/online.db\n", key_version=2)


@pytest.fixture(scope="session")
def feast_on_redis(
    feast_python: FeastPython, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[FeastRepository, RedisServer]]:
    """Yield a repository of Feast's, materialised into Redis, and that Redis; a test leaves both as they are."""
    server = RedisServer(tmp_path_factory.mktemp("feast_redis_server"))
    server.start()
    try:
        place = f"  type: redis\n  connection_string: 127.0.0.1:{server.port},db=0\n"
        yield FeastRepository(feast_python, tmp_path_factory.mktemp("feast_redis") / "repository", place), server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def pipelines_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the declarations of tests/pipelines and, under models/, their models."""
    folder = tmp_path_factory.mktemp("pipelines")
    (folder / "models").mkdir()
    write_models(folder / "models")
    for path in PIPELINES.glob("*.py"):
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="session")
def pipeline_of(pipelines_dir: Path) -> Callable[[str], Pipeline]:
    """Return what loads the declared pipeline of a name; its file is loaded once."""
    loaded: dict[str, Pipeline] = {}

    def load(name: str) -> Pipeline:
        if name not in loaded:
            found = load_pipelines(pipelines_dir / f"{name.split('_', maxsplit=1)[0]}.py")
            loaded.update({pipeline.name: pipeline for pipeline in found})
        return loaded[name]

    return load


@pytest.fixture(scope="session")
def client_of(pipeline_of: Callable[[str], Pipeline]) -> Iterator[Callable[[str], TestClient]]:
    """Return what gives the client of the pipeline of a name; its store is every test's, so put nothing in it."""
    clients: dict[str, TestClient] = {}

    def client(name: str) -> TestClient:
        if name not in clients:
            clients[name] = TestClient(pipeline_of(name))
        return clients[name]

    yield client
    for each in clients.values():
        each.plan.close()
