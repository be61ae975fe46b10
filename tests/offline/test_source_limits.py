"""A source is read within its memory and threads, and the error of a query that does not run names the line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tailrace.errors import SourceError
from tailrace.features.batch_views import BatchFeatureView
from tailrace.features.sources import SQL
from tailrace.features.stores.memory import MemoryWriter
from tailrace.features.view_spec import Entity
from tailrace.offline.database import DatabaseLimits
from tailrace.offline.materialize import MaterializeReport, materialize
from tailrace.offline.options import MaterializeOptions

# Ibis 12 calls what DuckDB 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")


class Profile(BatchFeatureView):
    """A view on a query."""

    entity = Entity("customer", key="customer_id")
    source = SQL("profile.sql")
    amount: float = 0.0
    city: str = ""


def run_query(folder: Path, query: str | bytes, limits: DatabaseLimits | None = None) -> MaterializeReport:
    """Materialise a query."""
    (folder / "profile.sql").write_bytes(query.encode() if isinstance(query, str) else query)
    options = MaterializeOptions(limits=limits or DatabaseLimits())
    return materialize(Profile.spec, folder, MemoryWriter({}), options=options)


GOOD = "SELECT range AS customer_id, 1.5 AS amount, 'Köln' AS city\nFROM range(3)"
MISTAKEN = {
    "syntax": ("-- customers\n\nSELECT 1 AS customer_id, 2.0 AS amount\nFORM nowhere", "4:1", "syntax error"),
    "column": ("SELECT range AS customer_id,\n       'Köln' AS city, wealth AS amount FROM range(3)", "2:24", "wealth"),
    "table": ("SELECT customer_id, amount\nFROM\n  nowhere", "3:3", "nowhere"),
    "function": ("\n\nSELECT range AS customer_id, wealth_of(range) AS amount FROM range(3)", "3:30", "wealth_of"),
    "value": ("SELECT range AS customer_id,\n  CAST('x' || range AS INT) AS amount FROM range(3)", "2:3", "'x0'"),
    "two statements": ("SELECT 1 AS customer_id;\nSELECT 2", "1:24", '";"'),
    "unfinished": ("SELECT 1 AS customer_id,\n  (2", "2", "syntax error"),
    "one bracket too many": ("SELECT 1 AS customer_id\n) AS x", "2", "syntax error"),
    "empty": ("", "1", "syntax error"),
    "comment": ("-- nothing yet\n", "2", "syntax error"),
}
"""A query, its place in the file, a part of what is said."""


@pytest.mark.parametrize("kind", MISTAKEN)
def test_mistaken_query_is_told_with_its_line_and_column(kind: str, tmp_path: Path) -> None:
    """The place is the file's own, as an editor opens it; a value that cannot be cast has one too."""
    query, place, what = MISTAKEN[kind]
    with pytest.raises(SourceError, match="the query of Profile cannot be run") as caught:
        run_query(tmp_path, query)
    assert caught.value.where == f"{tmp_path / 'profile.sql'}:{place}"
    assert what in caught.value.what
    assert "{" not in caught.value.what


def test_query_over_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    """What is in no line of the query is told with the file alone."""
    with pytest.raises(SourceError, match=r"nofile\.parquet") as caught:
        run_query(tmp_path, "SELECT * FROM 'nofile.parquet'")
    assert caught.value.where == str(tmp_path / "profile.sql")


@pytest.mark.parametrize("end", ["", ";", " ;\n\n", "; -- all of them\n-- really", "\n-- all", "\n-- all of them;"])
def test_query_may_end_as_queries_do(end: str, tmp_path: Path) -> None:
    """A semicolon or a comment behind the query is no second one."""
    assert run_query(tmp_path, GOOD + end).written == 3


@pytest.mark.parametrize("limits", [(31, 1), (1 << 25, 1), (64, 0), (64, 1_025)])
def test_limits_out_of_range_are_refused(limits: tuple[int, int]) -> None:
    """A limit that DuckDB cannot keep, or that is none, is told by its flag."""
    with pytest.raises(SourceError, match="out of range") as caught:
        DatabaseLimits(*limits)
    assert caught.value.where in {"--memory-mb", "--threads"}


