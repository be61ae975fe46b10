from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import msgspec
import pytest

import tailrace as tr
from tailrace.compile.resolve import wire
from tailrace.inference.signature import Signature, TensorSpec

A, B = tr.Model("a"), tr.Model("b")


class Payment(tr.Request):
    amount: float
    customer_id: int
    note: str | None = None
    level: int | None = None
    tags: list[str] = msgspec.field(default_factory=list)
    channel: Literal["web", "shop"] = "web"


class Other(tr.Request):
    customer_id: int


class Decision(tr.Response):
    score: float


class Profile(tr.BatchFeatureView):
    entity = tr.Entity("customer", key="customer_id")
    source = tr.Parquet("profiles.parquet")
    rate: float = 0.0
    level: int = 0


@tr.on_demand
def half(request: Payment) -> Any:
    """Return half of the amount."""
    return request.amount / 2


def problems_of(stage: Any, *features: Any, **more: Any) -> list[str]:
    """Return the mistakes of a pipeline with a stage whose models take the amount, and the order's."""
    pipeline = tr.Pipeline(
        name="p", request=Payment, response=Decision, features=[Payment.amount, *features], model=stage,
        budget=tr.Budget("50ms"), **more,
    )  # fmt: skip
    signature = Signature((TensorSpec("x", "float32", ("amount",)),), "score")
    found = wire(pipeline, dict.fromkeys((A, B), signature)).problems
    assert all(all(problem) for problem in found)
    return [str(problem) for problem in found]


def split(by: Any) -> tr.Split:
    """Return a split by something."""
    return tr.Split("test", {"a": A, "b": B}, by=by, shares={"a": 0.5, "b": 0.5})


def route(values: Any, by: Any, default: Any = None) -> tr.Route:
    """Return a route of some values."""
    return tr.Route("way", dict(zip(values, (A, B), strict=False)), by=by, default=default)


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        (split(Payment.amount), "a split is by an int or a str, and amount is float64"),
        (split(Payment.level), "level may be null"),
        (split(Payment.tags), "tags is a list"),
        (split(Other.customer_id), "Other.customer_id is not of this request"),
        (split("customer_id"), "by is 'customer_id'"),
        (split(Profile.rate), "rate is float64"),
        (route(("web", "tv"), Payment.channel), "channel is never 'tv'"),
        (route(("web",), Payment.channel), "channel can be shop, for which there is no route"),
        (route((1, 2), Payment.customer_id), "customer_id may have any value, and there is no default"),
        (route(("1",), Payment.customer_id, B), "customer_id is int64, and is never '1'"),
        (route((1,), Payment.note, B), "note is text, and is never 1"),
        (tr.ColdStart("cold", known=A, unknown=B, view=Payment), "Payment is no feature view"),
        (tr.Ensemble("a", [A, B]), "two stages are called 'a'"),
        (tr.Ensemble("e", [A, tr.Model("a", path="x"), B]), "two stages are called 'a'"),
        (tr.Ensemble("e", [A, B], fallback=tr.Constant("news")), "model of one score"),
    ],
)
def test_what_a_stage_cannot_go_by_is_told(stage: Any, said: str) -> None:
    """With the stage, what is wrong, and what next."""
    assert any(said in problem for problem in problems_of(stage)), problems_of(stage)


@pytest.mark.parametrize(
    "stage",
    [
        split(Payment.customer_id),
        split(Payment.channel),
        split(Profile.level),
        route(("web", "shop"), Payment.channel),
        route((1, 2), Payment.customer_id, tr.Model("c")),
        tr.ColdStart("cold", known=A, unknown=B, view=Profile),
    ],
)
def test_what_a_stage_can_go_by_is_no_mistake(stage: Any) -> None:
    """Nor is it one that no model takes what stands among the features for it."""
    assert [problem for problem in problems_of(stage) if "no model" not in problem] == []


def test_feature_that_only_a_stage_or_a_rule_takes_is_no_mistake() -> None:
    """One that nobody takes is, whatever stands beside it."""
    assert problems_of(split(Payment.customer_id), Payment.customer_id) == []
    assert problems_of(tr.ColdStart("cold", known=A, unknown=B, view=Profile), Profile) == []
    rules = [tr.Rule("r", lambda half, profile: (half > 1) & (profile.rate > 0), "block")]
    given: dict[str, Any] = {"rules": rules, "decision": tr.bands("score", allow=0.0, block=0.5)}
    assert problems_of(tr.Ensemble("e", [A, B]), half, Profile, **given) == []
    (told,) = problems_of(split(Payment.customer_id), Payment.customer_id, Payment.channel)
    assert "no model takes such an input" in told
    assert "features.channel" in told


def test_views_of_a_stage_are_read(pipeline_of: Callable[[str], tr.Pipeline]) -> None:
    """They are the pipeline's, though nothing else names them."""
    cold = tr.ColdStart("cold", known=A, unknown=B, view=Profile)
    assert replace(pipeline_of("topics"), model=cold).views == (Profile,)
    assert replace(pipeline_of("topics"), model=tr.Ensemble("e", [split(Profile.level)])).views == (Profile,)
