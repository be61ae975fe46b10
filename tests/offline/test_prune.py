"""Pruning: entities that the source no longer has go, those that it has in any row stay, and never too many at once."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from customer_runs import (
    NOW,
    NOW_NS,
    ROWS,
    Folder,
    command,
    days,
    editions,
    profiles,
    spec_of,
    write_csv,
    write_parquet,
    write_pipeline,
)

from tailrace.errors import SourceError
from tailrace.features.rows import RowCodec
from tailrace.features.sources import CSV, Parquet
from tailrace.features.stores.opening import open_writer

# Ibis 12 calls what DuckDB 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")

SOURCE = Parquet("profile.parquet", time="as_of")


def test_prune_removes_what_the_source_no_longer_has(tmp_path: Path, url: str) -> None:
    """From every kind of store, the view's own rows and no other's; without it they stay."""
    with closing(open_writer(url)) as writer:
        folder = Folder(tmp_path, writer)
        write_parquet(tmp_path / "profile.parquet", profiles(1))
        folder.run(SOURCE)
        other = RowCodec(spec_of(SOURCE, entity="shop")).key(39)
        writer.exchange([(other, b"of another entity"), (b"{customer:39}Other:00000000", b"of another view")], ())
        write_parquet(tmp_path / "profile.parquet", profiles(1, range(35)))
        assert folder.run(SOURCE).pruned == 0
        assert folder.editions() == [1] * ROWS
        assert folder.run(SOURCE, prune=True).pruned == 5
        assert folder.editions() == [1] * 35 + [None] * 5
        assert writer.get(other) == b"of another entity"
        assert writer.get(b"{customer:39}Other:00000000") == b"of another view"
        assert folder.run(SOURCE, prune=True).pruned == 0


def test_prune_keeps_entities_whose_rows_are_bad_or_later(folder: Folder) -> None:
    """They are in the source: their rows will be right, or due."""
    columns: dict[str, list[Any]] = profiles(1, range(10), as_of=None) | {"as_of": ["2025-06-01"] * 10}
    write_csv(folder.path / "p.csv", columns)
    folder.run(CSV("p.csv", time="as_of"))
    bad_and_later = columns | {
        "amount": ["x", *columns["amount"][1:]],
        "as_of": ["2025-06-01", "2100-01-01", *["2025-06-01"] * 8],
    }
    write_csv(folder.path / "p.csv", {name: values[:9] for name, values in bad_and_later.items()})
    report = folder.run(CSV("p.csv", time="as_of"), prune=True)
    assert (report.bad, report.later, report.pruned) == (1, 1, 1)
    assert folder.editions(ids=range(10)) == [1] * 9 + [None]


def test_prune_above_the_share_removes_nothing_and_ends_with_1(tmp_path: Path) -> None:
    """A source that lost half of its rows is more likely broken; the rows that are there are written all the same."""
    file = write_pipeline(tmp_path / "visits_pipeline.py")
    write_parquet(tmp_path / "profile.parquet", profiles(1, as_of=NOW - days(1)))
    assert command("materialize", file).returncode == 0
    write_parquet(tmp_path / "profile.parquet", profiles(2, range(31)))
    refused = command("materialize", file, "--prune")
    assert refused.returncode == 1
    assert "9 of 40 stored entities are gone from the source, more than a share of 0.2" in refused.stderr
    assert "--prune-max 0.24" in refused.stderr
    with closing(open_writer(f"lmdb:{tmp_path / 'store'}")) as writer:
        assert editions(writer, spec_of(SOURCE)) == [2] * 31 + [1] * 9
    told = command("materialize", file, "--prune", "--prune-max", "0.24")
    assert told.returncode == 0
    assert "9 removed, since the source no longer has them" in told.stdout
    with closing(open_writer(f"lmdb:{tmp_path / 'store'}")) as writer:
        assert editions(writer, spec_of(SOURCE)) == [2] * 31 + [None] * 9


def test_prune_is_refused_while_an_id_cannot_be_read(folder: Folder) -> None:
    """Such a row may be of any entity."""
    write_csv(folder.path / "p.csv", profiles(1, as_of=None))
    folder.run(CSV("p.csv"))
    columns = profiles(1, range(39), as_of=None)
    write_csv(folder.path / "p.csv", columns | {"customer_id": ["?", *columns["customer_id"][1:]]})
    with pytest.raises(SourceError, match="1 rows have no id that can be read"):
        folder.run(CSV("p.csv"), prune=True)
    assert folder.editions() == [1] * ROWS


def test_prune_of_a_run_that_goes_on_knows_the_whole_source(folder: Folder) -> None:
    """What the interrupted run wrote is not taken for gone."""
    write_parquet(folder.path / "profile.parquet", profiles(1))
    folder.interrupt(20, SOURCE)
    report = folder.run(SOURCE, prune=True, now_ns=NOW_NS + 1)
    assert (report.resumed, report.pruned) == (20, 0)
    assert folder.editions() == [1] * ROWS


def test_take_over_removes_entities_whose_rows_are_bad_or_later(folder: Folder) -> None:
    """What is not written is of the source before and goes, whether or not its row has an id that can be read."""
    write_csv(folder.path / "old.csv", profiles(1, as_of=None) | {"as_of": ["2025-06-01"] * ROWS})
    folder.run(CSV("old.csv", time="as_of"))
    columns: dict[str, list[Any]] = profiles(2, as_of=None) | {"as_of": ["2025-06-01"] * ROWS}
    columns["amount"][0] = "x"
    columns["as_of"][1] = "2100-01-01"
    columns["customer_id"][2] = "?"
    write_csv(folder.path / "new.csv", columns)
    report = folder.run(CSV("new.csv", time="as_of"), take_over=True)
    assert (report.bad, report.later, report.written, report.pruned) == (2, 1, ROWS - 3, 3)
    assert folder.editions() == [None] * 3 + [2] * (ROWS - 3)
