"""Batch feature views: what a declaration says, and every mistake in it."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import pytest

from tailrace.features.batch_views import BatchFeatureView
from tailrace.features.sources import CSV, Parquet, every
from tailrace.features.view_spec import Column, Entity

customer = Entity("customer", key="customer_id")


class Complete(BatchFeatureView):
    entity = customer
    source = Parquet("data/profile.parquet", time="as_of", columns={"amount": "AMOUNT"})
    refresh = every("1h")
    max_staleness = "1d"
    amount: float = 1
    small: np.float32 = 0.5  # type: ignore[assignment]
    count: Annotated[int, "of payments"] = -3
    code: np.uint8 = 255  # type: ignore[assignment]
    known: bool = False
    city: str = "?"


def test_view_spec_tells_the_declaration() -> None:
    """A view without mistakes gives its entity, source, times and columns in declared order."""
    spec = Complete.spec
    assert spec.problems == ()
    assert (spec.name, spec.entity, spec.source) == ("Complete", customer, Complete.source)
    assert (spec.refresh_ns, spec.max_staleness_ns) == (3_600 * 10**9, 86_400 * 10**9)
    assert [(each.name, each.dtype.str, each.default) for each in spec.columns] == [
        ("amount", "<f8", 1), ("small", "<f4", 0.5), ("count", "<i8", -3), ("code", "|u1", 255),
        ("known", "|b1", False), ("city", "|O", "?"),
    ]  # fmt: skip


def test_view_column_is_named_on_the_class() -> None:
    """`CustomerProfile.amount` names the column, so that a pipeline can list it."""
    assert Complete.amount == Column("amount", np.dtype("<f8"), 1, "Complete")


def test_view_extended_keeps_the_columns_of_its_base() -> None:
    """A view that extends another has its columns first, and may change a default."""

    class Extended(Complete):
        count: int = 9
        more: float = 2.0

    assert Extended.spec.problems == ()
    names = [column.name for column in Extended.spec.columns]
    assert names == ["amount", "small", "count", "code", "known", "city", "more"]
    assert [column.default for column in Extended.spec.columns][2] == 9


def test_view_without_staleness_never_gets_old() -> None:
    """Without `max_staleness` a value of any age is fresh."""

    class Eternal(BatchFeatureView):
        entity = customer
        source = CSV("a.csv")
        amount: float = 0.0

    assert Eternal.spec.max_staleness_ns is None
    assert Eternal.spec.problems == ()


def test_view_with_many_mistakes_tells_them_all() -> None:
    """Nothing is raised; every mistake is a problem with its place."""

    class Wrong(BatchFeatureView):
        max_staleness = "1 fortnight"
        refresh = every("soon")
        no_default: float
        listed: list[int] = []  # noqa: RUF012
        text: float = "1.0"  # type: ignore[assignment]
        truth: int = True
        _hidden: float = 0.0

    assert [problem.where for problem in Wrong.spec.problems] == [
        f"features.Wrong.{name}"
        for name in ("entity", "source", "refresh", "max_staleness", "no_default", "listed", "text", "truth", "_hidden")
    ]
    assert all(problem.what and problem.next for problem in Wrong.spec.problems)


@pytest.mark.parametrize(
    ("annotation", "default"),
    [(np.int8, 128), (np.uint16, -1), (int, 2**63), (int, 1.0), (bool, 1), (str, 3), (float, None), (str, "x" * 5000)],
)
def test_view_default_that_its_type_does_not_hold_is_a_problem(annotation: Any, default: Any) -> None:
    """A default is checked against its column's type, range included."""
    body = {"__annotations__": {"amount": annotation}, "amount": default, "entity": customer, "source": CSV("a.csv")}
    view = type("Wrong", (BatchFeatureView,), body)
    (problem,) = view.spec.problems  # type: ignore[attr-defined]
    assert problem.where == "features.Wrong.amount"


@pytest.mark.parametrize("annotation", [np.floating, np.float16, complex, bytes, float | None, dict])
def test_view_column_of_another_type_is_a_problem(annotation: Any) -> None:
    """What no packed row can hold is refused."""
    body = {"__annotations__": {"amount": annotation}, "amount": 0.0, "entity": customer, "source": CSV("a.csv")}
    view = type("Wrong", (BatchFeatureView,), body)
    (problem,) = view.spec.problems  # type: ignore[attr-defined]
    assert "is not a type" in problem.what


def test_view_without_columns_is_a_problem() -> None:
    """A view must know something."""

    class Empty(BatchFeatureView):
        entity = customer
        source = CSV("a.csv")

    assert [problem.what for problem in Empty.spec.problems] == ["the view has no columns"]


def test_view_with_an_unknown_name_in_an_annotation_is_a_problem() -> None:
    """A name that cannot be resolved is told, not raised."""
    body = {"__annotations__": {"amount": "Decimal2"}, "amount": 0.0, "entity": customer, "source": CSV("a.csv")}
    view = type("Wrong", (BatchFeatureView,), body)
    (problem,) = view.spec.problems  # type: ignore[attr-defined]
    assert "Decimal2" in problem.what


def test_view_source_that_renames_an_unknown_column_is_a_problem() -> None:
    """A rename of what the view does not declare is a slip of the pen."""

    class Wrong(BatchFeatureView):
        entity = Entity("cust omer", key="id")
        source = CSV("a.csv", columns={"amuont": "AMOUNT"})
        amount: float = 0.0

    assert [problem.where for problem in Wrong.spec.problems] == ["features.Wrong.entity", "features.Wrong.source"]


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ((), "has 0 fields"),
        (("a",), "has 1 fields"),
        (tuple(map(str, range(9))), "a tuple has 2 to 8"),
        (("a", "b", "a"), "names a field twice"),
        (["a", "b"], "neither the name of a field, nor a column"),
        (("a", 1), "neither the name of a field, nor a column"),
        (None, "neither the name of a field, nor a column"),
    ],
)
def test_key_of_an_entity_that_is_none_is_a_problem(key: Any, what: str) -> None:
    """One name, or a tuple of several; another thing is told, and nothing else of it."""

    class Wrong(BatchFeatureView):
        entity = Entity("pair", key=key)
        source = CSV("a.csv")
        amount: float = 0.0

    (problem,) = Wrong.spec.problems
    assert what in problem.what
    assert problem.where == "features.Wrong.entity"


@pytest.mark.parametrize("key", ["a", ("a", "b", "c")])
def test_key_of_a_source_that_does_not_match_the_entity_is_a_problem(key: Any) -> None:
    """A column for each field, or none is named."""

    class Wrong(BatchFeatureView):
        entity = Entity("pair", key=("x", "y"))
        source = CSV("a.csv", key=key)
        amount: float = 0.0

    (problem,) = Wrong.spec.problems
    assert "does not match" in problem.what
    assert problem.where == "features.Wrong.source"
