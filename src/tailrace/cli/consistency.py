"""`tailrace consistency`: what was served is compared with what training would have."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tailrace.cli.chosen import chosen_pipeline
from tailrace.cli.progress import progress_bar
from tailrace.errors import SetupError
from tailrace.offline.database import MEMORY_MB, THREADS, DatabaseLimits

if TYPE_CHECKING:
    from tailrace.features.sources import Source
    from tailrace.offline.consistency import ConsistencyReport


def consistency(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The Python file that declares the pipeline.", show_default=False)
    ],
    samples: Annotated[
        Path,
        typer.Option(help="What `serve --sample-requests` was given: FILE, or FILE.0, FILE.1, ….", show_default=False),
    ],
    history: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STREAM=PATH",
            help="Events of a stream, Parquet or CSV, in place of its declared source; may be repeated.",
        ),
    ] = None,
    pipeline: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which pipeline, where the file declares several.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="Share of a feature's values that may differ, from 0 to 1, before the exit code is 1.")
    ] = 0.0,
    memory_mb: Annotated[
        int, typer.Option(help="Memory that reading the sources may take, in MiB; beyond it DuckDB spills to disk.")
    ] = MEMORY_MB,
    threads: Annotated[int, typer.Option(help="Threads that read a source.")] = THREADS,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Compute sampled requests again from history, and compare every feature with what was served.

    Prints for each feature how many values are equal, how many differ, by how much and why: the value served was stale
    or a default, or an event came after the request. Exit code 1 where more of a feature's values differ than
    --tolerance allows.

    For example:

        tailrace consistency pipeline.py --samples samples.jsonl --history payments=payments.parquet
    """
    from tailrace.offline.consistency import compare_samples

    if not 0 <= tolerance <= 1:
        raise SetupError(f"{tolerance} is no share", where="--tolerance", next="give 0 to 1, as in 0.001")
    chosen = chosen_pipeline(file, pipeline)
    sources = dict(_source(text) for text in history or ())
    _check_streams(chosen, sources)
    with progress_bar("reading") as show:
        report = compare_samples(
            chosen, samples, sources=sources, limits=DatabaseLimits(memory_mb, threads), on_progress=show
        )
    if as_json:
        sys.stdout.write(_to_json(report, tolerance) + "\n")
    else:
        _print(report)
    raise typer.Exit(0 if report.share_max <= tolerance else 1)


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
