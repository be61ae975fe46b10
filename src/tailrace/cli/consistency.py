"""`tailrace consistency`: what was served is compared with what training would have."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tailrace.cli.chosen import chosen_pipeline
from tailrace.cli.dataset_options import AsJson, MemoryMb, PipelineFile, PipelineName, Since, Threads, Until
from tailrace.cli.durations import time_ns_of
from tailrace.cli.log_table import tell_of
from tailrace.cli.progress import progress_bar
from tailrace.errors import SetupError
from tailrace.offline.database import MEMORY_MB, THREADS, DatabaseLimits

if TYPE_CHECKING:
    from tailrace.features.sources import Source
    from tailrace.offline.consistency import ConsistencyReport, Logged


def consistency(  # noqa: PLR0917 - typer reads each option from a parameter
    file: PipelineFile,
    samples: Annotated[
        Path | None, typer.Option(help="What `serve --sample-requests` was given: FILE, or FILE.0, FILE.1, ….")
    ] = None,
    from_log: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="In place of --samples: the prediction log, which `serve --log` was given."),
    ] = None,
    since: Since = None,
    until: Until = None,
    history: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STREAM=PATH",
            help="Events of a stream, Parquet or CSV, in place of its declared source; may be repeated.",
        ),
    ] = None,
    pipeline: PipelineName = None,
    tolerance: Annotated[
        float, typer.Option(help="Share of a feature's values that may differ, from 0 to 1, before the exit code is 1.")
    ] = 0.0,
    memory_mb: MemoryMb = MEMORY_MB,
    threads: Threads = THREADS,
    as_json: AsJson = False,
) -> None:
    """Compute sampled or logged requests again from history, and compare every feature with what was served.

    Prints for each feature how many values are equal, how many differ, by how much and why: the value served was stale
    or a default, or an event came after the request. Exit code 1 where more of a feature's values differ than
    --tolerance allows.

    For example:

        tailrace consistency pipeline.py --samples samples.jsonl --history payments=payments.parquet
    """
    from tailrace.offline.consistency import compare_samples

    if (samples is None) == (from_log is None):
        raise SetupError("what was served is told by one of --samples and --from-log", where="the command line",
                         next="give one of them")  # fmt: skip
    if not 0 <= tolerance <= 1:
        raise SetupError(f"{tolerance} is no share", where="--tolerance", next="give 0 to 1, as in 0.001")
    chosen = chosen_pipeline(file, pipeline)
    sources = dict(_source(text) for text in history or ())
    _check_streams(chosen, sources)
    served = samples or _logged(from_log, chosen, since, until)
    limits = DatabaseLimits(memory_mb, threads)
    with progress_bar("reading") as show:
        report = compare_samples(chosen, served, sources=sources, limits=limits, on_progress=show)
    if as_json:
        sys.stdout.write(_to_json(report, tolerance) + "\n")
    else:
        _print(report)
    raise typer.Exit(0 if report.share_max <= tolerance else 1)


def _logged(root: Path | None, pipeline: Any, since: str | None, until: str | None) -> Logged:
    """Return the lines of the log that are compared. Raises SetupError where the pipeline has none."""
    from tailrace.offline.consistency import Logged
    from tailrace.offline.log.query import require_duckdb

    require_duckdb()
    from tailrace.monitor.log.listing import chosen_log

    assert root is not None
    chosen_log(root, pipeline.name)
    return Logged(root, time_ns_of(since, "--since"), time_ns_of(until, "--until"))


def _source(text: str) -> tuple[str, Source]:
    """Return the stream and the source in STREAM=PATH."""
    from tailrace.features.sources import CSV, Parquet

    stream, _, path = text.partition("=")
    if not stream or not path:
        raise SetupError(f"{text!r} is not STREAM=PATH", where="--history", next="write payments=payments.parquet")
    kind = CSV if path.lower().endswith(".csv") else Parquet
    return stream, kind(str(Path(path).resolve()))


def _check_streams(pipeline: Any, sources: dict[str, Source]) -> None:
    """Raise SetupError for a stream of which the pipeline has no view."""
    from tailrace.pipeline import stream_views

    known = sorted({view.spec.stream.name for view in stream_views(pipeline)})
    if unknown := sorted(sources.keys() - set(known)):
        raise SetupError(f"the pipeline has no view of a stream {unknown[0]!r}", where="--history",
                         next=f"name one of {', '.join(known) or 'none'}")  # fmt: skip


def _to_json(report: ConsistencyReport, tolerance: float) -> str:
    import msgspec

    features = {
        name: {
            "compared": each.compared, "exact": each.exact, "close": each.close, "differing": each.differing,
            "share": each.share, "largest": each.largest, "examples": each.examples,
        }
        for name, each in report.features.items()
    }  # fmt: skip
    whole = {
        "pipeline": report.pipeline, "ok": report.share_max <= tolerance, "rows": report.rows,
        "unread": report.unread, "others": report.others, "features": features,
    }  # fmt: skip
    return msgspec.json.encode(whole).decode()


def _print(report: ConsistencyReport) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title=f"{report.pipeline}: {report.rows:,} rows served, computed again", title_justify="left")
    table.add_column("feature", overflow="fold")
    for header in ("equal", "close", "differ", "largest"):
        table.add_column(header, justify="right")
    table.add_column("why")
    for name, each in report.features.items():
        why = ", ".join(f"{count:,} {reason}" for reason, count in sorted(each.differing.items()))
        differ = each.compared - each.exact - each.close
        largest = f"{each.largest:.3g}" if differ else ""
        table.add_row(name, f"{each.exact:,}", f"{each.close:,}", f"{differ:,}", largest, why)
    console.print(table)
    for name, each in report.features.items():
        for found in each.examples:
            moment = datetime.fromtimestamp(found.time_ns / 1e9, UTC).isoformat()
            line = f"{name} at {moment}: served {found.served!r}, computed {found.computed!r} ({found.reason})"
            console.print(line, highlight=False, markup=False)
    if report.unread or report.others:
        console.print(f"{report.unread:,} lines are no sample, {report.others:,} samples are of another pipeline or "
                      "release", highlight=False)  # fmt: skip
    tell_of(report.passed_over)
