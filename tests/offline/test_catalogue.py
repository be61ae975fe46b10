"""The catalogue: whose a view in a store is, which schemas it has, and when those of before go."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from customer_runs import (
    DAY_NS,
    NOW_NS,
    PAGE,
    ROWS,
    SOURCE,
    Folder,
    amounts,
    changed_spec,
    profiles,
    record_of,
    schema_of,
    spec_of,
    write_parquet,
)

from tailrace.errors import StoreError
from tailrace.features.catalogue import OLD_LAYOUT, catalogue_key
from tailrace.features.rows import RowCodec
from tailrace.features.sources import SQL, Parquet
from tailrace.features.stores.memory import MemoryWriter
from tailrace.offline.sweeping import SCHEMAS_MAX

# Ibis 12 calls what DuckDB 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")

SPEC = spec_of(SOURCE)
CHANGED = changed_spec(amount=-2.0)


def test_catalogue_notes_source_schema_run_counts_and_times(filled: Folder) -> None:
    """One row a view says all of it."""
    record = record_of(filled)
    assert record.source == f"{SOURCE!r} by 'customer_id'"
    assert record.place == str((filled.path / "profile.parquet").resolve())
    assert record.pipelines == ("visits",)
    schema = record.schemas[schema_of(SPEC)]
    assert (schema.is_whole, schema.run, schema.at_ns) == (True, 1, NOW_NS)
    assert (schema.read, schema.entities, schema.bad, schema.later) == (ROWS, ROWS, 0, 0)
    assert schema.text == "customer.Profile(amount:<f8,edition:<i8,city:|O)"


@pytest.mark.parametrize(
    ("other", "pipeline"),
    [
        (Parquet("other.parquet", time="as_of"), "visits"),
        (Parquet("other.parquet", time="as_of"), "orders"),
        (Parquet("profile.parquet", time="as_of", key="edition"), "visits"),
        (Parquet("profile.parquet"), "visits"),
    ],
)
def test_view_of_another_source_under_the_same_name_is_refused(filled: Folder, other: Parquet, pipeline: str) -> None:
    """Its rows would be served as this one's: it is told whose the view is, and nothing is written."""
    write_parquet(filled.path / "other.parquet", profiles(2))
    with pytest.raises(StoreError, match="the store's Profile is of pipeline 'visits'") as caught:
        filled.run(other, pipeline=pipeline)
    assert "a store of its own" in caught.value.next
    assert "--take-over" in caught.value.next
    assert filled.editions() == [1] * ROWS


def test_view_of_another_pipeline_with_other_columns_is_refused(filled: Folder) -> None:
    """The same source does not make it the same view."""
    with pytest.raises(StoreError, match="of pipeline 'orders'"):
        filled.run(spec=CHANGED, pipeline="orders")


def test_view_of_another_folder_is_refused(filled: Folder, tmp_path: Path) -> None:
    """Two pipelines may name their files alike, and one may have two checkouts: neither serves the other's values."""
    write_parquet(tmp_path / "other" / "profile.parquet", profiles(2))
    elsewhere = Folder(tmp_path / "other", filled.writer)
    for pipeline in ("orders", "visits"):
        with pytest.raises(StoreError, match=f"{tmp_path}/other/profile.parquet") as caught:
            elsewhere.run(SOURCE, pipeline=pipeline)
        assert f"({tmp_path}/first/profile.parquet)" in caught.value.what
    assert filled.editions() == [1] * ROWS
    assert filled.run(SOURCE).unchanged == ROWS
    assert elsewhere.run(SOURCE, take_over=True).written == ROWS
    assert filled.editions() == [2] * ROWS
    with pytest.raises(StoreError, match="--take-over"):
        filled.run(SOURCE)


def test_pipeline_that_moved_stays_the_owner(filled: Folder, tmp_path: Path) -> None:
    """A deployment puts it into a new folder, and the one before is gone: the next run goes on by itself."""
    new = tmp_path / "new"
    filled.path.rename(new)
    moved = Folder(new, filled.writer)
    assert moved.run(SOURCE).unchanged == ROWS
    assert record_of(filled).place == str((new / "profile.parquet").resolve())
    assert record_of(filled).folder == str(new.resolve())
    write_parquet(new / "profile.parquet", profiles(2))
    assert moved.run(SOURCE).written == ROWS


def test_pipeline_in_two_folders_goes_on_where_the_source_is_one_file(filled: Folder, tmp_path: Path) -> None:
    """Releases that stay side by side name it by its absolute path: there is no other's value to serve."""
    source = Parquet(str(filled.path / "profile.parquet"), time="as_of")
    filled.run(source, take_over=True)
    (tmp_path / "next").mkdir()
    assert Folder(tmp_path / "next", filled.writer).run(source).unchanged == ROWS
    assert filled.run(source).unchanged == ROWS


