"""`tailrace check`: compile pipelines without serving them, and show what they promise."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

if TYPE_CHECKING:
    from rich.table import Table

    from tailrace.compile.warm_up import LayerTimes
    from tailrace.pipeline import Pipeline
    from tailrace.plan import Plan

BUFFER_PART_MIN = 0.1


def check(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="Python files that declare pipelines.", show_default=False),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON array, a report a pipeline, in place of the tables.")
    ] = False,
) -> None:
    """Compile pipelines and measure one call of each, without serving.

    Prints the budget table (what each layer may take, what one call took at warm-up, the buffer) and the model's
    inputs beside the features that fill them; or every mistake at once, each with what, where and what next. Exit
    code 1 for a mistake. Features are read from an empty store, so no data need be materialised.

    For example:

        tailrace check examples/fraud/pipeline.py
    """
    from tailrace.compile.loading import load_pipelines
    from tailrace.errors import CompileError

    reports: list[dict[str, Any]] = []
    for file in files:
        for pipeline in load_pipelines(file):
            try:
                plan, times = asyncio.run(_measure(pipeline))
            except CompileError as error:
                reports.append(
                    {"pipeline": pipeline.name, "ok": False, "problems": [p._asdict() for p in error.problems]}
                )
                if not as_json:
                    print(f"error: {error}", file=sys.stderr)
                continue
            reports.append(_report(plan, times))
            if not as_json:
                _show(plan, times)
            plan.close()
    if as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(reports)).decode() + "\n")
    raise typer.Exit(0 if all(report["ok"] for report in reports) else 1)


async def _measure(pipeline: Pipeline) -> tuple[Plan, tuple[LayerTimes, ...]]:
    from tailrace.compile.compiler import compile_plan
    from tailrace.compile.warm_up import warm_up
    from tailrace.deadline import MonotonicClock
    from tailrace.features.stores.memory import MemoryStore

    clock = MonotonicClock()
    plan = compile_plan(pipeline, MemoryStore(), clock=clock)
    await plan.open()
    return await warm_up(plan, clock)


def _report(plan: Plan, times: tuple[LayerTimes, ...]) -> dict[str, Any]:
    (stage,) = plan.inference.stages
    return {
        "pipeline": plan.name,
        "ok": True,
        "budget_ns": plan.budget.total_ns,
        "buffer_ns": plan.budget.buffer_ns,
        "layers": [
            {"layer": each.layer, "budget_ns": each.budget_ns, "p50_ns": each.p50_ns, "p99_ns": each.p99_ns}
            for each in times
        ],
        "inputs": [{"input": name, "dtype": dtype, "from": origin} for name, dtype, origin in _inputs(plan)],
        "inference_thread": stage.is_threaded,
        "rows_best": stage.rows_best,
        "kernel": stage.kernel,
        "kernel_reason": stage.kernel_reason,
    }


def _inputs(plan: Plan) -> list[tuple[str, str, str]]:
    """Return each model input with its type and what fills it."""
    from tailrace.compile.resolve import wire

    (stage,) = plan.inference.stages
    wiring = wire(plan.pipeline, stage.signature)
    origins = {"request": "request field", "view": "view, materialised", "on_demand": "on demand, computed"}
    return [
        (name, tensor.dtype, origins[wiring.features[name].origin.value])
        for tensor in stage.signature.inputs
        for name in tensor.features
    ]


def _show(plan: Plan, times: tuple[LayerTimes, ...]) -> None:
    from rich.console import Console

    console = Console()
    console.print(_budget_table(plan, times))
    buffer = plan.budget.buffer_ns
    if buffer < plan.budget.total_ns * BUFFER_PART_MIN:
        console.print(
            f"[yellow]warning[/]: the buffer is {buffer / plan.budget.total_ns:.0%} of the budget; "
            "under 10% a busy moment has nowhere to go\n    next: give a layer less, or the whole more"
        )
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


def _inputs_table(plan: Plan) -> Table:
    from rich.table import Table

    table = Table(title=f"{plan.name}: the model's inputs, and what fills them", title_justify="left")
    for column in ("#", "input", "type", "filled by"):
        table.add_column(column, justify="right" if column == "#" else "left")
    for index, (name, dtype, origin) in enumerate(_inputs(plan)):
        table.add_row(str(index), name, dtype, origin)
    return table
