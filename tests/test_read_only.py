"""What rules and on-demand functions are given cannot be changed in place: neighbours and the answer read it too."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

import tailrace as tr
from tailrace.compile.compiler import compile_plan
from tailrace.errors import CompileError, Problem
from tailrace.features.on_demand import OnDemandView
from tailrace.features.stores.memory import MemoryStore
from tailrace.pipeline import Pipeline
from tailrace.testing import TestClient

PipelineOf = Callable[[str], Pipeline]


def the_problem(pipeline: Pipeline) -> Problem:
    """Return the one mistake that the compiler finds in a pipeline."""
    with pytest.raises(CompileError) as caught:
        compile_plan(pipeline, MemoryStore())
    (problem,) = caught.value.problems
    return problem


def over(array: np.ndarray) -> np.ndarray:
    """Write over an array, and hold for no row."""
    array[:] = array[:1]
    return np.zeros(len(array), bool)


def over_the(name: str) -> Callable[..., Any]:
    """Return a rule's function that writes over its one parameter, of that name."""

    def when(given: np.ndarray) -> np.ndarray:
        return over(given)

    parameter = inspect.Parameter(name, inspect.Parameter.POSITIONAL_ONLY)
    when.__signature__ = inspect.Signature([parameter])  # type: ignore[attr-defined]
    return when


def set_amount(request: Any) -> np.ndarray:
    """Put another column in the place of a request's."""
    request.amount = request.amount * 0
    return request.amount > 1


def set_average(customer_profile: Any) -> np.ndarray:
    """Put another column in the place of a view's."""
    customer_profile.avg_amount = customer_profile.avg_amount * 0
    return customer_profile.avg_amount > 1


RULES: dict[str, tuple[str, Callable[..., Any], str, str]] = {
    # pipeline, function, a label, what is told
    "score": ("payment", over_the("score"), "block", "read-only"),
    "likeliest class's score": ("topics", over_the("score"), "other", "read-only"),
    "decision": ("payment", over_the("decision"), "block", "read-only"),
    "decision of classes": ("topics", over_the("decision"), "other", "read-only"),
    "number of the request": ("payment", lambda request: over(request.amount), "block", "read-only"),
    "text of the request": ("payment", lambda request: over(request.terminal_id), "block", "read-only"),
    "time of the request": ("payment", lambda request: over(request.time), "block", "read-only"),
    "list of the request": ("ranking", lambda request: over(request.item_ids), "hide", "read-only"),
    "repeated for rows": ("ranking", lambda request: over(request.budget), "hide", "read-only"),
    "number of a view": ("payment", lambda customer_profile: over(customer_profile.avg_amount), "block", "read-only"),
    "text of a view": ("payment", lambda terminal_profile: over(terminal_profile.country), "block", "read-only"),
    "view repeated for rows": ("ranking", lambda user_profile: over(user_profile.affinity), "hide", "read-only"),
    "feature": ("payment", over_the("amount_ratio"), "block", "read-only"),
    "text feature": ("topics", over_the("day_kind"), "other", "read-only"),
    "a request's column": ("payment", set_amount, "block", "immutable"),
    "a view's column": ("payment", set_average, "block", "immutable"),
}


@pytest.mark.parametrize("case", RULES)
def test_rule_that_writes_in_place_is_told_by_the_rehearsal(case: str, pipeline_of: PipelineOf) -> None:
    """Each kind of column that a rule may take: the rule is named, and what it does."""
    name, when, then, told = RULES[case]
    problem = the_problem(replace(pipeline_of(name), rules=[tr.Rule("writes", when=when, then=then)]))
    assert problem.where == "rule 'writes'"
    assert told in problem.what


class Armed:
    """A rule's function that writes, once armed, where a caller's amount is 13."""

    def __init__(self, write: Callable[..., Any]) -> None:
        self.armed = False
        self._write = write

    def when(self, request: Any, score: Any, decision: Any, customer_profile: Any, amount_ratio: Any) -> Any:
        """Hold for no row."""
        if self.armed and (request.amount == 13).any():
            self._write(request, score, decision, customer_profile, amount_ratio)
        return request.amount < -1e9


