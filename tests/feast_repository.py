"""A real repository of Feast's, in a venv of its own: applied, materialised, and asked for what Feast says itself."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tailrace.offline.feast_file import write_feast_file
from tailrace.offline.feast_registry import read_registry

INSTALL_S_MAX = 240.0
ANSWER_S_MAX = 120.0
FEAST = "feast[redis]>=0.63,<1"

DECLARATION = """
from datetime import timedelta
from feast import Entity, FeatureView, Field, FileSource, OnDemandFeatureView, ValueType
from feast.types import Array, Bool, Float32, Float64, Int32, Int64, String, UnixTimestamp

customers = FileSource(path="data/customers.parquet", timestamp_field="event_timestamp")
shops = FileSource(path="data/shops.parquet", timestamp_field="at", field_mapping={"raw_sales": "sales"})
pairs = FileSource(path="data/pairs.parquet", timestamp_field="event_timestamp")
customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.INT64)
shop = Entity(name="shop", join_keys=["shop_id"], value_type=ValueType.STRING)
branch = Entity(name="branch", join_keys=["branch_id"], value_type=ValueType.INT32)

customer_stats = FeatureView(
    name="customer_stats", entities=[customer], ttl=timedelta(days=7), source=customers,
    schema=[Field(name="payments", dtype=Int64), Field(name="mean", dtype=Float64), Field(name="share", dtype=Float32),
            Field(name="city", dtype=String), Field(name="is_new", dtype=Bool), Field(name="grade", dtype=Int32),
            Field(name="seen", dtype=UnixTimestamp)])
customer_lists = FeatureView(
    name="customer_lists", entities=[customer], ttl=timedelta(0), source=customers,
    schema=[Field(name="mean", dtype=Float64), Field(name="scores", dtype=Array(Float64))])
shop_stats = FeatureView(
    name="shop_stats", entities=[shop], ttl=timedelta(hours=36), source=shops,
    schema=[Field(name="sales", dtype=Int64), Field(name="class", dtype=String)])
branch_stats = FeatureView(
    name="branch_stats", entities=[branch], ttl=timedelta(0), source=shops,
    schema=[Field(name="sales", dtype=Int64)])
pair_stats = FeatureView(
    name="pair_stats", entities=[customer, shop], ttl=timedelta(0), source=pairs,
    schema=[Field(name="visits", dtype=Int64)])
"""

DATA = """
import sys
from datetime import datetime, timedelta, timezone
import pandas as pd
now = datetime.now(timezone.utc).replace(microsecond=250_000)
folder = f"{sys.argv[1]}/data"
pd.DataFrame({
    "customer_id": [1, 1, 2, 3, -4], "event_timestamp": [now - timedelta(days=days) for days in (3, 1, 1, 30, 2)],
    "payments": pd.array([7, 8, 0, -(2**62), None], "Int64"), "mean": [0.1, 1e300, -0.0, None, 2.5],
    "share": pd.array([0.1, 0.25, None, 3e38, -1.5], "Float32"), "city": ["Oslo", "Tromsø", "", None, "x" * 200],
    "is_new": pd.array([True, False, True, None, False], "boolean"),
    "grade": pd.array([1, -(2**31), 2**31 - 1, None, 0], "Int32"),
    "seen": [now, now, None, now, now], "scores": [[1.0], [2.0, 3.0], [], [4.0], [5.0]],
}).to_parquet(f"{folder}/customers.parquet")
pd.DataFrame({
    "shop_id": ["s-1", "søndag", "3"], "branch_id": pd.array([1, 2, -3], "int32"), "at": [now - timedelta(hours=1)] * 3,
    "raw_sales": [5, 6, 7], "class": ["a", "b", "c"],
}).to_parquet(f"{folder}/shops.parquet")
pd.DataFrame({
    "shop_id": ["s-1", 'a,"b', "s-1"], "customer_id": [1, 1, -4], "event_timestamp": [now] * 3, "visits": [3, 4, 5],
}).to_parquet(f"{folder}/pairs.parquet")
"""

FILL = """
import sys
from datetime import datetime, timedelta, timezone
sys.path.insert(0, sys.argv[1])
from feast import FeatureStore
import declaration
store = FeatureStore(repo_path=sys.argv[1])
store.apply([value for name, value in vars(declaration).items()
             if not name.startswith("_") and type(value).__name__ in ("Entity", "FeatureView", "FileSource")])
now = datetime.now(timezone.utc)
store.materialize(now - timedelta(days=60), now + timedelta(minutes=1))
"""

ASK = """
import json, sys
from feast import FeatureStore
store = FeatureStore(repo_path=sys.argv[1])
def plain(value):
    return value.timestamp() if hasattr(value, "timestamp") else value
answers = []
for features, rows in json.loads(sys.argv[2]):
    found = store.get_online_features(features=features, entity_rows=rows).to_dict()
    answers.append({name: [plain(value) for value in values] for name, values in found.items()})
print("\\n" + json.dumps(answers))
"""


class FeastPython:
    """The Python of a venv with Feast in it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "bin" / "python"
        if importlib.util.find_spec("uv") is None:
            pytest.skip("uv is not installed: it makes the venv that Feast lives in")
        try:
            self._uv("venv", "--python", sys.executable, str(folder))
            self._uv("pip", "install", "--python", str(self.path), FEAST)
        except subprocess.SubprocessError as error:
            pytest.skip(f"Feast cannot be installed here: {error}")

    def run(self, code: str, *arguments: str) -> str:
        """Return what a program prints."""
        done = subprocess.run(
            [self.path, "-c", code, *arguments], capture_output=True, text=True, timeout=ANSWER_S_MAX, check=False,
            env=_environment(),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3_000:]
        return done.stdout

    def _uv(self, *command: str) -> None:
        subprocess.run(
            [sys.executable, "-m", "uv", "--quiet", *command], check=True, timeout=INSTALL_S_MAX, env=_environment()
        )


class FeastRepository:
    """A repository that has been applied and materialised into its online store. key_version: of its entity keys."""

    def __init__(self, python: FeastPython, folder: Path, online_store: str, key_version: int = 3) -> None:
        self.python = python
        self.folder = folder
        (folder / "data").mkdir(parents=True)
        (folder / "declaration.py").write_text(DECLARATION)
        (folder / "feature_store.yaml").write_text(
            f"project: shop\nregistry: data/registry.db\nprovider: local\nonline_store:\n{online_store}"
            f"entity_key_serialization_version: {key_version}\n"
        )
        python.run(DATA + FILL, str(folder))

    def ask(self, questions: Sequence[tuple[Sequence[str], Sequence[dict[str, Any]]]]) -> list[dict[str, list[Any]]]:
        """Return Feast's answers to questions of features and entities: each feature's values, None where none is."""
        told = self.python.run(ASK, str(self.folder), json.dumps(questions))
        found: list[dict[str, list[Any]]] = json.loads(told.strip().splitlines()[-1])
        return found

    @cached_property
    def imported(self) -> ModuleType:
        """The file that `tailrace import-feast` writes of it, loaded."""
        path = self.folder / "imported_features.py"
        path.write_text(write_feast_file(read_registry(self.folder, str(self.python.path))).text)
        spec = importlib.util.spec_from_file_location(f"imported_features_{id(self)}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module.__name__] = module  # where annotations are looked up
        try:
            spec.loader.exec_module(module)
        finally:
            del sys.modules[module.__name__]
        return module


def _environment() -> dict[str, str]:
    """Return our environment, with nothing in it that Python reads, and Feast's counting of its users off."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return kept | {"FEAST_USAGE": "False", "PYTHONWARNINGS": "ignore"}
