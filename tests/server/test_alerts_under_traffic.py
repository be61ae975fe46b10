"""Built-in alerts of a real server under real traffic: what fails, and what takes too long, is told with its cause."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from serving import Server, fetch, load, serving, wait_for
from visits import BODIES, SHOPS, fill

from features.redis_server import RedisServer

LIMIT_S = 60.0


SLOW = """
import time
import numpy as np

@tr.on_demand
def amount(request: Amount) -> np.ndarray:
    if request.amount.max() > 100.0:
        time.sleep(0.08)
    return request.amount


log = tr.Pipeline("""
"""A feature of the user's that holds up the loop: nothing that has a deadline can end it."""


def firing(server: Server) -> dict[str, Any]:
    """Return what fires now, by the alert."""
    alerts = json.loads(fetch(f"{server.admin}/alerts")[2])
    return {each["alert"]: each for each in alerts if each["state"] == "firing"}


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_calls_that_fail_are_told_and_degraded_ones_are_not(tmp_path: Path, pipelines_dir: Path) -> None:
    """One call of fifty has no score, which is a 5xx; one that a constant answers for is degraded, and no error."""
    bodies = [json.dumps({"amount": amount}).encode() for amount in [1.5] * 49 + [-1.0]]
    with serving(tmp_path / "log", pipelines_dir / "log.py") as server:
        plain, degraded = (server.predict_url(name) for name in ("log", "log_with_fallback"))
        with (
            load(plain, bodies, rate=100, duration_s=50, connections=8, keep_bodies=False) as failing,
            load(degraded, bodies, rate=100, duration_s=50, connections=8, keep_bodies=False) as answered,
        ):
            told = wait_for(lambda: firing(server).get("errors"), LIMIT_S)
            assert told["pipeline"] == "log"
            assert told["value"] == pytest.approx(0.02, abs=0.005)
            assert "answers of 5 min are a 5xx, 0.001 may be" in told["cause"]
        assert set(failing.result().statuses) >= {200, 500}
        assert set(answered.result().statuses) == {200}
        assert not [each for each in firing(server).values() if each["pipeline"] == "log_with_fallback"]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_calls_that_take_too_long_are_told_with_their_layer_until_they_do_not(
    tmp_path: Path, pipelines_dir: Path
) -> None:
    """Two calls of a hundred that a slow feature holds up: the layer is named, and without them it is over."""
    text = (pipelines_dir / "log.py").read_text().partition("log_with_fallback")[0]
    text = text.replace("log = tr.Pipeline(", SLOW).replace("Amount.amount]", "amount]").replace("50ms", "20ms")
    (tmp_path / "log.py").write_text(text)
    shutil.copytree(pipelines_dir / "models" / "log", tmp_path / "models" / "log")
    quick = [json.dumps({"amount": 1.5}).encode()] * 49
    held = json.dumps({"amount": 2_000.0}).encode()
    with serving(tmp_path / "log", tmp_path / "log.py") as server:
        url = server.predict_url("log")
        with load(url, [*quick, held], rate=40, duration_s=45, connections=8, keep_bodies=False):
            told = wait_for(lambda: firing(server).get("latency"), LIMIT_S)
        assert "> 2 × 20.0 ms: features" in told["cause"]
        with load(url, quick, rate=40, duration_s=130, connections=8, keep_bodies=False):
            wait_for(lambda: "latency" not in firing(server), 150)
        assert [each["alert"] for each in server.events("alert resolved")] == ["latency"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_rows_that_are_stale_are_told_with_their_view(tmp_path: Path, pipelines_dir: Path) -> None:
    """A view whose rows are older than they may be, for two minutes; the other view's are not blamed."""
    text = (pipelines_dir / "faulted.py").read_text()
    (tmp_path / "faulted.py").write_text(text.replace("    rank: int", '    max_staleness = "1s"\n    rank: int'))
    shutil.copytree(pipelines_dir / "models" / "faulted", tmp_path / "models" / "faulted")
    fill(f"lmdb:{tmp_path / 'visits'}", tmp_path / "faulted.py")
    with serving(tmp_path / "log", tmp_path / "faulted.py") as server:
        url = server.predict_url("faulted")
        with load(url, BODIES, rate=50, duration_s=150, connections=8, keep_bodies=False):
            told = wait_for(lambda: firing(server).get("stale"), 150)
        assert "ShopRank most of them" in told["cause"]
        assert told["value"] == pytest.approx(0.5, abs=0.02)
        assert set(firing(server)) == {"stale"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_cache_that_holds_too_little_is_told(tmp_path: Path, pipelines_dir: Path, redis_server: RedisServer) -> None:
    """Of customers none comes twice, of shops all: the cache of the store holds half of the rows."""
    fill(redis_server.url, pipelines_dir / "faulted.py")
    bodies = [json.dumps({"customer_id": i, "shop_id": f"shop-{i % SHOPS}"}).encode() for i in range(20_000)]
    options = ("--store", redis_server.url, "--cache-bytes-max", str(1 << 24), "--cache-ttl-s", "3600")
    with serving(tmp_path / "log", pipelines_dir / "faulted.py", *options) as server:
        with load(server.predict_url("faulted"), bodies, rate=50, duration_s=340, connections=8, keep_bodies=False):
            told = wait_for(lambda: firing(server).get("cache"), 360)
        assert told["value"] == pytest.approx(0.5, abs=0.05)
        assert set(firing(server)) == {"cache"}
