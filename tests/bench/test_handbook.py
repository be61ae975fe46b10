"""The handbook's comparison: its features are the plain SQL's, and its figures are taken as the handbook takes them."""

from __future__ import annotations

import shutil
from datetime import date
from pathlib import Path

import duckdb
import numpy as np
import pytest

import handbook
from figures import Figures
from part import Session

TAILRACE_HOPS = {"hop_1d_s": 1_440, "hop_7d_s": 10_080, "hop_30d_s": 43_200, "open_s": 0}
"""A sixtieth of each window, and its beginning is within."""


def days(*numbers: int) -> np.ndarray:
    """Return days of July."""
    return np.array([f"2018-07-{number:02}" for number in numbers], "datetime64[D]")


@pytest.fixture
def placed(shared_data: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Return the pipeline's file and, where its streams look for them, the transactions of some cards and terminals."""
    file = tmp_path / "bench" / "handbook" / "pipeline.py"
    transactions = tmp_path / "build" / "bench" / "handbook" / "transactions.parquet"
    for path in (file, transactions):
        path.parent.mkdir(parents=True)
    shutil.copy(handbook.FOLDER / "pipeline.py", file)
    some = duckdb.sql(f"SELECT * FROM '{shared_data}' WHERE TERMINAL_ID < 400 OR CUSTOMER_ID < 200")
    some.write_parquet(str(transactions))
    return file, transactions


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")  # ibis calls it
def test_features_are_those_of_plain_sql(placed: tuple[Path, Path]) -> None:
    """Each of the twelve windows of two days' payments is what a join of all payments gives; hours and weekends fit."""
    file, transactions = placed
    between = date(2018, 7, 27), date(2018, 7, 29)
    made = handbook.make_dataset(file, transactions, *between)
    windows = handbook.compute_windows(transactions, *between, TAILRACE_HOPS)
    assert made["transaction_id"].to_pylist() == windows["transaction_id"].to_pylist()
    assert made.num_rows > 1_000
    for name in windows.column_names[1:]:
        one, other = made[name].to_numpy(), windows[name].to_numpy()
        assert np.count_nonzero(other), name
        np.testing.assert_allclose(one, other, rtol=1e-12, err_msg=name)
    for row in made.select(["time", "during_night", "during_weekend"]).to_pylist():
        assert row["during_night"] == (row["time"].hour <= 6)
        assert row["during_weekend"] == (row["time"].weekday() >= 5)


def test_card_is_known_once_its_fraud_is_older_than_a_week() -> None:
    """A card is blocked from the eighth day after its first fraud on; one without a fraud never is."""
    card = np.array([1, 1, 1, 2, 2])
    is_fraud = np.array([True, True, False, False, False])
    known = handbook.is_known(card, days(11, 18, 19, 11, 31), is_fraud)
    assert known.tolist() == [False, False, True, False, False]


def test_card_precision_is_of_the_most_suspicious_cards_of_each_day() -> None:
    """A card has its worst score and is found by any fraud of the day; a card that was found makes room for others."""
    card = np.array([1, 1, 2, 3, 1, 2, 3, 4])
    day = days(25, 25, 25, 25, 26, 26, 26, 26)
    is_fraud = np.array([True, False, False, True, True, True, False, False])
    scores = np.array([0.1, 0.9, 0.8, 0.2, 0.9, 0.5, 0.6, 0.1])
    # On the first day cards 1 (found) and 2 are looked into, on the second 3 and 2 (found), since 1 is known.
    assert handbook.card_precision(scores, is_fraud, card, day, cards_max=2) == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert handbook.card_precision(scores, is_fraud, card, day, cards_max=1) == pytest.approx((1 + 0) / 2)


def test_absent_transactions_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the handbook's file nothing is measured, the reader is told how to name it, and no figure is shown."""
    monkeypatch.setenv(handbook.VARIABLE, str(tmp_path / "none.parquet"))
    session = Session()
    figures: Figures = handbook.measure(session)
    assert figures == {}
    assert any(handbook.VARIABLE in note for note in session.notes)
    assert {line.write(line.value) for line in handbook.lines(figures)} == {"-"}
