"""On-demand features: functions with typed parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailrace.features.on_demand import OnDemandView, on_demand


@on_demand
def ratio(request: Below, other: int) -> NDArray[Any]:
    """Divide."""
    return request.amount / other


class Below:
    """Stands below the function that names it."""

    amount = np.array([2.0, 4.0])


def test_on_demand_resolves_its_types_when_asked() -> None:
    """A parameter's type may stand below the function."""
    assert isinstance(ratio, OnDemandView)
    assert ratio.name == "ratio"
    assert dict(ratio.parameters) == {"request": Below, "other": int}
    assert ratio.problems == ()


def test_on_demand_can_be_called_as_the_function() -> None:
    """A user's test calls it on columns."""
    assert ratio(Below, other=2).tolist() == [1.0, 2.0]


def test_on_demand_without_a_type_has_a_problem() -> None:
    """Every parameter must say what it takes."""

    @on_demand
    def untyped(request, profile: Below):  # type: ignore[no-untyped-def]
        return request

    assert [problem.where for problem in untyped.problems] == ["features.untyped"]
    assert "'request'" in untyped.problems[0].what


def test_on_demand_with_an_unknown_type_has_a_problem() -> None:
    """A name that cannot be resolved is told, not raised."""

    @on_demand
    def unknown(request: Missing) -> Any:  # type: ignore[name-defined]  # noqa: F821
        return request

    assert "Missing" in unknown.problems[0].what
    assert dict(unknown.parameters) == {"request": None}
