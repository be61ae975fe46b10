"""`tailrace check`: compile pipelines without serving them, and show what they promise."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec
import typer

from tailrace.errors import NoStoreError, StoreError

if TYPE_CHECKING:
    from rich.table import Table

    from tailrace.compile.hop_costs import HopCost
    from tailrace.compile.warm_up import LayerTimes
    from tailrace.deadline import Clock
    from tailrace.pipeline import Pipeline
    from tailrace.plan import Plan

BUFFER_PART_MIN = 0.1
_MATERIALIZE = "tailrace materialize FILE"


def check(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="Python files that declare pipelines.", show_default=False),
    ],
    store: Annotated[
        str | None, typer.Option(help="Online store to look at in place of the declared: lmdb:PATH, redis://…")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON array, a report a pipeline, in place of the tables.")
    ] = False,
) -> None:
    """Compile pipelines and measure one call of each, without serving.

    Prints the budget table (what each layer may take, what one call took at warm-up, the buffer) and the model's
    inputs beside the features that fill them; or every mistake at once, each with what, where and what next. Exit
    code 1 for a mistake. Features are read from an empty store, so no data need be materialised. Where the pipeline's
    store is there, each of its views with which `serve` would not start is a warning.

    Where a column of one view is the key of another, the hops are printed too: what is read together, by which keys,
    and how long that takes on the store. Hops that take longer, one after the other, than features may is a warning.

    For example:

        tailrace check examples/fraud/pipeline.py
    """
    from tailrace.compile.loading import load_pipelines
    from tailrace.errors import CompileError

    reports: list[dict[str, Any]] = []
    for file in files:
        for pipeline in load_pipelines(file):
            try:
                checked = asyncio.run(_measure(pipeline, store))
            except CompileError as error:
                reports.append(
                    {"pipeline": pipeline.name, "ok": False, "problems": [p._asdict() for p in error.problems]}
                )
                if not as_json:
                    print(f"error: {error}", file=sys.stderr)
                continue
            reports.append(_report(checked))
            if not as_json:
                _show(checked)
            checked.plan.close()
    if as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(reports)).decode() + "\n")
    raise typer.Exit(0 if all(report["ok"] for report in reports) else 1)


class Checked(NamedTuple):
    """A pipeline as it was found: its plan with its measured cost, and what to be warned of.

    times: of each layer. hops: what is read together. store: the kind on which those were measured, "" for none.
    """

    plan: Plan
    times: tuple[LayerTimes, ...]
    hops: tuple[HopCost, ...]
    store: str
    warnings: list[str]


async def _measure(pipeline: Pipeline, url: str | None) -> Checked:
    """Compile a pipeline, measure it, and look at its store."""
    from tailrace.compile.compiler import compile_plan
    from tailrace.compile.warm_up import warm_up
    from tailrace.deadline import MonotonicClock
    from tailrace.features.stores.memory import MemoryStore

    clock = MonotonicClock()
    plan = compile_plan(pipeline, MemoryStore(), clock=clock)
    await plan.open()
    plan, times = await warm_up(plan, clock)
    warnings, hops, kind = await _look_at_store(plan, url, clock)
    return Checked(plan, times, hops, kind, [*_budget_warnings(plan), *_hop_warnings(plan, hops), *warnings])


def _budget_warnings(plan: Plan) -> list[str]:
    buffer, whole = plan.budget.buffer_ns, plan.budget.total_ns
    if buffer >= whole * BUFFER_PART_MIN:
        return []
    what = f"the buffer is {buffer / whole:.0%} of the budget; under 10% a busy moment has nowhere to go"
    return [f"budget: {what}\n    next: give a layer less, or the whole more"]


def _hop_warnings(plan: Plan, hops: tuple[HopCost, ...]) -> list[str]:
    from tailrace.deadline import format_duration

    budget_ns = plan.budget.features_ns or plan.budget.total_ns
    whole_ns = sum(hop.p50_ns or 0 for hop in hops)
    if len(hops) == 1 or whole_ns <= budget_ns:
        return []
    took, budget = format_duration(whole_ns), format_duration(budget_ns)
    what = f"{len(hops)} hops take {took}, one after the other (median), and the layer may take {budget}"
    next_step = "give features more, or put what a later hop gives into an earlier view, where its source is made"
    return [f"features: {what}: what is not read in time is answered with defaults\n    next: {next_step}"]


async def _look_at_store(plan: Plan, url: str | None, clock: Clock) -> tuple[list[str], tuple[HopCost, ...], str]:
    """Return what a server would refuse, or warn of, in the pipeline's store; what its hops take there; and its kind.

    Where the store is not there yet there is no warning, and hops are counted alone.
    """
    from tailrace.compile.hop_costs import hop_costs
    from tailrace.compile.materialised import check_views
    from tailrace.features.stores.opening import open_store, resolve_url

    pipeline = plan.pipeline
    if not pipeline.views:
        return [], (), ""
    try:
        url = url or resolve_url(pipeline.store, pipeline.base_dir)
        store = open_store(url, clock)
        await store.open()
    except StoreError as error:
        return [] if isinstance(error, NoStoreError) else [str(error)], await hop_costs(plan, None, clock), ""
    try:
        checked = await check_views(replace(plan, store=store), clock, refuse=False)
        hops = await hop_costs(plan, store, clock)
    finally:
        store.close()
    unknown = (f"features.{view}: has never been materialised\n    next: {_MATERIALIZE}" for view in checked.unknown)
    kind = url.partition(":")[0] if hops[0].p50_ns is not None else ""
    return [*checked.unfit, *unknown], hops, kind


def _report(checked: Checked) -> dict[str, Any]:
    plan = checked.plan
    (stage,) = plan.inference.stages
    return {
        "pipeline": plan.name,
        "ok": True,
        "budget_ns": plan.budget.total_ns,
        "buffer_ns": plan.budget.buffer_ns,
        "layers": [
            {"layer": each.layer, "budget_ns": each.budget_ns, "p50_ns": each.p50_ns, "p99_ns": each.p99_ns}
            for each in checked.times
        ],
        "hops": [asdict(hop) for hop in checked.hops],
        "inputs": [{"input": name, "dtype": dtype, "from": origin} for name, dtype, origin in _inputs(plan)],
        "inference_thread": stage.is_threaded,
        "rows_best": stage.rows_best,
        "kernel": stage.kernel,
        "kernel_reason": stage.kernel_reason,
        "warnings": checked.warnings,
    }


def _inputs(plan: Plan) -> list[tuple[str, str, str]]:
    """Return each model input with its type and what fills it."""
    from tailrace.compile.resolve import wire
    from tailrace.compile.wiring import Origin, Wire
    from tailrace.features.streams import StreamFeatureView

    (stage,) = plan.inference.stages
    wiring = wire(plan.pipeline, stage.signature)
    origins = {"request": "request field", "on_demand": "on demand, computed"}

    def filled_by(source: Wire) -> str:
        if source.origin is not Origin.VIEW:
            return origins[source.origin.value]
        is_stream = issubclass(wiring.views[source.view], StreamFeatureView)
        return "view, of a stream" if is_stream else "view, materialised"

    return [
        (name, tensor.dtype, filled_by(wiring.features[name]))
        for tensor in stage.signature.inputs
        for name in tensor.features
    ]


def _show(checked: Checked) -> None:
    from rich.console import Console
    from rich.markup import escape

    console, plan = Console(), checked.plan
    console.print(_budget_table(plan, checked.times))
    for warning in checked.warnings:
        console.print(f"[yellow]warning[/]: {escape(warning)}", highlight=False)
    if len(checked.hops) > 1:
        console.print(_hops_table(checked))
    console.print(_inputs_table(plan))
    (stage,) = plan.inference.stages
    where = "the inference thread" if stage.is_threaded else "the event loop"
    reason = f" ({stage.kernel_reason})" if stage.kernel_reason else ""
    console.print(f"The model is computed by {stage.kernel}{reason}.", highlight=False)
    console.print(f"It runs on {where}, best with {stage.rows_best} rows a call.\n", highlight=False)


def _budget_table(plan: Plan, times: tuple[LayerTimes, ...]) -> Table:
    from rich.table import Table

    from tailrace.deadline import format_duration

    table = Table(title=f"{plan.name}: the budget, and one call at warm-up", title_justify="left", show_footer=True)
    whole = sum(each.p99_ns for each in times)
    table.add_column("layer", footer="whole")
    table.add_column("budget", justify="right", footer=format_duration(plan.budget.total_ns))
    table.add_column("p50", justify="right", footer=format_duration(sum(each.p50_ns for each in times)))
    table.add_column("p99", justify="right", footer=format_duration(whole))
    table.add_column("used", footer=f"{whole / plan.budget.total_ns:.1%}", justify="right")
    for each in times:
        used = f"{each.p99_ns / each.budget_ns:.1%}" if each.budget_ns else "–"
        budget = format_duration(each.budget_ns) if each.budget_ns else "shared"
        over = "[red]" if each.budget_ns and each.p99_ns > each.budget_ns else ""
        table.add_row(each.layer, budget, format_duration(each.p50_ns), over + format_duration(each.p99_ns), used)
    table.add_row("[dim]buffer", f"[dim]{format_duration(plan.budget.buffer_ns)}", "", "", "", end_section=True)
    return table


def _hops_table(checked: Checked) -> Table:
    from rich.table import Table

    from tailrace.deadline import format_duration

    def shown(times_ns: list[int | None]) -> str:
        return "–" if None in times_ns else format_duration(sum(each or 0 for each in times_ns))

    hops = checked.hops
    where = f"one request on its store, {checked.store}" if checked.store else "not measured: its store is not there"
    table = Table(
        title=f"{checked.plan.name}: what is read, one hop after the other; {where}",
        title_justify="left",
        show_footer=True,
    )
    table.add_column("hop", footer="whole")
    table.add_column("views")
    table.add_column("key")
    table.add_column(
        "keys read", footer=_keys_read(sum(h.keys_a_request for h in hops), sum(h.keys_a_row for h in hops))
    )
    table.add_column("p50", justify="right", footer=shown([hop.p50_ns for hop in hops]))
    table.add_column("p99", justify="right", footer=shown([hop.p99_ns for hop in hops]))
    for number, hop in enumerate(hops, 1):
        times = shown([hop.p50_ns]), shown([hop.p99_ns])
        keys = _keys_read(hop.keys_a_request, hop.keys_a_row)
        table.add_row(str(number), "\n".join(hop.views), "\n".join(hop.keys), keys, *times)
    return table


def _keys_read(a_request: int, a_row: int) -> str:
    parts = ([str(a_request)] if a_request else []) + ([f"{a_row} a row"] if a_row else [])
    return " + ".join(parts)


def _inputs_table(plan: Plan) -> Table:
    from rich.table import Table

    table = Table(title=f"{plan.name}: the model's inputs, and what fills them", title_justify="left")
    for column in ("#", "input", "type", "filled by"):
        table.add_column(column, justify="right" if column == "#" else "left")
    for index, (name, dtype, origin) in enumerate(_inputs(plan)):
        table.add_row(str(index), name, dtype, origin)
    return table
