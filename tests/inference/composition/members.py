"""Small packaged models that compositions are made of: their scores can be told by heart, and some of them fail."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from onnx import helper

import tailrace as tr
from pipelines.model_graphs import FLOAT, INT64, constant, heavy, linear, save
from tailrace.batch import Batch
from tailrace.release.package import package
from tailrace.testing import TestClient


class Payment(tr.Request):
    amount: float
    customer_id: int = 0
    channel: str = "web"
    work: float = 0.0


class Decision(tr.Response):
    score: float


def run_array(client: TestClient, *requests: dict[str, object]) -> Batch:
    """Answer an array of requests: one call is one batch, however few rows are best on a busy machine."""
    call = client.submit(list(requests))
    while not client.turns.is_idle:
        client.turn()
    assert call.batch is not None
    return call.batch


def write_members(folder: Path) -> None:
    """Package them, each under its name.

    low: amount / 100. high: amount / 100 + 0.5. log: no number for a negative amount. picky: raises for an amount over
    9, else 0.75. slow: takes as long as `work` says, on its thread, then 0.9.
    """
    linear(folder, "low", {"amount": 0.01})
    linear(folder, "high", {"amount": 0.01}, bias=0.5)
    log = save(folder / "log.onnx", [helper.make_node("Log", ["x"], ["score"])], {"x": FLOAT}, 1)
    package(log, pa.table({"amount": np.linspace(0.5, 2, 50)}), name="log", out=folder / "log")
    nodes = [helper.make_node("Cast", ["x"], ["place"], to=INT64),
             helper.make_node("Gather", ["table", "flat"], ["score"])]  # fmt: skip
    nodes.insert(1, helper.make_node("Reshape", ["place", "shape"], ["flat"]))
    initializers = [constant("table", np.full((10, 1), 0.75)), constant("shape", [-1], np.int64)]
    picky = save(folder / "picky.onnx", nodes, {"x": FLOAT}, 1, initializers)
    package(picky, pa.table({"amount": np.arange(50.0) % 10}), name="picky", out=folder / "picky")
    heavy(folder, "slow", level=0.9)
