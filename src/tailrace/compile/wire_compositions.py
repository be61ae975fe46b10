"""Wires of the stages that are made of others: what a split, a route or a cold start goes by."""

from __future__ import annotations

from collections.abc import Callable
from types import MemberDescriptorType
from typing import Any

from tailrace.compile.wiring import Origin, Wire, Wiring, suggest
from tailrace.errors import Problem
from tailrace.features.view_spec import Column
from tailrace.features.views import FeatureView
from tailrace.inference.composition.declarations import (
    ColdStart,
    Composition,
    Route,
    Split,
    compositions_of,
    splits_of,
)
from tailrace.inference.declaration import asked_of
from tailrace.pipeline import Pipeline
from tailrace.request.schema import listed_values


def wire_compositions(pipeline: Pipeline, wiring: Wiring) -> None:
    """Find what each stage goes by, and the stages that could not be told apart by their names."""
    _check_names(pipeline, wiring)
    wiring.splits = [(split.name, split.branches) for split in splits_of(pipeline.model)]
    for declared in compositions_of(pipeline.model):
        match declared:
            case ColdStart():
                _wire_view(wiring, declared)
            case Split():
                _wire_column(pipeline, wiring, declared, declared.by, _split_problem)
            case Route():
                _wire_column(pipeline, wiring, declared, declared.by, _route_problem)


def told(declared: Composition) -> str:
    """Return what a stage is called where something is wrong with it: Split 'fraud'."""
    return f"{type(declared).__name__} {declared.name!r}"


def _check_names(pipeline: Pipeline, wiring: Wiring) -> None:
    """See that no two stages that are asked have one name: their scores, and where their rows went, have one place."""
    names = [stage.name for stage in (*compositions_of(pipeline.model), *asked_of(pipeline.model))]
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        wiring.problems.append(
            Problem(
                f"two stages are called {name!r}: their scores could not be told apart",
                "model",
                "give each a name of its own; of a model, tr.Model(NAME, path=…)",
            )
        )


def _wire_view(wiring: Wiring, declared: ColdStart) -> None:
    if declared.view not in wiring.views:
        wiring.problems.append(
            Problem(f"{declared.view.__name__} is no feature view", told(declared), "name the view of the entity")
        )
    elif issubclass(declared.view, FeatureView):
        wiring.chosen_by[declared] = Wire(Origin.VIEW, view=wiring.views.index(declared.view))


def _wire_column(
    pipeline: Pipeline,
    wiring: Wiring,
    declared: Any,
    by: Any,
    problem_of: Callable[[Pipeline, Wiring, Any, Wire], Problem | None],
) -> None:
    """Give a stage the column that it goes by, if it can."""
    where = told(declared)
    if isinstance(by, Column):
        source = Wire(Origin.VIEW, by.name, wiring.view_of(by), by.dtype)
    elif not isinstance(by, MemberDescriptorType):
        what, next_step = f"by is {by!r}", "name a field, such as Payment.customer_id, or a view's column"
        wiring.problems.append(Problem(what, where, next_step))
        return
    elif not issubclass(pipeline.request, by.__objclass__):
        what = f"{by.__objclass__.__name__}.{by.__name__} is not of this request"
        wiring.problems.append(Problem(what, where, f"use {pipeline.request.__name__}"))
        return
    else:
        spec = wiring.fields[by.__name__]
        source = Wire(Origin.REQUEST, by.__name__, dtype=spec.dtype)
        if spec.many and by.__name__ != wiring.expanded:
            what = f"{by.__name__} is a list: a row has one value"
            wiring.problems.append(Problem(what, where, "name a field of one value"))
            return
    if (problem := problem_of(pipeline, wiring, declared, source)) is not None:
        wiring.problems.append(problem)
    wiring.chosen_by[declared] = source


def _split_problem(pipeline: Pipeline, wiring: Wiring, declared: Split, source: Wire) -> Problem | None:
    """Return what is wrong with the id of a split: it is one that every row has."""
    nullable = source.origin is Origin.REQUEST and wiring.fields[source.name].nullable
    if not nullable and source.dtype is not None and source.dtype.kind in "iuO":
        return None
    kind = "may be null" if nullable else f"is {source.dtype}"
    return Problem(f"a split is by an int or a str, and {source.name} {kind}", told(declared), "name an id of each row")


def _route_problem(pipeline: Pipeline, wiring: Wiring, declared: Route, source: Wire) -> Problem | None:
    """Return what is wrong with the values of a route: each that can come has its way, and none that cannot."""
    where, values = told(declared), [value for value, _ in declared.routes]
    is_field = source.origin is Origin.REQUEST
    listed = listed_values(pipeline.request, source.name) if is_field else None
    if listed is None and declared.default is None:
        what = f"{source.name} may have any value, and there is no default"
        return Problem(what, where, "add default=tr.Model(…), or declare the field a Literal")
    if listed is None:
        text = source.is_text
        wrong = [value for value in values if isinstance(value, str) is not text]
        what = f"{source.name} is {'text' if text else source.dtype}, and is never {wrong[0]!r}" if wrong else ""
        return Problem(what, where, "write the values as the field has them") if wrong else None
    if wrong := [value for value in values if value not in listed]:
        return Problem(f"{source.name} is never {wrong[0]!r}", where, suggest(str(wrong[0]), map(str, listed)))
    missing = [str(value) for value in listed if value not in values]
    if missing and declared.default is None:
        what = f"{source.name} can be {', '.join(missing)}, for which there is no route"
        return Problem(what, where, "add it, or a default")
    return None
