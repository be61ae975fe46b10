"""Tailrace serves machine-learning decisions in real time, inside a latency budget.

import tailrace as tr
"""

from tailrace.deadline import Budget
from tailrace.features.batch_views import BatchFeatureView
from tailrace.features.on_demand import on_demand
from tailrace.features.sources import CSV, SQL, Parquet, every
from tailrace.features.view_spec import Entity
from tailrace.inference.declaration import Constant, Model
from tailrace.pipeline import Pipeline
from tailrace.postprocess.bands import bands, labels
from tailrace.postprocess.rules import Rule
from tailrace.request.schema import Field, Request
from tailrace.response.schema import Response
from tailrace.version import VERSION

__version__ = VERSION

__all__ = [
    "CSV",
    "SQL",
    "BatchFeatureView",
    "Budget",
    "Constant",
    "Entity",
    "Field",
    "Model",
    "Parquet",
    "Pipeline",
    "Request",
    "Response",
    "Rule",
    "bands",
    "every",
    "labels",
    "on_demand",
]
