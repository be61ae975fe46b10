"""The files of a source: what cannot be looked at is absent, and a file that cannot be read fails its view alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from customer_runs import ROWS, Folder, command, profiles, spec_of, write_parquet

from tailrace.errors import SourceError
from tailrace.features.sources import SQL, Parquet
from tailrace.offline.progress import source_files

# Ibis 12 calls what DuckDB 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")

TWO_VIEWS = """
import tailrace as tr

class Visit(tr.Request):
    customer_id: int

class Answer(tr.Response):
    score: float

class First(tr.BatchFeatureView):
    entity = tr.Entity("customer", key="customer_id")
    source = tr.SQL("{name}.sql")
    amount: float = -1.0

class Second(tr.BatchFeatureView):
    entity = tr.Entity("customer", key="customer_id")
    source = tr.Parquet("profile.parquet", time="as_of")
    amount: float = -1.0

visits = tr.Pipeline(
    name="visits", request=Visit, response=Answer, features=[First, Second], model=tr.Model("visits"),
    budget=tr.Budget("50ms"), store="lmdb:store",
)
"""


@pytest.mark.parametrize("name", ["unreadable", "x" * 300])
def test_query_that_cannot_be_read_fails_its_view_alone(tmp_path: Path, name: str) -> None:
    """It is told as any error of a source is, and the next view is written."""
    # Root may read what permissions forbid, but no memory of a process at its first byte.
    (tmp_path / "unreadable.sql").symlink_to("/proc/self/mem")
    write_parquet(tmp_path / "profile.parquet", profiles(1))
    file = tmp_path / "visits_pipeline.py"
    file.write_text(TWO_VIEWS.format(name=name))
    ended = command("materialize", file, "--json")
    failed, written = map(json.loads, ended.stdout.splitlines())
    assert ended.returncode == 1
    assert (failed["view"], failed["where"].split(" ")[0]) == ("First", "features.First.source")
    assert failed["error"].startswith("cannot be read")
    assert failed["next"]
    assert (written["view"], written["written"]) == ("Second", ROWS)
    assert "Traceback" not in ended.stderr


def test_broken_link_under_a_glob_is_absent(folder: Folder) -> None:
    """So it is for the reader of the files that are there."""
    write_parquet(folder.path / "parts" / "a.parquet", profiles(1))
    (folder.path / "parts" / "b.parquet").symlink_to(folder.path / "gone.parquet")
    assert folder.run(Parquet("parts/*.parquet")).written == ROWS


def test_broken_link_that_a_text_of_a_query_matches_is_absent(folder: Folder) -> None:
    """A star in quotes is a pattern of every name in the folder, though the query does not read them."""
    write_parquet(folder.path / "profile.parquet", profiles(1))
    (folder.path / "current").symlink_to(folder.path / "gone")
    (folder.path / "self").symlink_to(folder.path / "self")
    (folder.path / "p.sql").write_text("SELECT * REPLACE (replace(city, '*', '') AS city) FROM 'profile.parquet'")
    assert folder.run(SQL("p.sql")).written == ROWS


def test_file_that_goes_before_it_is_looked_at_is_absent(tmp_path: Path) -> None:
    """The list of a process's open files has the one by which it is read, which is closed by then."""
    with (tmp_path / "held").open("w") as held:
        states = source_files(spec_of(Parquet("/proc/self/fd/*")), tmp_path)
        assert f"/proc/self/fd/{held.fileno()}" in states


def test_file_that_goes_while_it_is_read_is_told(folder: Folder) -> None:
    """It is a change as any other, and nothing is written."""
    write_parquet(folder.path / "profile.parquet", profiles(1))
    (folder.path / "current").symlink_to(folder.path / "profile.parquet")
    (folder.path / "p.sql").write_text("SELECT * REPLACE (replace(city, 'current', '') AS city) FROM 'profile.parquet'")

    def remove() -> int:
        (folder.path / "current").unlink(missing_ok=True)
        return 0

    with pytest.raises(SourceError, match="changed while it was read") as caught:
        folder.run(SQL("p.sql"), clock=remove)
    assert caught.value.where == str(folder.path / "current")
