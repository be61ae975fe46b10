"""How the names of a declaration resolve: which column fills which model input, rule argument and response field.

Nothing runs here. `wire` looks at a pipeline and its model's signature and returns the wiring, with every mistake it
finds; plan.py turns a wiring without mistakes into bound callables.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from types import MemberDescriptorType
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec
import numpy as np

from tailrace.errors import Problem
from tailrace.features.on_demand import OnDemandView
from tailrace.features.views import BatchFeatureView, Column
from tailrace.inference.signature import Signature, TensorSpec
from tailrace.pipeline import Pipeline, rule_parameters
from tailrace.postprocess.bands import Bands, Labels
from tailrace.request.schema import FieldSpec, Request, bounded_type, field_specs

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_WORD_BEGINS: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

SUGGESTIONS_MAX: Final = 8
MISSING_TOLD_MAX: Final = 3
"""Inputs without a feature that are told one by one; a forgotten view misses many, which are told together."""


class Origin(Enum):
    """Where a column comes from."""

    REQUEST = "request"
    VIEW = "view"
    ON_DEMAND = "on_demand"
    SCORE = "score"
    DECISION = "decision"
    REASONS = "reasons"
    PROBABILITIES = "probabilities"


@dataclass(frozen=True, slots=True)
class Source:
    """One column, or (name "") all columns of an origin. view: the index of the view, for Origin.VIEW."""

    origin: Origin
    name: str = ""
    view: int = -1
    dtype: np.dtype[Any] | None = None

    @property
    def is_text(self) -> bool:
        """Whether the column holds texts or other objects; False where that is not known before it is computed."""
        return self.dtype is not None and self.dtype.kind in "OUST"


@dataclass(slots=True)
class Wiring:
    """A pipeline with its names resolved. problems: every mistake found; a wiring with one is not to be run.

    features: the source of each model input by canonical name, in the pipeline's order. keys: for each view, the
    request field of its entity's key. expanded: the list-valued key field that makes rows, if any. on_demand: each
    on-demand feature with the sources of its arguments, in an order in which they can be computed.
    """

    fields: dict[str, FieldSpec]
    views: tuple[type[BatchFeatureView], ...]
    keys: list[str] = field(default_factory=list)
    expanded: str | None = None
    features: dict[str, Source] = field(default_factory=dict)
    on_demand: dict[str, tuple[OnDemandView, list[Source]]] = field(default_factory=dict)
    rules: list[list[Source]] = field(default_factory=list)
    response: list[tuple[str, Source]] = field(default_factory=list)
    labels: tuple[str, ...] = ()
    problems: list[Problem] = field(default_factory=list)


def wire(pipeline: Pipeline, signature: Signature | None) -> Wiring:
    """Resolve every name of a pipeline. signature: of its model; None leaves the model's inputs unchecked."""
    wiring = Wiring({}, pipeline.views)
    _check_name(pipeline, wiring)
    _check_budget(pipeline, wiring)
    if not _read_types(pipeline, wiring):
        return wiring  # without fields no name resolves, and none of that would be the mistake
    _wire_views(pipeline, wiring)
    _wire_features(pipeline, wiring)
    if signature is not None:
        _check_signature(pipeline, wiring, signature)
    _wire_decision(pipeline, wiring, signature)
    _wire_rules(pipeline, wiring)
    _wire_response(pipeline, wiring)
    return wiring


def snake_case(name: str) -> str:
    """Return CustomerProfile as customer_profile, KYCProfile as kyc_profile: how a rule's parameters name a view."""
    return _WORD_BEGINS.sub("_", name).lower()


def suggest(name: str, known: Iterable[str]) -> str:
    """Return "did you mean …?" for a name close to a known one, else what is known, the first few."""
    known = list(known)
    if close := difflib.get_close_matches(str(name), known, n=1):
        return f"did you mean {close[0]!r}?"
    more = f" and {len(known) - SUGGESTIONS_MAX} more" if len(known) > SUGGESTIONS_MAX else ""
    return f"known are {', '.join(known[:SUGGESTIONS_MAX]) or 'none'}{more}"


