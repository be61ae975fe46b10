"""From a declared stage of stages to the one that scores, bound to its members and to what it goes by."""

from __future__ import annotations

from collections.abc import Sequence

from tailrace.compile.binding import reader_of
from tailrace.compile.wire_fallback import constant_scores
from tailrace.compile.wiring import Wiring
from tailrace.deadline import Clock
from tailrace.inference.composition.cascade import CascadeStage
from tailrace.inference.composition.choice import ChoiceStage, Chooser
from tailrace.inference.composition.choosers import ByHash, ByProvenance, ByValue
from tailrace.inference.composition.declarations import Cascade, ColdStart, Composition, Ensemble, Route, Split
from tailrace.inference.composition.ensemble import EnsembleStage
from tailrace.inference.signature import Signature
from tailrace.inference.stage import Stage
from tailrace.pipeline import Pipeline
from tailrace.readers import ReadUnknown


def bind_composition(
    pipeline: Pipeline,
    wiring: Wiring,
    declared: Composition,
    members: Sequence[Stage],
    signature: Signature,
    clock: Clock,
) -> Stage:
    """Return the stage of a composition. signature: of any of its models, whose outputs are alike."""
    name, budget = declared.name, pipeline.budget
    match declared:
        case Ensemble():
            constant = constant_scores(pipeline, declared, signature)
            return EnsembleStage(
                name, members, budget, weights=declared.weights, floor=declared.floor, fallback=constant
            )
        case Cascade():
            cheap, expensive = members
            return CascadeStage(name, cheap, expensive, budget, unsure=declared.unsure, clock=clock)
    return ChoiceStage(name, members, budget, chooser=_chooser(wiring, declared))


def _chooser(wiring: Wiring, declared: Composition) -> Chooser:
    """Return what sends rows their ways."""
    wire = wiring.chosen_by[declared]
    match declared:
        case ColdStart():
            repeats = wiring.expanded is not None and not wiring.expands(wire.view)
            return ByProvenance(ReadUnknown(wire.view, repeats=repeats))
        case Split():
            return ByHash(reader_of(wire), declared.shares, declared.salt)
        case Route():
            places = {value: place for place, (value, _) in enumerate(declared.routes)}
            return ByValue(reader_of(wire), places, None if declared.default is None else len(places))
    raise TypeError(f"nothing chooses for {type(declared).__name__}")
