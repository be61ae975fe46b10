"""Models that the library computes which trained them: without a form in ONNX, faster so, or asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from tailrace.errors import ModelPackageError
from tailrace.inference.loading import load_model
from tailrace.inference.manifest import LIGHTGBM_FILE, MODEL_FILE, SKLEARN_FILE, XGBOOST_FILE
from tailrace.inference.model_directory import read_manifest
from tailrace.release import forms
from tailrace.release.package import PackageReport, package

NAMES = ["amount", "ratio", "shop"]
ROWS = 1_200
KINDS_OF_SHOP = 12
FOREST = {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.7}
SHOPS = {"categories": ["shop"], "min_data_per_group": 1, "cat_smooth": 1}

# XGBoost 3.4 deprecates its boosters other than trees.
pytestmark = pytest.mark.filterwarnings("ignore:.*booster=.* is deprecated:UserWarning")


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """Return amounts with cents, ratios, the number of a shop, and outcomes of each kind."""
    rng = np.random.default_rng(5)
    frame = pd.DataFrame(np.round(rng.lognormal(1, 1, size=(ROWS, 2)), 2), columns=NAMES[:2])
    frame["shop"] = rng.integers(0, KINDS_OF_SHOP, ROWS)
    signal = np.log(frame.amount) + np.isin(frame.shop, [1, 4, 7]) * 1.5 + rng.normal(size=ROWS) / 2
    frame["fraud"] = (signal > 1.5).astype(int)
    frame["kind"] = np.digitize(signal, [0.8, 2.0])
    frame["loss"] = np.exp(signal)
    return frame


def boost(frame: pd.DataFrame, target: str, **params: Any) -> lightgbm.Booster:
    """Train LightGBM; `categories` are its categorical features."""
    categories = params.pop("categories", "auto")
    data = lightgbm.Dataset(frame[NAMES], frame[target], categorical_feature=categories)
    return lightgbm.train({"verbose": -1, "num_threads": 1, "num_leaves": 15, **params}, data, 10)


def drop(frame: pd.DataFrame) -> xgboost.Booster:
    """Train XGBoost's trees that have a weight each."""
    options = {"objective": "binary:logistic", "booster": "dart", "rate_drop": 0.5, "nthread": 1}
    return xgboost.train(options, xgboost.DMatrix(frame[NAMES], frame["fraud"]), 9)


def split_on_shops(frame: pd.DataFrame) -> xgboost.Booster:
    """Train XGBoost on the numbers of shops as categories."""
    data = xgboost.DMatrix(frame[NAMES].to_numpy(), frame["fraud"], feature_names=NAMES, feature_types=["q", "q", "c"],
                           enable_categorical=True)  # fmt: skip
    return xgboost.train({"objective": "binary:logistic", "max_cat_to_onehot": 2, "nthread": 1}, data, 9)


WITHOUT_GRAPH: dict[str, Callable[[pd.DataFrame], Any]] = {
    "lightgbm zero as missing": lambda f: boost(f, "fraud", objective="binary", zero_as_missing=True),
    "lightgbm linear trees": lambda f: boost(f, "loss", objective="regression", linear_tree=True),
    "lightgbm forest on categories": lambda f: boost(f, "fraud", objective="binary", **FOREST, **SHOPS),
    "sklearn histogram trees on categories": lambda f: HistGradientBoostingClassifier(
        max_iter=5, categorical_features=["shop"]
    ).fit(f[NAMES], f["fraud"]),
    "xgboost dart": drop,
    "xgboost categories": split_on_shops,
}
"""What ONNX has no form for, or no converter one."""


def score(model: Any, rows: pd.DataFrame) -> Any:
    """Return the library's own scores, as the user of its package gets them."""
    if isinstance(model, lightgbm.Booster):
        return model.predict(rows[NAMES])
    if hasattr(model, "predict_proba"):
        return model.predict_proba(rows[NAMES].astype(float))[:, 1]
    return model.inplace_predict(rows[NAMES].to_numpy(np.float32), validate_features=False)


def score_packaged(directory: Path, rows: pd.DataFrame) -> Any:
    """Return the scores that a server gives."""
    model = load_model(directory)
    (spec,) = model.signature.inputs
    return model.predict({spec.name: rows[NAMES].to_numpy(spec.numpy_dtype)})


@pytest.mark.parametrize("kind", WITHOUT_GRAPH)
def test_model_without_a_graph_is_computed_by_its_library(kind: str, frame: pd.DataFrame, tmp_path: Path) -> None:
    """Every row gets exactly the library's score, with NaN, zeros and shops that training never saw."""
    model = WITHOUT_GRAPH[kind](frame)
    report = package(model, frame, name="m", out=tmp_path / "m")
    files = {"lightgbm": LIGHTGBM_FILE, "xgboost": XGBOOST_FILE, "sklearn": SKLEARN_FILE}
    library = kind.partition(" ")[0]
    name = {"lightgbm": "LightGBM", "xgboost": "XGBoost", "sklearn": "scikit-learn"}[library]
    assert (report.backend, report.manifest.source.difference_max, report.manifest.source.missing) == (name, 0.0, True)
    assert set(report.manifest.files) == {files[library]}
    assert report.backend_reason == report.manifest.reasons["ONNX Runtime"]
    for shop in (frame.shop, KINDS_OF_SHOP, 0, np.nan):
        rows = frame.assign(shop=shop, ratio=np.where(frame.index % 7, frame.ratio, np.nan))
        np.testing.assert_array_equal(score_packaged(tmp_path / "m", rows), score(model, rows))