def _check_name(pipeline: Pipeline, wiring: Wiring) -> None:
    if not _NAME.fullmatch(pipeline.name):
        wiring.problems.append(
            Problem(
                f"{pipeline.name!r} cannot stand in a URL",
                "name",
                "use letters, digits, '_', '-' and '.', beginning with a letter or digit",
            )
        )


def _check_budget(pipeline: Pipeline, wiring: Wiring) -> None:
    budget = pipeline.budget
    if budget.buffer_ns < 0:
        over_ms = -budget.buffer_ns / 1e6
        wiring.problems.append(
            Problem(
                f"the layers are promised {over_ms:g} ms more than the total of {budget.total_ns / 1e6:g} ms",
                "budget",
                "give layers less, or the whole more",
            )
        )


def _read_types(pipeline: Pipeline, wiring: Wiring) -> bool:
    """Read the fields of the request, and see that it can be decoded; say whether both types have fields to be read."""
    for place, declared in (("request", pipeline.request), ("response", pipeline.response)):
        where = f"{place} {declared.__name__}"
        try:
            msgspec.structs.fields(declared)
        except Exception as error:  # any expression may stand in an annotation
            what, next_step = f"an annotation cannot be read: {error}", "import the name it uses at the file's top"
            wiring.problems.append(Problem(what, where, next_step))
            return False
    wiring.fields = field_specs(pipeline.request)
    where = f"request {pipeline.request.__name__}"
    if pipeline.request.__struct_config__.array_like:
        what = "array_like=True makes it an array, which is how a caller sends many requests"
        wiring.problems.append(Problem(what, where, "leave array_like out"))
        return True
    try:
        msgspec.json.Decoder(bounded_type(pipeline.request))
    except Exception as error:  # msgspec's word on a type that JSON cannot be told to be
        wiring.problems.append(Problem(f"it cannot be read from JSON: {error}", where, "declare it by other types"))
    return True


# -- features ---------------------------------------------------------------------------------------------------------


def _wire_views(pipeline: Pipeline, wiring: Wiring) -> None:
    """Find the key field of each view's entity, and the one list-valued key that expands requests to rows."""
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
        key = getattr(view.spec.entity, "key", "")
        wiring.keys.append(key)
        if not key:
            continue  # the view has told of its missing entity itself
        spec = wiring.fields.get(key)
        if spec is None:
            wiring.problems.append(
                Problem(
                    f"the request {pipeline.request.__name__} has no field {key!r}, the key of entity "
                    f"{view.spec.entity.name!r}",
                    f"features.{view.__name__}",
                    suggest(key, wiring.fields),
                )
            )
        elif spec.nullable or not _is_id(pipeline.request, key):
            wiring.problems.append(
                Problem(
                    f"an entity key is int, str, list[int] or list[str], but {key!r} is not",
                    f"features.{view.__name__}",
                    f"declare `{key}: int` in {pipeline.request.__name__}",
                )
            )
        elif spec.many and key not in lists:
            lists.append(key)
    if len(lists) > 1:
        wiring.problems.append(
            Problem(
                f"two list-valued keys, {' and '.join(lists)}: which makes the rows?",
                "features",
                "keep one of them a list",
            )
        )
    wiring.expanded = lists[0] if lists else None


def _is_id(request: type[Request], key: str) -> bool:
    annotation = get_type_hints(request)[key]
    base = get_args(annotation)[0] if get_origin(annotation) is list else annotation
    return base in (int, str)


