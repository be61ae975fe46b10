"""The store behind tests/pipelines/faulted.py, whose values follow from the ids, and the check of what is answered."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipelines.model_graphs import FAULTED_WEIGHTS
from tailrace.compile.loading import load_pipelines
from tailrace.features.rows import RowCodec
from tailrace.features.stores.opening import open_writer
from tailrace.loadtest.report import LoadReport

CUSTOMERS = 200
SHOPS = 40
BUDGET_MS = 250.0
TRACE = ("X-Trace", "1")
BODIES = [json.dumps({"customer_id": i, "shop_id": f"shop-{i % SHOPS}"}).encode() for i in range(CUSTOMERS)]


def spend_of(customer_id: int, edition: int = 1) -> float:
    """Return what an edition of the store holds for a customer."""
    return customer_id * 2.0 + edition * 1_000.0


def rank_of(shop_id: str, edition: int = 1) -> int:
    """Return what an edition of the store holds for a shop."""
    return int(shop_id.removeprefix("shop-")) * 3 + edition * 1_000


def fill(url: str, file: Path, edition: int = 1) -> None:
    """Write an edition of every row into a store."""
    customers, shops = (RowCodec(view.spec) for view in load_pipelines(file)[0].views)
    ids = list(range(CUSTOMERS))
    names = [f"shop-{index}" for index in range(SHOPS)]
    write(url, customers, ids, {"spend": [spend_of(each, edition) for each in ids]})
    write(url, shops, names, {"rank": [rank_of(each, edition) for each in names]})


def write(
    url: str, codec: RowCodec, ids: list[Any], columns: dict[str, list[Any]], under: RowCodec | None = None
) -> None:
    """Write rows of one view. under: a view whose keys they get, wrongly."""
    now_ns = time.time_ns()
    writer = open_writer(url)
    try:
        writer.exchange(
            list(zip((under or codec).keys(ids), codec.pack(ids, columns, now_ns, now_ns), strict=True)), ()
        )
    finally:
        writer.close()


def source_of(answer: dict[str, Any], *, partial: bool = False) -> str:
    """Say which edition an answer's values are from, or "default". Fails where they are another entity's.

    partial: the store is being filled, so that one view's row may be there before the other's.
    """
    customer_id, shop_id, spend, rank = (answer[name] for name in ("customer_id", "shop_id", "spend", "rank"))
    weight_spend, weight_rank = FAULTED_WEIGHTS.values()
    assert abs(answer["score"] - (spend * weight_spend + rank * weight_rank)) < 1e-3, answer
    customer = {spend_of(customer_id, edition): str(edition) for edition in (1, 2)} | {-1.0: "default"}
    shop = {rank_of(shop_id, edition): str(edition) for edition in (1, 2)} | {-1: "default"}
    assert (spend in customer, rank in shop) == (True, True), f"another entity's values: {answer}"
    if partial and "default" in (customer[spend], shop[rank]):
        return "default"
    assert customer[spend] == shop[rank], f"one batch is read from one store: {answer}"
    return customer[spend]


def check_answers(
    report: LoadReport,
    bodies: Iterable[bytes] = BODIES,
    *,
    refused_max: int = 0,
    partial: bool = False,
    p99_ms_max: float = BUDGET_MS,
) -> Counter[str]:
    """Hold every answer of a load to what was asked; return how many came from where.

    Every slot is answered, within the budget at the 99th percentile, and with a 200 but for `refused_max` refusals.
    """
    asked = [json.loads(body) for body in bodies]
    assert report.errors == 0, (report.broken, report.unreadable, report.unanswered, report.unsent)
    assert set(report.statuses) <= {200, 503}, report.statuses
    assert report.statuses.get(503, 0) <= refused_max, report.statuses
    assert report.ok is not None
    assert report.ok.p99_ns <= p99_ms_max * 1e6
    sources: Counter[str] = Counter()
    for slot, (status, body) in enumerate(zip(report.record.statuses, report.bodies, strict=True)):
        assert body is not None
        answer = json.loads(body)
        if status == 200:
            request = asked[slot % len(asked)]
            assert {name: answer[name] for name in request} == request
            sources[source_of(answer, partial=partial)] += 1
        else:
            assert answer["title"] == "Shed"
    return sources
