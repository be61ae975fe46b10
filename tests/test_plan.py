from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tailrace as tr
from pipelines.model_graphs import RANKING_WEIGHTS
from tailrace.batch import Batch, Degraded, Provenance
from tailrace.compile.binding import field_values
from tailrace.compile.compiler import compile_plan
from tailrace.compile.resolve import wire
from tailrace.compile.samples import Samples
from tailrace.engine import answer, drive
from tailrace.errors import CompileError, InferenceError, InvalidRequestError
from tailrace.features.on_demand import OnDemandView
from tailrace.features.step import OnDemandFeature
from tailrace.features.stores.memory import MemoryStore
from tailrace.pipeline import Pipeline
from tailrace.readers import ReadRequest
from tailrace.request.columns import columns_type
from tailrace.testing import TestClient

ClientOf = Callable[[str], TestClient]
same_fixture = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)

PAYMENT: dict[str, Any] = {
    "transaction_id": "t1",
    "customer_id": 1,
    "terminal_id": "T1",
    "amount": 100.0,
    "time": "2026-01-02T03:04:05Z",
}


@pytest.fixture(scope="module")
def ranking(pipelines_dir: Path) -> Iterator[TestClient]:
    """Return a client of the ranking with 400 items and 20 users in its store."""
    with TestClient.of_file(pipelines_dir / "ranking.py") as client:
        user, item = client.plan.pipeline.views
        assert (user.__name__, item.__name__) == ("UserProfile", "ItemProfile")
        for each in range(20):
            client.put(user, each, affinity=each / 10)
        for each in range(400):
            client.put(item, each, popularity=each / 100, price=float(each % 150))
        yield client


def ranked(user_id: int, item_ids: list[int], budget: float = 100.0) -> dict[str, Any]:
    """Return the answer that the ranking should give, computed here."""
    affinity = user_id / 10 if user_id < 20 else 0.5
    known = [each < 400 for each in item_ids]
    popularity = [each / 100 if is_known else 0.0 for each, is_known in zip(item_ids, known, strict=True)]
    prices = [float(each % 150) if is_known else 10.0 for each, is_known in zip(item_ids, known, strict=True)]
    weights = list(RANKING_WEIGHTS.values())
    scores = [
        float(np.dot([affinity, liked, price, budget, price <= budget], weights))
        for liked, price in zip(popularity, prices, strict=True)
    ]
    sold_out = [each % 10 == 9 for each in item_ids]
    return {
        "user_id": user_id,
        "item_ids": item_ids,
        "score": pytest.approx(scores, abs=1e-5),
        "decision": ["hide" if gone or score < 0.5 else "show" for gone, score in zip(sold_out, scores, strict=True)],
        "popularity": popularity,
        "affinity": [affinity] * len(item_ids),
        "reasons": [["sold_out"] if gone else [] for gone in sold_out],
    }


# -- rows -------------------------------------------------------------------------------------------------------------


def test_request_with_200_ids_is_one_call_of_200_rows(ranking: TestClient) -> None:
    """Lists line up with the ids; the user's own feature stands beside each item's."""
    ids = list(range(350, 450)) + list(range(100))
    batch = ranking.run([json.dumps({"user_id": 7, "item_ids": ids}).encode()])
    assert batch.rows == 200
    assert len(batch.bodies) == 1
    assert json.loads(batch.bodies[0]) == ranked(7, ids)


def test_requests_of_different_lengths_share_a_batch(ranking: TestClient) -> None:
    """Each gets its own items, in its own order, an empty one among them."""
    asked = [(3, [5, 4, 3]), (99, []), (4, [399]), (3, [3, 3, 1000])]
    batch = ranking.run([json.dumps({"user_id": user, "item_ids": ids}).encode() for user, ids in asked])
    assert batch.rows == 7
    assert [json.loads(body) for body in batch.bodies] == [ranked(user, ids) for user, ids in asked]


