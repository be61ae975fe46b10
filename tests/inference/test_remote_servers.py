"""Remote models at real servers, which are installed once and started for these tests."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from real_servers import RealServer
from test_remote_stage import X, pipeline_of, scores_of

import tailrace as tr
from tailrace.batch import Degraded
from tailrace.deadline import NS_PER_MS
from tailrace.inference.remote.stage import remote_stages
from tailrace.testing import TestClient

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SERVERS = ("mlserver", "triton", "torchserve")


@pytest.fixture(scope="module", params=SERVERS)
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, RealServer]]:
    """Yield each server, started once."""
    with RealServer(request.param, tmp_path_factory.mktemp(request.param)) as server:
        yield request.param, server


def model_of(name: str, server: RealServer, **more: Any) -> tr.RemoteModel:
    """Return the declaration of a server's model."""
    if name == "torchserve":
        more["inputs"] = [X]
    return tr.RemoteModel("fraud", url=server.url, fallback=tr.Constant(0.5), **more)


def test_real_server_scores_rows(real: tuple[str, RealServer]) -> None:
    """Each row of a batch gets its own score from the real server; Triton is asked in bytes."""
    name, server = real
    with TestClient(pipeline_of(model_of(name, server))) as client:
        scores, degraded = scores_of(client, 1.0, -2.0, 3.5)
        assert np.allclose(scores, [1.0, -2.0, 3.5], atol=1e-5)
        assert degraded == [0, 0, 0]
        (stage,) = remote_stages(client.plan.inference.stage)
        assert stage.client.protocol.takes_nan is (name == "triton")


def test_real_server_answers_many_batches_at_once(real: tuple[str, RealServer]) -> None:
    """Batches in flight keep their scores apart, on few connections."""
    name, server = real
    with TestClient(pipeline_of(model_of(name, server, connections_max=4))) as client:
        (stage,) = remote_stages(client.plan.inference.stage)

        async def many() -> None:
            deadline_ns = time.monotonic_ns() + 20_000 * NS_PER_MS
            feeds = [{"x": np.full((1 + place % 3, 4), place, np.float32)} for place in range(60)]
            calls = (stage.client.infer(each, len(each["x"]), deadline_ns) for each in feeds)
            for each, scores in zip(feeds, await asyncio.gather(*calls), strict=True):
                assert np.allclose(scores, each["x"][:, 0], atol=1e-4)
            assert stage.client.pool.connections <= 4

        asyncio.run(many())
        assert not stage.client.failures


def test_row_that_a_real_model_raises_for_is_alone(real: tuple[str, RealServer]) -> None:
    """Triton answers 500, TorchServe 503, for the batch; the other rows are scored."""
    name, server = real
    if name == "mlserver":
        pytest.skip("its model scores every row")
    with TestClient(pipeline_of(model_of(name, server))) as client:
        scores, degraded = scores_of(client, 1.0, 666.0, 3.0, 4.0)
        assert scores == [1.0, 0.5, 3.0, 4.0]
        assert degraded == [0, Degraded.MODEL_ERROR, 0, 0]


def test_real_server_that_stops_costs_a_call_its_budget(real: tuple[str, RealServer]) -> None:
    """A server that is stopped in its tracks is answered for in time; when it goes on, it is asked again."""
    name, server = real
    with TestClient(pipeline_of(model_of(name, server), "150ms")) as client:
        assert scores_of(client, 1.0)[1] == [0]
        os.killpg(server.pid, signal.SIGSTOP)
        try:
            began_s = time.monotonic()
            assert scores_of(client, 1.0) == ([0.5], [Degraded.MODEL_TIMEOUT])
            assert time.monotonic() - began_s < 1.0
        finally:
            os.killpg(server.pid, signal.SIGCONT)
        end_s = time.monotonic() + 20
        while scores_of(client, 1.0)[1] != [0]:
            assert time.monotonic() < end_s
            time.sleep(0.2)


def test_wrong_version_at_a_real_server_is_a_mistake(real: tuple[str, RealServer]) -> None:
    """A version that is not served is found before traffic, or answered by the fallback where nothing tells."""
    name, server = real
    url = server.url.rpartition("/")[0] + "/9"
    declared = tr.RemoteModel("fraud", url=url, inputs=[X], output=None if name == "torchserve" else "score",
                              fallback=tr.Constant(0.5))  # fmt: skip
    with TestClient(pipeline_of(declared)) as client:
        (stage,) = remote_stages(client.plan.inference.stage)
        assert name == "torchserve" or "taken as declared" in stage.notice
        assert scores_of(client, 1.0) == ([0.5], [Degraded.MODEL_ERROR])
