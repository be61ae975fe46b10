"""Runs a query in a Spark session, and gives its rows as Arrow batches.

    this process --query--> a process of its own, with the session and its JVM --Arrow stream--> batches

The session is a process of its own, so that what it logs is told only where it fails, its memory goes with it, and no
session of the user's is touched. What is in the stream counts only once that process has ended well.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from tailrace.errors import SourceError
from tailrace.features.sources import SQL
from tailrace.offline.database import DatabaseLimits
from tailrace.offline.outside_calls import LateError, OutsideCalls
from tailrace.offline.query_faults import QueryFaults

if TYPE_CHECKING:
    import pyarrow as pa

SCRIPT: Final = Path(__file__).with_name("spark_script.py")
HEAP_MB_MIN: Final = 512
"""A JVM of less does not start a session."""
END_S_MAX: Final = 30.0
"""How long the session may take to end behind its last row, and its JVM behind it, before they are killed."""
ABORT_S_MAX: Final = 3.0
"""How long a JVM may take whose query has failed, or is to end: nothing of its answer is used."""
LOOK_S: Final = 0.02
"""How often it is seen whether the JVM has ended."""

_LOG_BYTES: Final = 8_192
_NEXT_JAVA: Final = "Spark 4 needs Java 17 or 21: apt-get install openjdk-17-jre-headless, or set JAVA_HOME to one"
_NEXT_SESSION: Final = (
    "see that the master of on= is there; what the session is told otherwise stands in spark-defaults.conf"
)
_NEXT_QUERY: Final = "correct the query: one SELECT in Spark's SQL, or in DuckDB's with dialect=\"duckdb\""
_NEXT_TIME: Final = "make the query cheaper, or give it more time: tailrace materialize --query-limit"


class SparkQuery:
    """One query in a Spark session. A context manager: the session ends with it, whatever has come of the query.

    folder: for its log, and for what a local session writes. calls: how it is waited for. Raises SourceError.
    """

    def __init__(
        self, source: SQL, query: str, faults: QueryFaults, base_dir: Path, limits: DatabaseLimits, folder: Path,
        calls: OutsideCalls,
    ) -> None:  # fmt: skip
        if find_spec("pyspark") is None:
            raise SourceError("a query on Spark needs pyspark", where=faults.path, next="pip install 'tailrace[spark]'")
        self._faults = faults
        self._calls = calls
        self._fault = folder / "spark-fault.json"
        self._log = folder / "spark.log"
        asked = {
            "query": query,
            "dialect": source.dialect,
            "master": source.spark_master,
            "heap_mb": max(limits.memory_mb, HEAP_MB_MIN),
            "folder": str(folder),
            "fault": str(self._fault),
        }
        with self._log.open("wb") as log:
            fcntl.flock(log, fcntl.LOCK_EX)  # held as long as a process has it as its stderr: the JVM too
            # -P: beside the script lie modules of ours, whose names others may have too. UTC: what Python makes of
            # Spark's times is in the zone of its process.
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                cwd=base_dir, env={**os.environ, "TZ": "UTC"}, start_new_session=True,
            )  # fmt: skip
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended: how is told behind the stream
            self._process.stdin.write(json.dumps(asked).encode() + b"\n")
            self._process.stdin.flush()  # it stays open: the session ends where it is closed, by our own end too

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()  # its JVM ends with it: it reads a pipe that this closes
        self._process.wait()
        if not self._has_java_ended(END_S_MAX if kind is None else ABORT_S_MAX):
            self._kill_all()
            self._has_java_ended(ABORT_S_MAX)  # the kernel takes a moment
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def _has_java_ended(self, limit_s: float) -> bool:
        """Wait until the JVM has cleared up and ended, since the folder will be removed; return whether it has."""
        end_s = time.monotonic() + limit_s
        with self._log.open("rb") as log:
            while time.monotonic() < end_s:
                with suppress(BlockingIOError):
                    fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return True
                time.sleep(LOOK_S)
        return False

    def _kill_all(self) -> None:
        """Kill the session and what it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Give the rows, the columns with the first batch, which may be empty.

        Raises SourceError, also where the answer is not whole in time, and StoppedError.
        """
        import pyarrow as pa

        rows, ends = 0, (self._process.kill, self._kill_all)
        try:
            with self._calls.call(partial(pa.ipc.open_stream, self._process.stdout), ends) as stream:
                none = [pa.array([], field.type) for field in stream.schema]
                yield pa.RecordBatch.from_arrays(none, schema=stream.schema)
                while (batch := self._calls.call(partial(next, stream, None), ends)) is not None:
                    yield batch
                    rows += batch.num_rows
        except LateError as error:
            raise self._faults.refused(f"{error}, behind {rows:,} rows", _NEXT_TIME) from None
        except (pa.ArrowException, OSError) as error:
            raise self._told(rows, str(error)) from None
        # A stream that is cut short between two batches reads like one that is whole.
        if self._ended() != 0:
            raise self._told(rows, f"its process ended with {self._process.returncode}")

    def _ended(self) -> int | None:
        """Return how the process ended, None where it does not."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(END_S_MAX)
        return None

    def _told(self, rows: int, reason: str) -> SourceError:
        """Return what the session came to: in its own words, else by its log."""
        faults = self._faults
        self._ended()
        try:
            fault: dict[str, Any] = json.loads(self._fault.read_bytes())
        except (OSError, ValueError):
            return faults.broken_off("Spark", rows, f"{reason}; the last it logged: {self._last_line()}")
        what, place = fault["what"], fault.get("place")
        if fault["kind"] == "java":
            return faults.unreachable("Spark", f"{what}; the last it logged: {self._last_line()}", _NEXT_JAVA)
        if fault["kind"] == "session":
            return faults.unreachable("Spark", what, _NEXT_SESSION)
        if fault["kind"] == "column":
            return faults.unreadable(fault["column"], what, "Spark")
        if fault["kind"] == "rows":
            return faults.broken_off("Spark", rows, what)
        return faults.refused(what, _NEXT_QUERY, None if place is None else (place[0], place[1]))

    def _last_line(self) -> str:
        with self._log.open("rb") as log:
            log.seek(max(log.seek(0, os.SEEK_END) - _LOG_BYTES, 0))
            lines = log.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
