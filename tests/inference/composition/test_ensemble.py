from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

import msgspec
import numpy as np
import pytest

import tailrace as tr
from inference.composition.members import Payment
from tailrace.batch import Batch, Degraded
from tailrace.errors import CompileError, InferenceError
from tailrace.pipeline import Pipeline
from tailrace.testing import TestClient

Members = Callable[..., tr.Model]
ClientOf = Callable[..., TestClient]


def run(client: TestClient, *amounts: float, work: float = 0.0) -> Batch:
    """Answer a request for each amount, in one batch."""
    return client.run([msgspec.json.encode({"amount": amount, "work": work}) for amount in amounts])


def test_scores_are_weighted_means(members: Members, client_of_stage: ClientOf) -> None:
    """Of a row alone and of rows together."""
    client = client_of_stage(tr.Ensemble("both", [members("low"), members("high")], weights=[3, 1]))
    assert client.predict({"amount": 10})["score"] == pytest.approx(0.1 + 0.125)
    batch = run(client, 10, 20, 30)
    np.testing.assert_allclose(batch.scores, np.array([0.1, 0.2, 0.3]) + 0.125, atol=1e-6)
    assert batch.degraded is None


def test_member_that_fails_is_left_out_of_the_mean(members: Members, client_of_stage: ClientOf) -> None:
    """A row for which a member gives NaN has the mean of the others, and is degraded; its neighbours are not."""
    client = client_of_stage(tr.Ensemble("three", [members("low"), members("high"), members("log")]))
    batch = run(client, 1.0, -1.0)
    np.testing.assert_allclose(batch.scores, [(0.01 + 0.51 + 0) / 3, (-0.01 + 0.49) / 2], atol=1e-6)
    assert batch.degraded is not None
    assert batch.degraded.tolist() == [0, Degraded.MODEL_ERROR]


def test_member_that_raises_is_left_out_of_the_mean(members: Members, client_of_stage: ClientOf) -> None:
    """Only of the rows for which it raises."""
    batch = run(client_of_stage(tr.Ensemble("two", [members("low"), members("picky")])), 2, 20, 4)
    np.testing.assert_allclose(batch.scores, [(0.02 + 0.75) / 2, 0.2, (0.04 + 0.75) / 2], atol=1e-6)


def test_row_below_the_floor_takes_the_fallback(members: Members, client_of_stage: ClientOf) -> None:
    """Where too little of the weights has answered, a mean of the rest would be another model."""
    stages = [members("low"), members("log")]
    client = client_of_stage(tr.Ensemble("two", stages, weights=[1, 3], fallback=tr.Constant(0.33)))
    np.testing.assert_allclose(run(client, -1.0, 1.0).scores, [0.33, 0.0025], atol=1e-6)
    with pytest.raises(InferenceError):
        client_of_stage(tr.Ensemble("two", stages, weights=[1, 3])).predict({"amount": -1.0})


def test_member_that_is_late_is_left_out_of_the_mean(members: Members, client_of_stage: ClientOf) -> None:
    """The others wait for it until the layer's deadline, no longer."""
    stage = tr.Ensemble("two", [members("slow"), members("low")])
    client = client_of_stage(stage, features=[Payment.work, Payment.amount])
    assert client.plan.inference.suspends(1)
    began = time.monotonic()
    batch = run(client, 10, work=200_000.0)
    assert time.monotonic() - began < 0.35
    assert batch.scores.tolist() == pytest.approx([0.1])
    assert batch.degraded is not None
    assert batch.degraded.tolist() == [Degraded.MODEL_TIMEOUT]


def test_probabilities_of_classes_are_averaged(pipeline_of: Callable[[str], Pipeline]) -> None:
    """An ensemble of a classifier and itself says what it does; its constant is a label."""
    topics = pipeline_of("topics")
    path = topics.base_dir / "models" / "topics"
    model = [tr.Model(name, path=path) for name in ("one", "other")]
    request = {"country": "DE", "amount": 0.5, "count": 1, "vip": True, "time": "2025-01-01T00:00:00Z"}
    declared = tr.Ensemble("topics", model, fallback=tr.Constant("other"))
    with TestClient(topics) as alone, TestClient(replace(topics, model=declared)) as both:
        one, two = alone.predict(request), both.predict(request)
    assert one["probabilities"] == pytest.approx(two["probabilities"], abs=1e-6)
    with pytest.raises(CompileError, match="no class"):
        TestClient(replace(topics, model=tr.Ensemble("topics", model, fallback=tr.Constant("nothing"))))


def test_cancelled_batch_ends_all_members(members: Members, client_of_stage: ClientOf) -> None:
    """Who cancels a batch that waits for two members leaves no task behind."""
    stages = [members("slow"), members("low"), tr.Model("slow2", path=members("slow").path)]
    client = client_of_stage(tr.Ensemble("three", stages), features=[Payment.work, Payment.amount])

    async def main() -> set[asyncio.Task[object]]:
        plan, batch = client.plan, Batch([], 0, 10**18, suspends=True)
        samples = [msgspec.convert({"amount": 1, "work": 100_000.0}, Payment)]
        batch.requests, batch.rows = samples, 1
        batch.request = plan.request._columns(samples, None)
        waiting = asyncio.ensure_future(plan.inference.stage.score(batch, None, time.monotonic_ns() + 10**9))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.wait([waiting])
        await asyncio.sleep(0)
        return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]

    assert asyncio.run(main()) == set()
