"""A folder with a pipeline, models that decide its requests otherwise, and a store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from onnx import helper

from pipelines.model_graphs import FLOAT, linear, save
from tailrace.compile.loading import load_pipelines
from tailrace.features.stores.opening import open_writer
from tailrace.release.package import package

PIPELINE = '''
"""Payments, decided by a score that is a sum."""

import numpy as np

import tailrace as tr


class Payment(tr.Request):
    id: str
    customer_id: int
    amount: float


class Decision(tr.Response):
    decision: str
    score: float


class Profile(tr.BatchFeatureView):
    entity = tr.Entity("customer", key="customer_id")
    source = tr.Parquet("profiles.parquet")
    debt: float = 0.0


@tr.on_demand
def twice(request: Payment, profile: Profile) -> np.ndarray:
    """Raises for a batch that holds the amount 6666."""
    if (request.amount == 6666).any():
        raise ValueError("6666")
    return profile.debt * 2


fraud = tr.Pipeline(
    name="fraud",
    request=Payment,
    response=Decision,
    features=[Payment.amount, Profile, twice],
    model=tr.Model("fraud", fallback=tr.Constant(0.5)),
    decision=tr.bands("score", allow=0.0, review=0.25, block=0.5),
    rules=[tr.Rule("small_amount", when=lambda request: request.amount == 9, then="allow")],
    budget=tr.Budget("1ms", features="1us", inference="1us"),
)
'''
FEATURES = ("amount", "Profile.debt", "twice")


@pytest.fixture(scope="session")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with models: `one` and `two` are sums, `log` has no score below 0, `other` wants more."""
    folder = tmp_path_factory.mktemp("whatif")
    linear(folder, "one", {"amount": 0.001, "Profile.debt": 0.0, "twice": 0.0})
    linear(folder, "two", {"amount": 0.002, "Profile.debt": 0.0, "twice": 0.0})
    linear(folder, "debt", {"amount": 0.001, "Profile.debt": 0.1, "twice": 0.05})
    linear(folder, "other", {"amount": 0.001, "Profile.income": 0.0})
    graph = save(folder / "log.onnx", [helper.make_node("Log", ["x"], ["score"])], {"x": FLOAT}, 1)
    package(graph, pa.table({"amount": np.linspace(0.5, 2, 50)}), name="log", out=folder / "log")
    return folder


@pytest.fixture
def folder(packaged: Path, tmp_path: Path) -> Path:
    """Return a folder with the pipeline, the models, and a store in which customer 1 has a debt of 1.5."""
    (tmp_path / "models").mkdir()
    for each in filter(Path.is_dir, packaged.iterdir()):
        (tmp_path / "models" / each.name).symlink_to(each)
    (tmp_path / "pipeline.py").write_text(PIPELINE)
    put_debt(tmp_path, 1.5)
    return tmp_path


def put_debt(folder: Path, debt: float) -> None:
    """Write what customer 1 owes into the pipeline's store."""
    (pipeline,) = load_pipelines(folder / "pipeline.py")
    codec = pipeline.views[0].spec.codec()
    (row,) = codec.pack([1], {"debt": [debt]}, 0, 0)
    writer = open_writer(f"lmdb:{folder / '.tailrace' / 'store'}")
    writer.exchange([(codec.key(1), row)], [])
    writer.close()


def payment(amount: float, name: str = "", customer: int = 0, **more: Any) -> dict[str, Any]:
    """Return a request, with what else its line has."""
    return {"id": name or f"p{amount}", "customer_id": customer, "amount": amount} | more


def write_lines(path: Path, lines: Sequence[Any]) -> Path:
    """Write JSON lines; a text as it is."""
    path.write_text("".join(f"{each if isinstance(each, str) else json.dumps(each)}\n" for each in lines))
    return path
