"""Wires of the features: views by their keys, and each feature by its canonical name."""

from __future__ import annotations

from types import MemberDescriptorType
from typing import Any, get_args, get_origin, get_type_hints

from tailrace.compile.wiring import Origin, Wire, Wiring, snake_case, suggest
from tailrace.errors import Problem
from tailrace.features.batch_views import BatchFeatureView
from tailrace.features.hop_order import HOPS_MAX, hop_of
from tailrace.features.on_demand import OnDemandView
from tailrace.features.view_spec import Column
from tailrace.features.views import FeatureView
from tailrace.pipeline import Pipeline
from tailrace.request.schema import Request


def wire_views(pipeline: Pipeline, wiring: Wiring) -> None:
    """Find what gives the key of each view's entity, and the one list-valued key that expands requests to rows."""
    lists: list[str] = []
    names = [view.__name__ for view in wiring.views]
    for name in sorted({name for name in names if names.count(name) > 1}):
        wiring.problems.append(
            Problem(
                f"two views are called {name}: their columns and rows could not be told apart",
                f"features.{name}",
                "rename one of them",
            )
        )
    for view in wiring.views:
        wiring.problems.extend(view.spec.problems)
        wiring.entities.append(view.spec.entity)
        if not view.spec.entity.key:
            continue  # the view has reported its missing entity itself
        _check_hop(wiring, view)
        for part in view.spec.entity.parts:
            if isinstance(part, Column):
                _check_key_column(wiring, view, part)
            elif _is_key(pipeline, wiring, view, part) and wiring.fields[part].many and part not in lists:
                lists.append(part)
    if len(lists) > 1:
        wiring.problems.append(
            Problem(
                f"two list-valued keys, {' and '.join(lists)}: which makes the rows?",
                "features",
                "keep one of them a list",
            )
        )
    wiring.expanded = lists[0] if lists else None
    _check_orders(wiring)


def _check_orders(wiring: Wiring) -> None:
    """See that an entity has its fields in one order: its ids, and what is forgotten by them, are spelled in it."""
    first: dict[tuple[str, frozenset[str]], tuple[str, ...]] = {}
    for view in wiring.views:
        entity = view.spec.entity
        order = first.setdefault((entity.name, frozenset(entity.fields)), entity.fields)
        if order != entity.fields:
            wiring.problems.append(
                Problem(
                    f"the key of entity {entity.name!r} is {entity.fields} here and {order} in another view: their ids "
                    "would not be the same",
                    f"features.{view.__name__}",
                    "declare the entity once, and name it in both views",
                )
            )


def _check_hop(wiring: Wiring, view: type[FeatureView]) -> None:
    """See that no view is read too late: each hop waits for the one before."""
    if (hop := hop_of(view)) >= HOPS_MAX:
        wiring.problems.append(
            Problem(
                f"its key is known after {hop} reads, one after the other: at most {HOPS_MAX} hops are read",
                f"features.{view.__name__}.entity",
                "put what the last hop gives into an earlier view, where its source is made",
            )
        )


def _check_key_column(wiring: Wiring, view: type[FeatureView], column: Column) -> None:
    """See that a column of a view can be of an entity's key."""
    name, where = f"{column.view}.{column.name}", f"features.{view.__name__}.entity"
    if not issubclass(wiring.views[wiring.view_of(column)], BatchFeatureView):
        wiring.problems.append(
            Problem(
                f"{name} is a column of a stream view: what a window comes to is nobody's id",
                where,
                "name a column of a batch view",
            )
        )
    elif column.id_type is None:
        wiring.problems.append(
            Problem(
                f"a column in a key is int or str, but {name} is {column.dtype.name}",
                where,
                f"annotate it as `{column.name}: int` in {column.view}",
            )
        )


def _is_key(pipeline: Pipeline, wiring: Wiring, view: type[FeatureView], key: str) -> bool:
    """Say whether a field of the request can be of an entity's key; report why not."""
    spec, where = wiring.fields.get(key), f"features.{view.__name__}"
    if spec is None:
        wiring.problems.append(
            Problem(
                f"the request {pipeline.request.__name__} has no field {key!r}, the key of entity "
                f"{view.spec.entity.name!r}",
                where,
                suggest(key, wiring.fields),
            )
        )
        return False
    if spec.nullable or not _is_id(pipeline.request, key):
        wiring.problems.append(
            Problem(
                f"an entity key is int, str, list[int] or list[str], but {key!r} is not",
                where,
                f"declare `{key}: int` in {pipeline.request.__name__}",
            )
        )
        return False
    return True


def _is_id(request: type[Request], key: str) -> bool:
    annotation = get_type_hints(request)[key]
    base = get_args(annotation)[0] if get_origin(annotation) is list else annotation
    return base in (int, str)


