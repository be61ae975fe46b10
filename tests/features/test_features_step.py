from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import tailrace as tr
from tailrace.batch import Batch
from tailrace.compile.compiler import compile_plan
from tailrace.errors import CompileError
from tailrace.features.step import OnDemandFeature
from tailrace.features.stores.memory import MemoryStore
from tailrace.pipeline import Pipeline
from tailrace.readers import ReadOnDemand
from tailrace.testing import TestClient

GIVEN: dict[str, Callable[[], Any]] = {
    "array": lambda: np.array([1.0, 2.0, 3.0]),
    "list": lambda: [1.0, 2.0, 3.0],
    "one value": lambda: 2.0,
    "NumPy scalar": lambda: np.float32(2),
    "array of none": lambda: np.array(2.0),
    "view of another": lambda: np.arange(6.0)[::2],
    "masked": lambda: np.ma.masked_array([1.0, 2.0, 3.0], [False, True, False]),
}


@pytest.mark.parametrize("kind", GIVEN)
def test_on_demand_column_is_read_only(kind: str) -> None:
    """Whatever a function gives, who reads its column cannot change it for the others."""
    batch = Batch([], 0, 0, rows=3)
    batch.on_demand["value"] = column = OnDemandFeature("value", GIVEN[kind], []).column(batch)
    assert column.shape == (3,)
    with pytest.raises(ValueError, match="read-only"):
        ReadOnDemand("value").read(batch)[0] = 7.0


@pytest.mark.parametrize("shape", [(1,), (2,), (3, 1), (1, 3), (0,)])
def test_on_demand_column_of_another_shape_is_an_error(shape: tuple[int, ...]) -> None:
    """NumPy would stretch some of them over other callers' rows."""
    feature = OnDemandFeature("value", lambda: np.zeros(shape), [])
    with pytest.raises(ValueError, match="@on_demand value gives shape"):
        feature.column(Batch([], 0, 0, rows=3))


def doubling(ratio: np.ndarray) -> np.ndarray:
    """Write where it reads."""
    ratio *= 2
    return ratio


def doubled_over_one(amount_ratio: np.ndarray) -> np.ndarray:
    """Take the column of a feature and write in it."""
    return doubling(amount_ratio) > 1


def doubled_amount(amount: np.ndarray) -> np.ndarray:
    """Take the column of a feature and write in it."""
    return doubling(amount)


def zeroed_level(request: Any, customer: Any) -> np.ndarray:
    """Write in a column of a view."""
    customer.avg_amount[request.amount < 0] = 0
    return customer.avg_amount


def rounded_amount(request: Any, customer: Any) -> np.ndarray:
    """Write in a column of the request."""
    return np.round(request.amount, 0, request.amount)


def annotated(function: Any, **annotations: Any) -> Any:
    """Return a function with the annotations that an on-demand feature wants."""
    function.__annotations__ = annotations
    return function


def the_problem(pipeline: Pipeline) -> Any:
    """Return the one mistake that the compiler finds in a pipeline."""
    with pytest.raises(CompileError) as caught:
        compile_plan(pipeline, MemoryStore())
    (problem,) = caught.value.problems
    return problem


def test_rule_that_writes_in_a_feature_is_told_by_the_rehearsal(pipeline_of: Callable[[str], Pipeline]) -> None:
    """It would change what the response tells; the declaration is refused, and names the rule."""
    rule = tr.Rule("doubled", when=doubled_over_one, then="block")
    problem = the_problem(replace(pipeline_of("payment"), rules=[rule]))
    assert problem.where == "rule 'doubled'"
    assert "read-only" in problem.what


def test_rule_that_writes_in_the_score_is_told_by_the_rehearsal(pipeline_of: Callable[[str], Pipeline]) -> None:
    """A score that a rule changed would be told to the caller."""
    rule = tr.Rule("doubled", when=lambda score: doubling(score) > 1, then="block")
    problem = the_problem(replace(pipeline_of("payment"), rules=[rule]))
    assert problem.where == "rule 'doubled'"
    assert "read-only" in problem.what


@pytest.mark.parametrize("function", [zeroed_level, rounded_amount])
def test_function_that_writes_in_a_column_is_told_by_the_rehearsal(
    function: Callable[..., Any], pipeline_of: Callable[[str], Pipeline]
) -> None:
    """A column of a view or of the request is every function's; one that writes in it is refused."""
    payment = pipeline_of("payment")
    ratio = next(each for each in payment.features if getattr(each, "name", "") == "amount_ratio")
    annotated(function, **ratio.function.__annotations__)
    features = [replace(ratio, function=function) if each is ratio else each for each in payment.features]
    problem = the_problem(replace(payment, features=features))
    assert problem.where == "@on_demand amount_ratio"
    assert "read-only" in problem.what


def test_feature_that_writes_in_another_is_told_by_the_rehearsal(pipeline_of: Callable[[str], Pipeline]) -> None:
    """A later feature reads the column of an earlier one, which the model reads too."""
    payment = pipeline_of("payment")
    field, *others, ratio = payment.features
    amount = replace(ratio, name="amount", function=annotated(lambda request: request.amount + 0, request=tr.Request))
    ratio = replace(ratio, function=doubled_amount)
    assert field.__name__ == "amount"
    problem = the_problem(replace(payment, features=[amount, *others, ratio]))
    assert problem.where == "@on_demand amount_ratio"
    assert "read-only" in problem.what


def test_writing_in_place_while_serving_fails_its_own_call(pipeline_of: Callable[[str], Pipeline]) -> None:
    """What the rehearsal could not see is an error of that call, and its neighbours' values are their own."""
    armed: list[bool] = []

    def when(amount_ratio: np.ndarray, request: Any) -> np.ndarray:
        if armed and (request.amount == 13).any():
            return doubling(amount_ratio) > 1
        return amount_ratio > 1_000

    rule = tr.Rule("r", when=annotated(when), then="block")
    with TestClient(replace(pipeline_of("payment"), rules=[rule])) as client:
        armed.append(True)
        sent = {"customer_id": 1, "terminal_id": "T", "time": "2026-01-02T03:04:05Z"}
        calls = [client.submit(sent | {"transaction_id": f"t{n}", "amount": n}) for n in (100, 13, 200)]
        client.turn()
        answers = [call.answer for call in calls]
        assert calls[1].error is not None
        assert calls[1].error.status == 500
        assert answers[0] is not None
        assert answers[2] is not None
        assert b'"amount_ratio":2.0' in answers[0]
        assert b'"amount_ratio":4.0' in answers[2]