def _wire_features(pipeline: Pipeline, wiring: Wiring) -> None:
    """Give each feature its canonical name and its source, in the order declared."""
    for position, feature in enumerate(pipeline.features):
        where = f"features[{position}]"
        if isinstance(feature, MemberDescriptorType):
            _wire_field(pipeline, wiring, feature, where)
        elif isinstance(feature, type) and issubclass(feature, BatchFeatureView):
            index = wiring.views.index(feature)
            for column in feature.spec.columns:
                source = Source(Origin.VIEW, column.name, index, column.dtype)
                _add_feature(wiring, f"{feature.__name__}.{column.name}", source, where)
        elif isinstance(feature, Column):
            index = next(i for i, view in enumerate(wiring.views) if vars(view).get(feature.name) is feature)
            source = Source(Origin.VIEW, feature.name, index, feature.dtype)
            _add_feature(wiring, f"{feature.view}.{feature.name}", source, where)
        elif isinstance(feature, OnDemandView):
            wiring.problems.extend(feature.problems)
            _wire_on_demand(pipeline, wiring, feature, where)
            _add_feature(wiring, feature.name, Source(Origin.ON_DEMAND, feature.name), where)
        else:
            wiring.problems.append(
                Problem(
                    f"{feature!r} is not a feature",
                    where,
                    "list a request field, a feature view or an @on_demand feature",
                )
            )


def _add_feature(wiring: Wiring, name: str, source: Source, where: str) -> None:
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
        _add_feature(wiring, name, Source(Origin.REQUEST, name), where)  # or it would be told as missing too
        return
    spec = wiring.fields[name]
    if spec.many and name != wiring.expanded:
        wiring.problems.append(
            Problem(f"{name} is a list; a model input is one value a row", where, "make one with an @on_demand feature")
        )
    _add_feature(wiring, name, Source(Origin.REQUEST, name, dtype=spec.dtype), where)


def _wire_on_demand(pipeline: Pipeline, wiring: Wiring, feature: OnDemandView, where: str) -> None:
    """Resolve an on-demand feature's arguments by their annotations, or by their names where there is none."""
    sources = []
    for name, annotation in feature.parameters.items():
        place = f"{where} {feature.name}"
        source = _annotated(pipeline, wiring, name, annotation, place)
        sources.append(source or _argument(wiring, name, place))
    wiring.on_demand[feature.name] = (feature, sources)


def _annotated(pipeline: Pipeline, wiring: Wiring, name: str, annotation: Any, where: str) -> Source | None:
    """Return the source that a parameter's annotation names: the request or a view. None for any other."""
    if not isinstance(annotation, type):
        return None
    if issubclass(annotation, Request):
        if not issubclass(pipeline.request, annotation):
            what = f"the parameter {name!r} takes {annotation.__name__}, which is not of this request"
            next_step = f"annotate it with {pipeline.request.__name__}, or a class that both extend"
            wiring.problems.append(Problem(what, where, next_step))
        return Source(Origin.REQUEST)
    return Source(Origin.VIEW, view=wiring.views.index(annotation)) if annotation in wiring.views else None


def _argument(wiring: Wiring, name: str, where: str, *, scored: bool = False) -> Source:
    """Return the source that a parameter's name stands for."""
    known: dict[str, Source] = {"request": Source(Origin.REQUEST)}
    views = [view.__name__ for view in wiring.views]
    known |= {snake_case(view): Source(Origin.VIEW, view=i) for i, view in enumerate(views)}
    known |= {feature: Source(Origin.ON_DEMAND, feature) for feature in wiring.on_demand}
    if scored:
        known |= {"score": Source(Origin.SCORE), "decision": Source(Origin.DECISION)}
    if name not in known:
        wiring.problems.append(Problem(f"the parameter {name!r} stands for nothing", where, suggest(name, known)))
    if len(meant := dict.fromkeys(view for view in views if snake_case(view) == name)) > 1:
        what = f"the parameter {name!r} could stand for {' or '.join(meant)}"
        wiring.problems.append(Problem(what, where, "annotate it with the one it takes"))
    return known.get(name, Source(Origin.REQUEST))


