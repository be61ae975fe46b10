"""The packaged models of a pipeline: loaded, held against what they fall back to, and made into stages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tailrace.compile.leaf import Search, StageParts
from tailrace.errors import ModelPackageError, Problem
from tailrace.inference.curve import measure_curve
from tailrace.inference.declaration import Model, models_of
from tailrace.inference.loading import load_model
from tailrace.inference.model_stage import ModelStage
from tailrace.inference.packaged import PackagedModel
from tailrace.inference.scorer import Scorer
from tailrace.pipeline import Pipeline


def find_packaged_models(pipeline: Pipeline, search: Search) -> dict[Model, PackagedModel]:
    """Load each packaged model; add to the problems what is wrong with them."""
    found: dict[Model, PackagedModel] = {}
    models = dict.fromkeys(models_of(pipeline.model))
    for model in models:
        _load(model, pipeline.base_dir, search, found)
    for model in models:
        search.problems.extend(_second_problems(model, found))
    return found


def _load(model: Model, base_dir: Path, search: Search, found: dict[Model, PackagedModel]) -> None:
    """Load one model."""
    directory = model.directory(base_dir)
    try:
        found[model] = load_model(directory, choice=search.backends.get(directory), trusted=model.trust)
    except ModelPackageError as error:
        search.problems.append(Problem(error.what, error.where or f"model {model.name!r}", error.next))


def _second_problems(first: Model, found: Mapping[Model, PackagedModel]) -> list[Problem]:
    """Return what is wrong with the model that a model falls back to, if it does."""
    second = first.second
    if second is None or first not in found or second not in found:
        return []
    one, other = ((each.inputs, each.classes, each.column is None, each.vector)
                  for each in (found[first].signature, found[second].signature))  # fmt: skip
    if one == other:
        return []
    return [
        Problem(
            f"the fallback {second.name!r} takes other inputs or classes than {first.name!r}",
            f"model {first.name!r}",
            "package both with the same feature columns in the same order",
        )
    ]


def make_packaged_stage(parts: StageParts[Model, PackagedModel]) -> ModelStage:
    """Return the stage of a packaged model and its second one, if there is one."""
    declared, model, clock = parts.declared, parts.model, parts.clock
    second = None if declared.second is None else parts.found[declared.second]
    assert isinstance(second, PackagedModel | None)
    classes = model.signature.scores_width
    fallback = parts.constant if second is None else Scorer(second, parts.constant, classes=classes, clock=clock)
    return ModelStage(
        declared.name,
        model.signature,
        parts.assemblers,
        Scorer(model, fallback, classes=classes, clock=clock),
        measure_curve(model, clock=clock),
        budget=parts.budget,
        clock=clock,
        fallback_curve=None if second is None else measure_curve(second, clock=clock),
        backend=model.backend,
        backend_reason=model.backend_reason,
        explained_by=model,
        instances=declared.instances,
        max_wait_ns=declared.max_wait_ns,
    )
