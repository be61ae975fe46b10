"""From a declaration to a plan: load the models, resolve every name, bind the steps, rehearse, report all mistakes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from tailrace.codecs.json import JsonEncoder
from tailrace.compile.binding import coalesce_plan, features_step, postprocess_step, request_step, response_step
from tailrace.compile.rehearsal import rehearse
from tailrace.compile.resolve import wire
from tailrace.compile.stages import inference_step, load_models
from tailrace.compile.wiring import Wiring
from tailrace.deadline import Clock, MonotonicClock
from tailrace.errors import CompileError, Problem, StoreError
from tailrace.features.stores.protocol import OnlineStore, codec_of
from tailrace.features.view_spec import ViewCodec
from tailrace.inference.backends.choice import BackendChoice
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
    loaded = load_models(pipeline, backends)
    wiring = wire(pipeline, loaded.signatures)
    if problems := [*wiring.problems, *loaded.problems]:
        raise CompileError(pipeline.name, problems)
    codecs, encoder = _codecs(pipeline, wiring, store), JsonEncoder()
    plan = Plan(
        pipeline=pipeline,
        store=store,
        request=request_step(pipeline, wiring, array_max),
        features=features_step(pipeline, wiring, codecs, store, clock),
        inference=inference_step(pipeline, wiring, codecs, loaded, clock),
        postprocess=postprocess_step(pipeline, wiring),
        response=response_step(pipeline, wiring, encoder),
        coalesce=coalesce_plan(pipeline, wiring, encoder),
    )
    if problems := rehearse(plan, wiring, codecs, loaded.signatures):
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
