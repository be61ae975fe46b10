"""`tailrace check`: compile pipelines without serving them, and show what they promise."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from tailrace.cli.models.options import DefaultRegistryUrl, TrustedKeys

if TYPE_CHECKING:
    from rich.table import Table

    from tailrace.compile.checking import CheckedPipeline
    from tailrace.compile.warm_up import LayerTimes
    from tailrace.pipeline import Pipeline
    from tailrace.plan import Plan
    from tailrace.release.registry.child import RegistryChoice


def check(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="Python files that declare pipelines.", show_default=False),
    ],
    store: Annotated[
        str | None, typer.Option(help="Online store to look at in place of the declared: lmdb:PATH, redis://…")
    ] = None,
    registry: DefaultRegistryUrl = None,
    trusted_keys: TrustedKeys = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON array, a report a pipeline, in place of the tables.")
    ] = False,
) -> None:
    """Compile pipelines and measure one call of each, without serving.

    Prints the budget table (what each layer may take, what one call took at warm-up, the buffer) and the model's
    inputs beside the features that fill them; or every mistake at once, each with what, where and what next. Exit
    code 1 for a mistake. Features are read from an empty store, so no data need be materialised. Where the pipeline's
    store is there, each of its views with which `serve` would not start is a warning; so is a store that fails.

    Where a column of one view is the key of another, the hops are printed too: what is read together, by which keys,
    and how long that takes on the store. Hops that take longer, one after the other, than features may is a warning.

    A model that is a version in a registry is fetched for the while, as the next start of a server would.

    For example:

        tailrace check examples/fraud/pipeline.py
    """
    from tailrace.compile.loading import load_pipelines
    from tailrace.release.registry.child import RegistryChoice

    choice = RegistryChoice(registry, tuple(map(str, trusted_keys or ())))
    with tempfile.TemporaryDirectory(prefix="tailrace-check-") as folder:
        reports = [
            _check(pipeline, store, choice, Path(folder), as_json=as_json)
            for file in files
            for pipeline in load_pipelines(file)
        ]
    if as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(reports)).decode() + "\n")
    raise typer.Exit(0 if all(report["ok"] for report in reports) else 1)


def _check(
    pipeline: Pipeline, store: str | None, choice: RegistryChoice, folder: Path, *, as_json: bool
) -> dict[str, Any]:
    """Check a pipeline, print what came of it unless JSON is wanted, and return its report."""
    import asyncio

    from tailrace.compile.checking import check_pipeline
    from tailrace.deadline import MonotonicClock
    from tailrace.errors import CompileError
    from tailrace.release.registry.declared import with_fetched_models

    fetched = with_fetched_models(pipeline, choice, folder)
    try:
        checked = asyncio.run(check_pipeline(fetched, store, MonotonicClock()))
    except CompileError as error:
        if not as_json:
            print(f"error: {error}", file=sys.stderr)
        return {"pipeline": pipeline.name, "ok": False, "problems": [p._asdict() for p in error.problems]}
    if not as_json:
        _show(checked)
    checked.plan.close()
    return _report(checked)


def _report(checked: CheckedPipeline) -> dict[str, Any]:
    from tailrace.inference.model_stage import model_stages
    from tailrace.inference.remote.stage import remote_stages

    plan = checked.plan
    return {
        "pipeline": plan.name,
        "ok": True,
        "budget_ns": plan.budget.total_ns,
        "buffer_ns": plan.budget.buffer_ns,
        "layers": [
            {"layer": each.layer, "budget_ns": each.budget_ns, "p50_ns": each.p50_ns, "p99_ns": each.p99_ns}
            for each in checked.times
        ],
        "hops": [asdict(hop) for hop in checked.store.hops],
        "inputs": [{"input": name, "dtype": dtype, "from": source} for name, dtype, source in checked.inputs],
        "rows_best": plan.inference.rows_best,
        "models": [
            {
                "name": stage.name,
                "inference_thread": stage.is_threaded,
                "rows_best": stage.rows_best,
                "backend": stage.backend,
                "backend_reason": stage.backend_reason,
            }
            for stage in model_stages(plan.inference.stage)
        ],
        "remote_models": [
            {"name": stage.name, "url": stage.url, "rows_best": stage.rows_best}
            for stage in remote_stages(plan.inference.stage)
        ],
        "warnings": checked.warnings,
    }


def _show(checked: CheckedPipeline) -> None:
    from rich.console import Console
    from rich.markup import escape

    from tailrace.inference.model_stage import model_stages
    from tailrace.inference.remote.stage import remote_stages

    console, plan = Console(), checked.plan
    console.print(_budget_table(plan, checked.times))
    for warning in checked.warnings:
        console.print(f"[yellow]warning[/]: {escape(warning)}", highlight=False)
    if len(checked.store.hops) > 1:
        console.print(_hops_table(checked))
    console.print(_inputs_table(checked))
    for stage in model_stages(plan.inference.stage):
        where = "the inference thread" if stage.is_threaded else "the event loop"
        reason = f" ({stage.backend_reason})" if stage.backend_reason else ""
        console.print(f"The model {stage.name} is computed by {stage.backend}{reason}.", highlight=False)
        console.print(f"It runs on {where}, best with {stage.rows_best} rows a call.\n", highlight=False)
    for remote in remote_stages(plan.inference.stage):
        console.print(f"The model {remote.name} is asked at {remote.url}.\n", highlight=False)


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


def _hops_table(checked: CheckedPipeline) -> Table:
    from rich.markup import escape
    from rich.table import Table

    from tailrace.deadline import format_duration

    def shown(times_ns: list[int | None]) -> str:
        return "–" if None in times_ns else format_duration(sum(each or 0 for each in times_ns))

    store, hops = checked.store, checked.store.hops
    where = (
        f"not measured: {escape(store.unmeasured)}" if store.unmeasured else f"one request on its store, {store.kind}"
    )
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


def _inputs_table(checked: CheckedPipeline) -> Table:
    from rich.table import Table

    table = Table(title=f"{checked.plan.name}: the model's inputs, and what fills them", title_justify="left")
    for column in ("#", "input", "type", "filled by"):
        table.add_column(column, justify="right" if column == "#" else "left")
    for index, each in enumerate(checked.inputs):
        table.add_row(str(index), *each)
    return table