WRITES: dict[str, Callable[..., Any]] = {
    "score": lambda request, score, *_: over(score),
    "decision": lambda request, score, decision, *_: over(decision),
    "request": lambda request, *_: over(request.amount),
    "text": lambda request, *_: over(request.terminal_id),
    "view": lambda request, score, decision, profile, ratio: over(profile.avg_amount),
    "feature": lambda request, score, decision, profile, ratio: over(ratio),
    "request's column": lambda request, *_: setattr(request, "amount", request.amount * 0),
    "view's column": lambda request, score, decision, profile, ratio: setattr(profile, "avg_amount", ratio),
}


@pytest.fixture(params=WRITES)
def armed(request: pytest.FixtureRequest, pipeline_of: PipelineOf) -> Iterator[tuple[TestClient, Armed]]:
    """Return a client of a payment pipeline whose rule writes in place when armed, and the rule's function."""
    rule = Armed(WRITES[request.param])
    pipeline = replace(pipeline_of("payment"), rules=[tr.Rule("writes", when=rule.when, then="block")])
    with TestClient(pipeline) as client:
        yield client, rule


def test_rule_that_writes_while_serving_fails_its_own_call(armed: tuple[TestClient, Armed]) -> None:
    """Its neighbours in the batch are answered as without it, and nothing is answered from what was written."""
    client, rule = armed
    sent = {"customer_id": 1, "terminal_id": "T", "time": "2026-01-02T03:04:05Z"}
    bodies = [sent | {"transaction_id": f"t{amount}", "amount": amount} for amount in (100, 13, 200, 300)]
    expected = client.predict(bodies)
    rule.armed = True
    calls = [client.submit(body) for body in bodies]
    client.turn()
    assert calls[1].error is not None
    assert calls[1].error.status == 500
    for place in (0, 2, 3):
        answer = calls[place].answer
        assert answer is not None
        told = msgspec.json.decode(answer)
        assert told == expected[place] | {"score": pytest.approx(expected[place]["score"])}


def arrays_of(given: Any, seen: list[np.ndarray]) -> None:
    """Add what a function is given to `seen`: an array, or all columns of an object that has them."""
    if isinstance(given, np.ndarray):
        seen.append(given)
        return
    seen += [getattr(given, name) for name in dir(type(given)) if not name.startswith("_")]


@pytest.mark.parametrize("name", ["payment", "ranking", "topics"])
@pytest.mark.parametrize("rows", [0, 1, 3])
def test_everything_a_function_is_given_is_read_only(name: str, rows: int, pipeline_of: PipelineOf) -> None:
    """Every column of every object, in batches of every size: of none too, where nothing could be written."""
    pipeline = pipeline_of(name)
    seen: list[np.ndarray] = []
    features: list[Any] = []
    for feature in pipeline.features:
        if isinstance(feature, OnDemandView):

            def spied(*columns: Any, feature: Any = feature) -> Any:
                for column in columns:
                    arrays_of(column, seen)
                return feature.function(*columns)

            spied.__signature__ = inspect.signature(feature.function)  # type: ignore[attr-defined]
            spied.__annotations__ = feature.function.__annotations__
            features.append(replace(feature, function=spied))
        else:
            features.append(feature)

    def when(request: Any, score: Any, decision: Any) -> Any:
        for column in (request, score, decision):
            arrays_of(column, seen)
        return np.zeros(len(score), bool)

    then = {"payment": "block", "ranking": "hide", "topics": "other"}[name]
    with TestClient(replace(pipeline, features=features, rules=[tr.Rule("spy", when=when, then=then)])) as client:
        assert seen
        assert not [array for array in seen if array.flags.writeable]
        seen.clear()
        client.predict([BODIES[name]] * rows)
        assert seen
        assert not [array for array in seen if array.flags.writeable]


BODIES: dict[str, dict[str, Any]] = {
    "payment": {
        "transaction_id": "t", "customer_id": 1, "terminal_id": "T", "amount": 5.0, "time": "2026-01-02T03:04:05Z",
    },
    "ranking": {"user_id": 1, "item_ids": [1, 2, 3]},
    "topics": {"country": "DE", "amount": 0.5, "count": 1, "vip": False, "time": "2026-01-05T10:00:00Z"},
}  # fmt: skip
