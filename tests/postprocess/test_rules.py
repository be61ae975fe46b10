from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import tailrace as tr
from tailrace.pipeline import Pipeline
from tailrace.testing import TestClient

PAYMENT: dict[str, Any] = {
    "transaction_id": "t",
    "customer_id": 1,
    "terminal_id": "T",
    "amount": 900.0,
    "time": "2026-01-02T03:04:05Z",
}


def answers(pipeline: Pipeline, rules: list[tr.Rule], *changes: dict[str, Any]) -> list[Any]:
    """Return the (decision, reasons) of payments, served as one batch with these rules."""
    with TestClient(replace(pipeline, rules=rules)) as client:
        customer = client.plan.pipeline.views[0]
        client.put(customer, 2, avg_amount=20.0, watched=True)
        bodies = [json.dumps(PAYMENT | change).encode() for change in changes]
        found = map(json.loads, client.run(bodies).bodies)
        return [(each["decision"], each["reasons"]) for each in found]


def test_never_block_under_ten_is_one_line(pipeline_of: Callable[[str], Pipeline]) -> None:
    """The declared rule: under $10 the payment is allowed, whatever the score; at $10 the score decides."""
    payment = pipeline_of("payment")
    blocks = replace(payment, decision=tr.bands("score", allow=-1e9, review=-1e8, block=-1e7))
    found = answers(blocks, list(payment.rules), {"amount": 9.99}, {"amount": 10.0}, {"amount": 900.0})
    assert found == [("allow", ["small_amount"]), ("block", []), ("block", [])]


def test_rule_may_look_at_a_view_and_an_on_demand_feature(pipeline_of: Callable[[str], Pipeline]) -> None:
    """By their names: the view in snake case, the feature as it is called."""
    rules = [
        tr.Rule("watched", when=lambda customer_profile: customer_profile.watched, then="block", priority=1),
        tr.Rule("unusual", when=lambda amount_ratio: amount_ratio > 40, then="review", reason="UNUSUAL_AMOUNT"),
    ]
    found = answers(pipeline_of("payment"), rules, {}, {"customer_id": 2}, {"amount": 1.0})
    assert found == [("block", []), ("block", ["watched", "UNUSUAL_AMOUNT"]), ("allow", [])]


def test_rule_may_look_at_the_score_and_the_decision_so_far(pipeline_of: Callable[[str], Pipeline]) -> None:
    """A rule sees what the bands and the weaker rules decided, as labels."""
    rules = [
        tr.Rule("soften", when=lambda decision: decision == "block", then="review"),
        tr.Rule("harden", when=lambda decision, score: (decision == "review") & (score > 5), then="block", priority=2),
    ]
    found = answers(pipeline_of("payment"), rules, {}, {"amount": 20_000.0}, {"amount": 1.0})
    assert found == [("review", ["soften"]), ("block", ["harden", "soften"]), ("allow", [])]


class Blocklist(tr.BatchFeatureView):
    """A view that only a rule looks at."""

    entity = tr.Entity("customer", key="customer_id")
    source = tr.Parquet("blocklist.parquet")
    is_blocked: bool = False


def is_blocked(listed: Blocklist) -> np.ndarray:
    """Take a view by annotation."""
    return listed.is_blocked


def test_rule_may_take_a_view_that_is_no_feature(pipeline_of: Callable[[str], Pipeline]) -> None:
    """A view named by annotation is looked up for the rule alone; the model does not see it."""
    pipeline = replace(pipeline_of("payment"), rules=[tr.Rule("blocklist", when=is_blocked, then="block")])
    with TestClient(pipeline) as client:
        client.put(Blocklist, 7, is_blocked=True)
        small = PAYMENT | {"amount": 1.0}
        assert client.predict(small)["decision"] == "allow"
        found = client.predict(small | {"customer_id": 7})
        assert (found["decision"], found["reasons"]) == ("block", ["blocklist"])


@pytest.mark.parametrize("code", ["MANUAL", None])
def test_rule_code_is_its_reason_or_its_name(code: str | None) -> None:
    """What the response tells."""
    assert tr.Rule("name", when=lambda: True, then="x", reason=code).code == (code or "name")
