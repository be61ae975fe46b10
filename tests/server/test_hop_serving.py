"""Hops in a server: its metrics, log and status cover all of them."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from serving import serving, wait_for

from features.redis_server import RedisServer
from tailrace.compile.loading import load_pipelines
from tailrace.features.stores.opening import open_writer

REQUEST = {"user_id": "ann", "item_ids": [1, 2, 3]}
OWN = 'pipeline="derived_ranked"'


def fill(file: Path, url: str) -> None:
    """Write three items, of which one has a category, and that."""
    rows: dict[str, dict[Any, dict[str, Any]]] = {
        "RankedItem": {1: {"category_id": 7}, 2: {"category_id": None}},
        "RankedCategory": {7: {"margin": 7.0}},
    }
    pipeline = next(each for each in load_pipelines(file) if each.name == "derived_ranked")
    with closing(open_writer(url)) as writer:
        for view in pipeline.views:
            codec: Any = view.spec.codec()
            for entity_id, columns in rows.get(view.__name__, {}).items():
                values = {name: [value] for name, value in columns.items()}
                (row,) = codec.pack([entity_id], values, time.time_ns(), time.time_ns())
                writer.exchange([(codec.key(entity_id), row)], ())


@pytest.mark.slow
def test_server_counts_the_fetches_of_every_hop(tmp_path: Path, pipelines_dir: Path, redis_server: RedisServer) -> None:
    """A request of two hops is two fetches, and what each view gave is counted; a stopped Redis is told of as one."""
    (tmp_path / "models").symlink_to(pipelines_dir / "models")
    file = tmp_path / "derived.py"
    text = (pipelines_dir / "derived.py").read_text()
    file.write_text(text.replace('tr.Budget("10s")', 'tr.Budget("2s", features="100ms")'))
    fill(file, redis_server.url)
    with serving(tmp_path / "log", file, "--store", redis_server.url, "--workers", "1") as server:
        before = server.metric("tailrace_store_seconds_count", OWN)
        answer = server.ask("derived_ranked", REQUEST)
        assert answer.body["margin"] == [7.0, -1.0, -1.0]
        wait_for(lambda: server.metric("tailrace_store_seconds_count", OWN) == before + 2, 5)
        values = "tailrace_feature_values_total"
        assert server.metric(values, OWN, 'view="RankedItem"', 'provenance="fresh"') == 2
        assert server.metric(values, OWN, 'view="RankedCategory"', 'provenance="fresh"') == 1
        redis_server.pause()
        end_s = time.monotonic() + 20
        try:
            while not server.metric("tailrace_store_breaker_open", OWN):
                late = server.ask("derived_ranked", REQUEST | {"item_ids": [4, 5]}, {"X-Trace": "1"})
                assert late.body["margin"] == [-1.0] * 2
                assert late.degraded & {"store_timeout", "store_error"}
                assert time.monotonic() < end_s
            first = wait_for(lambda: server.events("answers degraded"), 5)[0]
            assert (first["pipeline"], first["reason"]) == ("derived_ranked", "store_timeout")
            assert first["error"]
        finally:
            redis_server.resume()
        wait_for(lambda: server.ask("derived_ranked", REQUEST).body["margin"] == [7.0, -1.0, -1.0], 10)
