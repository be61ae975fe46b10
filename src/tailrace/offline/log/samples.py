"""Lines of the prediction log as samples of what was served, for what reads those of `serve --sample-requests`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from tailrace.monitor.log.reader import LogReader
from tailrace.monitor.samples import StoredSample

_COLUMNS: Final = (
    "time", "request_id", "trace", "client", "release", "row", "request", "failed", "score", "features", "provenance",
    "branches",
)  # fmt: skip


def log_samples(reader: LogReader, *, expands: bool) -> Iterator[StoredSample | None]:
    """Give the requests of a log that were answered with a score, in order; None for those that were not.

    expands: whether a request makes many rows: then each has lists, an item a row.
    """
    for lines in reader.files:
        rows: list[dict[str, Any]] = []
        for batch in reader.batches_of(lines, _COLUMNS):
            for row in batch.to_pylist():
                if rows and not row["row"]:
                    yield _sample(rows, reader.pipeline, expands=expands)
                    rows = []
                rows.append(row)
        if rows:
            yield _sample(rows, reader.pipeline, expands=expands)


def _sample(rows: list[dict[str, Any]], pipeline: str, *, expands: bool) -> StoredSample | None:
    """Return the lines of a request as a sample; None where one has no score, or the first is not there."""
    first = rows[0]
    if first["request"] is None or any(row["failed"] is not False or row["features"] is None for row in rows):
        return None
    return StoredSample(
        time=first["time"],
        pipeline=pipeline,
        release=first["release"],
        request=msgspec.Raw(first["request"].encode()),
        features=_values(rows, "features", expands=expands),
        provenance=_values(rows, "provenance", expands=expands),
        score=[row["score"] for row in rows] if expands else first["score"],
        branches=_values(rows, "branches", expands=expands),
        **{name: first[name] or "" for name in ("request_id", "trace", "client")},
    )


def _values(rows: list[dict[str, Any]], struct: str, *, expands: bool) -> dict[str, Any]:
    """Return the fields of a struct: of a request that makes many rows, lists of them."""
    first = rows[0].get(struct) or {}
    return {name: [row[struct][name] for row in rows] for name in first} if expands else first
