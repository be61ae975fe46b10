"""What the tests of the examples share: the folder of the fraud example, and one small simulation."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FRAUD = ROOT / "examples" / "fraud"
sys.path.insert(0, str(FRAUD))


@pytest.fixture(scope="session")
def transactions_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small simulation: 200 customers, 400 terminals, 70 days."""
    import pyarrow.parquet as pq
    from simulate import World, simulate

    path = tmp_path_factory.mktemp("fraud") / "transactions.parquet"
    pq.write_table(simulate(World(customers=200, terminals=400, days=70, radius=10)), path)
    return path