@pytest.mark.parametrize("rows", [1, 2, 4, 5, 64])
def test_any_number_of_rows_gets_the_same_scores(rows: int, frame: pd.DataFrame, tmp_path: Path) -> None:
    """A few rows go another way through LightGBM than many; the scores are the same, for several classes too."""
    model = boost(frame, "kind", objective="multiclass", num_class=3)
    package(model, frame, name="m", out=tmp_path / "m", native=True)
    np.testing.assert_array_equal(score_packaged(tmp_path / "m", frame[:rows]), model.predict(frame[:rows][NAMES]))


def test_library_that_is_asked_for_takes_doubles(frame: pd.DataFrame, tmp_path: Path) -> None:
    """Seconds since 1970, which float32 holds in steps of 128, are split on as in training."""
    seconds = frame.assign(amount=1.7e9 + np.arange(ROWS), fraud=(np.arange(ROWS) // 20) % 2)
    model = boost(seconds, "fraud", objective="binary", min_data_in_leaf=5)
    with pytest.raises(ModelPackageError, match="float32"):
        package(model, seconds, name="m", out=tmp_path / "m")
    report = package(model, seconds, name="m", out=tmp_path / "m", native=True)
    assert [spec.dtype for spec in report.manifest.signature.inputs] == ["float64"]
    np.testing.assert_array_equal(score_packaged(tmp_path / "m", seconds), model.predict(seconds[NAMES]))


@pytest.mark.parametrize("faster", [True, False])
def test_form_is_kept_beside_a_graph_where_it_is_faster(
    faster: bool, frame: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What both take is measured and recorded either way; the file is there for a library that won."""
    monkeypatch.setattr(forms, "is_faster", lambda times, name: faster)
    model = boost(frame, "fraud", objective="binary", **SHOPS)
    manifest = package(model, frame, name="m", out=tmp_path / "m").manifest
    assert set(manifest.files) == ({MODEL_FILE, LIGHTGBM_FILE} if faster else {MODEL_FILE})
    assert manifest.times is not None
    assert set(manifest.times.ns) >= {"ONNX Runtime", "LightGBM"}
    np.testing.assert_allclose(score_packaged(tmp_path / "m", frame), model.predict(frame[NAMES]), atol=1e-5)


def test_categories_of_a_frame_are_refused(frame: pd.DataFrame, tmp_path: Path) -> None:
    """Their codes live in the training frame: a served shop 30 would be taken for the thirtieth."""
    shops = frame[NAMES].assign(shop=pd.Categorical(frame.shop * 10))
    model = xgboost.XGBClassifier(n_estimators=3, enable_categorical=True, n_jobs=1).fit(shops, frame["fraud"])
    with pytest.raises(ModelPackageError, match="codes live only in the training frame"):
        package(model, frame, name="m", out=tmp_path / "m")


def served(tmp_path: Path, frame: pd.DataFrame) -> PackageReport:
    """Package a model that only LightGBM computes."""
    return package(WITHOUT_GRAPH["lightgbm linear trees"](frame), frame, name="m", out=tmp_path / "m")


def test_library_that_is_missing_is_told(frame: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing else computes the model, the error names the extra that brings the library."""
    served(tmp_path, frame)
    from tailrace.inference.backends import lightgbm as backend

    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    backend.open_library.cache_clear()
    with pytest.raises(ModelPackageError, match=r"lightgbm is not installed: pip install 'tailrace\[lightgbm\]'"):
        load_model(tmp_path / "m")
    assert read_manifest(tmp_path / "m").files


def test_estimator_is_loaded_with_the_types_that_were_shown(frame: pd.DataFrame, tmp_path: Path) -> None:
    """What skops does not know is in the manifest; a file that holds another type is not loaded."""
    model = HistGradientBoostingClassifier(max_iter=3).fit(frame[NAMES], frame["fraud"])
    report = package(model, frame, name="m", out=tmp_path / "m", native=True)
    assert "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor" in report.manifest.trusted
    path = tmp_path / "m" / "manifest.json"
    path.write_text(path.read_text().replace("predictor.TreePredictor", "predictor.Another"))
    with pytest.raises(ModelPackageError, match=r"types that are not trusted: .*TreePredictor"):
        load_model(tmp_path / "m")


def test_estimator_on_texts_has_an_input_a_column(frame: pd.DataFrame, tmp_path: Path) -> None:
    """A pipeline that reads texts is fed with a column each, of its own type; and takes any number of rows."""
    frame = frame.assign(country=np.where(frame.shop > 5, "FR", "DE"))
    names = ["amount", "country"]
    encoder = ColumnTransformer([("text", OneHotEncoder(), ["country"])], remainder="passthrough")
    model = make_pipeline(encoder, KNeighborsClassifier(3)).fit(frame[names], frame["fraud"])
    report = package(model, frame, name="m", out=tmp_path / "m", native=True)
    assert [(spec.name, spec.dtype) for spec in report.manifest.signature.inputs] == [
        ("amount", "float64"), ("country", "string"),
    ]  # fmt: skip
    served = load_model(tmp_path / "m")
    for rows in (1, 60):
        feeds = {spec.name: frame[:rows][[spec.name]].to_numpy(spec.numpy_dtype) for spec in served.signature.inputs}
        np.testing.assert_array_equal(served.predict(feeds), model.predict_proba(frame[:rows][names])[:, 1])
