"""`tailrace dataset`: labelled requests become a training set."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tailrace.cli import dataset_options as given
from tailrace.cli.chosen import chosen_pipeline
from tailrace.cli.durations import time_ns_of
from tailrace.cli.log_table import tell_of
from tailrace.cli.progress import progress_bar
from tailrace.errors import SetupError
from tailrace.offline.database import MEMORY_MB, THREADS, DatabaseLimits

if TYPE_CHECKING:
    from tailrace.offline.dataset import DatasetReport
    from tailrace.offline.log.dataset import LogDatasetReport


def dataset(  # noqa: PLR0917 - one parameter an option
    file: given.PipelineFile,
    out: given.Out,
    requests: given.Requests = None,
    from_log: given.FromLog = None,
    labels: given.Labels = None,
    fresh: given.Fresh = False,
    unlabelled: given.Unlabelled = False,
    features_only: given.FeaturesOnly = False,
    since: given.Since = None,
    until: given.Until = None,
    pipeline: given.PipelineName = None,
    memory_mb: given.MemoryMb = MEMORY_MB,
    threads: given.Threads = THREADS,
    as_json: given.AsJson = False,
) -> None:
    """Write a training set: labelled requests, each with the features it would have been served with at its time.

    Batch views give the latest row that was true then, stream views their windows over the events before, computed by
    the code that serves; what was not known is the declared default. The columns are named and in the order as the
    pipeline has them, so that `tailrace package` takes the file as it is. More than fits memory is sorted on disk.

    With --from-log it is made of what was served: the features as the model had them then, and the labels that
    `tailrace labels` has kept, or those of a file.

    For example:

        tailrace dataset pipeline.py --requests labelled.parquet --out training.parquet
    """
    _check(requests, from_log, {"--labels": labels, "--fresh": fresh, "--unlabelled": unlabelled,
                                "--features-only": features_only, "--since": since, "--until": until})  # fmt: skip
    chosen = chosen_pipeline(file, pipeline)
    if from_log is None:
        from tailrace.offline.dataset import write_dataset

        limits = DatabaseLimits(memory_mb, threads)
        with progress_bar("reading") as show:
            made = write_dataset(chosen, requests, out, limits=limits, on_progress=show)
        print(json.dumps(asdict(made))) if as_json else _print(made)
        return
    from tailrace.offline.log.query import require_duckdb

    require_duckdb()
    from tailrace.monitor.log.listing import chosen_log
    from tailrace.offline.log.dataset import LogChoice, write_log_dataset

    choice = LogChoice(
        labels=labels, fresh=fresh, unlabelled=unlabelled, features_only=features_only,
        since_ns=time_ns_of(since, "--since"), until_ns=time_ns_of(until, "--until"),
    )  # fmt: skip
    chosen_log(from_log, chosen.name)
    with progress_bar("reading") as show:
        found = write_log_dataset(chosen, from_log, out, choice, show)
    print(json.dumps(asdict(found), default=str)) if as_json else _print_of_log(found)


def _check(requests: Path | None, from_log: Path | None, of_log: dict[str, object]) -> None:
    """Raise SetupError unless there is one origin, and the options are of it."""
    if (requests is None) == (from_log is None):
        raise SetupError("a training set is made of one of --requests and --from-log", where="the command line",
                         next="give one of them")  # fmt: skip
    if from_log is None and (told := [name for name, value in of_log.items() if value]):
        raise SetupError(f"{told[0]} is about a log", where="the command line", next="give --from-log DIR with it")


def _print_of_log(report: LogDatasetReport) -> None:
    labelled = "no labels" if report.labelled is None else f"{report.labelled:,} labelled"
    rate = report.rows / max(report.seconds, 1e-9)
    print(f"{report.path}: {report.rows:,} rows, {len(report.features)} features, {labelled}, "
          f"in {report.seconds:.1f} s ({rate:,.0f} rows/s)")  # fmt: skip
    for why, count in report.left_out.items():
        print(f"  {count:,} left out {why}")
    if report.redacted:
        print(f"  redacted, and so not there: {', '.join(report.redacted)}")
    tell_of(report.passed_over)


def _print(report: DatasetReport) -> None:
    left_out = f"; {report.left_out:,} left out, since a field is null" if report.left_out else ""
    rate = report.rows / max(report.seconds, 1e-9)
    print(f"{report.path}: {report.rows:,} rows, {len(report.features)} features, in {report.seconds:.1f} s "
          f"({rate:,.0f} rows/s){left_out}")  # fmt: skip
    for view, counts in report.views.items():
        notes = [
            f"{counts.bad:,} bad" if counts.bad else "",
            f"{counts.dropped:,} without an id or repeated" if counts.dropped else "",
            "no time column, so they count for every request" if view in report.timeless else "",
        ]
        print(f"  {view}: from {counts.rows:,} rows" + "".join(f"; {note}" for note in notes if note))
        for row in counts.examples:
            print(f"    {row.where}: {row.why}\n      {row.content}")
