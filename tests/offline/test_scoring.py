"""A file of requests is answered as callers would be, to the last digit, and what cannot be says why."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tailrace.cli.main import app
from tailrace.errors import SourceError
from tailrace.features.stores.lmdb_writer import LmdbWriter
from tailrace.offline.scoring import score_file
from tailrace.pipeline import Pipeline
from tailrace.testing import TestClient

TIME = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)


def payments(count: int, **columns: list[Any]) -> pa.Table:
    """Return requests, with a column that is none of theirs."""
    rows = [
        {"transaction_id": f"t{number}", "customer_id": number, "terminal_id": "a", "amount": 10.0 + number / 2,
         "time": TIME, "label": number % 2}
        for number in range(count)
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows)
    for name, values in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values))
    return table


def make_store(folder: Path) -> str:
    """Make an empty store; return its URL."""
    LmdbWriter(folder / "store").close()
    return f"lmdb:{folder / 'store'}"


def scored(pipeline: Pipeline, table: pa.Table, folder: Path, **options: Any) -> tuple[pa.Table, Any]:
    """Return what a table's file becomes, and the report."""
    pq.write_table(table, folder / "requests.parquet")
    report = score_file(pipeline, folder / "requests.parquet", folder / "out" / "scored.parquet",
                        store=make_store(folder), **options)  # fmt: skip
    return pq.read_table(folder / "out" / "scored.parquet"), report


@pytest.fixture
def payment(pipeline_of: Callable[[str], Pipeline]) -> Pipeline:
    """Return the pipeline of payments."""
    return pipeline_of("payment")


def test_answers_are_those_that_callers_get(payment: Pipeline, tmp_path: Path) -> None:
    """Of ten thousand requests in pages: each field, each row, in the file's order, beside the file's own columns."""
    table = payments(10_000)
    pages: list[tuple[int, int]] = []
    found, report = scored(payment, table, tmp_path, on_page=lambda *told: pages.append(told))
    assert (report.requests, report.refused) == (10_000, 0)
    assert pages[-1] == (10_000, 10_000)
    assert len(pages) == 3
    assert found.column_names == [*table.column_names, "answer_transaction_id", "decision", "score", "reasons",
                                  "avg_amount", "amount_ratio", "error", "degraded"]  # fmt: skip
    with TestClient(payment) as client:
        for place in (0, 1, 4_095, 4_096, 9_999):
            row = table.slice(place, 1).to_pylist()[0]
            label = row.pop("label")
            answer = client.predict(msgspec.to_builtins(row))
            told = found.slice(place, 1).to_pylist()[0]
            assert told["label"] == label
            assert told["error"] is None
            assert told["answer_transaction_id"] == answer.pop("transaction_id")
            assert {name: told[name] for name in answer} == answer


def test_number_is_what_it_says_however_the_file_has_it(payment: Pipeline, tmp_path: Path) -> None:
    """Ids as floats, as pandas writes them beside a null, and amounts as decimals; half an id is none."""
    amounts = pa.array([Decimal("10.25"), Decimal("20.50"), Decimal(30), Decimal(40)], pa.decimal128(12, 2))
    table = payments(4, amount=amounts, customer_id=pa.array([4021.0, 2.0, None, 2.5]))
    found, report = scored(payment, table, tmp_path)
    errors = found["error"].to_pylist()
    assert [each is None for each in errors] == [True, True, False, False], errors
    assert "missing" in errors[2]
    assert "Expected `int`" in errors[3]
    plain, _ = scored(payment, payments(2, amount=[10.25, 20.5], customer_id=[4021, 2]), tmp_path)
    assert found["score"].to_pylist()[:2] == plain["score"].to_pylist()
    assert report.refused == 2


def test_column_that_is_there_is_kept(payment: Pipeline, tmp_path: Path) -> None:
    """The file's own error stays, and so does what an earlier run has added, whatever is added now."""
    table = payments(3).append_column("error", pa.array(["a", "b", "c"]))
    first, _ = scored(payment, table, tmp_path)
    assert first["error"].to_pylist() == ["a", "b", "c"]
    assert first["answer_error"].to_pylist() == [None] * 3
    (tmp_path / "again").mkdir()
    second, _ = scored(payment, first, tmp_path / "again")
    assert second.select(first.column_names) == first
    assert second["answer_answer_error"].to_pylist() == [None] * 3
    assert second["answer_score"] == first["score"]


def test_request_that_is_none_says_why_and_harms_no_other(payment: Pipeline, tmp_path: Path) -> None:
    """Out of bounds, a null, a number without end, and one on which the user's function raises."""
    amounts = [10.0, 1e9, None, float("nan"), 6666.0, 20.0]
    found, report = scored(payment, payments(6, amount=amounts), tmp_path)
    errors = found["error"].to_pylist()
    assert [each is None for each in errors] == [True, False, False, False, False, True]
    for error, words in zip(errors[1:5], ("amount", "missing", "amount", "6666"), strict=True):
        assert words in error
    assert [each is None for each in found["score"].to_pylist()] == [False, True, True, True, True, False]
    assert (report.requests, report.refused) == (6, 4)
    assert report.examples[0].startswith("row 1: ")


def test_unfit_file_is_refused_and_leaves_nothing(payment: Pipeline, tmp_path: Path) -> None:
    """No Parquet, no file, no rows: told by its path, and what was written before stays."""
    with pytest.raises(SourceError, match="no rows"):
        scored(payment, payments(1).slice(0, 0), tmp_path)
    (tmp_path / "requests.parquet").write_text("no parquet")
    (tmp_path / "out" / "scored.parquet").write_text("before")
    for name in ("requests.parquet", "none.parquet"):
        with pytest.raises(SourceError, match="cannot be read as Parquet"):
            score_file(payment, tmp_path / name, tmp_path / "out" / "scored.parquet")
    assert (tmp_path / "out" / "scored.parquet").read_text() == "before"
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["scored.parquet"]


def test_damaged_page_is_told_and_leaves_nothing(payment: Pipeline, tmp_path: Path) -> None:
    """Of a file whose end is sound, so that it is seen only once it is read."""
    pq.write_table(payments(9_000), tmp_path / "requests.parquet", row_group_size=4_096)
    content = bytearray((tmp_path / "requests.parquet").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2_000] = bytes(2_000)
    (tmp_path / "requests.parquet").write_bytes(content)
    with pytest.raises(SourceError, match="cannot be read as Parquet"):
        score_file(payment, tmp_path / "requests.parquet", tmp_path / "scored.parquet", store=make_store(tmp_path))
    assert not (tmp_path / "scored.parquet").exists()


def test_command_tells_what_became_of_the_requests(pipelines_dir: Path, tmp_path: Path) -> None:
    """In a line, with examples on stderr; as JSON; and with 1 where none was answered."""
    pq.write_table(payments(3, amount=[1.0, 1e9, 2.0]), tmp_path / "requests.parquet")
    words = ["score", str(pipelines_dir / "payment.py"), "--requests", str(tmp_path / "requests.parquet"), "--out",
             str(tmp_path / "scored.parquet"), "--store", make_store(tmp_path)]  # fmt: skip
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 0, told.output
    assert "3 requests, 1 without an answer, 0 degraded" in told.stdout
    assert "row 1: " in told.stderr
    assert json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)["refused"] == 1
    pq.write_table(payments(1, amount=[1e9]), tmp_path / "requests.parquet")
    assert CliRunner().invoke(app, words).exit_code == 1
