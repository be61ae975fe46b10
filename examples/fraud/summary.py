"""What the demonstration prints: tables for 80 columns, which every terminal and every pipe has."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from decisions import Decided
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tailrace.deadline import format_duration
from tailrace.loadtest.report import LoadReport

WIDTH: Final = 80
BAR: Final = 8
COLORS: Final = {"allow": "green", "review": "yellow", "block": "red"}


def new_table(title: str) -> Table:
    """Return an empty table in the style of the demonstration."""
    return Table(
        title=f"\n[bold]{title}",
        title_justify="left",
        title_style="",
        header_style="dim",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )


def show_answers(console: Console, report: LoadReport) -> None:
    """Print how fast the answers came, counted from the moment each payment was due."""
    table = new_table(f"{report.shots:,} payments at {report.plan.rate:,.0f}/s, open loop: from due to answered")
    for heading in ("answered", "p50", "p99", "p99.9", "slowest", "in 50 ms", "refused", "failed"):
        table.add_column(heading, justify="right", no_wrap=True)
    ok = report.ok
    times = [format_duration(each) for each in (ok.p50_ns, ok.p99_ns, ok.p999_ns, ok.max_ns)] if ok else ["–"] * 4
    within = report.goodput_per_s / report.plan.rate
    refused = report.refused.count if report.refused else 0
    answered = ok.count if ok else 0
    table.add_row(f"{answered:,}", *times, f"{within:.2%}", f"{refused:,}", f"{report.shots - answered - refused:,}")
    console.print(table)
    if not report.valid:
        console.print(f"[yellow]These times say little: {'; '.join(report.reasons)}[/]", width=WIDTH)


def show_decisions(console: Console, decided: Decided) -> None:
    """Print how many payments got each decision, and how much fraud is among them."""
    table = new_table("Decisions")
    for heading in ("", "payments", "share", "frauds", "of them", "amount", "fraud amount"):
        table.add_column(heading, justify="left" if heading == "" else "right", no_wrap=True)
    for label, color in COLORS.items():
        own = decided.labels == label
        fraud = own & decided.is_fraud
        table.add_row(
            f"[{color}]{label}[/]",
            f"{own.sum():,}",
            f"{own.mean():.2%}",
            f"{fraud.sum():,}",
            f"{fraud.sum() / max(own.sum(), 1):.2%}",
            dollars(decided.amounts[own].sum()),
            dollars(decided.amounts[fraud].sum()),
        )
    console.print(table)


def show_fraud(console: Console, decided: Decided, short: int = 0) -> None:
    """Print the fraud that was stopped and that went through, by amount: as served, and by what knows less."""
    table = new_table("Fraud by amount")
    for heading in ("", "", "stopped", "share", "missed", "frauds", "honest"):
        table.add_column(heading, justify="left" if heading == "" else "right", no_wrap=True)
    whole = decided.amounts[decided.is_fraud].sum()
    ways = {
        "as served": decided.caught,
        "last night's": decided.nightly_stopped,
        "hourly batch": decided.batch_stopped,
    }
    for name, stopped in ways.items():
        caught, honest = stopped & decided.is_fraud, stopped & ~decided.is_fraud
        amount = decided.amounts[caught].sum()
        table.add_row(
            name,
            bar(amount / whole if whole else 0.0),
            dollars(amount),
            f"{amount / whole if whole else 0:.0%}",
            dollars(whole - amount),
            f"{caught.sum():,} of {decided.is_fraud.sum():,}",
            f"{honest.sum():,}",
        )
    console.print(table)
    console.print(
        "Stopped: blocked or held for review, of all frauds and of honest payments too. Last night's: a model of the "
        "profiles alone, without the windows over payments and labels as they come. The hourly batch has the same "
        "scores at no cost, once an hour: it cannot stop what was paid before it ran, but stops a flagged card from "
        "then until midnight. The payments of a day are replayed in seconds; hours are those of the payments. "
        f"{told_scores(decided, short)}",
        width=WIDTH,
        style="dim",
        highlight=False,
    )


def told_scores(decided: Decided, short: int) -> str:
    """Return a sentence on how the served scores compare with those computed offline. short: see `check_scores`."""
    same = f"Served and offline scores differ by at most {decided.score_difference_max:.0e}"
    if not decided.differing:
        return f"{same}."
    why = f"{short:,} payments were refused or late to be counted" if short else "payments that overtook one another"
    return f"{same}, but for {decided.differing:,} of {len(decided.labels):,}: {why}."


def show_budget(console: Console, status: Any) -> None:
    """Print the budget, and what each layer took of it while the payments were replayed."""
    pipeline = status["pipelines"][0]
    table = new_table("The budget, and what each layer took of it")
    for heading in ("layer", "budget", "p50", "p99", "p99 of its budget"):
        table.add_column(heading, justify="left" if heading == "layer" else "right", no_wrap=True)
    promised_ns = 0
    for layer, timing in pipeline["layers"].items():
        promised_ns += timing["budget_ns"]
        table.add_row(layer, *timing_cells(timing))
    whole = pipeline["whole"]
    table.add_row("[dim]buffer[/]", f"[dim]{format_duration(whole['budget_ns'] - promised_ns)}[/]", "", "", "")
    table.add_section()
    table.add_row("[bold]arrival to answer[/]", *timing_cells(whole))
    console.print(table)


def timing_cells(timing: dict[str, Any]) -> list[str]:
    """Return the cells of one line of the budget."""
    if not timing["count"]:
        return [format_duration(timing["budget_ns"]), "–", "–", "–"]
    share = timing["p99_ns"] / timing["budget_ns"]
    cells = [format_duration(timing[name]) for name in ("budget_ns", "p50_ns", "p99_ns")]
    return [*cells, f"{'[red]' if share > 1 else ''}{share:.1%}"]


def bar(share: float) -> str:
    """Return a bar of which this share is full."""
    full = round(share * BAR)
    return f"[green]{'█' * full}[/][red]{'░' * (BAR - full)}[/]"


def dollars(amount: float | NDArray[np.float64]) -> str:
    """Return an amount of money."""
    return f"${float(amount):,.0f}"
