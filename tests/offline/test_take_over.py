"""Taking over: of the rows of another source none is served under any schema, and none is left by a run that ended."""

from __future__ import annotations

import msgspec
import pytest
from customer_runs import (
    DAY_NS,
    NOW,
    NOW_NS,
    PAGE,
    ROWS,
    SOURCE,
    Folder,
    amounts,
    changed_spec,
    days,
    profiles,
    record_of,
    schema_of,
    spec_of,
    write_csv,
    write_parquet,
)

from tailrace.errors import SourceError, StoreError
from tailrace.features.catalogue import catalogue_key
from tailrace.features.sources import CSV, SQL, Parquet

# Ibis 12 calls what DuckDB 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")

NEW = Parquet("new.parquet", time="as_of")
SPEC = spec_of(SOURCE)
CHANGED = changed_spec(NEW, amount=-2.0)


def fit_schemas(folder: Folder) -> set[str]:
    """Return the schemas that a server may read."""
    return {name for name, each in record_of(folder).schemas.items() if each.is_fit}


def test_take_over_overwrites_newer_rows_and_removes_what_the_new_source_lacks(filled: Folder) -> None:
    """Of the source before nothing is left, whatever its times; interrupted, it begins anew as a take-over."""
    new = CSV("new.csv", time="as_of")
    write_csv(filled.path / "new.csv", profiles(2, range(30), as_of=NOW - days(100)))
    filled.interrupt(PAGE, new, take_over=True)
    assert not fit_schemas(filled)
    report = filled.run(new)
    assert (report.resumed, report.unchanged, report.written, report.pruned) == (0, PAGE, 20, 10)
    assert filled.editions() == [2] * 30 + [None] * 10
    assert fit_schemas(filled) == {schema_of(SPEC)}
    with pytest.raises(StoreError, match="of pipeline 'visits', from CSV"):
        filled.run(SOURCE)


def test_take_over_by_an_empty_source_is_refused(filled: Folder) -> None:
    """It would remove everything."""
    (filled.path / "new.csv").write_text("customer_id,amount,edition,city\n")
    with pytest.raises(SourceError, match="no rows to take over with"):
        filled.run(CSV("new.csv"), take_over=True, allow_empty=True)
    assert filled.editions() == [1] * ROWS


def test_take_over_does_not_go_on_with_a_run_that_was_none(filled: Folder) -> None:
    """What that run left, since it was older than the store's, is overwritten too."""
    older = profiles(2, as_of=NOW - days(1))
    write_parquet(filled.path / "profile.parquet", older)
    filled.interrupt(PAGE, SOURCE)
    assert filled.editions() == [1] * ROWS
    report = filled.run(SOURCE, take_over=True)
    assert (report.resumed, report.written) == (0, ROWS)
    assert filled.editions() == [2] * ROWS


@pytest.mark.parametrize("pipeline", ["visits", "orders"])
def test_take_over_leaves_no_other_schema_fit(filled: Folder, pipeline: str) -> None:
    """It still has rows of the source before. A plain run of it overwrites these, newer ones too, and prunes."""
    write_parquet(filled.path / "new.parquet", profiles(2, range(30), as_of=NOW - days(100)))
    filled.run(spec=CHANGED, pipeline=pipeline, take_over=True)
    assert fit_schemas(filled) == {schema_of(CHANGED)}
    assert filled.editions() == [1] * ROWS
    report = filled.run(NEW, pipeline=pipeline)
    assert (report.written, report.pruned) == (30, 10)
    assert filled.editions() == [2] * 30 + [None] * 10
    assert fit_schemas(filled) == {schema_of(CHANGED), schema_of(SPEC)}


def test_run_of_one_schema_ends_no_take_over_of_another(filled: Folder) -> None:
    """One that was killed has left rows of two sources under its own schema; a run of that one ends it."""
    filled.run(spec=changed_spec(amount=-2.0))
    write_parquet(filled.path / "new.parquet", profiles(2, as_of=NOW - days(100)))
    filled.interrupt(PAGE, NEW, take_over=True)
    assert not fit_schemas(filled)
    filled.run(spec=CHANGED)
    assert fit_schemas(filled) == {schema_of(CHANGED)}
    assert amounts(filled.writer, CHANGED) == [each + 2 / 8 for each in range(ROWS)]
    assert filled.editions() == [2] * PAGE + [1] * (ROWS - PAGE)
    filled.run(NEW)
    assert filled.editions() == [2] * ROWS
    assert fit_schemas(filled) == {schema_of(CHANGED), schema_of(SPEC)}


