"""What `tailrace check` finds: a pipeline compiled and measured, what its store shows, and what to be warned of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from tailrace.compile.compiler import compile_plan
from tailrace.compile.hop_costs import HopCost, hop_costs, shown_fault
from tailrace.compile.materialised import CheckedViews, check_views
from tailrace.compile.resolve import wire
from tailrace.compile.warm_up import LayerTimes, warm_up
from tailrace.compile.wiring import Origin, Wire
from tailrace.deadline import Clock, format_duration
from tailrace.errors import NoStoreError, StoreError
from tailrace.features.stores.memory import MemoryStore
from tailrace.features.stores.opening import open_store, resolve_url
from tailrace.features.streams import StreamFeatureView
from tailrace.inference.backends.onnx_gpu import installed_runtimes
from tailrace.inference.explaining.step import ExplainingStep
from tailrace.inference.stage import leaf_stages
from tailrace.pipeline import Pipeline
from tailrace.plan import Plan

BUFFER_PART_MIN: Final = 0.1
"""Of the budget; with less of it unspent a check warns."""
_ORIGINS: Final = {Origin.REQUEST: "request field", Origin.ON_DEMAND: "on demand, computed"}


class ModelInput(NamedTuple):
    """One input of the model. source: what fills it, as people are told."""

    name: str
    dtype: str
    source: str


@dataclass(frozen=True, slots=True)
class CheckedStore:
    """What a look at a pipeline's store has shown.

    kind: the scheme of its URL, "" where the hops were not measured. unmeasured: why they were not. hops: what is read
    together, counted at least. warnings: what a server would refuse, or warn of.
    """

    kind: str
    unmeasured: str
    hops: tuple[HopCost, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CheckedPipeline:
    """A pipeline as it was found. plan: with its measured cost. times: of each layer. warnings: all of them."""

    plan: Plan
    times: tuple[LayerTimes, ...]
    inputs: tuple[ModelInput, ...]
    store: CheckedStore
    warnings: tuple[str, ...]


async def check_pipeline(pipeline: Pipeline, url: str | None, clock: Clock) -> CheckedPipeline:
    """Compile a pipeline, measure it on an empty store, and look at its own. Raises CompileError.

    url: of a store to be looked at in place of the declared one. The caller closes the plan.
    """
    plan = compile_plan(pipeline, MemoryStore(), clock=clock)
    await plan.open()
    plan, times = await warm_up(plan, clock)
    store = await _check_store(plan, url, clock)
    warnings = (
        *_budget_warnings(plan), *_hop_warnings(plan, store.hops), *store.warnings, *_model_warnings(plan),
        *_runtime_warnings(), *_explain_warnings(plan),
    )  # fmt: skip
    return CheckedPipeline(plan, times, _inputs(plan), store, warnings)


async def _check_store(plan: Plan, url: str | None, clock: Clock) -> CheckedStore:
    """Look at the pipeline's store as a server would. One that is not there yet is nothing to be warned of."""
    pipeline = plan.pipeline
    if not pipeline.views:
        return CheckedStore("", "", (), ())
    try:
        url = url or resolve_url(pipeline.store, pipeline.base_dir)
        store = open_store(url, clock)
        await store.open()
    except StoreError as error:
        counted = await hop_costs(plan, None, clock)
        if isinstance(error, NoStoreError):
            return CheckedStore("", "its store is not there", counted, ())
        return CheckedStore("", f"its store failed: {shown_fault(error)}", counted, (str(error),))
    try:
        checked = await check_views(replace(plan, store=store), clock, refuse=False)
        hops = await hop_costs(plan, store, clock)
    finally:
        store.close()
    if failure := checked.failure or next((hop.failure for hop in hops if hop.failure), ""):
        unmeasured = f"its store failed: {failure}"
        return CheckedStore("", unmeasured, hops, (_failure_warning(unmeasured, checked), *_view_warnings(checked)))
    return CheckedStore(url.partition(":")[0], "", hops, _view_warnings(checked))


def _failure_warning(unmeasured: str, checked: CheckedViews) -> str:
    """Return that a store failed: no other line of a report without hops tells it from one that is whole."""
    views = "; its views were not looked at" if checked.failure else ""
    return f"store: {unmeasured}{views}\n    next: see that it runs and answers, or look at another: --store URL"


def _view_warnings(checked: CheckedViews) -> tuple[str, ...]:
    next_step = "tailrace materialize FILE"
    unknown = (f"features.{view}: has never been materialised\n    next: {next_step}" for view in checked.unknown)
    return *checked.unfit, *unknown


def _budget_warnings(plan: Plan) -> list[str]:
    buffer, whole = plan.budget.buffer_ns, plan.budget.total_ns
    if buffer >= whole * BUFFER_PART_MIN:
        return []
    what = f"the buffer is {buffer / whole:.0%} of the budget; under 10% a busy moment has nowhere to go"
    return [f"budget: {what}\n    next: give a layer less, or the whole more"]


def _hop_warnings(plan: Plan, hops: tuple[HopCost, ...]) -> list[str]:
    budget_ns = plan.budget.features_ns or plan.budget.total_ns
    whole_ns = sum(hop.p50_ns or 0 for hop in hops)
    if len(hops) == 1 or whole_ns <= budget_ns:
        return []
    took, budget = format_duration(whole_ns), format_duration(budget_ns)
    what = f"{len(hops)} hops take {took}, one after the other (median), and the layer may take {budget}"
    next_step = "give features more, or put what a later hop gives into an earlier view, where its source is made"
    return [f"features: {what}: what is not read in time is answered with defaults\n    next: {next_step}"]


def _model_warnings(plan: Plan) -> list[str]:
    """Return what is to be known of models elsewhere: how they were found, and that they did not answer."""
    next_step = "see that its server runs, and has the model"
    return [
        f"model {stage.name!r}: {what}\n    next: {next_step}"
        for stage in leaf_stages(plan.inference.stage)
        for what in dict.fromkeys(filter(None, (stage.notice, stage.failure)))
    ]


def _runtime_warnings() -> list[str]:
    """Return that two distributions of ONNX Runtime are installed, of which nobody knows whose files are there."""
    found = installed_runtimes()
    if len(found) < 2:
        return []
    next_step = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"
    return [f"packages: {' and '.join(found)} write over each other's files\n    next: {next_step}"]


def _explain_warnings(plan: Plan) -> list[str]:
    """Return which models answer nothing to those who ask why, in a pipeline whose callers may."""
    if not isinstance(plan.inference, ExplainingStep):
        return []
    next_step = "package it with --explain where its library can explain it"
    return [
        f"explain: the model {name!r} cannot be explained: {why}\n    next: {next_step}"
        for name, why in plan.inference.unexplained.items()
    ]


def _inputs(plan: Plan) -> tuple[ModelInput, ...]:
    """Return each of the models' inputs with what fills it."""
    wiring = wire(plan.pipeline)

    def filled_by(source: Wire) -> str:
        if source.origin is not Origin.VIEW:
            return _ORIGINS[source.origin]
        is_stream = issubclass(wiring.views[source.view], StreamFeatureView)
        return "view, of a stream" if is_stream else "view, materialised"

    found = (
        ModelInput(name, tensor.dtype if width == 1 else f"{tensor.dtype} × {width}", filled_by(wiring.features[name]))
        for stage in leaf_stages(plan.inference.stage)
        for tensor in stage.signature.inputs
        for name, width in zip(tensor.features, tensor.feature_widths, strict=True)
    )
    return tuple(dict.fromkeys(found))