# -- the model --------------------------------------------------------------------------------------------------------


def _check_signature(pipeline: Pipeline, wiring: Wiring, signature: Signature) -> None:
    """Hold the features against the model's inputs: a name too few or too many, the order, the types."""
    wanted, given = signature.feature_names, tuple(wiring.features)
    where = f"model {pipeline.model.name!r}"
    missing = [(index, name) for index, name in enumerate(wanted) if name not in wiring.features]
    for index, name in missing[:MISSING_TOLD_MAX]:
        what = f"the model wants {name} as input {index}, and no feature gives it"
        wiring.problems.append(Problem(what, where, suggest(name, given)))
    if more := missing[MISSING_TOLD_MAX:]:
        names = ", ".join(name for _, name in more)
        what = f"the model wants {len(more)} more inputs that no feature gives: {names}"
        wiring.problems.append(Problem(what, where, "add their views or functions to the features, in this order"))
    for name in given:
        if name not in wanted:
            wiring.problems.append(
                Problem("the model takes no such input", f"features.{name}", f"remove it: {suggest(name, wanted)}")
            )
    if sorted(wanted) == sorted(given) and wanted != given:
        at = next(index for index, pair in enumerate(zip(wanted, given, strict=True)) if pair[0] != pair[1])
        wiring.problems.append(
            Problem(
                f"input {at} of the model is {wanted[at]}, but the features have {given[at]} there",
                "features",
                f"list the features in the model's order: {', '.join(wanted)}",
            )
        )
    for tensor in signature.inputs:
        _check_dtypes(wiring, tensor, pipeline.model.name)


def _check_dtypes(wiring: Wiring, tensor: TensorSpec, model: str) -> None:
    """A text never fills a number, nor a number a text; a fraction never fills an integer."""
    for position, name in enumerate(tensor.features):
        source = wiring.features.get(name)
        if source is None or source.dtype is None:
            continue
        problem = dtype_problem(name, source.dtype, f"{tensor.name!r}[{position}] of the model {model!r}", tensor.dtype)
        wiring.problems.extend(problem)


def dtype_problem(name: str, dtype: np.dtype[Any], place: str, wanted: str) -> list[Problem]:
    """Return what is wrong with filling an input of type `wanted` from a column of `dtype`: one problem, or none."""
    is_text = dtype.kind in "OUST"
    casting: Literal["safe", "same_kind"] = "safe" if wanted.startswith("int") else "same_kind"  # ints would wrap
    if is_text == (wanted == "string") and (is_text or np.can_cast(dtype, wanted, casting)):
        return []
    return [
        Problem(
            f"the input {place} is {wanted}, this is {'text' if is_text else dtype}",
            f"features.{name}",
            "declare it with the model's type, or convert it in an @on_demand feature",
        )
    ]


# -- decision and response --------------------------------------------------------------------------------------------


def _wire_decision(pipeline: Pipeline, wiring: Wiring, signature: Signature | None) -> None:
    """Find the labels a decision can have."""
    match pipeline.decision:
        case Bands(labels=labels, problems=problems):
            wiring.labels = labels
            wiring.problems.extend(problems)
            if signature is not None and signature.column is None and len(signature.classes) > 2:
                wiring.problems.append(
                    Problem(
                        f"bands look at one score, and the model gives {len(signature.classes)}, one a class",
                        "decision",
                        "write decision=tr.labels() for the likeliest class",
                    )
                )
        case Labels(names=names):
            _wire_labels(wiring, names, signature)
        case None if pipeline.rules:
            wiring.problems.append(Problem("rules without a decision", "rules", 'add decision=tr.bands("score", …)'))


