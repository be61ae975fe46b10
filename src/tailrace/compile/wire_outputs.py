"""Wires of what goes out: the labels of a decision, the arguments of rules, the fields of the response."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, get_args, get_origin

import msgspec

from tailrace.compile.wire_features import annotated_wire, named_wire
from tailrace.compile.wiring import Origin, Wire, Wiring, suggest
from tailrace.errors import Problem
from tailrace.inference.signature import Signature
from tailrace.pipeline import Pipeline, rule_parameters
from tailrace.postprocess.bands import Bands, Labels
from tailrace.response.schema import Embedding

_SCORED: Final = (Origin.SCORE, Origin.PROBABILITIES)


def wire_decision(pipeline: Pipeline, wiring: Wiring, signature: Signature | None) -> None:
    """Find the labels a decision can have."""
    match pipeline.decision:
        case Bands(labels=labels, problems=problems):
            wiring.labels = labels
            wiring.problems.extend(problems)
            if signature is not None and signature.vector:
                what = f"bands look at one score, and the model gives a vector of {signature.vector}"
                wiring.problems.append(Problem(what, "decision", "leave the decision out"))
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


def wire_rules(pipeline: Pipeline, wiring: Wiring) -> None:
    """Find what each argument of each rule is, by its annotation or its name."""
    for rule in pipeline.rules:
        where = f"rule {rule.name!r}"
        if wiring.labels and rule.then not in wiring.labels:
            wiring.problems.append(
                Problem(f"then={rule.then!r} is no decision", where, suggest(rule.then, wiring.labels))
            )
        wiring.rules.append(
            [
                annotated_wire(pipeline, wiring, name, annotation, where)
                or named_wire(wiring, name, where, scored=True)
                for name, annotation in rule_parameters(rule).items()
            ]
        )


def wire_response(pipeline: Pipeline, wiring: Wiring, signature: Signature | None) -> None:
    """Find what fills each field of the response: by its name, or the model's vector where it is marked."""
    known: dict[str, Wire] = {}
    columns = [(index, column) for index, view in enumerate(wiring.views) for column in view.spec.columns]
    known |= {column.name: Wire(Origin.VIEW, column.name, index, column.dtype) for index, column in columns}
    known |= {name: Wire(Origin.ON_DEMAND, name) for name in wiring.on_demand}
    known |= {name: Wire(Origin.REQUEST, name, dtype=spec.dtype) for name, spec in wiring.fields.items()}
    known |= {"score": Wire(Origin.SCORE), "probabilities": Wire(Origin.PROBABILITIES)}
    if pipeline.decision is not None:
        known |= {"decision": Wire(Origin.DECISION), "reasons": Wire(Origin.REASONS)}
    if pipeline.explain is not None:
        known |= {"explanation": Wire(Origin.EXPLANATION), "unexplained": Wire(Origin.UNEXPLAINED)}
    if wiring.splits:
        known |= {"variant": Wire(Origin.VARIANT)}
    if not msgspec.structs.fields(pipeline.response):
        wiring.problems.append(
            Problem("the response has no field", f"response {pipeline.response.__name__}", "declare `score: float`")
        )
    for declared in msgspec.structs.fields(pipeline.response):
        where = f"response {pipeline.response.__name__}.{declared.name}"
        source = _vector_wire(wiring, declared.type, signature, where) or known.get(declared.name)
        if source is not None and source.origin in _SCORED and signature is not None and signature.vector:
            what = f"the model gives a vector of {signature.vector}, no score"
            wiring.problems.append(Problem(what, where, "declare it as Annotated[bytes, tr.Embedding()]"))
        if source is None:
            wiring.problems.append(Problem("nothing gives this field a value", where, suggest(declared.name, known)))
            continue
        views = [wiring.views[index].__name__ for index, column in columns if column.name == declared.name]
        if source.origin is Origin.VIEW and len(views) > 1:
            next_step = "rename the column in one of the views, with columns={…} on its source"
            wiring.problems.append(Problem(f"{' and '.join(views)} both have this column", where, next_step))
        _check_response_field(wiring, source, declared.type, where)
        wiring.response.append((declared.name, source))


def _vector_wire(wiring: Wiring, annotation: Any, signature: Signature | None, where: str) -> Wire | None:
    """Return the wire of the model's vector, for a field marked as its place; None for any other field."""
    inner = get_args(annotation)[0] if get_origin(annotation) is list else annotation
    metas = get_args(inner)[1:] if get_origin(inner) is Annotated else ()
    marks = [meta for meta in metas if isinstance(meta, Embedding)]
    if not marks:
        return None
    base = get_args(inner)[0]
    if base not in (bytes, list[float]):
        what = f"a vector is sent as list[float] or bytes, this is {base}"
        wiring.problems.append(Problem(what, where, "declare it as Annotated[bytes, tr.Embedding()]"))
    if signature is not None and not signature.vector:
        what = "the model gives scores, no vector"
        wiring.problems.append(Problem(what, where, "package it with --embedding, or declare `score: float`"))
    return Wire(Origin.EMBEDDING, embedding=marks[0], is_packed=base is bytes)


def _check_response_field(wiring: Wiring, source: Wire, annotation: Any, where: str) -> None:
    """A row's value in a pipeline of many rows a request is a list; a Literal must have room for every label."""
    is_list = get_origin(annotation) is list  # a marked vector is Annotated, so that only a list of vectors is one
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
    if get_origin(inner) is Literal and source.origin in (Origin.DECISION, Origin.VARIANT):
        known = wiring.labels
        if source.origin is Origin.VARIANT:
            known = wiring.splits[0][1] if len(wiring.splits) == 1 else ()
        missing = [label for label in known if label not in get_args(inner)]
        if missing:
            what = f"the {source.origin.value} can be {', '.join(missing)}, which this Literal does not list"
            wiring.problems.append(Problem(what, where, "add it"))