def test_schema_that_a_take_over_added_is_fit_once_its_run_has_ended(filled: Folder) -> None:
    """Killed, it is not; the next run of it needs no flag."""
    write_parquet(filled.path / "new.parquet", profiles(2))
    filled.interrupt(PAGE, spec=CHANGED, take_over=True)
    assert not fit_schemas(filled)
    filled.run(spec=CHANGED)
    assert fit_schemas(filled) == {schema_of(CHANGED)}


def test_take_over_that_is_run_again_writes_what_came_due_since(filled: Folder) -> None:
    """Such an entity may have a lower key than the last one written; its row of the source before must not stay."""
    columns = profiles(2)
    columns["as_of"][0] = NOW + days(1 / 48)
    write_parquet(filled.path / "new.parquet", columns)
    filled.interrupt(PAGE, NEW, take_over=True)
    filled.run(NEW, now_ns=NOW_NS + 40 * 60 * 10**9)
    assert filled.editions() == [2] * ROWS


def test_take_over_that_is_run_again_writes_what_a_query_has_since(filled: Folder) -> None:
    """No fingerprint shows that its result has changed."""
    write_parquet(filled.path / "hidden.parquet", profiles(2, range(1, ROWS)))
    (filled.path / "new.sql").write_text("SELECT * FROM read_parquet('hid' || 'den.parquet')")
    filled.interrupt(PAGE, SQL("new.sql", time="as_of"), take_over=True)
    write_parquet(filled.path / "hidden.parquet", profiles(2))
    filled.run(SQL("new.sql", time="as_of"))
    assert filled.editions() == [2] * ROWS


def test_take_over_by_an_empty_source_under_a_new_schema_is_refused(filled: Folder) -> None:
    """The rows of the other schemas would not be served any more."""
    (filled.path / "new.csv").write_text("customer_id,amount\n")
    with pytest.raises(SourceError, match="no rows to take over with"):
        filled.run(spec=changed_spec(CSV("new.csv"), amount=-2.0), take_over=True, allow_empty=True)
    assert fit_schemas(filled) == {schema_of(SPEC)}


def test_take_over_into_an_empty_store_is_as_any_run(folder: Folder) -> None:
    """There is no source before."""
    (folder.path / "new.csv").write_text("customer_id,amount\n")
    folder.run(spec=changed_spec(CSV("new.csv"), amount=-2.0), take_over=True, allow_empty=True)
    assert len(fit_schemas(folder)) == 1


def test_schema_that_was_taken_over_is_whole_from_then_on(filled: Folder) -> None:
    """No server could start with it meanwhile, so those of another schema have as long as ever to be replaced."""
    write_parquet(filled.path / "new.parquet", profiles(2))
    for day in (1, 5):
        filled.run(spec=changed_spec(amount=-2.0), now_ns=NOW_NS + day * DAY_NS, keep_old_ns=100 * DAY_NS)
    filled.interrupt(PAGE, spec=CHANGED, now_ns=NOW_NS + 10 * DAY_NS, take_over=True)
    for day in (13, 14):
        assert filled.run(spec=CHANGED, now_ns=NOW_NS + day * DAY_NS).retired == 0
        assert filled.editions() == [1] * ROWS
    filled.run(spec=CHANGED, now_ns=NOW_NS + 15 * DAY_NS)
    assert filled.run(spec=CHANGED, now_ns=NOW_NS + 16 * DAY_NS).retired == ROWS


def test_record_with_the_mark_of_a_whole_view_is_read(filled: Folder) -> None:
    """A store that was written while take-overs were noted so has it; it says nothing any more."""
    record = msgspec.json.decode(filled.writer.get(catalogue_key("Profile")) or b"")
    row = msgspec.json.encode(record | {"is_mixed": True})
    filled.writer.exchange([(catalogue_key("Profile"), row)], ())
    assert filled.run(SOURCE).unchanged == ROWS
