"""Run by the Python that MLflow lives in: downloads a registered model's files, and prints what they are, as JSON.

MLflow's client itself asks its registry, wherever that is, and nothing of the model is loaded. This file imports
nothing of Tailrace. Usage: python mlflow_script.py URI FOLDER; the registry is that of MLFLOW_TRACKING_URI.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
from typing import Any

METRICS_MAX = 100


def describe(uri: str, folder: str) -> dict[str, Any]:
    """Download the version that a URI names now, and return what is known of it."""
    mlflow: Any = importlib.import_module("mlflow")
    client: Any = mlflow.MlflowClient()
    found = _version(client, uri)
    pinned = f"models:/{found.name}/{found.version}"
    directory = importlib.import_module("mlflow.artifacts").download_artifacts(artifact_uri=pinned, dst_path=folder)
    model: Any = importlib.import_module("mlflow.models").Model.load(directory)
    run = client.get_run(found.run_id) if found.run_id else None
    metrics = {} if run is None else {name: value for name, value in run.data.metrics.items() if math.isfinite(value)}
    return {
        "uri": pinned,
        "run_id": found.run_id or "",
        "commit": "" if run is None else run.data.tags.get("mlflow.source.git.commit", ""),
        "metrics": dict(sorted(metrics.items())[:METRICS_MAX]),
        "directory": str(directory),
        "flavors": {name: _texts(flavor) for name, flavor in model.flavors.items()},
    }


def _version(client: Any, uri: str) -> Any:
    """Return the registered version that models:/NAME@ALIAS or models:/NAME/VERSION names."""
    name = uri.removeprefix("models:/")
    if "@" in name:
        name, _, alias = name.rpartition("@")
        return client.get_model_version_by_alias(name, alias)
    name, _, version = name.rpartition("/")
    return client.get_model_version(name, version)


def _texts(flavor: dict[str, Any]) -> dict[str, str]:
    """Return what a flavour says in texts."""
    return {name: value for name, value in flavor.items() if isinstance(value, str)}


if __name__ == "__main__":
    print(json.dumps(describe(*sys.argv[1:3])))  # noqa: T201 - its answer
