"""The models of a pipeline that are classes of the user's: tried once, and bound to a stage."""

from __future__ import annotations

from typing import Final

from tailrace.compile.leaf import Search, StageParts
from tailrace.compile.resolve import wire
from tailrace.errors import Problem
from tailrace.inference.curve import measure_curve
from tailrace.inference.declaration import walk_declared
from tailrace.inference.model_stage import ModelStage
from tailrace.inference.python_model import GuardedModel, PythonModel
from tailrace.inference.scorer import Scorer
from tailrace.pipeline import Pipeline

ROWS_TRIED: Final = 3
"""Not one, which hides a shape that is wrong for more."""


def find_python_models(pipeline: Pipeline, search: Search) -> dict[PythonModel, GuardedModel]:
    """Make each model that is a class of the user's, and try it; add to the problems what it does wrong."""
    declared = [each for each in walk_declared(pipeline.model) if isinstance(each, PythonModel)]
    features = tuple(wire(pipeline).features) if declared else ()
    found: dict[PythonModel, GuardedModel] = {}
    for each in dict.fromkeys(declared):
        try:
            model = GuardedModel(each.model, each.signature(features))
            model.predict(model.sample_feeds(ROWS_TRIED))
        except Exception as error:  # the user's own code raises anything
            search.problems.append(
                Problem(
                    f"it cannot score {ROWS_TRIED} sample rows: {type(error).__name__}: {error}",
                    f"model {each.name!r}",
                    "let `predict` return one float a row, or one a class; where random numbers are none of its "
                    "inputs, give it `examples(self, rows)`",
                )
            )
        else:
            found[each] = model
    return found


def make_python_stage(parts: StageParts[PythonModel, GuardedModel]) -> ModelStage:
    """Return the stage of a model that is a class of the user's."""
    model, signature, clock = parts.model, parts.model.signature, parts.clock
    return ModelStage(
        parts.declared.name,
        signature,
        parts.assemblers,
        Scorer(model, parts.constant, classes=signature.scores_width, clock=clock),
        measure_curve(model, clock=clock),
        budget=parts.budget,
        clock=clock,
        backend=model.backend,
        explained_by="a Python class computes it",
        blocks=model.blocks,
    )
