"""Labels that came later, beside the log of their pipeline: what was true of requests, by their ids.

    DIR/PIPELINE/labels/labels-TIME-PID.parquet     request_id: string, label: float64, time: when it was known

A file is there whole or not, and is never written again. Of two labels of a request the later one counts, by `time`.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tailrace.monitor.log.names import SEALED
from tailrace.monitor.log.sealing import ZSTD_LEVEL

LABELS: Final = "labels"
"""The folder of a pipeline's labels."""
LABELS_NAME: Final = re.compile(rf"labels-\d+-\d+{re.escape(SEALED)}")
_TIME: Final = pa.timestamp("us", tz="UTC")
SCHEMA: Final = pa.schema([("request_id", pa.string()), ("label", pa.float64()), ("time", _TIME)])
_GROUP_ROWS: Final = 65_536


def label_paths(root: Path, pipeline: str) -> list[Path]:
    """Return the files of a pipeline's labels, those written first in front; a user's own are among them.

    Those in `labels` of the log's directory are of all pipelines.
    """
    found = [*(root / LABELS).glob(f"*{SEALED}"), *(root / pipeline / LABELS).glob(f"*{SEALED}")]
    written = []
    for path in found:
        with suppress(FileNotFoundError):  # swept a moment ago
            written.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(written)]


def write_labels(root: Path, pipeline: str, batches: Iterable[pa.RecordBatch], now_ns: int | None = None) -> Path:
    """Write labels to a file beside a log, and return its path. Raises OSError; then there is none."""
    folder = root / pipeline / LABELS
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"labels-{(now_ns or time.time_ns()) // 1_000}-{os.getpid()}{SEALED}"
    part = path.with_suffix(".part")
    try:
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        with pq.ParquetWriter(part, SCHEMA, compression="zstd", compression_level=ZSTD_LEVEL) as writer:
            for batch in batches:
                writer.write_batch(batch, row_group_size=_GROUP_ROWS)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.rename(path)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()
    return path


def labels_of(table: pa.Table, written_ns: int) -> pa.Table:
    """Return labels as all who read them take them, a row each (`SCHEMA`); what has no time is of when it was written.

    A label that is no number is null: there is none. Raises KeyError for a table without ids or labels, and
    ArrowInvalid or ArrowNotImplementedError for values that are none.
    """
    ids, labels = table.column("request_id").cast(pa.string()), table.column("label")
    labels = (labels.cast(pa.int8()) if pa.types.is_boolean(labels.type) else labels).cast(pa.float64())
    written = pa.scalar(written_ns // 1_000, pa.int64()).cast(_TIME)
    if "time" in table.column_names:
        times = pc.fill_null(cast_times(table.column("time"), _TIME), written)
    else:
        times = pa.chunked_array([pa.repeat(written, table.num_rows)])
    labels = pc.if_else(pc.is_finite(labels), labels, pa.scalar(None, pa.float64()))
    return pa.table([ids, labels, times], schema=SCHEMA)


def cast_times(column: Any, wanted: Any) -> Any:
    """Return times, or texts of them, as a type of times. Raises ArrowInvalid for numbers, which say not of what."""
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_null(kind):
        return column.cast(wanted, safe=False)
    if not pa.types.is_string(kind) and not pa.types.is_large_string(kind):
        raise pa.ArrowInvalid("it has neither times nor texts of them")
    try:
        return column.cast(wanted)
    except pa.ArrowInvalid:  # a text without a zone
        return column.cast(pa.timestamp("us")).cast(wanted)