def test_array_of_listed_requests_is_one_answer_each(ranking: TestClient) -> None:
    """An array whose requests each make many rows."""
    asked = [(3, [5, 4, 3]), (1, []), (4, [399])]
    answers = ranking.predict([{"user_id": user, "item_ids": ids, "budget": 50.0} for user, ids in asked])
    assert answers == [ranked(user, ids, 50.0) for user, ids in asked]


@pytest.mark.parametrize("body", [b"[]", b'{"user_id":1,"item_ids":[]}', b'[{"user_id":1,"item_ids":[]}]'])
def test_nothing_to_score_is_answered(body: bytes, ranking: TestClient) -> None:
    """An array of none and a request without items are answered, and no model is called."""
    empty = ranked(1, [])
    assert json.loads(ranking.predict_bytes(body)) == ([] if body == b"[]" else [empty] if body[:1] == b"[" else empty)


def test_more_ids_than_rows_max_are_refused(ranking: TestClient) -> None:
    """The limit is told with the field; it holds for each request of an array."""
    most, over = {"user_id": 1, "item_ids": [1] * 300}, {"user_id": 1, "item_ids": [1] * 301}
    assert len(ranking.predict([most, most])[1]["score"]) == 300
    for body, where in ((over, "$.item_ids"), ([most, over], "$[1].item_ids")):
        with pytest.raises(InvalidRequestError, match="<= 300") as caught:
            ranking.predict(body)
        assert caught.value.where == where


def test_array_of_too_many_rows_is_refused(ranking: TestClient) -> None:
    """However its requests share them, one call makes no more rows than an array may have requests."""
    listed = {"user_id": 1, "item_ids": [1] * 250}
    assert len(ranking.predict([listed] * 4)) == 4
    with pytest.raises(InvalidRequestError, match="at most 1000 rows in one call, got 1250") as caught:
        ranking.predict([listed] * 5)
    assert caught.value.where == "$"


# -- never another's answer -------------------------------------------------------------------------------------------

PAYMENTS = st.builds(
    lambda number, customer, terminal, amount: (
        PAYMENT
        | {"transaction_id": f"t{number}", "customer_id": customer, "terminal_id": f"T{terminal}", "amount": amount}
    ),
    st.integers(0, 10**6),
    st.integers(0, 12),
    st.integers(0, 5),
    st.floats(-1000, 2000).map(lambda amount: round(amount, 2)),
)
RANKINGS = st.builds(
    lambda user, ids: {"user_id": user, "item_ids": ids},
    st.integers(0, 25),
    st.lists(st.integers(0, 450), max_size=6),
)


@pytest.fixture(scope="module")
def payment(pipelines_dir: Path) -> Iterator[TestClient]:
    """Return a client of the payment pipeline with ten customers and four terminals in its store."""
    with TestClient.of_file(pipelines_dir / "payment.py") as client:
        customer, terminal = client.plan.pipeline.views
        for each in range(10):
            watched = {} if each == 3 else {"watched": each % 2 == 0}
            client.put(customer, each, avg_amount=10.0 + each, chargebacks=each, **watched)
        for each in range(4):
            client.put(terminal, f"T{each}", fraud_rate=each / 8, country=f"C{each}")
        yield client


def assert_each_as_alone(client: TestClient, bodies: list[bytes]) -> None:
    """Every body of a batch gets the bytes it gets alone, up to the model's rounding of sums."""
    together = client.run(bodies).bodies
    for body, found in zip(bodies, together, strict=True):
        alone = client.run([body]).bodies[0]
        assert found == alone or close(json.loads(found), json.loads(alone)), body


