from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

import tailrace as tr
from inference.composition.members import Payment, run_array
from inference.protocol_server import ProtocolServer
from tailrace.batch import Batch, Degraded
from tailrace.errors import InferenceError
from tailrace.testing import TestClient

Members = Callable[..., tr.Model]
ClientOf = Callable[..., TestClient]


def run(client: TestClient, *amounts: float, work: float = 0.0) -> Batch:
    """Answer a request for each amount, in one batch."""
    return client.run([msgspec.json.encode({"amount": amount, "work": work}) for amount in amounts])


def rows_asked(client: TestClient, member: int) -> list[int]:
    """Return a list that takes how many rows the model of a member is asked for, call by call."""
    stage: Any = client.plan.inference.stage.members[member]
    score, asked = stage._scorer.score, list[int]()

    def noted(feeds: Any, rows: int, deadline_ns: int | None) -> Any:
        asked.append(rows)
        return score(feeds, rows, deadline_ns)

    stage._scorer.score = noted
    return asked


def test_only_unsure_rows_reach_the_expensive_model(members: Members, client_of_stage: ClientOf) -> None:
    """Both edges are unsure; clear rows keep the cheap score, and the other model never sees them."""
    client = client_of_stage(tr.Cascade("two", members("low"), members("high"), unsure=(0.1015625, 0.75)))
    asked = rows_asked(client, 1)
    batch = run(client, 5, 10.15625, 40, 75, 76)
    np.testing.assert_allclose(batch.scores, [0.05, 0.6015625, 0.9, 1.25, 0.76], atol=1e-6)
    assert batch.degraded is None
    assert batch.branches is not None
    assert batch.branches["two"].tolist() == [0, 1, 1, 1, 0]
    run(client, 5)
    assert asked == [3]


def test_cheap_score_stands_where_the_expensive_model_hangs(members: Members, client_of_stage: ClientOf) -> None:
    """Within the budget, and said; a row that was clear is not degraded, though it waits beside the other."""
    stage = tr.Cascade("two", members("low"), members("slow"), unsure=(0.1, 0.8))
    client = client_of_stage(stage, features=[Payment.amount, Payment.work])
    began = time.monotonic()
    batch = run_array(client, {"amount": 20, "work": 200_000}, {"amount": 90, "work": 200_000})
    assert time.monotonic() - began < 0.35
    assert batch.scores.tolist() == pytest.approx([0.2, 0.9])
    assert batch.degraded is not None
    assert batch.degraded.tolist() == [Degraded.MODEL_TIMEOUT, 0]
    assert batch.branches is not None
    assert batch.branches["two"].tolist() == [0, 0]


def test_cheap_score_stands_where_the_expensive_model_fails(members: Members, client_of_stage: ClientOf) -> None:
    """By NaN or by raising, for its own rows alone."""
    wide = (-10.0, 10.0)
    batch = run(client_of_stage(tr.Cascade("two", members("low"), members("log"), unsure=wide)), 1, -1)
    np.testing.assert_allclose(batch.scores, [0.0, -0.01], atol=1e-6)
    batch = run(client_of_stage(tr.Cascade("two", members("low"), members("picky"), unsure=wide)), 50, 5)
    np.testing.assert_allclose(batch.scores, [0.5, 0.75], atol=1e-6)
    assert batch.degraded is not None
    assert batch.degraded.tolist() == [Degraded.MODEL_ERROR, 0]


def test_row_that_the_cheap_model_cannot_score_goes_on(members: Members, client_of_stage: ClientOf) -> None:
    """Also where its fallback would be clear; it stays degraded, so that the fault is counted."""
    for fallback in (None, tr.Constant(0.0)):
        cheap = members("log", fallback=fallback)
        batch = run(client_of_stage(tr.Cascade("two", cheap, members("low"), unsure=(0.4, 0.5))), -1, 2)
        np.testing.assert_allclose(batch.scores, [-0.01, np.log(2)], atol=1e-6)
        assert batch.degraded is not None
        assert batch.degraded.tolist() == [Degraded.MODEL_ERROR, 0]


