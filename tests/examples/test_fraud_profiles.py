"""Profiles know the past only, and count it as a plain loop over the transactions would."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from profiles import HELD_BACK_DAYS, TOLD_AFTER_DAYS, VIEWS, History, load_history

import tailrace as tr
from tailrace.compile.loading import load_pipelines
from tailrace.errors import SourceError

# Ibis 12 calls what DuckDB 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")

FRAUD = Path(__file__).parents[2] / "examples" / "fraud"
TODAY = date(2026, 3, 4)


@pytest.fixture(scope="module")
def history(transactions_path: Path) -> History:
    """Return the small simulation, moved to TODAY."""
    return load_history(transactions_path, TODAY)


def profiles_of(history: History, entity: str, folder: Path) -> pa.Table:
    """Return the served profiles of an entity."""
    path = folder / f"{entity}.parquet"
    history.write_profiles(entity, path)
    return pq.read_table(path)


def with_features(history: History, rows: pa.Table, folder: Path) -> pa.Table:
    """Return payments with what they would have been served with, of profiles and events written below a folder."""
    (pipeline,) = load_pipelines(FRAUD / "pipeline.py")
    build = folder / "build" / "fraud"
    build.mkdir(parents=True)
    for entity in VIEWS.values():
        history.write_profiles(entity, build / f"{entity}_profile.parquet")
    history.write_events(build / "payments", build / "labels")
    return tr.dataset(replace(pipeline, base_dir=folder / "examples" / "fraud"), rows)


def test_profile_ignores_what_comes_later(transactions_path: Path, history: History, tmp_path: Path) -> None:
    """The profiles as of a midnight stay the same when every later transaction is changed."""
    table = pq.read_table(transactions_path)
    cutoff = np.datetime64(TODAY, "ns") - np.timedelta64(history.shift_days, "D")
    late = pa.array(table["TX_DATETIME"].to_numpy() >= cutoff)
    fraud = pc.if_else(late, pa.scalar(1, pa.int8()), table["TX_FRAUD"])
    amount = pc.if_else(late, pa.scalar(9_999, pa.float32()), table["TX_AMOUNT"])
    changed = table.set_column(7, "TX_FRAUD", fraud).set_column(4, "TX_AMOUNT", amount)
    pq.write_table(changed, tmp_path / "changed.parquet")
    other = load_history(tmp_path / "changed.parquet", TODAY)
    for entity in VIEWS.values():
        assert profiles_of(other, entity, tmp_path).equals(profiles_of(history, entity, tmp_path))


def test_profile_ignores_fraud_not_yet_told(transactions_path: Path, history: History, tmp_path: Path) -> None:
    """Labels of the last seven days before the midnight change no profile, since they are not known by then."""
    table = pq.read_table(transactions_path)
    told = np.datetime64(TODAY - timedelta(days=TOLD_AFTER_DAYS), "ns") - np.timedelta64(history.shift_days, "D")
    untold = pa.array(table["TX_DATETIME"].to_numpy() >= told)
    fraud = pc.if_else(untold, pa.scalar(1, pa.int8()), table["TX_FRAUD"])
    pq.write_table(table.set_column(7, "TX_FRAUD", fraud), tmp_path / "changed.parquet")
    other = load_history(tmp_path / "changed.parquet", TODAY)
    for entity in VIEWS.values():
        assert profiles_of(other, entity, tmp_path).equals(profiles_of(history, entity, tmp_path))


def test_training_row_has_profile_of_midnight_before(history: History, tmp_path: Path) -> None:
    """Counts, means and fraud rates of training rows are those of a loop over the transactions."""
    rows = with_features(history, history.training_rows(), tmp_path).to_pylist()
    past = [
        {"customer": c, "terminal": t, "time": time, "amount": amount, "fraud": fraud}
        for c, t, time, amount, fraud in history.connection.execute(
            "SELECT customer_id, terminal_id, TX_DATETIME, TX_AMOUNT, TX_FRAUD FROM transactions"
        ).fetchall()
    ]
    for row in rows[:: len(rows) // 25]:
        midnight = row["time"].replace(hour=0, minute=0, second=0, tzinfo=None)
        own = [each for each in past if each["customer"] == row["customer_id"]]
        month = [each for each in own if midnight - timedelta(days=30) <= each["time"] < midnight]
        quarter = [each["amount"] for each in own if midnight - timedelta(days=90) <= each["time"] < midnight]
        assert row["CustomerProfile.tx_count_30d"] == len(month)
        mean = sum(each["amount"] for each in month) / len(month) if month else 0
        assert row["CustomerProfile.avg_amount_30d"] == pytest.approx(mean, rel=1e-6)
        spread = float(np.std(quarter)) if quarter else 0
        assert row["CustomerProfile.std_amount_90d"] == pytest.approx(spread, rel=1e-5, abs=1e-3)
        week = [
            each["fraud"]
            for each in past
            if each["terminal"] == row["terminal_id"]
            and midnight - timedelta(days=14) <= each["time"] < midnight - timedelta(days=7)
        ]
        rate = sum(week) / len(week) if week else 0
        assert row["TerminalProfile.fraud_rate_7d"] == pytest.approx(rate, rel=1e-6)


def test_row_has_windows_of_its_own_moment(history: History, tmp_path: Path) -> None:
    """Windows of a held-back row end right before it, and those over labels a week earlier: a loop counts the same."""
    rows = with_features(history, history.held_back_rows(), tmp_path).to_pylist()
    payments = "SELECT customer_id, terminal_id, TX_DATETIME, round(TX_AMOUNT * 100) / 100, TX_FRAUD FROM transactions"
    past = history.connection.execute(payments).fetchall()
    for row in rows[:: len(rows) // 25]:
        now = row["time"].replace(tzinfo=None)
        told = now - timedelta(days=7)
        amounts = [a for c, _, at, a, _ in past if c == row["customer_id"] and floor_day(now) <= at < now]
        assert row["CustomerActivity.tx_count_1d"] == len(amounts)
        assert row["CustomerActivity.avg_amount_1d"] == pytest.approx(sum(amounts) / max(len(amounts), 1))
        frauds = [fraud for _, t, at, _, fraud in past if t == row["terminal_id"] and floor_day(told) <= at < told]
        assert row["TerminalLabels.told_1d"] == len(frauds)
        assert row["TerminalLabels.fraud_share_1d"] == pytest.approx(sum(frauds) / max(len(frauds), 1))


def floor_day(now: datetime) -> datetime:
    """Return where a window of a day begins: at the last of its hops of 24 minutes that is a day old."""
    day_s, hop_s = 86_400, 1_440
    return datetime.fromtimestamp((now.replace(tzinfo=UTC).timestamp() - day_s) // hop_s * hop_s, UTC).replace(
        tzinfo=None
    )


def test_events_are_those_that_had_come(history: History, tmp_path: Path) -> None:
    """What is counted in before serving is older than the cut-off, labels by the week after which they are told."""
    history.write_events(tmp_path / "payments", tmp_path / "labels")
    for name, until in (("payments", TODAY), ("labels", TODAY - timedelta(days=TOLD_AFTER_DAYS))):
        parts = {part: pq.read_table(tmp_path / name / f"{part}.parquet") for part in ("old", "recent", "live")}
        assert {pc.max(parts["recent"]["time"]).as_py() < datetime.combine(until, datetime.min.time())} == {True}
        assert pc.min(parts["live"]["time"]).as_py() >= datetime.combine(until, datetime.min.time())
        ids = pa.concat_tables(parts.values())["transaction_id"]
        (count,) = history.connection.execute("SELECT count(*) FROM transactions").fetchall()[0]
        assert len(pc.unique(ids)) == len(ids) == count


def test_training_rows_end_where_fraud_is_told(history: History) -> None:
    """No row is learned from whose label is not known at the cut-off; none is learned from twice."""
    rows = history.training_rows()
    assert pc.max(rows["time"]).as_py() < datetime.combine(TODAY - timedelta(days=TOLD_AFTER_DAYS), datetime.min.time())
    assert len(pc.unique(rows["transaction_id"])) == rows.num_rows > 0


def test_held_back_rows_have_served_profiles(history: History, tmp_path: Path) -> None:
    """Every held-back row has the profiles that are served."""
    rows = with_features(history, history.held_back_rows(), tmp_path)
    served = {row["customer_id"]: row for row in profiles_of(history, "customer", tmp_path).to_pylist()}
    days = {time.date() for time in rows["time"].to_pylist()}
    assert days == {TODAY + timedelta(days=day) for day in range(HELD_BACK_DAYS)}
    for row in rows.to_pylist()[-50:]:
        profile = served[row["customer_id"]]
        assert row["CustomerProfile.max_amount_90d"] == profile["max_amount_90d"]
        assert row["CustomerProfile.chargebacks_90d"] == profile["chargebacks_90d"]


def test_unseen_customer_has_the_defaults(transactions_path: Path, tmp_path: Path) -> None:
    """A customer first seen on the held-back day has zeros, which is what the served view answers for it."""
    table = pq.read_table(transactions_path)
    last = table.num_rows - 1
    customers = table["CUSTOMER_ID"].to_numpy().copy()
    moved = load_history(transactions_path, TODAY)
    cutoff = np.datetime64(TODAY, "ns") - np.timedelta64(moved.shift_days, "D")
    first = int(np.searchsorted(table["TX_DATETIME"].to_numpy(), cutoff))
    customers[first] = 1_000_000
    assert first < last
    pq.write_table(table.set_column(2, "CUSTOMER_ID", pa.array(customers)), tmp_path / "new.parquet")
    history = load_history(tmp_path / "new.parquet", TODAY)
    rows = with_features(history, history.held_back_rows(), tmp_path).to_pylist()
    new = next(row for row in rows if row["customer_id"] == 1_000_000)
    assert {value for name, value in new.items() if name.startswith("CustomerProfile.")} == {0}


def test_history_keeps_weekday_and_hour(transactions_path: Path, history: History) -> None:
    """Times move by whole weeks, and the held-back day is where it is said."""
    assert history.shift_days % 7 == 0
    moved = history.connection.execute("SELECT min(TX_DATETIME) FROM transactions").fetchall()[0][0]
    original = pq.read_table(transactions_path)["TX_DATETIME"][0].as_py().to_pydatetime()
    assert moved - original == timedelta(days=history.shift_days)


@pytest.mark.parametrize("offset", range(7))
def test_history_of_any_weekday(transactions_path: Path, offset: int) -> None:
    """Whatever day it is, it is held back."""
    today = TODAY + timedelta(days=offset)
    rows = load_history(transactions_path, today).held_back_rows()
    days = {time.date() for time in rows["time"].to_pylist()}
    assert days == {today + timedelta(days=day) for day in range(HELD_BACK_DAYS)}


def test_history_of_too_few_days(tmp_path: Path) -> None:
    """A file of a few days is refused with the number that is needed."""
    from simulate import World, simulate

    pq.write_table(simulate(World(customers=20, terminals=200, days=20)), tmp_path / "short.parquet")
    with pytest.raises(SourceError, match="20 days; 51 are needed"):
        load_history(tmp_path / "short.parquet", TODAY)


def test_history_of_missing_column(transactions_path: Path, tmp_path: Path) -> None:
    """A file without a column is refused by that column's name."""
    pq.write_table(pq.read_table(transactions_path).drop_columns(["TX_AMOUNT"]), tmp_path / "t.parquet")
    with pytest.raises(SourceError, match="lacks the columns TX_AMOUNT"):
        load_history(tmp_path / "t.parquet", TODAY)


@pytest.mark.parametrize("text", [None, b"not a parquet file"])
def test_history_of_unreadable_file(tmp_path: Path, text: bytes | None) -> None:
    """A missing or broken file is told by its path."""
    path = tmp_path / "t.parquet"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(SourceError, match=r"t\.parquet"):
        load_history(path, datetime.now(UTC).date())