@pytest.mark.parametrize("threads", [1, 3])
def test_source_is_read_by_so_many_threads(threads: int, tmp_path: Path) -> None:
    """The limits are those that DuckDB itself has while it reads."""
    settings = "current_setting('memory_limit') || ' ' || current_setting('threads')"
    query = f"SELECT 1 AS customer_id, 0.0 AS amount, {settings} AS city"
    rows: dict[bytes, bytes] = {}
    (tmp_path / "profile.sql").write_text(query)
    options = MaterializeOptions(limits=DatabaseLimits(128, threads))
    materialize(Profile.spec, tmp_path, MemoryWriter(rows), options=options)
    assert any(f"128.0 MiB {threads}".encode() in row for row in rows.values())


# -- a query over the bound, in a process of its own -------------------------------------------------------------------

PIPELINE = '''
"""A view on a query."""
import tailrace as tr

class Payment(tr.Request):
    customer_id: int

class Answer(tr.Response):
    score: float

class Profile(tr.BatchFeatureView):
    entity = tr.Entity("customer", key="customer_id")
    source = tr.SQL("profile.sql")
    amount: float = 0.0
    city: str = ""

scores = tr.Pipeline(
    name="scores", request=Payment, response=Answer, features=[Profile], model=tr.Model("scores"),
    budget=tr.Budget("50ms"), store="lmdb:store",
)
'''
ENTITIES = 2_000
SORTED = f"""
SELECT range % {ENTITIES} AS customer_id, 1.5 AS amount, first(long ORDER BY long) AS city
FROM (SELECT range, md5(range::VARCHAR) || md5((range + 1)::VARCHAR) AS long FROM range(2_000_000) ORDER BY long)
GROUP BY ALL
"""
"""Some 130 MB of text, sorted."""
GATHERED = """
SELECT 1 AS customer_id, 1.5 AS amount, len(list(md5(range::VARCHAR)))::VARCHAR AS city
FROM range(4_000_000)
"""
"""A list that no spilling makes smaller."""


COMMAND = """
import atexit, re, sys
from tailrace.cli.main import main
# Of this process alone: the peak that getrusage tells has the parent's in it.
peak_mb = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1_024
atexit.register(lambda: sys.stderr.write(f"\\npeak {peak_mb()}"))
sys.argv = ["tailrace", "materialize", "scores_pipeline.py", "--json", "--memory-mb", sys.argv[1]]
main()
"""


def run_command(folder: Path, query: str, memory_mb: int) -> tuple[subprocess.CompletedProcess[str], int]:
    """Run `tailrace materialize` on a query; return it with its most memory, in MiB."""
    (folder / "profile.sql").write_text(query)
    (folder / "scores_pipeline.py").write_text(PIPELINE)
    temporary = folder / "temporary"
    temporary.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, str(memory_mb)],
        cwd=folder, env={**os.environ, "TMPDIR": str(temporary)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert not list(temporary.iterdir())
    return done, int(done.stderr.rpartition("peak ")[2])


@pytest.mark.slow  # it writes more than the bound
def test_query_over_the_memory_bound_spills(tmp_path: Path) -> None:
    """What sorts more than it may hold does so in a temporary folder, which is gone afterwards."""
    bounded, peak_mb = run_command(tmp_path, SORTED, 64)
    assert bounded.returncode == 0, bounded.stderr
    assert json.loads(bounded.stdout)["written"] == ENTITIES
    free, peak_free_mb = run_command(tmp_path, SORTED, 4_096)
    assert json.loads(free.stdout)["written"] == ENTITIES
    assert peak_mb < peak_free_mb - 50


def test_query_that_cannot_spill_is_an_error(tmp_path: Path) -> None:
    """What must hold more than it may is refused with what to do; nobody kills the process for it."""
    done, _ = run_command(tmp_path, GATHERED, 64)
    assert done.returncode == 1, (done.returncode, done.stderr)
    assert "takes more memory than the 64 MiB that it may" in " ".join(done.stderr.split())
    assert "--memory-mb" in done.stderr