def close(one: Any, other: Any) -> bool:
    """Say whether two answers are equal, numbers to seven digits."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(close, one, other))
    return bool(one == pytest.approx(other, rel=1e-6, abs=1e-7)) if isinstance(one, float) else bool(one == other)


@given(calls=st.lists(PAYMENTS | st.lists(PAYMENTS, max_size=4), min_size=1, max_size=12))
@same_fixture
def test_each_call_of_a_batch_gets_what_it_gets_alone(calls: list[Any], payment: TestClient) -> None:
    """Any mixture of single calls and arrays, of known and unknown entities."""
    assert_each_as_alone(payment, [json.dumps(call).encode() for call in calls])


@given(calls=st.lists(RANKINGS | st.lists(RANKINGS, max_size=3), min_size=1, max_size=8))
@same_fixture
def test_each_listed_call_of_a_batch_gets_what_it_gets_alone(calls: list[Any], ranking: TestClient) -> None:
    """The same where a request makes rows."""
    assert_each_as_alone(ranking, [json.dumps(call).encode() for call in calls])


@given(amounts=st.lists(st.sampled_from([-1.0, 0.0, 1.0, 2.5, 7.25]), min_size=1, max_size=12))
@same_fixture
def test_failed_score_fails_its_own_call_alone(amounts: list[float], client_of: ClientOf) -> None:
    """NaN without a fallback is an error for that call; its neighbours get their own scores."""
    bodies = [json.dumps({"amount": amount, "label": str(index)}).encode() for index, amount in enumerate(amounts)]
    batch = client_of("log").run(bodies)
    for index, amount in enumerate(amounts):
        if amount <= 0:
            assert isinstance(batch.errors[index], InferenceError)
            assert (batch.errors[index].status, batch.bodies[index]) == (500, b"")
        else:
            assert index not in batch.errors
            found = json.loads(batch.bodies[index])
            assert found == {
                "score": pytest.approx(np.log(amount), abs=1e-6),
                "decision": "high" if np.log(amount) >= 1 else "low",
                "label": str(index),
            }


def test_failed_score_of_an_array_fails_the_array(client_of: ClientOf) -> None:
    """An array is one call: with one row unusable it says how many are."""
    with pytest.raises(InferenceError, match="1 of 3 rows"):
        client_of("log").predict([{"amount": 1.0}, {"amount": -1.0}, {"amount": 2.0}])


def test_failed_score_with_a_fallback_is_degraded(client_of: ClientOf) -> None:
    """The constant answers for that row alone, and the row says MODEL_ERROR."""
    batch = client_of("log_with_fallback").run([b'{"amount":1}', b'{"amount":-1}', b'{"amount":2}'])
    assert not batch.errors
    assert [json.loads(body)["score"] for body in batch.bodies] == [0.0, 0.5, pytest.approx(np.log(2), abs=1e-6)]
    assert batch.degraded is not None
    assert batch.degraded.tolist() == [0, Degraded.MODEL_ERROR, 0]


def test_unknown_entity_is_answered_with_defaults(payment: TestClient) -> None:
    """The declared defaults, and a provenance that says so; a null column takes its default too."""
    batch = payment.run([json.dumps(PAYMENT | {"customer_id": each}).encode() for each in (1, 77, 3)])
    assert batch.view_rows[0].provenance.tolist() == [Provenance.FRESH, Provenance.DEFAULT, Provenance.FRESH]
    assert [json.loads(body)["avg_amount"] for body in batch.bodies] == [11.0, 50.0, 13.0]
    assert batch.views[0].watched.tolist() == [False, False, False]
    assert batch.views[1].country.tolist() == ["C1"] * 3


# -- types ------------------------------------------------------------------------------------------------------------

STORY: dict[str, Any] = {"country": "DE", "amount": 0.5, "count": 1, "vip": False, "time": "2026-01-05T10:00:00Z"}


def probabilities(story: dict[str, Any], weekend: bool) -> list[float]:
    """Return the softmax that the model `topics` should give."""
    news = {"DE": 2.0, "FR": 1.0}.get(story["country"], 0.0) + story["amount"]
    logits = np.array([news, story["count"] + 2.0 * story["vip"], 3.0 * weekend])
    powers = np.exp(logits - logits.max())
    return list(powers / powers.sum())


@pytest.mark.parametrize(
    ("changes", "weekend", "decision"),
    [
        ({}, False, "news"),
        ({"country": "IT"}, False, "sport"),
        ({"country": "other", "vip": True}, False, "sport"),
        ({"count": 40}, False, "sport"),
        ({"time": "2026-01-04T23:59:59Z"}, True, "other"),
        ({"time": "2026-01-05T00:30:00+02:00", "amount": 4.0}, True, "news"),
    ],
)
def test_named_inputs_of_all_types_reach_the_model(
    changes: dict[str, Any], weekend: bool, decision: str, client_of: ClientOf
) -> None:
    """Two texts (one computed), a double, an int64 and a bool, each in its own input."""
    story = STORY | changes
    found = client_of("topics").predict([STORY, story])[1]
    assert found["probabilities"] == pytest.approx(probabilities(story, weekend), abs=1e-5)
    assert found["score"] == max(found["probabilities"])
    assert found["decision"] == decision
    assert found["day_kind"] == ("weekend" if weekend else "weekday")


KINDS: dict[str, tuple[Any, list[Any]]] = {
    "scalar": (lambda request: 0.5, [0.5, 0.5]),
    "int": (lambda request: request.amount.astype(np.int64), [1, 2]),
    "int8": (lambda request: request.amount.astype(np.int8), [1, 2]),
    "bool": (lambda request: request.amount > 2, [False, True]),
    "list": (lambda request: [float(amount) for amount in request.amount], [1.5, 2.5]),
    "NumPy scalar": (lambda request: np.float32(0.25), [0.25, 0.25]),
}


class Amount(tr.Request):
    amount: float


class Shown(tr.Response):
    score: float
    value: Any


@pytest.mark.parametrize("kind", KINDS)
def test_on_demand_feature_of_any_kind_of_number(kind: str, pipeline_of: Callable[[str], Pipeline]) -> None:
    """Scalars, ints, bools and lists fill a float input, and are answered as what they are."""
    function, expected = KINDS[kind]
    value = OnDemandView("value", annotated(function))
    log = pipeline_of("log_with_fallback")
    pipeline = replace(
        log, request=Amount, response=Shown, features=[value], model=tr.Model("value"), decision=None,
        rules=(),
    )  # fmt: skip
    wiring = wire(pipeline)
    assert not wiring.problems
    values = field_values(dict(wiring.response)["value"], wiring)
    batch = Batch([], 0, 0)
    batch.rows = 2
    batch.request = columns_type(Amount, None)([Amount(amount=1.5), Amount(amount=2.5)], None)
    batch.on_demand["value"] = OnDemandFeature("value", function, [ReadRequest()]).column(batch)
    assert list(values.of(batch)) == expected
    with TestClient(replace(log, features=[replace(value, name="amount")])) as client:
        stage: Any = client.plan.inference.stage
        (filled,) = stage._fills
        fed = filled[1](client.run([b'{"amount":1.5}', b'{"amount":2.5}']))[:, 0]
        assert fed.tolist() == [float(each) for each in expected]


def annotated(function: Any) -> Any:
    """Give a function the annotation that an on-demand feature wants."""
    function.__annotations__ = {"request": tr.Request}
    return function


def test_on_demand_feature_that_loses_rows_is_an_error() -> None:
    """A single value is not stretched over the rows of a batch, which are other callers'."""
    batch = Batch([], 0, 0, rows=3)
    with pytest.raises(ValueError, match="@on_demand value gives shape \\(1,\\) for 3 rows"):
        OnDemandFeature("value", lambda: np.array([7.0]), []).column(batch)
    assert OnDemandFeature("value", lambda: 7.0, []).column(batch).tolist() == [7.0] * 3