def test_row_that_neither_scores_fails(members: Members, client_of_stage: ClientOf) -> None:
    """As with one model without a fallback; the row beside it is answered."""
    other = tr.Model("log2", path=members("log").path)
    client = client_of_stage(tr.Cascade("two", members("log"), other, unsure=(-9, 9)))
    with pytest.raises(InferenceError):
        client.predict({"amount": -1})
    batch = run(client, -1, 1)
    assert list(batch.errors) == [0]


def test_slow_cheap_model_leaves_time_for_the_expensive_one(members: Members, client_of_stage: ClientOf) -> None:
    """Half of the time that is left at least; then the other one scores its rows."""
    stage = tr.Cascade("two", members("slow"), members("low"), unsure=(0.1, 0.8))
    client = client_of_stage(stage, features=[Payment.amount, Payment.work])
    batch = run(client, 20, work=200_000.0)
    assert batch.scores.tolist() == pytest.approx([0.2])


def test_compositions_are_members_of_each_other(members: Members, client_of_stage: ClientOf) -> None:
    """A cascade whose expensive stage is an ensemble of a cascade: picked rows are picked again."""
    inner = tr.Cascade("inner", members("low"), members("picky"), unsure=(0.3, 0.5))
    ensemble = tr.Ensemble("mean", [inner, members("high")])
    outer = tr.Cascade("outer", tr.Model("first", path=members("low").path), ensemble, unsure=(0.2, 0.6))
    batch = run(client_of_stage(outer), 5, 25, 6, 40, 30)
    np.testing.assert_allclose(
        batch.scores, [0.05, (0.25 + 0.75) / 2, 0.06, (0.4 + 0.9) / 2, (0.3 + 0.8) / 2], atol=1e-6
    )
    assert batch.branches is not None
    assert batch.branches["inner"].tolist() == [-1, 0, -1, 0, 0]
    assert batch.branches["outer"].tolist() == [0, 1, 0, 1, 1]


def test_model_that_stands_in_two_places_is_asked_in_both(members: Members, client_of_stage: ClientOf) -> None:
    """On its one thread, for its own rows in each."""
    slow = members("slow")
    inner = tr.Cascade("inner", members("low"), slow, unsure=(0.3, 0.5))
    client = client_of_stage(tr.Ensemble("both", [inner, slow]), features=[Payment.amount, Payment.work])
    batch = run_array(client, *({"amount": amount} for amount in (10, 40, 80)))
    np.testing.assert_allclose(batch.scores, [(0.1 + 0.9) / 2, 0.9, (0.8 + 0.9) / 2], atol=1e-6)
    assert batch.degraded is None


def test_expensive_model_may_be_far_away(members: Members, client_of_stage: ClientOf) -> None:
    """Its server gets the unsure rows alone, in one request; while it stalls the cheap score stands, in time."""
    with ProtocolServer(width=1) as server:
        stage = tr.Cascade("two", members("low"), tr.RemoteModel("far", url=server.url()), unsure=(0.1, 0.5))
        client = client_of_stage(stage)
        assert client.plan.inference.in_flight_max == 32  # the light model holds up none of them
        batch = run(client, 5, 20, 90, 30)
        assert batch.scores.tolist() == pytest.approx([0.05, 20, 0.9, 30])
        assert json.loads(server.requests[-1].body)["inputs"][0]["shape"] == [2, 1]
        stage_now: Any = client.plan.inference.stage
        stage_now.in_flight_max = 7
        run(client, 20)
        assert client.engine._batches_max == 7  # the engine follows what a stage learns
        server.fault = "stall"
        began = time.monotonic()
        batch = run(client, 5, 20)
        assert time.monotonic() - began < 1.0
        assert batch.scores.tolist() == pytest.approx([0.05, 0.2])
        assert batch.degraded is not None
        assert batch.degraded.tolist() == [0, Degraded.MODEL_TIMEOUT]
