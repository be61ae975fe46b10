"""From a declaration to a plan: load the models, resolve every name, bind the steps, rehearse, report all mistakes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from tailrace.codecs.json import JsonEncoder
from tailrace.compile.binding import assemblers, features_step, postprocess_step, request_step, response_step
from tailrace.compile.rehearsal import rehearse
from tailrace.compile.resolve import wire
from tailrace.compile.wire_fallback import constant_scores
from tailrace.compile.wiring import Wiring
from tailrace.deadline import INFERENCE, Clock, LayerLimit, MonotonicClock
from tailrace.errors import CompileError, ModelPackageError, Problem, StoreError
from tailrace.features.stores.protocol import OnlineStore, codec_of
from tailrace.features.view_spec import ViewCodec
from tailrace.inference.backends.choice import BackendChoice
from tailrace.inference.curve import measure_curve
from tailrace.inference.declaration import Model
from tailrace.inference.loading import load_model
from tailrace.inference.packaged import PackagedModel
from tailrace.inference.scorer import Scorer
from tailrace.inference.stage import Stage
from tailrace.inference.step import InferenceStep
from tailrace.pipeline import Pipeline
from tailrace.plan import Plan
from tailrace.request.rows import ARRAY_MAX

_CHOOSE: Final[Mapping[Path, BackendChoice]] = MappingProxyType({})


def compile_plan(
    pipeline: Pipeline,
    store: OnlineStore,
    *,
    clock: Clock | None = None,
    array_max: int = ARRAY_MAX,
    backends: Mapping[Path, BackendChoice] = _CHOOSE,
) -> Plan:
    """Compile a pipeline for serving from a store. Raises CompileError with every mistake at once.

    backends: chosen beforehand, by the model's directory; for a model that is not among them it is chosen now.
    The plan's cost is yet to be measured: see `warm_up`.
    """
    clock = clock or MonotonicClock()
    problems: list[Problem] = []
    model = _load_model(pipeline.model, pipeline.base_dir, backends, problems)
    second = _load_second(pipeline, model, backends, problems)
    wiring = wire(pipeline, model.signature if model is not None else None)
    problems = [*wiring.problems, *problems]
    if problems or model is None:
        raise CompileError(pipeline.name, problems)
    codecs = _codecs(pipeline, wiring, store)
    stage = _stage(pipeline, wiring, codecs, model, second, clock)
    plan = Plan(
        pipeline=pipeline,
        store=store,
        request=request_step(pipeline, wiring, array_max),
        features=features_step(pipeline, wiring, codecs, store, clock),
        inference=InferenceStep([stage], LayerLimit(pipeline.budget, INFERENCE, clock)),
        postprocess=postprocess_step(pipeline, wiring),
        response=response_step(pipeline, wiring, JsonEncoder()),
    )
    problems = rehearse(plan, wiring, codecs)
    if problems:
        raise CompileError(pipeline.name, problems)
    return plan


def _codecs(pipeline: Pipeline, wiring: Wiring, store: OnlineStore) -> list[ViewCodec]:
    """Return how each view is read from the store. Raises CompileError for the views that it cannot hold."""
    codecs, problems = [], []
    for view in wiring.views:
        try:
            codecs.append(codec_of(store, view.spec))
        except StoreError as error:
            problems.append(Problem(error.what, error.where or f"features.{view.__name__}", error.next))
    if problems:
        raise CompileError(pipeline.name, problems)
    return codecs


def _stage(
    pipeline: Pipeline,
    wiring: Wiring,
    codecs: list[ViewCodec],
    model: PackagedModel,
    second: PackagedModel | None,
    clock: Clock,
) -> Stage:
    """Return the stage of a model and its second one, if there is one; their costs measured."""
    classes, constant = model.signature.scores_width, constant_scores(pipeline, model.signature)
    fallback = constant if second is None else Scorer(second, constant, classes=classes, clock=clock)
    return Stage(
        pipeline.model.name,
        model.signature,
        assemblers(wiring, model.signature, codecs),
        Scorer(model, fallback, classes=classes, clock=clock),
        measure_curve(model, clock=clock),
        budget=pipeline.budget,
        clock=clock,
        fallback_curve=None if second is None else measure_curve(second, clock=clock),
        backend=model.backend,
        backend_reason=model.backend_reason,
    )


def _load_model(
    model: Model, base_dir: Path, backends: Mapping[Path, BackendChoice], problems: list[Problem]
) -> PackagedModel | None:
    directory = model.directory(base_dir)
    try:
        return load_model(directory, choice=backends.get(directory))
    except ModelPackageError as error:
        problems.append(Problem(error.what, error.where or f"model {model.name!r}", error.next))
        return None


def _load_second(
    pipeline: Pipeline, model: PackagedModel | None, backends: Mapping[Path, BackendChoice], problems: list[Problem]
) -> PackagedModel | None:
    """Return the model that a model falls back to; None where there is none, or it cannot be used."""
    fallback = pipeline.model.fallback
    if not isinstance(fallback, Model):
        return None
    second = _load_model(fallback, pipeline.base_dir, backends, problems)
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
    return second
