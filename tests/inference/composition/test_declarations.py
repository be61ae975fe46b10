from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tailrace as tr
from tailrace.inference.composition.declarations import Composition, compositions_of
from tailrace.inference.declaration import (
    StageDeclaration,
    asked_of,
    models_of,
    models_with_inputs,
    walk_declared,
    with_paths,
)

A, B, C = tr.Model("a"), tr.Model("b", fallback=tr.Model("c")), tr.Model("d")
FAR = tr.RemoteModel("far", url="http://host/v2/models/far", fallback=tr.Constant(0.5))


class Payment(tr.Request):
    customer_id: int


def split_of(stage: StageDeclaration) -> tr.Split:
    """Return a split that asks a stage for all rows."""
    return tr.Split("t", {"x": stage}, by=Payment.customer_id, shares={"x": 1.0})


ALL: list[Composition] = [
    tr.Ensemble("e", [A, B], weights=[1, 2.5], floor=1.0, fallback=tr.Constant(0.5)),
    tr.Cascade("s", A, B, unsure=(0.1, 0.8)),
    tr.ColdStart("o", known=A, unknown=B, view=Payment),
    tr.Split("t", {"x": A, "y": B}, by=Payment.customer_id, shares={"y": 0.25, "x": 0.75}),
    tr.Route("r", {"x": A, "y": B}, by=Payment.customer_id, default=C),
]


@pytest.mark.parametrize("declared", ALL, ids=lambda each: type(each).__name__)
def test_composition_is_frozen_and_can_be_compared(declared: Composition) -> None:
    """It is a key of what is made of it, and the same of other members is another."""
    assert hash(declared) == hash(declared.with_members(declared.members))
    assert declared.with_members(declared.members) == declared
    with pytest.raises(AttributeError):
        declared.name = "other"
    assert asked_of(declared)[:2] == (A, B)
    paths = [Path(f"/copies/{index}") for index in range(len(models_of(declared)))]
    moved = with_paths(declared, iter(paths))
    assert [model.path for model in models_of(moved)] == paths
    assert moved.name == declared.name


def test_compositions_are_found_from_the_outermost_in() -> None:
    """Each once, with the models that all of them ask."""
    inner = ALL[0]
    outer = tr.Cascade("outer", inner, ALL[1], unsure=(0, 1))
    assert compositions_of(outer) == (outer, inner, ALL[1])
    assert asked_of(outer) == (A, B)


def test_what_a_stage_falls_back_to_is_packaged_with_it_and_not_asked() -> None:
    """A walk gives it, also of a remote model, whose second has inputs of its own; what is asked is without it."""
    far = tr.RemoteModel("far", url="http://host/v2/models/far", fallback=C)
    both = tr.Cascade("both", B, far, unsure=(0, 1))
    assert tuple(walk_declared(both)) == (both, B, B.second, far, C)
    assert models_of(both) == (B, B.second, C)
    assert asked_of(both) == (B, far)
    assert models_with_inputs(both) == (B, far, C)
    moved = with_paths(both, iter([Path("/1"), Path("/2"), Path("/3")]))
    assert [model.path for model in models_of(moved)] == [Path("/1"), Path("/2"), Path("/3")]


@pytest.mark.parametrize(
    ("declare", "said"),
    [
        (lambda: tr.Ensemble("e", []), "made of nothing"),
        (lambda: tr.Ensemble("e", [A, "b"]), "'b' is no stage"),
        (lambda: tr.Ensemble("", [A]), "a text"),
        (lambda: tr.Ensemble("e", [A, B], weights=[1]), "1 weights for 2"),
        (lambda: tr.Ensemble("e", [A, B], weights=[1, 0]), "above zero"),
        (lambda: tr.Ensemble("e", [A, B], weights=[1, float("nan")]), "above zero"),
        (lambda: tr.Ensemble("e", [A, B], floor=0), "share of the weights"),
        (lambda: tr.Ensemble("e", [A, B], fallback=0.5), "tr.Constant"),
        (lambda: tr.Cascade("s", A, B, unsure=(0.8, 0.1)), "lowest and the highest"),
        (lambda: tr.Cascade("s", A, B, unsure=0.5), "lowest and the highest"),
        (lambda: tr.Cascade("s", A, tr.Model("b", fallback=tr.Constant(0)), unsure=(0, 1)), "cheap score stands"),
        (lambda: tr.Cascade("s", A, split_of(tr.Model("b", fallback=tr.Constant(0))), unsure=(0, 1)), "'b' falls back"),
        (
            lambda: tr.Cascade("s", A, split_of(tr.Ensemble("e", [B], fallback=tr.Constant(0))), unsure=(0, 1)),
            "'e' falls",
        ),
        (lambda: tr.Cascade("s", A, tr.Ensemble("e", [B, FAR]), unsure=(0, 1)), "'far' falls back"),
        (lambda: tr.ColdStart("o", known=A, unknown=B, view="Profile"), "feature view"),
        (lambda: tr.Split("t", {"x": A}, by=Payment.customer_id, shares={"y": 1.0}), "one to each of x"),
        (lambda: tr.Split("t", {"x": A, "y": B}, by=1, shares={"x": 0.5, "y": 0.4}), "together 1"),
        (lambda: tr.Split("t", {"x": A, "y": B}, by=1, shares={"x": 1.5, "y": -0.5}), "together 1"),
        (lambda: tr.Split("t", [A, B], by=1, shares={}), "write {"),
        (lambda: tr.Split("t", {"x": A}, by=1, shares={"x": 1}, salt=3), "a text"),
        (lambda: tr.Route("r", {}, by=1), "made of nothing"),
        (lambda: tr.Route("r", {1.5: A}, by=1), "write {"),
    ],
)
def test_what_is_no_composition_is_refused(declare: Any, said: str) -> None:
    """At once, with what to write."""
    with pytest.raises(ValueError, match=said):
        declare()


def test_shares_may_be_thirds() -> None:
    """Their sum misses 1 by less than anyone would write."""
    assert tr.Split("t", {"x": A, "y": B, "z": C}, by=1, shares=dict.fromkeys("xyz", 1 / 3)).salt == "t"