def _wire_labels(wiring: Wiring, names: tuple[str, ...], signature: Signature | None) -> None:
    """Take the labels from the declaration, else from the model, which may be one that could not be read."""
    classes = tuple(str(label) for label in signature.classes) if signature is not None else names
    wiring.labels = names or classes
    if signature is not None and (len(wiring.labels) != len(classes) or not classes):
        wiring.problems.append(
            Problem(
                f"{len(wiring.labels)} labels for a model of {len(classes)} classes",
                "decision",
                f"the model's classes are {', '.join(classes) or 'none: it is a regression'}",
            )
        )


def _wire_rules(pipeline: Pipeline, wiring: Wiring) -> None:
    for rule in pipeline.rules:
        where = f"rule {rule.name!r}"
        if wiring.labels and rule.then not in wiring.labels:
            wiring.problems.append(
                Problem(f"then={rule.then!r} is no decision", where, suggest(rule.then, wiring.labels))
            )
        wiring.rules.append(
            [
                _annotated(pipeline, wiring, name, annotation, where) or _argument(wiring, name, where, scored=True)
                for name, annotation in rule_parameters(rule).items()
            ]
        )


def _wire_response(pipeline: Pipeline, wiring: Wiring) -> None:
    """Find what fills each field of the response, by its name."""
    known: dict[str, Source] = {}
    columns = [(index, column) for index, view in enumerate(wiring.views) for column in view.spec.columns]
    known |= {column.name: Source(Origin.VIEW, column.name, index, column.dtype) for index, column in columns}
    known |= {name: Source(Origin.ON_DEMAND, name) for name in wiring.on_demand}
    known |= {name: Source(Origin.REQUEST, name, dtype=spec.dtype) for name, spec in wiring.fields.items()}
    known |= {"score": Source(Origin.SCORE), "probabilities": Source(Origin.PROBABILITIES)}
    if pipeline.decision is not None:
        known |= {"decision": Source(Origin.DECISION), "reasons": Source(Origin.REASONS)}
    if not msgspec.structs.fields(pipeline.response):
        wiring.problems.append(
            Problem("the response has no field", f"response {pipeline.response.__name__}", "declare `score: float`")
        )
    for declared in msgspec.structs.fields(pipeline.response):
        where = f"response {pipeline.response.__name__}.{declared.name}"
        source = known.get(declared.name)
        if source is None:
            wiring.problems.append(Problem("nothing gives this field a value", where, suggest(declared.name, known)))
            continue
        views = [wiring.views[index].__name__ for index, column in columns if column.name == declared.name]
        if source.origin is Origin.VIEW and len(views) > 1:
            next_step = "rename the column in one of the views, with columns={…} on its source"
            wiring.problems.append(Problem(f"{' and '.join(views)} both have this column", where, next_step))
        _check_response_field(wiring, source, declared.type, where)
        wiring.response.append((declared.name, source))


def _check_response_field(wiring: Wiring, source: Source, annotation: Any, where: str) -> None:
    """A row's value in a pipeline of many rows a request is a list; a Literal must have room for every label."""
    is_list = get_origin(annotation) is list
    of_row = source.origin is not Origin.REQUEST or source.name == wiring.expanded
    if source.origin in (Origin.REASONS, Origin.PROBABILITIES):
        annotation = get_args(annotation)[0] if is_list else annotation
        of_row = of_row and wiring.expanded is not None
        is_list = get_origin(annotation) is list if wiring.expanded else is_list
    if wiring.expanded is not None and of_row and not is_list:
        wiring.problems.append(
            Problem(
                f"a request makes many rows ({wiring.expanded} is a list), this is one value",
                where,
                "declare it a list",
            )
        )
    inner = get_args(annotation)[0] if get_origin(annotation) is list else annotation
    if source.origin is Origin.DECISION and get_origin(inner) is Literal:
        missing = [label for label in wiring.labels if label not in get_args(inner)]
        if missing:
            wiring.problems.append(
                Problem(f"the decision can be {', '.join(missing)}, which this Literal does not list", where, "add it")
            )