def test_query_of_one_file_run_in_two_folders_is_refused(filled: Folder, tmp_path: Path) -> None:
    """What it reads is relative to the folder, so it is another source."""
    (tmp_path / "profile.sql").write_text("SELECT * FROM 'profile.parquet'")
    source = SQL(str(tmp_path / "profile.sql"), time="as_of")
    filled.run(source, take_over=True)
    write_parquet(tmp_path / "next" / "profile.parquet", profiles(2))
    for pipeline in ("visits", "orders"):
        with pytest.raises(StoreError, match="--take-over"):
            Folder(tmp_path / "next", filled.writer).run(source, pipeline=pipeline)
    assert filled.editions() == [1] * ROWS


def test_pipelines_share_a_view_of_one_source(filled: Folder) -> None:
    """Two that import the same view own it together."""
    assert filled.run(SOURCE, pipeline="orders").unchanged == ROWS
    assert record_of(filled).pipelines == ("visits", "orders")
    assert filled.run(SOURCE).unchanged == ROWS


def test_changed_view_is_filled_beside_the_old_one(filled: Folder) -> None:
    """Readers of the old schema read on; the new one is whole only when its last page is written."""
    filled.interrupt(PAGE, spec=CHANGED)
    schemas = record_of(filled).schemas
    assert {name: each.is_whole for name, each in schemas.items()} == {schema_of(SPEC): True, schema_of(CHANGED): False}
    assert filled.editions() == [1] * ROWS
    filled.run(spec=CHANGED)
    assert record_of(filled).schemas[schema_of(CHANGED)].is_whole
    assert filled.editions() == [1] * ROWS
    assert amounts(filled.writer, CHANGED) == amounts(filled.writer, SPEC)


def test_old_schema_is_removed_by_a_later_run(filled: Folder) -> None:
    """Once the new one has been whole for as long as old ones are kept: not before, and nothing else with it."""
    for day in (10, 11, 12):
        assert filled.run(spec=CHANGED, now_ns=NOW_NS + day * DAY_NS).retired == 0
        assert filled.editions() == [1] * ROWS
    report = filled.run(spec=CHANGED, now_ns=NOW_NS + 13 * DAY_NS)
    assert report.retired == ROWS
    assert filled.editions() == [None] * ROWS
    assert amounts(filled.writer, CHANGED) == [each + 1 / 8 for each in range(ROWS)]
    assert list(record_of(filled).schemas) == [schema_of(CHANGED)]


def test_old_schema_that_is_still_run_is_kept(filled: Folder) -> None:
    """After a roll-back the old file is materialised again, and both stay."""
    for day in range(1, 5):
        filled.run(spec=CHANGED, now_ns=NOW_NS + day * DAY_NS)
        filled.run(SOURCE, now_ns=NOW_NS + day * DAY_NS)
    assert filled.editions() == [1] * ROWS
    assert amounts(filled.writer, CHANGED) == amounts(filled.writer, SPEC)


@pytest.mark.parametrize("day", [1, 365])
def test_old_schema_survives_a_run_whose_clock_is_ahead(filled: Folder, day: int) -> None:
    """By one clock alone it is not old, whether that run is the new schema's first or a later one."""
    for moment in (day, 1.1, 1.2, 400, 1.3, 1.4):
        assert filled.run(spec=CHANGED, now_ns=NOW_NS + int(moment * DAY_NS)).retired == 0
    assert filled.editions() == [1] * ROWS
    for moment in (2.0, 3.4, 3.5):
        retired = filled.run(spec=CHANGED, now_ns=NOW_NS + int(moment * DAY_NS)).retired
    assert retired == ROWS, "once two clocks that agree say so"


def test_old_schema_that_was_run_by_a_clock_ahead_goes_as_any_other(filled: Folder) -> None:
    """It would stay until that date. Two runs of another schema agree that it is still to come: from then it is old."""
    filled.run(SOURCE, now_ns=NOW_NS + 365 * DAY_NS)
    for day in (1.0, 1.1, 3.0):
        assert filled.run(spec=CHANGED, now_ns=NOW_NS + int(day * DAY_NS)).retired == 0
        assert filled.editions() == [1] * ROWS
    assert filled.run(spec=CHANGED, now_ns=NOW_NS + int(3.1 * DAY_NS)).retired == ROWS


def test_old_schema_that_was_run_by_a_clock_ahead_is_removed_by_two_runs_that_keep_none(filled: Folder) -> None:
    """As whoever is told that there are too many schemas is promised."""
    filled.run(SOURCE, now_ns=NOW_NS + 365 * DAY_NS)
    retired = [filled.run(spec=CHANGED, now_ns=NOW_NS + day * DAY_NS, keep_old_ns=0).retired for day in (1, 2)]
    assert retired == [0, ROWS]


