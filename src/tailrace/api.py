"""What `import tailrace as tr` gives, in one place."""

from tailrace.alerting import Alerts
from tailrace.deadline import Budget
from tailrace.features.aggregates import LIFETIME, count, distinct, first, last, mean, since_last, stddev
from tailrace.features.aggregates import max_ as max  # noqa: A004 - `tr.max`, as SQL has it
from tailrace.features.aggregates import min_ as min  # noqa: A004
from tailrace.features.aggregates import sum_ as sum  # noqa: A004
from tailrace.features.batch_views import BatchFeatureView
from tailrace.features.feast.declaration import FeastView
from tailrace.features.on_demand import on_demand
from tailrace.features.sources import CSV, SQL, Parquet, every
from tailrace.features.stores.registry import register_store
from tailrace.features.streams import Stream, StreamFeatureView
from tailrace.features.view_spec import Entity
from tailrace.inference.composition.declarations import Cascade, ColdStart, Ensemble, Route, Split
from tailrace.inference.declaration import Constant, Model
from tailrace.inference.drift import Drift
from tailrace.inference.python_model import PythonModel
from tailrace.inference.remote.declaration import RemoteInput, RemoteModel
from tailrace.inference.signature import TensorSpec
from tailrace.offline.dataset import dataset
from tailrace.pipeline import Pipeline
from tailrace.postprocess.bands import bands, labels
from tailrace.postprocess.rules import Rule
from tailrace.prediction_log import Log
from tailrace.request.coalesce import Coalesce
from tailrace.request.late_check import LateCheck
from tailrace.request.limit import Limit
from tailrace.request.schema import REDACTED, Field, Request
from tailrace.response.destinations import RedisStream, Webhook
from tailrace.response.schema import Embedding, Response

__all__ = [
    "CSV",
    "LIFETIME",
    "REDACTED",
    "SQL",
    "Alerts",
    "BatchFeatureView",
    "Budget",
    "Cascade",
    "Coalesce",
    "ColdStart",
    "Constant",
    "Drift",
    "Embedding",
    "Ensemble",
    "Entity",
    "FeastView",
    "Field",
    "LateCheck",
    "Limit",
    "Log",
    "Model",
    "Parquet",
    "Pipeline",
    "PythonModel",
    "RedisStream",
    "RemoteInput",
    "RemoteModel",
    "Request",
    "Response",
    "Route",
    "Rule",
    "Split",
    "Stream",
    "StreamFeatureView",
    "TensorSpec",
    "Webhook",
    "bands",
    "count",
    "dataset",
    "distinct",
    "every",
    "first",
    "labels",
    "last",
    "max",
    "mean",
    "min",
    "on_demand",
    "register_store",
    "since_last",
    "stddev",
    "sum",
]
