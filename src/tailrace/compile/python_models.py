"""The models of a pipeline that are classes of the user's: tried once, and bound to a stage."""

from __future__ import annotations

from typing import Final

from tailrace.compile.resolve import wire
from tailrace.deadline import Clock
from tailrace.errors import Problem
from tailrace.inference.assembly import Assembler
from tailrace.inference.curve import measure_curve
from tailrace.inference.declaration import Constant, walk_declared
from tailrace.inference.model_stage import ModelStage
from tailrace.inference.python_model import GuardedModel, PythonModel
from tailrace.inference.scorer import Scorer
from tailrace.pipeline import Pipeline

ROWS_TRIED: Final = 3
"""Not one, which hides a shape that is wrong for more."""


def find_python_models(pipeline: Pipeline, problems: list[Problem]) -> dict[PythonModel, GuardedModel]:
    """Make each model that is a class of the user's, and try it; add to the problems what it does wrong."""
    declared = [each for each in walk_declared(pipeline.model) if isinstance(each, PythonModel)]
    features = tuple(wire(pipeline).features) if declared else ()
    found: dict[PythonModel, GuardedModel] = {}
    for each in dict.fromkeys(declared):
        try:
            model = GuardedModel(each.model, each.signature(features))
            model.predict(model.sample_feeds(ROWS_TRIED))
        except Exception as error:  # the user's own code raises anything
            problems.append(
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


def make_python_stage(
    pipeline: Pipeline,
    declared: PythonModel,
    model: GuardedModel,
    assemblers: list[Assembler],
    fallback: Constant | None,
    clock: Clock,
) -> ModelStage:
    """Return the stage of a model that is a class of the user's."""
    signature = model.signature
    return ModelStage(
        declared.name,
        signature,
        assemblers,
        Scorer(model, fallback, classes=signature.scores_width, clock=clock),
        measure_curve(model, clock=clock),
        budget=pipeline.budget,
        clock=clock,
        backend=model.backend,
        blocks=model.blocks,
    )
