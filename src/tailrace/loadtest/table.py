"""A load report for people: what was asked and achieved, the latency percentiles as bars, and the verdict."""

from __future__ import annotations

import math
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tailrace.deadline import NS_PER_US, format_duration
from tailrace.loadtest.plan import LAG_SHARE_MAX, LoadPlan
from tailrace.loadtest.report import LatencySummary, LoadReport

BAR_CELLS: Final = 36
SCALE_START_NS: Final = 10 * NS_PER_US
SHOWN: Final = (
    ("p50", "p50_ns"), ("p90", "p90_ns"), ("p95", "p95_ns"), ("p99", "p99_ns"), ("p99.9", "p999_ns"), ("max", "max_ns"),
)  # fmt: skip


def render_report(report: LoadReport) -> RenderableType:
    """Return what to print for a finished run."""
    parts: list[RenderableType] = [Text(), render_run(report), Text()]
    if report.ok is not None:
        parts += [render_latency("accepted", "2xx", report.ok, report.plan), Text()]
    if report.refused is not None:
        parts += [render_latency("refused", "503", report.refused, report.plan), Text()]
    parts.append(render_verdict(report))
    return Group(*parts)


def render_run(report: LoadReport) -> Table:
    """Return the table of what was asked and what came of it."""
    plan = report.plan
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", justify="right")
    table.add_column()
    table.add_row("target", plan.url)
    table.add_row(
        "load",
        f"{plan.rate:,.6g}/s {plan.arrival} for {plan.duration_s:g} s over {count(plan.connections, 'connection')}",
    )
    table.add_row("sent", f"{report.sent:,} of {report.shots:,} requests at {report.rate_sent_per_s:,.1f}/s")
    table.add_row(
        "goodput", f"{report.goodput_per_s:,.1f}/s accepted and answered within {format_duration(plan.budget_ns)}"
    )
    table.add_row("statuses", ", ".join(f"{status}: {n:,}" for status, n in report.statuses.items()) or "none")
    table.add_row("errors", describe_errors(report))
    if report.held:
        table.add_row("held", f"{report.held:,} requests waited for room on a connection (counted from their due time)")
    if report.lag is not None:
        limit = format_duration(plan.lag_ns_max)
        lag = f"p50 {format_duration(report.lag.p50_ns)}, p99 {format_duration(report.lag.p99_ns)} (limit {limit})"
        table.add_row("own lag", f"{lag}, {report.cpu_share:.2f} of a core")
    return table


def count(amount: int, noun: str) -> str:
    """Return an amount with its noun in the right number."""
    return f"{amount:,} {noun}{'' if amount == 1 else 's'}"


def describe_errors(report: LoadReport) -> Text:
    """Return the errors by kind."""
    kinds = {
        "on a broken connection": report.broken,
        "unreadable": report.unreadable,
        "unanswered": report.unanswered,
        "never sent": report.unsent,
    }
    text = ", ".join(f"{amount:,} {kind}" for kind, amount in kinds.items() if amount)
    reconnects = f"; {count(report.reconnects, 'reconnect')}" if report.reconnects else ""
    return Text(f"{text or 'none'}{reconnects}", style="red" if report.errors else "")


def render_latency(title: str, status: str, summary: LatencySummary, plan: LoadPlan) -> Table:
    """Return percentiles as bars on a logarithmic scale, green up to the budget and red beyond it."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", justify="right", min_width=8)
    table.add_column(justify="right", min_width=8)
    table.add_column()
    scale_ns = max(summary.max_ns, plan.budget_ns)
    table.add_row(Text(title, style="bold not dim"), "", f"{summary.count:,} answers of status {status}")
    for label, name in SHOWN:
        value_ns = getattr(summary, name)
        table.add_row(label, format_duration(value_ns), draw_bar(value_ns, plan.budget_ns, scale_ns))
    budget = count_cells(plan.budget_ns, scale_ns)
    table.add_row("", "", Text(f"{'':{max(0, budget - 1)}}╵ budget {format_duration(plan.budget_ns)}", style="dim"))
    return table


def count_cells(value_ns: int, scale_ns: int) -> int:
    """Return how long a bar is: 0 at 10 µs, all cells at the scale's end."""
    span = math.log(max(scale_ns, 2 * SCALE_START_NS) / SCALE_START_NS)
    return round(BAR_CELLS * min(1.0, max(0.0, math.log(max(value_ns, 1) / SCALE_START_NS) / span)))


def draw_bar(value_ns: int, budget_ns: int, scale_ns: int) -> Text:
    """Return one bar."""
    filled, budget = count_cells(value_ns, scale_ns), count_cells(budget_ns, scale_ns)
    inside = min(filled, budget)
    bar = Text("━" * inside, style="green")
    bar.append("━" * (filled - inside), style="red")
    if filled < budget:
        bar.append("·" * (budget - filled), style="dim")
    return bar


def render_verdict(report: LoadReport) -> Text:
    """Return whether the run counts, and why not."""
    if report.valid and report.ok is None:
        reason = ": not one of the answers was good (2xx), so nothing was served; look at the statuses and errors"
        return Text.assemble(("NO GOOD ANSWER", "bold red"), reason)
    if report.valid:
        return Text.assemble(
            ("valid", "bold green"), f": the generator kept its schedule within {LAG_SHARE_MAX:.0%} of the budget"
        )
    return Text.assemble(("INVALID", "bold red"), f": {'; '.join(report.reasons)}")
