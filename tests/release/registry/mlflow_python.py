"""A real MLflow, in a venv of its own, with a registry in SQLite that models of each kind were logged to."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

INSTALL_S_MAX = 400.0
LOG_S_MAX = 400.0
PACKAGES = ("mlflow>=3.5,<4", "lightgbm>=4.6,<5", "xgboost-cpu>=3.0,<4", "scikit-learn>=1.7.2,<1.10", "skops>=0.13,<1")

LOG = """
import sys
import lightgbm, mlflow, pandas, xgboost
from sklearn.linear_model import LogisticRegression

mlflow.set_tracking_uri(sys.argv[1])
mlflow.create_experiment("fraud", artifact_location=sys.argv[2])
mlflow.set_experiment("fraud")
rows = pandas.read_parquet(sys.argv[3])
x, y = rows[["a", "b", "c"]], rows["y"]
client = mlflow.MlflowClient()


def log(name, flavor, model, **options):
    with mlflow.start_run():
        mlflow.log_metrics({"auc": 0.75, "never": float("nan")})
        flavor.log_model(model, name="model", registered_model_name=name, pip_requirements=["numpy"], **options)
    version = max(int(found.version) for found in client.search_model_versions(f"name='{name}'"))
    client.set_registered_model_alias(name, "champion", version)


lgb = lightgbm.train({"objective": "binary", "verbosity": -1}, lightgbm.Dataset(x, y), 5)
log("lightgbm", mlflow.lightgbm, lgb)
log("lightgbm-class", mlflow.lightgbm, lightgbm.LGBMClassifier(n_estimators=5, verbosity=-1).fit(x, y))
log("xgboost", mlflow.xgboost, xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(x, y), 5))
log("xgboost-class", mlflow.xgboost, xgboost.XGBClassifier(n_estimators=5).fit(x, y))
log("sklearn", mlflow.sklearn, LogisticRegression().fit(x, y), serialization_format="skops")
log("pickled", mlflow.sklearn, LogisticRegression().fit(x, y), serialization_format="cloudpickle")
log("lightgbm", mlflow.lightgbm, lgb)
client.set_registered_model_alias("lightgbm", "challenger", 1)
"""


class MlflowPython:
    """The Python that MLflow lives in, and its registry. tracking_uri: of the registry."""

    def __init__(self, folder: Path, rows: Path) -> None:
        self.path = str(folder / "venv" / "bin" / "python")
        self.tracking_uri = f"sqlite:///{folder / 'mlflow.db'}"
        if importlib.util.find_spec("uv") is None:
            pytest.skip("uv is not installed: it makes the venv that MLflow lives in")
        try:
            self._uv("venv", "--python", sys.executable, str(folder / "venv"))
            self._uv("pip", "install", "--python", self.path, *PACKAGES)
        except subprocess.SubprocessError as error:
            pytest.skip(f"MLflow cannot be installed here: {error}")
        done = subprocess.run(
            [self.path, "-c", LOG, self.tracking_uri, (folder / "artifacts").as_uri(), str(rows)],
            capture_output=True, text=True, timeout=LOG_S_MAX, check=False, cwd=folder,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3_000:]

    def _uv(self, *command: str) -> None:
        subprocess.run([sys.executable, "-m", "uv", "--quiet", *command], check=True, timeout=INSTALL_S_MAX)
