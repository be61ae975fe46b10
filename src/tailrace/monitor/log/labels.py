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
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from tailrace.monitor.log.files import ZSTD_LEVEL
from tailrace.monitor.log.names import SEALED

LABELS: Final = "labels"
"""The folder of a pipeline's labels."""
LABELS_NAME: Final = re.compile(rf"labels-\d+-\d+{re.escape(SEALED)}")
SCHEMA: Final = pa.schema(
    [("request_id", pa.string()), ("label", pa.float64()), ("time", pa.timestamp("us", tz="UTC"))]
)
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
