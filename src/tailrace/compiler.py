"""From a declaration to a plan: loads the models, resolves every name, rehearses, and tells all mistakes together."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from tailrace.deadline import Clock, MonotonicClock
from tailrace.errors import CompileError, ModelPackageError, Problem
from tailrace.features.assembly import Assembler
from tailrace.features.retrieval import Retrieval
from tailrace.features.rows import RowCodec
from tailrace.inference.curve import measure_curve
from tailrace.inference.declaration import Constant, Model
from tailrace.inference.loading import load_model
from tailrace.inference.packaged import PackagedModel
from tailrace.inference.scorer import Scorer
from tailrace.pipeline import Pipeline
from tailrace.plan import ARRAY_MAX, CompiledModel, Plan
from tailrace.readers import input_parts
from tailrace.rehearsal import rehearse
from tailrace.types import OnlineStore
from tailrace.wiring import wire


def compile_plan(
    pipeline: Pipeline, store: OnlineStore, *, clock: Clock | None = None, array_max: int = ARRAY_MAX
) -> Plan:
    """Compile a pipeline for serving from a store. Raises CompileError that tells every mistake at once."""
    clock = clock or MonotonicClock()
    problems: list[Problem] = []
    model = _load_model(pipeline.model, pipeline.base_dir, problems)
    fallback = _load_fallback(pipeline, model, clock, problems)
    wiring = wire(pipeline, model.signature if model is not None else None)
    problems = [*wiring.problems, *problems]
    if problems or model is None:
        raise CompileError(pipeline.name, problems)
    codecs = [RowCodec(view.spec) for view in wiring.views]
    assemblers = tuple(
        (tensor.name, Assembler(tensor.numpy_dtype, input_parts(wiring, tensor.features, codecs)))
        for tensor in model.signature.inputs
    )
    scorer = Scorer(model, fallback, classes=model.signature.scores_width, clock=clock)
    second = fallback.model if isinstance(fallback, Scorer) else None
    compiled = CompiledModel(
        model.signature,
        assemblers,
        scorer,
        curve=measure_curve(model, clock=clock),
        fallback_curve=None if second is None else measure_curve(cast(PackagedModel, second), clock=clock),
        kernel=model.kernel,
        kernel_reason=model.kernel_reason,
    )
    budget = pipeline.budget
    retrieval = Retrieval(codecs, store, clock, fair_ns=(budget.features_ns or budget.total_ns // 2) // 2)
    plan = Plan(pipeline, wiring, store, retrieval, compiled, clock, array_max)
    problems = rehearse(plan, codecs)
    if problems:
        raise CompileError(pipeline.name, problems)
    return plan


def _load_model(model: Model, base_dir: Path, problems: list[Problem]) -> PackagedModel | None:
    try:
        return load_model(model.directory(base_dir))
    except ModelPackageError as error:
        problems.append(Problem(error.what, error.where or f"model {model.name!r}", error.next))
        return None


def _load_fallback(
    pipeline: Pipeline, model: PackagedModel | None, clock: Clock, problems: list[Problem]
) -> Constant | Scorer | None:
    fallback = pipeline.model.fallback
    if not isinstance(fallback, Model):
        return fallback
    second = _load_model(fallback, pipeline.base_dir, problems)
    if second is None or model is None:
        return None
    one, other = model.signature, second.signature
    if (one.inputs, one.classes, one.column is None) != (other.inputs, other.classes, other.column is None):
        problems.append(
            Problem(
                f"the fallback {fallback.name!r} takes other inputs or classes than {pipeline.model.name!r}",
                f"model {pipeline.model.name!r}",
                "package both with the same feature columns in the same order",
            )
        )
    return Scorer(second, cast(Constant | None, fallback.fallback), classes=second.signature.scores_width, clock=clock)