def test_old_schema_survives_a_run_whose_clock_is_behind(filled: Folder) -> None:
    """By that clock the last run of the other is still to come; it is not taken for older than it is."""
    filled.run(spec=CHANGED, now_ns=NOW_NS + 10 * DAY_NS)
    filled.run(SOURCE, now_ns=NOW_NS + 11 * DAY_NS)
    for day in (11.1, 1.0, 11.2, 11.3, 12.9, 13.0):
        assert filled.run(spec=CHANGED, now_ns=NOW_NS + int(day * DAY_NS)).retired == 0
        assert filled.editions() == [1] * ROWS


def test_schema_that_was_gone_back_from_is_kept_as_long_as_any(filled: Folder) -> None:
    """Servers read it until they are replaced, though the one that is run again was whole long before."""
    for day in (0, 1, 10):
        filled.run(spec=CHANGED, now_ns=NOW_NS + day * DAY_NS)
        filled.run(SOURCE, now_ns=NOW_NS + day * DAY_NS)
    for day in (20, 21, 22):
        assert filled.run(spec=CHANGED, now_ns=NOW_NS + day * DAY_NS).retired == 0
        assert filled.editions() == [1] * ROWS
    assert filled.run(spec=CHANGED, now_ns=NOW_NS + 23 * DAY_NS).retired == ROWS


def test_schemas_of_a_view_are_bounded(filled: Folder) -> None:
    """Whoever tries many is refused, and told how to make room: those that are there may be read by servers."""
    defaults = {"amount": -1.0, "edition": -1, "city": "?"}
    orders = [names for length in (3, 2) for names in permutations(defaults, length)]
    specs = [changed_spec(**{name: defaults[name] for name in names}) for names in orders]
    for index, spec in enumerate(specs[:SCHEMAS_MAX]):
        assert filled.run(spec=spec, now_ns=NOW_NS + index * 10 * DAY_NS).retired == 0
    later_ns = NOW_NS + 100 * DAY_NS
    with pytest.raises(StoreError, match=f"the store has {SCHEMAS_MAX} schemas of the view") as caught:
        filled.run(spec=specs[SCHEMAS_MAX], now_ns=later_ns)
    assert caught.value.where == "features.Profile"
    assert "twice with --keep-old 0s" in caught.value.next
    assert list(record_of(filled).schemas) == [schema_of(each) for each in specs[:SCHEMAS_MAX]]
    assert all(filled.writer.get(RowCodec(each).key(0)) for each in specs[:SCHEMAS_MAX])
    assert filled.run(SOURCE, now_ns=later_ns, keep_old_ns=0).retired == 0
    assert filled.run(SOURCE, now_ns=later_ns, keep_old_ns=0).retired == ROWS * (SCHEMAS_MAX - 1)
    assert filled.run(spec=specs[SCHEMAS_MAX], now_ns=later_ns).written == ROWS
    assert filled.editions() == [1] * ROWS


def test_rows_of_the_layout_before_are_removed_as_an_old_schema(tmp_path: Path) -> None:
    """Old servers read on, until they are not kept any longer."""
    rows = {b"{customer:%d}Profile" % each: b"an old row" for each in range(ROWS)}
    rows[b"tailrace:materialize:Profile"] = b"{}"
    folder = Folder(tmp_path, MemoryWriter(rows))
    write_parquet(tmp_path / "profile.parquet", profiles(1))
    folder.run(SOURCE)
    assert OLD_LAYOUT in record_of(folder).schemas
    assert rows[b"{customer:0}Profile"] == b"an old row"
    assert folder.run(SOURCE, now_ns=NOW_NS + 3 * DAY_NS).retired == 0
    assert folder.run(SOURCE, now_ns=NOW_NS + 4 * DAY_NS).retired == ROWS
    assert b"{customer:0}Profile" not in rows
    assert b"tailrace:materialize:Profile" not in rows
    assert folder.editions() == [1] * ROWS


def test_catalogue_row_of_another_version_is_refused(filled: Folder) -> None:
    """What cannot be read is not overwritten."""
    filled.writer.exchange([(catalogue_key("Profile"), b'{"source": 1}')], ())
    with pytest.raises(StoreError, match="the catalogue's row of Profile cannot be read"):
        filled.run(SOURCE)


def test_empty_source_makes_no_schema_whole_beside_another(filled: Folder) -> None:
    """It would switch servers to a view without rows, and let the rows of the other go; a first view it may be."""
    empty = pa.table({"customer_id": pa.array([], pa.int64()), "amount": pa.array([], pa.float64())})
    pq.write_table(empty.append_column("as_of", pa.array([], pa.timestamp("us"))), filled.path / "profile.parquet")
    for day in (1, 5, 9):
        assert filled.run(spec=CHANGED, allow_empty=True, now_ns=NOW_NS + day * DAY_NS).retired == 0
    assert not record_of(filled).schemas[schema_of(CHANGED)].is_whole
    assert filled.editions() == [1] * ROWS
    first = Folder(filled.path, MemoryWriter({}))
    first.run(spec=CHANGED, allow_empty=True)
    assert record_of(first).schemas[schema_of(CHANGED)].is_whole
