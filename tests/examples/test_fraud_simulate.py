"""The simulator writes what the Handbook's does: columns, types, rates, and the same again for the same seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from simulate import DAY_S, World, draw_compromised, main, simulate

WORLD = World(customers=500, terminals=1_000, days=60, bursts=1 / 250)


@pytest.fixture(scope="module")
def table() -> pa.Table:
    """Return one simulation at the Handbook's proportions."""
    return simulate(WORLD)


def test_simulate_has_shared_columns(table: pa.Table, shared_data: Path) -> None:
    """Names, order and types are those of the Handbook's own file."""
    assert table.schema.equals(pq.read_schema(shared_data), check_metadata=False)


def test_simulate_is_like_shared_data(shared_data: Path) -> None:
    """At its size, amounts, fraud and each scenario are as frequent as in the Handbook's own file."""
    ours = simulate(World(customers=5_000, terminals=10_000, days=129, bursts=0))
    theirs = pq.read_table(shared_data)
    for name in ("TX_AMOUNT", "TX_FRAUD"):
        assert pc.mean(ours[name]).as_py() == pytest.approx(pc.mean(theirs[name]).as_py(), rel=0.1)
    assert ours.num_rows == pytest.approx(theirs.num_rows, rel=0.05)
    for scenario in (1, 2, 3):
        counts = [pc.sum(pc.equal(each["TX_FRAUD_SCENARIO"], scenario)).as_py() for each in (ours, theirs)]
        assert counts[0] == pytest.approx(counts[1], rel=0.3), scenario


def test_simulate_orders_by_time(table: pa.Table) -> None:
    """Identifiers count up in the order of time, and the three columns of time agree."""
    seconds = table["TX_TIME_SECONDS"].to_numpy()
    since_start = table["TX_DATETIME"].to_numpy() - np.datetime64(WORLD.start, "ns")
    assert (np.diff(seconds) >= 0).all()
    assert (table["TRANSACTION_ID"].to_numpy() == np.arange(table.num_rows)).all()
    assert (since_start / np.timedelta64(1, "s") == seconds).all()
    assert (table["TX_TIME_DAYS"].to_numpy() == seconds // DAY_S).all()


def test_simulate_fraud_rate_is_sane(table: pa.Table) -> None:
    """Fraud is rare, has a scenario, and every large amount is fraud."""
    fraud, scenario = table["TX_FRAUD"].to_numpy(), table["TX_FRAUD_SCENARIO"].to_numpy()
    assert 0.003 < fraud.mean() < 0.05
    assert ((scenario > 0) == (fraud == 1)).all()
    assert set(np.unique(scenario)) == {0, 1, 2, 3, 4}
    assert fraud[table["TX_AMOUNT"].to_numpy() > 220].all()


def test_burst_is_over_within_the_hour(table: pa.Table) -> None:
    """A card that is used up is so in half an hour, in 4 to 12 payments."""
    bursts = table.filter(pc.equal(table["TX_FRAUD_SCENARIO"], 4))
    seconds = bursts.group_by(["CUSTOMER_ID", "TX_TIME_DAYS"]).aggregate(
        [("TX_TIME_SECONDS", f) for f in ("min", "max", "count")]
    )
    took_s = pc.subtract(seconds["TX_TIME_SECONDS_max"], seconds["TX_TIME_SECONDS_min"])
    assert pc.max(took_s).as_py() < 1_800
    assert (
        4 <= pc.min(seconds["TX_TIME_SECONDS_count"]).as_py() <= pc.max(seconds["TX_TIME_SECONDS_count"]).as_py() <= 12
    )
    assert seconds.num_rows == WORLD.days * 2


def test_simulate_same_seed_same_table(table: pa.Table) -> None:
    """A seed gives one table; another seed gives another."""
    assert simulate(WORLD).equals(table)
    assert not simulate(replace(WORLD, seed=8)).equals(table)


def test_simulate_without_terminals_in_reach() -> None:
    """Customers without a terminal in their reach make no transaction, and nothing fails."""
    assert simulate(World(customers=3, terminals=2, days=3, radius=0.0)).num_rows == 0


def test_compromised_stay_for_their_days() -> None:
    """Who is compromised on a day stays so for the whole duration, and no day is without anyone."""
    table = draw_compromised(np.random.default_rng(1), count=10_000, days=20, rate=2 / 10_000, duration_days=5)
    starts = table[:, :1].sum() + (table[:, 1:] & ~table[:, :-1]).sum()
    assert table[:, 0].sum() == 2
    assert 30 <= starts <= 40
    assert table[:, 10].sum() <= 10


def test_main_writes_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command writes the file, and says how many transactions it holds."""
    path = tmp_path / "new" / "transactions.parquet"
    assert main([str(path), "--customers", "50", "--terminals", "500", "--days", "5"]) == 0
    assert f"{pq.read_metadata(path).num_rows:,} transactions" in capsys.readouterr().out


def test_main_refuses_nothing_to_simulate(tmp_path: Path) -> None:
    """A world without days is a mistake of the caller's."""
    with pytest.raises(SystemExit):
        main([str(tmp_path / "t.parquet"), "--days", "0"])