def wire_features(pipeline: Pipeline, wiring: Wiring) -> None:
    """Give each feature its canonical name and its source, in the order declared."""
    for position, feature in enumerate(pipeline.features):
        where = f"features[{position}]"
        if isinstance(feature, MemberDescriptorType):
            _wire_field(pipeline, wiring, feature, where)
        elif isinstance(feature, type) and issubclass(feature, FeatureView):
            index = wiring.views.index(feature)
            for column in feature.spec.columns:
                source = _column_wire(column, index)
                _add_feature(wiring, f"{feature.__name__}.{column.name}", source, where)
        elif isinstance(feature, Column):
            source = _column_wire(feature, wiring.view_of(feature))
            _add_feature(wiring, f"{feature.view}.{feature.name}", source, where)
        elif isinstance(feature, OnDemandView):
            wiring.problems.extend(feature.problems)
            _wire_on_demand(pipeline, wiring, feature, where)
            _add_feature(wiring, feature.name, Wire(Origin.ON_DEMAND, feature.name), where)
        else:
            wiring.problems.append(
                Problem(
                    f"{feature!r} is not a feature",
                    where,
                    "list a request field, a feature view or an @on_demand feature",
                )
            )


def _column_wire(column: Column, view: int) -> Wire:
    return Wire(Origin.VIEW, column.name, view, column.dtype, width=column.width or 1)


def _add_feature(wiring: Wiring, name: str, source: Wire, where: str) -> None:
    if name in wiring.features:
        wiring.problems.append(Problem(f"{name} is listed twice", where, "list it once"))
    wiring.features[name] = source


def _wire_field(pipeline: Pipeline, wiring: Wiring, member: MemberDescriptorType, where: str) -> None:
    name = member.__name__
    if not issubclass(pipeline.request, member.__objclass__):
        wiring.problems.append(
            Problem(
                f"{member.__objclass__.__name__}.{name} is not of this request",
                where,
                f"use {pipeline.request.__name__}",
            )
        )
        _add_feature(wiring, name, Wire(Origin.REQUEST, name), where)  # or it would be reported as missing too
        return
    spec = wiring.fields[name]
    if spec.many and name != wiring.expanded:
        wiring.problems.append(
            Problem(f"{name} is a list; a model input is one value a row", where, "make one with an @on_demand feature")
        )
    _add_feature(wiring, name, Wire(Origin.REQUEST, name, dtype=spec.dtype, width=spec.width or 1), where)


def _wire_on_demand(pipeline: Pipeline, wiring: Wiring, feature: OnDemandView, where: str) -> None:
    """Resolve an on-demand feature's arguments by their annotations, or by their names where there is none."""
    sources = []
    for name, annotation in feature.parameters.items():
        place = f"{where} {feature.name}"
        source = annotated_wire(pipeline, wiring, name, annotation, place)
        sources.append(source or named_wire(wiring, name, place))
    wiring.on_demand[feature.name] = (feature, sources)


def annotated_wire(pipeline: Pipeline, wiring: Wiring, name: str, annotation: Any, where: str) -> Wire | None:
    """Return the source that a parameter's annotation names: the request or a view. None for any other."""
    if not isinstance(annotation, type):
        return None
    if issubclass(annotation, Request):
        if not issubclass(pipeline.request, annotation):
            what = f"the parameter {name!r} takes {annotation.__name__}, which is not of this request"
            next_step = f"annotate it with {pipeline.request.__name__}, or a class that both extend"
            wiring.problems.append(Problem(what, where, next_step))
        return Wire(Origin.REQUEST)
    return Wire(Origin.VIEW, view=wiring.views.index(annotation)) if annotation in wiring.views else None


def named_wire(wiring: Wiring, name: str, where: str, *, scored: bool = False) -> Wire:
    """Return the source that a parameter's name means."""
    known: dict[str, Wire] = {"request": Wire(Origin.REQUEST)}
    views = [view.__name__ for view in wiring.views]
    known |= {snake_case(view): Wire(Origin.VIEW, view=i) for i, view in enumerate(views)}
    known |= {feature: Wire(Origin.ON_DEMAND, feature) for feature in wiring.on_demand}
    if scored:
        known |= {"score": Wire(Origin.SCORE), "decision": Wire(Origin.DECISION)}
    if name not in known:
        wiring.problems.append(Problem(f"the parameter {name!r} stands for nothing", where, suggest(name, known)))
    if len(meant := dict.fromkeys(view for view in views if snake_case(view) == name)) > 1:
        what = f"the parameter {name!r} could stand for {' or '.join(meant)}"
        wiring.problems.append(Problem(what, where, "annotate it with the one it takes"))
    return known.get(name, Wire(Origin.REQUEST))
