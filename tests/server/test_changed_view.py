"""A view that changes under running servers: filled beside the old one, served by those that start when it is whole."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from serving import COMMAND, END_S_MAX, serving, start_serve, wait_for

from features.redis_server import RedisServer
from tailrace.features.stores.opening import open_writer

CUSTOMERS = 50


@pytest.fixture(params=["lmdb", pytest.param("redis", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Yield the URL of an empty store of each kind."""
    if request.param == "lmdb":
        yield f"lmdb:{tmp_path / 'store'}"
        return
    server = RedisServer(tmp_path)
    server.start()
    yield server.url
    server.kill()


@pytest.fixture
def file(tmp_path: Path, pipelines_dir: Path) -> Path:
    """Return the file of the pipeline `faulted`, in a folder of the test's, its sources beside it."""
    folder = tmp_path / "declared"
    folder.mkdir()
    shutil.copy(pipelines_dir / "faulted.py", folder)
    os.symlink(pipelines_dir / "models", folder / "models")
    ids = list(range(CUSTOMERS))
    pq.write_table(pa.table({"customer_id": ids, "spend": [2.0 * each for each in ids]}), folder / "customers.parquet")
    pq.write_table(pa.table({"shop_id": ["a", "b"], "rank": [1, 2]}), folder / "shops.parquet")
    return folder / "faulted.py"


def change_view(file: Path) -> None:
    """Give the view of customers another schema."""
    text = file.read_text().replace("    spend: float = -1.0\n", "    spend: np.float32 = -1.0\n")
    file.write_text(text.replace("import tailrace as tr\n", "import numpy as np\nimport tailrace as tr\n"))


def materialize(file: Path, url: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `tailrace materialize`."""
    words = [COMMAND[0], "materialize", str(file), "--store", url, *options]
    env = {**os.environ, "PYTHONWARNINGS": "ignore"}
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, env=env)


def refusal(log: Path, file: Path, url: str) -> str:
    """Start a server that must not come up; return what it says."""
    server = start_serve(log, file, "--store", url)
    try:
        assert server.process.wait(END_S_MAX) != 0
    finally:
        server.end()
    return log.read_text()


def test_changed_view_is_served_once_it_is_whole(tmp_path: Path, file: Path, url: str) -> None:
    """The running server answers from the old rows throughout; one with the new file starts only when it can."""
    assert materialize(file, url).returncode == 0
    request = {"customer_id": 7, "shop_id": "b"}
    with serving(tmp_path / "old.log", file, "--store", url) as old:
        assert (old.ask("faulted", request).body["spend"], old.ask("faulted", request).body["rank"]) == (14.0, 2)
        change_view(file)
        told = refusal(tmp_path / "refused.log", file, url)
        assert "features.CustomerSpend: the view as it is declared now has not been materialised" in told
        assert "tailrace materialize FILE" in told
        ended = materialize(file, url)
        assert ended.returncode == 0, ended.stderr
        assert old.ask("faulted", request, {"X-Trace": "1"}).body["spend"] == 14.0
        assert not old.ask("faulted", request, {"X-Trace": "1"}).degraded
        with serving(tmp_path / "new.log", file, "--store", url) as new:
            answer = new.ask("faulted", request, {"X-Trace": "1"})
            assert (answer.body["spend"], answer.degraded) == (14.0, set())
            assert not new.events("view has never been materialised")


def test_store_of_the_layout_before_is_refused(tmp_path: Path, file: Path, url: str) -> None:
    """It says to materialise again, and once that is done the server starts."""
    writer = open_writer(url)
    writer.exchange([(b"{customer:7}CustomerSpend", b"an old row"), (b"tailrace:materialize:CustomerSpend", b"{}")], ())
    writer.close()
    told = refusal(tmp_path / "refused.log", file, url)
    assert "layout of an earlier version" in told
    assert "materialise again" in told
    assert materialize(file, url).returncode == 0
    with serving(tmp_path / "log", file, "--store", url) as server:
        assert server.ask("faulted", {"customer_id": 7, "shop_id": "b"}).body["spend"] == 14.0


def test_view_of_another_pipeline_is_not_served(tmp_path: Path, file: Path, url: str) -> None:
    """Its columns are equal, its values are not ours."""
    assert materialize(file, url).returncode == 0
    file.write_text(file.read_text().replace('name="faulted"', 'name="other"', 1))
    told = refusal(tmp_path / "refused.log", file, url)
    assert "the store's CustomerSpend is of pipeline 'faulted', not of 'other'" in told


def test_view_that_was_never_materialised_is_served_with_defaults(tmp_path: Path, file: Path, url: str) -> None:
    """A store that lost its data keeps no server from starting; the log tells."""
    open_writer(url).close()
    with serving(tmp_path / "log", file, "--store", url) as server:
        assert server.ask("faulted", {"customer_id": 7, "shop_id": "b"}).body["spend"] == -1.0
        told = server.events("view has never been materialised")
        assert [event["view"] for event in told] == ["CustomerSpend", "ShopRank"]


@pytest.mark.slow
def test_worker_comes_back_though_its_view_is_another_pipelines_by_now(tmp_path: Path, file: Path, url: str) -> None:
    """A server that has served goes on as it was: its successor logs what a first start would refuse."""
    assert materialize(file, url).returncode == 0
    with serving(tmp_path / "log", file, "--store", url) as server:
        pid = server.workers()[0]["pid"]
        other = tmp_path / "other" / file.name
        shutil.copytree(file.parent, other.parent)
        other.write_text(file.read_text().replace('name="faulted"', 'name="other"', 1))
        ended = materialize(other, url, "--take-over")
        assert ended.returncode == 0, ended.stderr
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: server.workers()[0]["state"] == "ready" and server.workers()[0]["pid"] != pid, 60)
        assert server.ask("faulted", {"customer_id": 7, "shop_id": "b"}).status == 200
        told = server.events("view cannot be served as it should")
        assert any("is of pipeline 'other'" in event["fault"] for event in told)