def test_on_demand_feature_may_use_one_before_it(pipeline_of: Callable[[str], Pipeline]) -> None:
    """A feature named as a parameter of a later one is its column."""

    @tr.on_demand
    def doubled(amount_ratio: np.ndarray) -> np.ndarray:
        return amount_ratio * 2

    payment = pipeline_of("payment")
    wiring = wire(replace(payment, features=[*payment.features, doubled]))
    assert not wiring.problems
    assert [source.name for source in wiring.on_demand["doubled"][1]] == ["amount_ratio"]


def test_feature_that_mixes_the_rows_of_a_view_is_a_mistake(pipeline_of: Callable[[str], Pipeline]) -> None:
    """A mean over a view's column is not taken for a constant: sample rows differ in their view's values too."""
    payment = pipeline_of("payment")
    ratio = next(each for each in payment.features if getattr(each, "name", "") == "amount_ratio")

    def mixed(request: Any, customer: Any) -> Any:
        return request.amount / np.maximum(customer.avg_amount.mean(), 1)

    mixed.__annotations__ = ratio.function.__annotations__
    features = [replace(ratio, function=mixed) if each is ratio else each for each in payment.features]
    with pytest.raises(CompileError, match="depends on the other requests"):
        compile_plan(replace(payment, features=features), MemoryStore())


