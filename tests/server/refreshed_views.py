"""A pipeline whose two views are refreshed every second, what changes their sources and counts their refreshes."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.model_graphs import linear
from tailrace.monitor.recorder import RefreshRecorder

PIPELINE = """
import tailrace as tr

class Ask(tr.Request):
    customer_id: int
    shop_id: int

class Answer(tr.Response):
    spend: float
    rank: float

class Spend(tr.BatchFeatureView):
    entity = tr.Entity("customer", key="customer_id")
    source = tr.Parquet("spend.parquet")
    refresh = tr.every("1s", jitter="200ms")
    spend: float = -1.0

class Rank(tr.BatchFeatureView):
    entity = tr.Entity("shop", key="shop_id")
    source = tr.Parquet("rank.parquet")
    refresh = tr.every("1s")
    rank: float = -1.0

ask = tr.Pipeline(name="ask", request=Ask, response=Answer, features=[Spend, Rank], model=tr.Model("ask"),
                  budget=tr.Budget("200ms"))
"""
LIMIT_S = 20.0


def write(folder: Path, name: str, key: str, value: float, rows: int = 100) -> None:
    """Write a source in which every entity has one value, at once."""
    draft = folder / f"{name}.draft"
    pq.write_table(pa.table({key: range(rows), name: [value] * rows}), draft)
    draft.replace(folder / f"{name}.parquet")


def declare(folder: Path) -> Path:
    """Write the pipeline and its sources; return its file."""
    (folder / "models").mkdir(parents=True)
    (folder / "pipeline.py").write_text(PIPELINE)
    linear(folder / "models", "ask", {"Spend.spend": 0.001, "Rank.rank": 0.001})
    write(folder, "spend", "customer_id", 1.0)
    write(folder, "rank", "shop_id", 1.0)
    return folder / "pipeline.py"


class Counts(RefreshRecorder):
    """Keeps what is counted in lists."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.failed: list[str] = []

    def count(self, pipeline: str, view: str, outcome: str | None, whole_s: int | None = None) -> None:
        """Note the view of a refresh that is done, or has failed."""
        if outcome == "done":
            self.done.append(view)
        elif outcome == "failed":
            self.failed.append(view)
