"""Run in a process of its own: runs a query in a Spark session, and writes its rows to stdout as a stream of Arrow's.

This file imports nothing of Tailrace. What it is asked is one line of JSON on stdin (see spark.py); where stdin ends,
nobody reads on. It ends with 0 where the stream is whole, else with 1, and then the file `fault` says why:

    {"kind": "java" | "session" | "query" | "column" | "rows", "what": …, "place": [line, column], "column": …}
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final

BATCH_ROWS: Final = 5_000
"""Rows that are in memory at a time here; the JVM has a partition at a time."""

_PLACE: Final = re.compile(r"line (\d+),? (?:pos|col:?) (\d+)", re.IGNORECASE)
_CONDITION: Final = re.compile(r"\[[A-Z][A-Z_.]+\] .+")  # as Spark begins what it says of a query or a row
_COLORS: Final = re.compile(r"\x1b\[\d*m")
_NUMBERS: Final = {"boolean": "bool_", "tinyint": "int8", "smallint": "int16", "int": "int32", "bigint": "int64",
                   "float": "float32", "double": "float64"}  # fmt: skip
_TIMES: Final = ("timestamp", "timestamp_ntz")
_TEXTS: Final = ("string", "varchar", "char", "void")
_DECIMAL: Final = re.compile(r"decimal\((\d+),(\d+)\)")


class Fault(Exception):  # noqa: N818 - it is told by its kind
    """Why there are no rows, or no more."""

    def __init__(self, kind: str, what: str, **more: Any) -> None:
        super().__init__(what)
        self.told = {"kind": kind, "what": what, **more}


def open_session(asked: dict[str, Any]) -> Any:
    """Return a session of the master that is asked for."""
    java = os.environ.get("JAVA_HOME")
    if not shutil.which(os.path.join(java, "bin", "java") if java else "java"):
        raise Fault("java", "there is no Java" + (f" in JAVA_HOME, {java}" if java else ""))
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.appName("tailrace").master(asked["master"])
    for name, value in settings(asked).items():
        builder = builder.config(name, value)
    try:
        return builder.getOrCreate()
    except PySparkException as error:
        kind = "java" if "JAVA_GATEWAY" in str(error) else "session"
        raise Fault(kind, reason_of(error)) from None
    except Exception as error:  # of Java, in words of its own
        raise Fault("session", reason_of(error)) from None


def settings(asked: dict[str, Any]) -> dict[str, str]:
    """Return the session's settings. Where Spark is configured by files, these say the rest."""
    found = {
        "spark.sql.session.timeZone": "UTC",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
    }
    if asked["master"].startswith("local") and not {"SPARK_HOME", "SPARK_CONF_DIR"} & os.environ.keys():
        found |= {
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.driver.memory": f"{asked['heap_mb']}m",
            "spark.local.dir": asked["folder"],
            "spark.sql.warehouse.dir": os.path.join(asked["folder"], "warehouse"),
        }
    return found


def translated(session: Any, query: str) -> str:
    """Return a query in DuckDB's SQL as Spark's. Files that it reads are read by Spark, as Parquet."""
    import ibis
    import sqlglot
    from sqlglot import expressions

    tree = sqlglot.parse_one(query, read="duckdb")
    for table in tree.find_all(expressions.Table):
        if not table.args.get("db") and re.search(r"[/*]|\.parquet$", table.name):
            table.set("db", expressions.to_identifier("parquet", quoted=True))
    connection = ibis.pyspark.connect(session)
    return str(connection.compile(connection.sql(tree.sql("duckdb"), dialect="duckdb")))


def run_query(session: Any, asked: dict[str, Any]) -> Any:
    """Return the rows of the query as a frame, of which nothing is computed yet."""
    from pyspark.errors import PySparkException
    from sqlglot.errors import SqlglotError

    query, is_own = asked["query"], asked["dialect"] != "duckdb"
    try:
        return session.sql(query if is_own else translated(session, query))
    except (PySparkException, SqlglotError) as error:
        text = _COLORS.sub("", str(error))
        found = _PLACE.search(text) if is_own or isinstance(error, SqlglotError) else None
        # Spark counts columns from 0, its translator from 1; of what was translated no place is one of the file.
        place = [int(found[1]), int(found[2]) + int(is_own)] if found else None
        raise Fault("query", reason_of(error), place=place) from None


def readable(frame: Any) -> tuple[Any, Any]:
    """Return a frame of what Arrow is made of here, and Arrow's schema: times are microseconds since the epoch."""
    import pyarrow as pa
    from pyspark.sql import functions

    columns, fields = [], []
    by_place = frame.toDF(*map(str, range(len(frame.columns))))  # two may have one name, which the asker tells of
    for place, field in enumerate(frame.schema.fields):
        kind = field.dataType.simpleString()
        column = by_place[str(place)]
        if kind in _TIMES:
            column, arrow = functions.unix_micros(column.cast("timestamp")), pa.int64()
        elif kind in _NUMBERS:
            arrow = getattr(pa, _NUMBERS[kind])()
        elif kind.partition("(")[0] in _TEXTS:
            column, arrow = column.cast("string"), pa.string()
        elif kind == "date":
            arrow = pa.date32()
        elif decimal := _DECIMAL.fullmatch(kind):
            arrow = pa.decimal128(int(decimal[1]), int(decimal[2]))
        else:
            raise Fault("column", kind, column=field.name)
        columns.append(column.alias(field.name))
        fields.append(pa.field(field.name, arrow, metadata={"time": "us"} if kind in _TIMES else None))
    return by_place.select(*columns), pa.schema(fields)


def batches(frame: Any, schema: Any) -> Iterator[Any]:
    """Give the rows, a partition after the other, some thousand at a time."""
    import pyarrow as pa

    times = pa.timestamp("us", tz="UTC")
    rows = frame.toLocalIterator()
    while some := list(islice(rows, BATCH_ROWS)):
        arrays = [pa.array(values, field.type) for values, field in zip(zip(*some, strict=True), schema, strict=True)]
        arrays = [each.cast(times) if field.metadata else each for each, field in zip(arrays, schema, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, names=schema.names)


def write(session: Any, asked: dict[str, Any], out: IO[bytes]) -> None:
    """Write the rows of the query."""
    import pyarrow as pa

    frame, schema = readable(run_query(session, asked))
    times = pa.timestamp("us", tz="UTC")
    told = pa.schema([pa.field(each.name, times if each.metadata else each.type) for each in schema])
    with pa.ipc.new_stream(out, told) as stream:
        try:
            for batch in batches(frame, schema):
                stream.write_batch(batch)
        except BrokenPipeError:
            raise
        except Exception as error:  # of Java, Spark or Arrow: whatever it is, the rows end here
            raise Fault("rows", reason_of(error)) from None


def reason_of(error: BaseException) -> str:
    """Return one line of what an error says: Spark's own, which may stand among Java's, else the first."""
    text = _COLORS.sub("", str(error))
    if found := _CONDITION.search(text):
        return found[0]
    return next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)


def end_with_asker() -> None:
    """End this process where stdin does: a query may run for hours before it writes to a pipe that nobody reads."""
    while os.read(0, 1):  # not sys.stdin, whose lock an interpreter that ends would wait for
        pass
    os._exit(1)  # the JVM ends with us


def main() -> int:
    """Run what is asked for; return the exit code."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what Java prints is no part of the stream
    asked = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=end_with_asker, daemon=True).start()
    try:
        session = open_session(asked)
        write(session, asked, out)
        session.stop()
    except Fault as fault:
        Path(asked["fault"]).write_text(json.dumps(fault.told))
        return 1
    out.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
