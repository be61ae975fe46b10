"""CatBoost's models as sources: their trees are the graph's, and the forest kernel's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tailrace.errors import ModelPackageError
from tailrace.inference.backends.forest import LIBRARY, ForestModel
from tailrace.inference.loading import load_model
from tailrace.inference.manifest import CATBOOST_FILE
from tailrace.release.package import package

catboost = pytest.importorskip("catboost", reason="CatBoost is not installed")

NAMES = ["a", "b", "c", "d"]


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """Return 800 rows of four features, one of them with gaps, with outcomes of two classes, three, and amounts."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(800, 4))
    values[:, 2] = np.round(np.exp(values[:, 2]), 2)
    frame = pd.DataFrame(values, columns=NAMES)
    signal = values[:, 0] * 2 + np.sin(values[:, 1] * 3) + values[:, 2]
    frame.loc[::7, "b"] = np.nan
    frame["fraud"] = (signal > 1).astype(int)
    frame["kind"] = np.digitize(signal, [0.0, 2.0])
    frame["loss"] = np.abs(signal)
    return frame


def train(frame: pd.DataFrame, target: str, **params: Any) -> Any:
    """Train 25 trees."""
    settings = {"iterations": 25, "depth": 4, "verbose": 0, "thread_count": 1, "allow_writing_files": False, **params}
    return catboost.CatBoost(settings).fit(frame[NAMES], frame[target])


MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "two classes": ("fraud", "Probability", {"loss_function": "Logloss"}),
    "NaN is the largest": ("fraud", "Probability", {"loss_function": "Logloss", "nan_mode": "Max"}),
    "three classes": ("kind", "Probability", {"loss_function": "MultiClass"}),
    "one against all": ("kind", "Probability", {"loss_function": "MultiClassOneVsAll"}),
    "amounts": ("loss", "RawFormulaVal", {"loss_function": "RMSE"}),
    "a quantile": ("loss", "RawFormulaVal", {"loss_function": "Quantile:alpha=0.9"}),
    "counts": ("kind", "Exponent", {"loss_function": "Poisson"}),
    "trees of any form": ("fraud", "Probability", {"loss_function": "Logloss", "grow_policy": "Lossguide"}),
    "classes in trees of any form": (
        "kind",
        "Probability",
        {"loss_function": "MultiClass", "grow_policy": "Depthwise"},
    ),
}


@pytest.mark.parametrize("kind", MODELS)
def test_model_scores_as_catboost_does(kind: str, frame: pd.DataFrame, tmp_path: Path) -> None:
    """On every row of the data and with NaN anywhere, from the file; oblivious trees are tables, the others nodes."""
    target, scores, params = MODELS[kind]
    model = train(frame, target, **params)
    model.save_model(str(tmp_path / "model.cbm"))
    report = package(tmp_path / "model.cbm", frame, name="m", out=tmp_path / "m", target=target)
    assert report.manifest.source.framework == "catboost"
    assert report.manifest.source.missing
    served = load_model(tmp_path / "m")
    rows = frame[NAMES].to_numpy(np.float32).copy()
    rows[np.random.default_rng(1).random(rows.shape) < 0.1] = np.nan
    expected = model.predict(rows, prediction_type=scores)
    expected = expected[:, 1] if target == "fraud" else expected
    np.testing.assert_allclose(served.predict({"features": rows}), expected, rtol=1e-5, atol=1e-5)
    if LIBRARY.is_file() and "any form" not in kind:
        assert isinstance(served, ForestModel)
        assert served.tables.oblivious


def test_model_in_memory_is_taken(frame: pd.DataFrame, tmp_path: Path) -> None:
    """A classifier of CatBoost's own class, with texts as labels."""
    model = catboost.CatBoostClassifier(iterations=5, depth=2, verbose=0, thread_count=1, allow_writing_files=False)
    model.fit(frame[NAMES], np.where(frame["fraud"] > 0, "yes", "no"))
    report = package(model, frame, name="m", out=tmp_path / "m")
    assert report.manifest.signature.classes == ("no", "yes")
    assert report.manifest.source.model_type == "CatBoostClassifier"


def test_model_without_names_is_refused(frame: pd.DataFrame, tmp_path: Path) -> None:
    """Two columns could change places unseen."""
    model = catboost.CatBoost({"iterations": 2, "verbose": 0, "allow_writing_files": False})
    model.fit(frame[["a", "c"]].to_numpy(), frame["loss"])
    with pytest.raises(ModelPackageError, match="without feature names"):
        package(model, frame, name="m", out=tmp_path / "m")


@pytest.mark.parametrize("town", [["Ulm", "Bonn"], [7, 9]], ids=["texts", "numbers"])
def test_model_of_categories_is_computed_by_catboost(town: list[Any], frame: pd.DataFrame, tmp_path: Path) -> None:
    """The statistics of categories are no part of the trees; a category that training never saw is scored too."""
    categories = pd.DataFrame({"a": frame["a"], "town": np.where(frame["c"] > 1, *town), "b": frame["b"]})
    model = catboost.CatBoostClassifier(iterations=5, verbose=0, thread_count=1, allow_writing_files=False)
    model.fit(categories, frame["fraud"], cat_features=["town"])
    report = package(model, categories, name="m", out=tmp_path / "m")
    assert (report.backend, set(report.manifest.files)) == ("CatBoost", {CATBOOST_FILE})
    assert "categories" in report.manifest.reasons["ONNX Runtime"]
    served = load_model(tmp_path / "m")
    asked = categories.assign(town=["Wien", *categories.town[1:]] if town[0] == "Ulm" else categories.town)
    for rows in (asked[:1], asked):
        feeds = {spec.name: rows[[spec.name]].to_numpy(spec.numpy_dtype) for spec in served.signature.inputs}
        np.testing.assert_allclose(served.predict(feeds), model.predict_proba(rows)[:, 1], atol=1e-6)


def test_catboost_computes_a_model_where_it_is_asked_for(frame: pd.DataFrame, tmp_path: Path) -> None:
    """Its own scores of a matrix, for three classes too, and behind the link of its loss."""
    for target, loss, kind in (("kind", "MultiClass", "Probability"), ("kind", "Poisson", "Exponent")):
        model = train(frame, target, loss_function=loss)
        report = package(model, frame, name="m", out=tmp_path / "m", native=True, overwrite=True)
        assert report.backend == "CatBoost"
        matrix = frame[NAMES].to_numpy(np.float32)
        expected = model.predict(matrix, prediction_type=kind)
        np.testing.assert_allclose(load_model(tmp_path / "m").predict({"features": matrix}), expected, atol=1e-9)


def test_model_of_two_numbers_a_row_is_refused(frame: pd.DataFrame, tmp_path: Path) -> None:
    """A mean with its uncertainty is no score."""
    with pytest.raises(ModelPackageError, match="gives 2 numbers a row"):
        package(train(frame, "loss", loss_function="RMSEWithUncertainty"), frame, name="m", out=tmp_path / "m")


def test_file_that_is_no_model_is_refused(frame: pd.DataFrame, tmp_path: Path) -> None:
    """A file cut short says so."""
    (tmp_path / "model.cbm").write_bytes(b"CBM1 and no more")
    with pytest.raises(ModelPackageError, match="the model cannot be read"):
        package(tmp_path / "model.cbm", frame, name="m", out=tmp_path / "m")
