"""What `tailrace optimize` prints: a table of all that was tried, the sentence, and where things are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.console import Console

    from tailrace.offline.optimize.journal import Trial
    from tailrace.offline.optimize.optimizer import Optimised
    from tailrace.offline.optimize.verdict import Standing

_SAID: Final[dict[Standing, tuple[str, str]]] = {
    "wins": ("bold green", "wins"), "baseline": ("yellow", "baseline"), "fits": ("", "fits"),
    "worse": ("dim", "over the tolerance"), "moved": ("dim", "moves a score too far"),
    "unclear": ("dim", "unclear: too few rows"), "late": ("dim", "over the budget"),
    "threads": ("dim", "more threads"), "failed": ("red", "failed"), "skipped": ("dim", "skipped"),
}  # fmt: skip
"""A standing's colour, and its words."""
WIDTH_MAX: Final = 240
"""Columns of the table, where there are many batches."""


def to_json(found: Optimised, picture: Path | None, directory: Path | None, version: str | None) -> str:
    """Return the result as JSON."""
    import msgspec

    verdict = found.verdict
    return msgspec.json.encode({
        "winner": None if verdict.winner is None else verdict.winner.name,
        "why": verdict.why,
        "metric": found.metric.name,
        "tolerance": found.asked.tolerance,
        "budget_ns": found.asked.budget_ns,
        "rows_judged": int(found.evidence.judges.sum()),
        "rows_calibrated": int((~found.evidence.judges).sum()),
        "resumed": found.resumed,
        "picture": None if picture is None else str(picture),
        "directory": None if directory is None else str(directory),
        "version": version,
        "trials": [
            {"name": each.name, "standing": standing, "recipe_name": each.recipe.name, **msgspec.to_builtins(each)}
            for each, standing in zip(found.trials, verdict.standings, strict=True)
        ],
    }).decode()  # fmt: skip


def print_report(found: Optimised, picture: Path | None, directory: Path | None, version: str | None) -> None:
    """Print the table, the sentence, and where the picture and the model are."""
    from rich.console import Console

    from tailrace.inference.model_directory import read_manifest
    from tailrace.offline.optimize.making import ROUNDING_MAX

    console = Console(emoji=False, highlight=False)
    _print_table(found, console)
    console.print(found.verdict.why, style="bold", markup=False)
    judged, calibrated = int(found.evidence.judges.sum()), int((~found.evidence.judges).sum())
    console.print(
        f"{judged:,} rows judged, {calibrated:,} others calibrated; each was timed in a process of its own, by turns "
        "with ONNX Runtime on the model as packaged.",
        style="dim",
    )
    if found.directory is not None and read_manifest(found.directory).golden.rounding >= ROUNDING_MAX:
        console.print(
            f"its scores move by {ROUNDING_MAX} and more with the order in which its short numbers are added up; a "
            "machine that does it otherwise will be refused when it loads it.",
            style="yellow",
        )
    for what, place in (("picture", picture), ("written", directory), ("registered", version)):
        if place is not None:
            console.print(f"{what:<10} {place}", markup=False, soft_wrap=True)


def _print_table(found: Optimised, console: Console) -> None:
    """Print what was measured, as wide as it is, and below it why the rest was not."""
    from rich import box
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table

    first, *others = found.asked.batches
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in ("tried", "by"):
        table.add_column(header, no_wrap=True)
    heads = [f"{tell_rows(first)}, p50", "p99", *map(tell_rows, others)]
    for header in (*heads, "times as fast", "bounds", "size", found.metric.name, "score moves"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    told = list(zip(found.trials, found.verdict.standings, strict=True))
    for trial, standing in told:
        if trial.status == "measured":
            table.add_row(*_cells(trial, standing), style=_SAID[standing][0])
    width = Measurement.get(console, console.options.update(max_width=WIDTH_MAX), table).maximum
    Console(emoji=False, highlight=False, width=max(width, console.width)).print(table)
    for trial, standing in told:
        if trial.status != "measured":
            console.print(f"{_SAID[standing][1]}: {trial.name}: {trial.why}", style=_SAID[standing][0], markup=False)


def _cells(trial: Trial, standing: Standing) -> list[str]:
    from tailrace.deadline import format_duration

    first, *others = trial.timings
    return [
        trial.recipe.name,
        trial.backend,
        format_duration(first.p50_ns),
        format_duration(first.p99_ns),
        *(format_duration(each.p50_ns) for each in others),
        f"{first.speedup:.2f}",
        f"{first.speedup_low:.2f}–{first.speedup_high:.2f}",
        tell_size(trial.size_bytes),
        f"{trial.metric:.5f}",
        f"{trial.difference_max:.1e}",
        _SAID[standing][1],
    ]


def tell_rows(count: int) -> str:
    """Return a number of rows in words."""
    return "1 row" if count == 1 else f"{count} rows"


def tell_size(size_bytes: int) -> str:
    """Return a size in words."""
    return f"{size_bytes / 1e6:,.1f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:,.0f} kB"