def test_rule_that_mixes_rows_is_a_mistake(pipeline_of: Callable[[str], Pipeline]) -> None:
    """A rule that looks at the mean score of its batch is refused: a row's decision is its own."""
    rule = tr.Rule("above_mean", when=lambda score: score > score.mean(), then="block")
    with pytest.raises(CompileError, match=r"rule 'above_mean'[^\n]*depends on the other requests"):
        compile_plan(replace(pipeline_of("payment"), rules=[rule]), MemoryStore())


def test_rule_of_a_classifier_is_tried_with_the_likeliest_class(pipeline_of: Callable[[str], Pipeline]) -> None:
    """A rule sees one score a row, as in serving: the likeliest class's, not the score of every class."""
    rule = tr.Rule("unsure", when=lambda score: score < 0.99, then="other")
    plan = compile_plan(replace(pipeline_of("topics"), rules=[rule]), MemoryStore())
    samples = Samples(plan)
    batch = samples.batch([samples.request(1)], 0, 10**18)
    drive(answer(plan, batch, lambda: 0))
    assert json.loads(batch.bodies[0])["decision"] == "other"
    assert len(json.loads(batch.bodies[0])["probabilities"]) == 3


def test_constant_fallback_is_decided_and_told_as_declared(pipeline_of: Callable[[str], Pipeline]) -> None:
    """A constant of 0.9 is in the band that begins at 0.9, holds for a rule that says so, and is told as 0.9."""
    pipeline = replace(pipeline_of("payment"), model=tr.Model("payment", fallback=tr.Constant(0.9)))
    seen: list[Any] = []
    rule = tr.Rule("seen", when=lambda score: seen.append(score >= 0.9) or score < 0, then="block")
    pipeline = replace(pipeline, decision=tr.bands("score", allow=0.0, review=0.6, block=0.9), rules=[rule])
    plan = compile_plan(pipeline, MemoryStore())
    stage: Any = plan.inference.stage
    stage._scorer._predict = lambda feeds: np.full(1, np.nan, np.float32)
    samples = Samples(plan)
    batch = samples.batch([samples.request(1)], 0, 10**18)
    drive(answer(plan, batch, lambda: 0))
    told = json.loads(batch.bodies[0])
    assert (told["score"], told["decision"], seen[-1].tolist()) == (0.9, "block", [True])


# -- one batch --------------------------------------------------------------------------------------------------------


class CountingStore(MemoryStore):
    """The store in memory, counting how often it is asked and for how many keys."""

    def __init__(self) -> None:
        super().__init__()
        self.fetches: list[int] = []

    async def fetch(self, keys: Any, deadline_ns: int) -> list[bytes | None]:
        """Count and answer."""
        self.fetches.append(len(keys))
        return await super().fetch(keys, deadline_ns)


def test_batch_is_one_fetch_of_all_views(pipeline_of: Callable[[str], Pipeline]) -> None:
    """64 calls of two views are one fetch of 128 keys, and the coroutine never suspends."""
    store = CountingStore()
    plan = compile_plan(pipeline_of("payment"), store)
    samples = Samples(plan)
    batch = samples.batch([samples.request(seed) for seed in range(64)], 0, 10**15)
    drive(answer(plan, batch, lambda: 0))
    assert store.fetches == [128]
    assert len(batch.bodies) == 64
    plan.close()
